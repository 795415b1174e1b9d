"""Answers where something is wrong: with a request, or with the servers behind the site.

Requests that cannot be read are answered by 400, never by a fault of the server.
Django's pages of errors check the body for its CSRF token before they answer. A body
that cannot be read then raises the same error once more, and the answer would be a 500;
so these pages go without a body.
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
    """Answer an error of the server: 503 where only its servers are away for a moment.

    The page asks for itself again. Not after a form: that would be lost, and is still
    in the browser one page back.
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
    """Say whether an error means that the database or Valkey takes no connection.

    Postgres' own errors have a code: 08 is the connection, 53 too little of something,
    57P a stop or a start. Without one, the client found nobody there.
    """
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return True
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    code = getattr(error.__cause__, "sqlstate", None)
    return code is None or code.startswith(("08", "53", "57P"))


OTHER_CHARSET = "concord.other_charset"  # set where a request names one


def take_charset(environ: dict[str, Any]) -> dict[str, Any]:
    """Take the charset out of a request's type, and mark the request if it is not UTF-8.

    Before Django has made a request, and could answer one, it reads the query in that
    charset. Pages are UTF-8, so browsers send nothing else; Python knows encodings that
    are none for text (rot13, hex), or that cannot be read with replacements (idna).
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
    """The middleware that refuses what :func:`take_charset` has marked."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        charset = (request.content_params or {}).get("charset", "utf-8")
        if OTHER_CHARSET in request.META or not _is_utf8(charset):
            request.encoding = "utf-8"
            return bad_request(request, None)
        return self.get_response(request)
