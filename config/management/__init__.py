"""Django commands of `config`; only Django's command runner imports it."""
