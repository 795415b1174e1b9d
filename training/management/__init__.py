"""Django commands of `training`; only Django's command runner imports it."""
