"""The application in which people write samples and judge pairs."""

from importlib import import_module

from django.apps import AppConfig


class AnnotationConfig(AppConfig):
    name = "annotation"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        import_module("annotation.leaving")  # connects its signals: roles that end
