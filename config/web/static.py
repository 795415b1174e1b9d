"""Storage of static files for serving."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class Storage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # untyped
    """Hashed file names, cached for ever, also in `import` statements of ES modules."""

    support_js_module_import_aggregation = True
