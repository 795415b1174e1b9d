"""The Django apps that wire the parts together."""

from django.apps import AppConfig
from django.contrib.staticfiles.apps import StaticFilesConfig


class WiringConfig(AppConfig):
    name = "config"
    label = "wiring"
    default = True

    def ready(self) -> None:
        # Without the Celery app, a task sent from a page would look for a broker
        # at Celery's default address. Not in config/__init__: servers and supervisor
        # live in this package and must start without Celery.
        import config.celery  # noqa: F401


class StaticConfig(StaticFilesConfig):
    """Static files without those of django-htmx.

    Our htmx is vendored in static/vendor; theirs has an extension that imports a file
    which is not there, and hashing follows imports.
    """

    ignore_patterns = [*StaticFilesConfig.ignore_patterns, "django_htmx"]
