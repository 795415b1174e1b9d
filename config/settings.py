"""Django settings, read once at start from the environment (docs/operations.md)."""

import os
from pathlib import Path

import csp.constants

from config import env
from config.env import broker_url, database_settings
from config.state import State

BASE_DIR = Path(__file__).resolve().parent.parent
STATE = State.from_environment()
# Logs and run directories contain what people wrote: no other user may read them.
os.umask(0o077)

# --- this installation ---------------------------------------------------------------

DEBUG = env.flag("DEBUG")
SECRET_KEY = env.secret("SECRET_KEY", "") or STATE.secret_key()
DATA_DIR = env.path("CONCORD_DATA_DIR", STATE.home / "data")
# Models that supervised fine-tuning may start from (training/runs/bases.py).
MODELS_DIR = env.path("CONCORD_MODELS", BASE_DIR / "models")
# Store in which machines share the files of runs (training/storage/store.py).
STORE = env.matching(
    "CONCORD_STORE",
    r"[a-z][a-z0-9+]*://.+",
    allowed="an address that fsspec knows: s3://bucket/prefix, file:///mnt/store, …",
)
DEMO = env.flag("CONCORD_DEMO", True)  # an empty database gets the demo project
# The supervisor requests /healthz under the name of this machine.
HERE = ["localhost", ".localhost", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS = [*env.words("ALLOWED_HOSTS"), *HERE]
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")

DATABASE_POOL = env.integer("DATABASE_POOL", 12, minimum=1)
DATABASES = {
    "default": database_settings(
        env.secret("DATABASE_URL", STATE.database_url), pool_size=DATABASE_POOL
    )
}
REDIS_URL = env.secret("REDIS_URL", "") or STATE.redis_url
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "concord",
    }
}

# --- Django --------------------------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "config.apps.StaticConfig",
    "django.contrib.postgres",
    "django_htmx",
    "csp",
    "config",
    "annotation",
    "training",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "config.web.errors.Utf8Forms",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "config.web.bodies.BodyLimit",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "config.web.throttle.SignInThrottle",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "config.web.patience.CutQueries",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "annotation.context_processors.visit",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
# Limit of any form without files; config/web/bodies.py has the limit of each route.
DATA_UPLOAD_MAX_MEMORY_SIZE = 16 * 2**20
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LOCALE_PATHS = [BASE_DIR / "locale"]
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"
# Thousands separators only where a template asks (intcomma): machines read the numbers
# in addresses, data attributes and form fields.
FORMAT_MODULE_PATH = "config.formats"
USE_THOUSAND_SEPARATOR = False
TIME_ZONE = env.text("TIME_ZONE", "UTC")
USE_TZ = True

# --- static files --------------------------------------------------------------------

STATIC_URL = "static/"
STATIC_ROOT = STATE.home / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = DEBUG
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": (
            "django.contrib.staticfiles.storage.StaticFilesStorage"
            if DEBUG
            else "config.web.static.Storage"
        )
    },
}

# --- safety --------------------------------------------------------------------------

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [csp.constants.SELF],
        "img-src": [csp.constants.SELF, "data:"],
        "object-src": [csp.constants.NONE],
        "base-uri": [csp.constants.SELF],
        "frame-ancestors": [csp.constants.NONE],
        "form-action": [csp.constants.SELF],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
# Set behind a proxy that serves https and sets X-Forwarded-Proto itself.
HTTPS = env.flag("HTTPS")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
LANGUAGE_COOKIE_SECURE = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
SECURE_HSTS_SECONDS = 30 * 24 * 3600 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None

# --- Celery (config/celery.py) -------------------------------------------------------

CELERY_BROKER_URL = broker_url(REDIS_URL)
CELERY_TIMEZONE = TIME_ZONE

# --- runs (training/runs/supervise.py) --------------------------------------------------

# How often a run is restarted without a new checkpoint after its program or worker was
# killed, before it fails.
RUN_ATTEMPTS = env.integer("CONCORD_RUN_ATTEMPTS", 3, minimum=1)
# Minutes without an event after which a program counts as hung and is stopped.
RUN_SILENCE = env.integer("CONCORD_RUN_SILENCE", 120, minimum=1)
# Programs that one worker runs side by side; each may need a whole machine or GPU.
RUNS_AT_ONCE = env.integer("CONCORD_RUNS_AT_ONCE", 1, minimum=1)
# The GPU that a worker uses, and the queue whose runs it takes
# (training/runs/placement.py).
WORKER_DEVICE = env.matching(
    "CONCORD_DEVICE", r"cpu|cuda:\d{1,3}", allowed="cpu, or cuda:0, cuda:1, …"
)
WORKER_QUEUE = env.matching(
    "CONCORD_QUEUE",
    r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,59}",
    allowed="at most 60 letters, digits, dots, colons and dashes",
)

# --- logging -------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {
        "handlers": ["stderr"],
        "level": env.text(
            "LOG_LEVEL", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR")
        ),
    },
    "loggers": {
        # Django adds its own handlers here; one line per event is enough.
        "django": {"handlers": [], "propagate": True},
        "django.server": {"handlers": [], "propagate": True},
    },
}
