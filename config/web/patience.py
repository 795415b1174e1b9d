"""The time limit of a web request's queries, and the answer when it is exceeded.

A query continues after its browser has left, and a few that read everything can hold
all connections. Postgres therefore cancels a statement after SECONDS, lock waits
included. Only in the web process (``config.wsgi``), not in workers, migrations or
commands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from django.conf import settings
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from psycopg.errors import QueryCanceled

SECONDS: Final = 15
RETRY_AFTER: Final = 60  # seconds

logger = logging.getLogger(__name__)


def limit_statements() -> None:
    """Set the statement timeout on every connection this process opens from now on."""
    options = settings.DATABASES["default"]["OPTIONS"]
    options_before = options.get("options", "")
    options["options"] = f"{options_before} -c statement_timeout={SECONDS}s".strip()


class CutQueries:
    """Answer a page whose query was cancelled with status 503 and a sentence.

    Its transaction is rolled back, so nothing is half done. The page makes no query,
    not even for the signed-in user.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(
        self, request: HttpRequest, error: Exception
    ) -> HttpResponse | None:
        if not isinstance(error, OperationalError):
            return None
        if not isinstance(error.__cause__, QueryCanceled):
            return None
        logger.warning("%s %s: its query was cut.", request.method, request.path)
        return HttpResponse(
            render_to_string("query_cut.html"),
            status=503,
            headers={"Retry-After": str(RETRY_AFTER)},
        )
