"""While the database is away pages say so and come back by themselves."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis
from django.db import InterfaceError, OperationalError

from config.state import State
from config.web.errors import is_away
from tests.local.site import Site

# The whole site, and a database that ends and begins under it.
pytestmark = pytest.mark.slow

SESSION = "a" * 32  # of nobody: to find that out, the database is asked
TOKEN = "b" * 32


@pytest.fixture(scope="module")
def site():
    state = State(Path(tempfile.mkdtemp(prefix="concord-restart-", dir="/tmp")))
    try:
        with Site(state, CONCORD_DEMO="0") as site:
            yield site.started()
    finally:
        state.remove()
        shutil.rmtree(state.home, ignore_errors=True)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *rest):
        return None


def ask(site, path="/", form=None):
    """Return status, headers, text and seconds of an answer."""
    request = urllib.request.Request(
        site.address + path,
        data=urllib.parse.urlencode(form).encode() if form else None,
        headers={"Cookie": f"sessionid={SESSION}; csrftoken={TOKEN}"},
    )
    begin = time.monotonic()
    opener = urllib.request.build_opener(NoRedirect)
    try:
        answer = opener.open(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        text = answer.read().decode()
    return answer.status, answer.headers, text, time.monotonic() - begin


def fill_the_pools(site):
    """Have many connections open in all web processes, so that many go stale."""
    with ThreadPoolExecutor(16) as pool:
        statuses = {each[0] for each in pool.map(ask, [site] * 64)}
    assert statuses == {302}


def is_up(site):
    try:
        site.connect().close()
    except psycopg.OperationalError:
        return False
    return True


def wait_until_down(site, seconds=10):
    """A process that was sent a signal answers for an instant yet."""
    end = time.monotonic() + seconds
    while is_up(site):
        assert time.monotonic() < end, "the database did not end"
        time.sleep(0.01)


# SIGINT: ends orderly, with its clients; SIGKILL: dies, and its log is replayed.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_pages_are_503_meanwhile_and_answer_again_at_once(site, number):
    fill_the_pools(site)
    os.kill(site.children()["postgres"], number)
    wait_until_down(site)
    answers, back = [], None
    end = time.monotonic() + 40
    while time.monotonic() < end:
        answers.append(ask(site))
        if back is None and is_up(site):
            back = time.monotonic()
        if back and time.monotonic() - back > 4:
            break
    assert back, "the database did not come back"
    # A page that waits for a connection may have one before it has to give up.
    assert {status for status, *_ in answers} <= {302, 503}
    assert max(seconds for *_, seconds in answers) < 3
    for status, headers, text, _ in answers:
        if status == 503:
            assert headers["Retry-After"] == "3"
            assert headers["Refresh"] == "3"
            assert '<meta http-equiv="refresh" content="3">' in text
            assert "This page reloads automatically" in text
    # The last of four seconds with a database all answered.
    fill_the_pools(site)


def test_a_form_sent_meanwhile_is_not_reloaded_away(site):
    form = {"csrfmiddlewaretoken": TOKEN, "username": "lena", "password": "x"}
    # On a busy machine the database may be back before it is asked: then once more.
    for _ in range(5):
        site.wait_until_healthy()
        os.kill(site.children()["postgres"], signal.SIGKILL)
        wait_until_down(site)
        status, headers, text, seconds = ask(site, "/accounts/login/", form)
        health = ask(site, "/healthz")
        if status == health[0] == 503:
            break
    assert status == 503, text
    assert headers["Retry-After"] == "3"
    assert "Refresh" not in headers
    assert "refresh" not in text
    assert "the form still contains it" in text
    assert seconds < 3
    status, headers, text, _ = health
    assert (status, headers["Retry-After"]) == (503, "3")
    assert text == "the database does not answer\n"
    site.wait_until_healthy()


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_worker_does_its_tasks_again_afterwards(site, name):
    """The same process: whatever it runs meanwhile goes on."""
    site.wait_until_healthy()
    log = site.state.logs / "worker.log"
    worker = site.children()["worker"]
    os.kill(site.children()[name], signal.SIGKILL)
    site.wait_for(f"{name} | started again")
    site.wait_until_healthy()
    known = log.stat().st_size
    end = time.monotonic() + 40
    while "reconcile" not in (new := log.read_text()[known:]) or "succeeded" not in new:
        assert time.monotonic() < end, new
        time.sleep(0.2)
    assert site.children()["worker"] == worker


@pytest.mark.parametrize(
    ("kind", "cause", "away"),
    [
        (OperationalError, psycopg.OperationalError(), True),
        (InterfaceError, None, True),
        (OperationalError, psycopg.errors.AdminShutdown(), True),
        (OperationalError, psycopg.errors.CannotConnectNow(), True),
        (OperationalError, psycopg.errors.TooManyConnections(), True),
        (OperationalError, psycopg.errors.QueryCanceled(), False),
        (OperationalError, psycopg.errors.DeadlockDetected(), False),
        (redis.ConnectionError, None, True),
        (ValueError, None, False),
    ],
)
def test_only_a_server_that_is_not_there_is_away(kind, cause, away):
    error = kind("x")
    with contextlib.suppress(kind):
        raise error from cause
    assert is_away(error) is away
