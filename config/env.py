"""Typed readers of environment variables: a bad value fails at start, by name.

Every variable that Concord reads goes through a function of this module, so that a test
can compare the table in docs/operations.md with the code.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

TRUE = ("1", "true", "yes", "on")
FALSE = ("0", "false", "no", "off")


class EnvironmentValueError(Exception):
    """A variable has an invalid value.

    `found` is None if the variable is missing or its value is secret.
    """

    def __init__(self, name: str, *, found: str | None, allowed: str) -> None:
        self.name = name
        self.found = found
        self.allowed = allowed
        shown = "is not usable" if found is None else f"is {found!r}"
        super().__init__(f"{name} {shown}; allowed: {allowed}")


def is_set(name: str) -> bool:
    """Whether the variable has a value; empty counts as unset."""
    return bool(os.environ.get(name))


def text(name: str, default: str, *, choices: Sequence[str] = ()) -> str:
    """Return the value, or the default when it is unset or empty."""
    value = os.environ.get(name) or default
    if choices and value not in choices:
        raise EnvironmentValueError(name, found=value, allowed=", ".join(choices))
    return value


def matching(name: str, pattern: str, *, allowed: str) -> str:
    """Return the value if the whole of it matches the pattern; "" when it is unset."""
    value = os.environ.get(name, "").strip()
    if value and not re.fullmatch(pattern, value):
        raise EnvironmentValueError(name, found=value, allowed=allowed)
    return value


def flag(name: str, default: bool = False) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if not value:
        return default
    if value in TRUE:
        return True
    if value in FALSE:
        return False
    raise EnvironmentValueError(
        name, found=os.environ[name], allowed=", ".join(TRUE + FALSE)
    )


def integer(
    name: str,
    default: int,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
) -> int:
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    bounds = [
        *([f"at least {minimum}"] if minimum is not None else []),
        *([f"at most {maximum}"] if maximum is not None else []),
    ]
    allowed = "a whole number" + (f" of {' and '.join(bounds)}" if bounds else "")
    try:
        number = int(value)
    except ValueError:
        raise EnvironmentValueError(name, found=value, allowed=allowed) from None
    too_low = minimum is not None and number < minimum
    too_high = maximum is not None and number > maximum
    if too_low or too_high:
        raise EnvironmentValueError(name, found=value, allowed=allowed)
    return number


def words(name: str, default: Sequence[str] = ()) -> list[str]:
    """Return the comma-separated parts of the value, stripped, without empty ones."""
    value = os.environ.get(name, "")
    parts = [part.strip() for part in value.split(",")]
    return [part for part in parts if part] or list(default)


def path(name: str, default: Path) -> Path:
    """Return an absolute path; a relative one starts at the working directory."""
    value = os.environ.get(name)
    return (Path(value).expanduser() if value else default).absolute()


def secret(name: str, default: str | None = None) -> str:
    """Return NAME, or the stripped contents of the file that NAME_FILE points to.

    Errors never show the value. Without a default a missing secret is an error.
    """
    value = os.environ.get(name)
    file = os.environ.get(f"{name}_FILE")
    if value and file:
        raise EnvironmentValueError(
            f"{name}_FILE", found=file, allowed=f"one of {name} and {name}_FILE"
        )
    if file:
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise EnvironmentValueError(
                f"{name}_FILE", found=file, allowed=f"a readable text file ({error})"
            ) from error
    if value:
        return value
    if default is None:
        raise EnvironmentValueError(
            name, found=None, allowed=f"a value, or {name}_FILE naming a file"
        )
    return default


def database_settings(url: str, *, pool_size: int) -> dict[str, Any]:
    """Return an entry of DATABASES.

    The directory of a unix socket is the query's `host`, or the percent-encoded host
    itself: `postgresql://me@/concord?host=/run/postgresql`. Other query names are
    libpq's connection parameters (`sslmode`, `connect_timeout`). The URL may contain a
    password, so errors do not show it.
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
    # Not parts.hostname for a path: it is lower-cased.
    bare = unquote(parts.netloc.rpartition("@")[2])
    host = options.pop("host", "") or (
        bare.removesuffix(":") if bare.startswith("/") else parts.hostname or ""
    )
    port = options.pop("port", "") or str(parts.port or "")
    options.setdefault("connect_timeout", "5")
    # Waiting the pool's usual 30 s for a dead database helps no page. The pool retries
    # after growing pauses, so it gives up at once and the next page asks again.
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
    """Return the broker's address in Celery's spelling; only unix sockets differ."""
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
