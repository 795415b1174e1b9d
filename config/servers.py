"""DATABASE_URL and REDIS_URL in the forms that Django and Celery want them."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from config.env import EnvironmentValueError


def database_settings(url: str, *, pool_size: int) -> dict[str, Any]:
    """Return an entry of DATABASES.

    A unix socket's directory is the query's `host`, or the percent-encoded host itself:
    `postgresql://me@/concord?host=/run/postgresql`. Other query names are libpq's
    connection parameters (`sslmode`, `connect_timeout`). The URL may hold a password,
    so errors do not show it.
    """
    parts = urlsplit(url)
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in ("postgres", "postgresql") or not name:
        raise EnvironmentValueError(
            "DATABASE_URL",
            found=None,
            allowed="postgresql://user:password@host:port/database",
        )
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    # Not parts.hostname where it is a path: that one is in lower case.
    bare = unquote(parts.netloc.rpartition("@")[2])
    host = options.pop("host", "") or (
        bare.removesuffix(":") if bare.startswith("/") else parts.hostname or ""
    )
    port = options.pop("port", "") or str(parts.port or "")
    options.setdefault("connect_timeout", "5")
    # A page that waits the pool's usual 30 s for a dead database helps nobody. The pool
    # tries again after ever longer pauses, so it gives up at once: the next page asks anew.
    options["pool"] = {
        "min_size": 1,
        "max_size": pool_size,
        "timeout": 2,
        "reconnect_timeout": 0.5,
    }
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": port,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }


def broker_url(url: str) -> str:
    """Return the broker's address as Celery spells it; only unix sockets differ."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise EnvironmentValueError(
            "REDIS_URL",
            found=None,
            allowed="redis://host:port/number, rediss://… or unix:///path?db=number",
        )
    if parts.scheme != "unix":
        return url
    number = dict(parse_qsl(parts.query)).get("db", "0")
    account, at, _ = parts.netloc.rpartition("@")
    return f"redis+socket://{account}{at}{parts.path}?virtual_host={number}"
