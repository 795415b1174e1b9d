"""Django app configurations that wire the parts together."""

from django.apps import AppConfig
from django.contrib.staticfiles.apps import StaticFilesConfig


class WiringConfig(AppConfig):
    name = "config"
    label = "wiring"
    default = True

    def ready(self) -> None:
        # Without the Celery app, a task sent from a page would look for a broker at
        # Celery's default address. The import is not in config/__init__, because the
        # servers and the supervisor import this package and must start without Celery.
        import config.celery  # noqa: F401


class StaticConfig(StaticFilesConfig):
    """Static files without those of django-htmx.

    Our htmx is vendored in static/vendor. Theirs has an extension that imports a
    missing file, and hashing of file names follows imports.
    """

    ignore_patterns = [*StaticFilesConfig.ignore_patterns, "django_htmx"]
