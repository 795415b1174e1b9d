"""A web request waits so long for the database and no longer."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.db import connection

from tests.cast import make_project, make_user, sign_in

ASK = "from django.db import connection as c; k = c.cursor(); k.execute('SHOW statement_timeout'); print(k.fetchone()[0])"


def timeout_in(start: str) -> str:
    """Return the time-out of a connection in a process that begins with ``start``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{start}; {ASK}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_web_process_cuts_a_statement_after_15_seconds():
    assert timeout_in("import config.wsgi") == "15s"


@pytest.mark.parametrize(
    "start",
    ["import django; django.setup()", "import config.celery, django; django.setup()"],
    ids=["command", "worker"],
)
def test_commands_and_workers_may_take_as_long_as_they_need(start):
    name = (
        "import os; os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'tests.settings')"
    )
    assert timeout_in(f"{name}; {start}") == "0"


@pytest.mark.django_db(transaction=True)
def test_a_page_whose_query_is_cut_answers_503_and_says_so(client):
    make_project(slug="cakes")
    sign_in(client, make_user("rita"))
    other = connection.copy()
    other.inc_thread_sharing()
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '100ms'")
    try:
        with other.cursor() as holding:
            holding.execute("BEGIN; LOCK TABLE annotation_sample")
            response = client.get("/p/cakes/samples/")
            holding.execute("ROLLBACK")
        assert response.status_code == 503
        assert response["Retry-After"] == "60"
        assert "This took too long" in response.content.decode()
        assert client.get("/p/cakes/samples/").status_code == 200
    finally:
        other.close()
        with connection.cursor() as cursor:
            cursor.execute("RESET statement_timeout")
