"""The largest request body per route, checked before the body is read.

A form may have 2 MB. Routes that accept long texts or files say so themselves
(``annotation.views.bodies.takes``). A larger request gets 413.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from django.shortcuts import render

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

FORM_BYTES: Final = 2 * 2**20
DRAINED_BYTES: Final = 64 * 2**20
PIECE: Final = 2**16


class BodyLimit:
    """Middleware; placed before anything that reads the body (the CSRF check does)."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: object, args: object, kwargs: object
    ) -> HttpResponse | None:
        limit: int = getattr(view, "body_limit", FORM_BYTES)
        try:
            sent = int(request.META.get("CONTENT_LENGTH") or 0)
        except ValueError:  # Django treats it as an empty body
            sent = 0
        if sent <= limit:
            return None
        # A browser that is still sending does not read the answer: read the rest first.
        unread = sent if sent <= DRAINED_BYTES else 0
        while unread > 0 and (piece := request.read(min(unread, PIECE))):
            unread -= len(piece)
        sizes = {"limit": limit, "sent": sent}
        return render(request, "413.html", sizes, status=413)
