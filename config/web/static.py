"""How static files are stored for serving."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class Storage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # untyped
    """Hashed names, cached for ever, in `import` statements of ES modules too."""

    support_js_module_import_aggregation = True
