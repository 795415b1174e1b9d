"""Django commands of `annotation`; only Django's command runner imports it."""
