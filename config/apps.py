"""The Django app that wires the parts together."""

from django.apps import AppConfig


class WiringConfig(AppConfig):
    name = "config"
    label = "wiring"

    def ready(self) -> None:
        # Without the Celery app, a task sent from a page would look for a broker
        # at Celery's default address. Not in config/__init__: engines and supervisor
        # live in this package and must start without Celery.
        import config.celery  # noqa: F401
