"""Answers to bad requests, and while the servers behind the site are down.

A request that cannot be read gets 400, never a server error. Django's error pages read
the body for its CSRF token before they answer. A body that cannot be read would then
raise the same error again and become a 500, so these pages are rendered without a body.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from django.db import InterfaceError, OperationalError
from django.http import HttpResponse, QueryDict
from django.template import loader
from django.utils.http import parse_header_parameters
from django.views import defaults

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase


def _without_body(
    view: Callable[..., HttpResponseBase],
) -> Callable[..., HttpResponseBase]:
    def answer(
        request: HttpRequest, *args: object, **facts: object
    ) -> HttpResponseBase:
        request.POST = QueryDict()
        return view(request, *args, **facts)

    return answer


bad_request = _without_body(defaults.bad_request)
permission_denied = _without_body(defaults.permission_denied)
page_not_found = _without_body(defaults.page_not_found)

SECONDS_TO_WAIT = 3


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Answer a server error: 503 where only its servers are down for a moment.

    The page reloads itself. Not after a form: the reload would lose it, while the
    browser still has it one page back.
    """
    error = sys.exc_info()[1]
    if error is None or not is_away(error):
        return _without_body(defaults.server_error)(request)
    reloads = request.method in ("GET", "HEAD")
    facts = {"seconds": SECONDS_TO_WAIT if reloads else None}
    page = loader.render_to_string("503.html", facts)
    response = HttpResponse(page, status=503)
    response["Retry-After"] = str(SECONDS_TO_WAIT)
    if reloads:
        response["Refresh"] = str(SECONDS_TO_WAIT)
    return response


def is_away(error: BaseException) -> bool:
    """Whether an error means that the database or Valkey accepts no connection.

    Postgres' own errors have a code: 08 is a connection failure, 53 insufficient
    resources, 57P a stop or a start. An error without a code comes from the client,
    which could not connect.
    """
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return True
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    code = getattr(error.__cause__, "sqlstate", None)
    return code is None or code.startswith(("08", "53", "57P"))


OTHER_CHARSET = "concord.other_charset"  # set where a request names one


def take_charset(environ: dict[str, Any]) -> dict[str, Any]:
    """Remove the charset from a request's type; mark the request if it is not UTF-8.

    Django reads the query in that charset before it has a request that it could answer.
    Pages are UTF-8, so browsers send nothing else. Python also knows encodings that are
    not for text (rot13, hex), or that cannot be read with replacements (idna).
    """
    text = environ.get("CONTENT_TYPE", "")
    if "charset" not in text.lower() and "*" not in text:
        return environ
    try:
        kind, facts = parse_header_parameters(text)
        charset = facts.pop("charset", "utf-8")
    except (ValueError, LookupError):
        kind, facts, charset = "", {}, ""
    if _is_utf8(charset):
        quoted = (f'; {name}="{value}"' for name, value in facts.items())
        environ["CONTENT_TYPE"] = kind + "".join(quoted)
    else:
        environ["CONTENT_TYPE"] = ""
        environ[OTHER_CHARSET] = True
    return environ


def _is_utf8(charset: str) -> bool:
    try:
        return codecs.lookup(charset).name in ("utf-8", "ascii")
    except (LookupError, ValueError):
        return False


class Utf8Forms:
    """Middleware that refuses requests marked by :func:`take_charset`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        charset = (request.content_params or {}).get("charset", "utf-8")
        if OTHER_CHARSET in request.META or not _is_utf8(charset):
            request.encoding = "utf-8"
            return bad_request(request, None)
        return self.get_response(request)
