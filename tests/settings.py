"""The settings of the tests: those of the product, cheaper where it does not matter."""

import os
import tempfile
from pathlib import Path

from config.state import State
from local import servers

# Django reads its settings before any fixture runs, so the servers' addresses are fixed
# here, and tests/conftest.py starts the servers behind them. Processes that this one
# starts, such as the workers of pytest-xdist, find the variables set and start nothing.
SESSION_STATE: State | None = None
SESSION_SERVERS: list[servers.Server] = []
if "CONCORD_TEST_STATE" not in os.environ:
    home = tempfile.mkdtemp(prefix="concord-test-", dir="/tmp")
    SESSION_STATE = State(Path(home), throwaway=True)
    SESSION_SERVERS = servers.embedded(SESSION_STATE)
    os.environ["CONCORD_TEST_STATE"] = home
    os.environ.update(servers.urls(SESSION_STATE, SESSION_SERVERS))
    os.environ.setdefault("SECRET_KEY", "for-tests-only")

from config.settings import *  # noqa: E402, F403

ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# Static files straight from their sources: nothing is collected for a test.
WHITENOISE_AUTOREFRESH = True
WHITENOISE_USE_FINDERS = True
# The live server serves this folder: the sources, not what an installation collected.
STATIC_ROOT = BASE_DIR / "static"  # noqa: F405
