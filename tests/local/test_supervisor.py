"""`make up`, from the outside: real servers, real children, real signals."""

import os
import re
import signal
import socket
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import redis

from config.state import State
from loop.browser import Browser
from tests.local.site import Site, alive, family

# One start is about two seconds; all of these together pass the ten of a quick test.
pytestmark = pytest.mark.slow


def make_state() -> State:
    """A state directory with a space in its name."""
    home = Path(tempfile.mkdtemp(prefix="concord up-", dir="/tmp"))
    return State(home)


@pytest.fixture(scope="module")
def state():
    state = make_state()
    yield state
    state.remove()


@pytest.fixture(scope="module")
def site(state):
    """A running site, for the tests that leave it running."""
    with Site(state, CONCORD_DEMO="0") as site:
        yield site.started()


@pytest.fixture(scope="module")
def second_state():
    """A state directory for the tests that end their supervisor, already prepared."""
    state = make_state()
    with Site(state, CONCORD_DEMO="0") as site:
        site.started()
    yield state
    state.remove()


def test_runs_web_worker_scheduler_and_both_servers(site):
    assert site.status("/healthz") == 200
    assert site.status("/accounts/login/") == 200
    assert set(site.children()) == {
        *("postgres", "valkey", "web", "worker", "scheduler")
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(second_state, number):
    state = second_state
    with Site(state, CONCORD_DEMO="0") as site:
        site.started()
        everyone = family(list(site.children().values()))
        site.process.send_signal(number)
        said = site.rest()
        assert site.process.returncode == 0
        assert "stopping" in said
        assert alive(everyone) == set()
        log = (state.logs / "postgres.log").read_text()
        assert log.rstrip().endswith("database system is shut down")


def test_a_second_start_reuses_everything(second_state):
    key = (second_state.home / "secret_key").read_text()
    with Site(second_state, CONCORD_DEMO="0") as site:
        site.started()
        with site.connect() as connection:
            connection.execute("CREATE TABLE kept (n int)")
    with Site(second_state, CONCORD_DEMO="0") as site:
        site.started()
        with site.connect() as connection:
            connection.execute("DROP TABLE kept")
        assert len(site.lines) == 1, "it prepared something again"
    assert (second_state.home / "secret_key").read_text() == key
    assert (second_state.home / "secret_key").stat().st_mode & 0o777 == 0o600


def test_the_first_start_shows_sign_ins_that_work_and_stores_no_password():
    state = make_state()
    try:
        with Site(state) as site:
            site.started()
            shown = dict(
                re.findall(r"^    (\w+) +\w+ +(\S{12})$", "\n".join(site.lines), re.M)
            )
            assert set(shown) == {"ada", "lena", "luis", "rita", "tara"}
            with closing(Browser(site.address)) as browser:
                browser.sign_in("lena", shown["lena"])
        for log in state.logs.glob("*.log"):
            text = log.read_text(errors="replace")
            assert [p for p in shown.values() if p in text] == [], log
    finally:
        state.remove()


def test_says_already_running_in_one_line(site, state):
    with Site(state) as second:
        said = second.rest()
    assert said == f"   concord | already running at {site.address}"
    assert second.process.returncode == 0
    assert site.status() == 200


def test_says_a_busy_port_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Site(State(tmp_path), PORT=str(port)) as site:
            said = site.rest()
    assert said.splitlines() == [
        f"   concord | port {port} is busy (PORT=… picks another)"
    ]
    assert site.process.returncode == 1


def test_a_bad_variable_is_one_line(tmp_path):
    with Site(State(tmp_path), PORT="http") as site:
        said = site.rest()
    assert said == (
        "   concord | PORT is 'http'; allowed: a whole number of at least 0 and at"
        " most 65535"
    )


def test_a_killed_postgres_comes_back_with_every_committed_row(site):
    with site.connect() as connection:
        connection.execute("CREATE TABLE written (n int)")
    written = 0
    victim = site.children()["postgres"]
    with site.connect() as connection:
        for n in range(2000):
            if n == 1000:
                os.kill(victim, signal.SIGKILL)
            try:
                connection.execute("INSERT INTO written VALUES (%s)", [n])
            except psycopg.OperationalError:
                break
            written += 1
    assert written >= 1000
    site.wait_for("postgres | started again")
    site.wait_until_healthy()
    with site.connect() as connection:
        rows = connection.execute("SELECT n FROM written ORDER BY n").fetchall()
    assert [n for (n,) in rows][:written] == list(range(written))
    assert site.children()["postgres"] != victim


def test_a_killed_valkey_comes_back_with_every_message(site, state):
    client = redis.Redis.from_url(state.redis_url)
    for n in range(200):
        client.rpush("kept", n)
    os.kill(site.children()["valkey"], signal.SIGKILL)
    site.wait_for("valkey | started again")
    deadline = time.monotonic() + 10
    while True:
        try:
            assert client.llen("kept") == 200
            break
        except (redis.ConnectionError, redis.BusyLoadingError):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    client.close()


@pytest.mark.parametrize("name", ["web", "worker", "scheduler"])
def test_a_killed_service_is_started_again(site, name):
    before = site.children()[name]
    os.kill(before, signal.SIGKILL)
    assert "signal SIGKILL" in site.wait_for(f"{name} | ended with")
    site.wait_for(f"{name} | started again")
    assert site.children()[name] != before
    site.wait_until_healthy()


def test_a_killed_supervisor_leaves_no_process_and_a_new_one_starts(second_state):
    with Site(second_state, CONCORD_DEMO="0") as site:
        site.started()
        with site.connect() as connection:
            connection.execute("CREATE TABLE survives AS SELECT 7 AS n")
        everyone = family(list(site.children().values()))
        assert len(everyone) > 10
        site.process.kill()
        site.process.wait()
        deadline = time.monotonic() + 10
        while alive(everyone):
            assert time.monotonic() < deadline, alive(everyone)
            time.sleep(0.05)
    with Site(second_state, CONCORD_DEMO="0") as site:
        site.started()
        with site.connect() as connection:
            assert connection.execute("SELECT n FROM survives").fetchone() == (7,)
            connection.execute("DROP TABLE survives")


def test_web_workers_end_with_their_master_whatever_they_do(second_state):
    """Both are killed, and the workers cannot even look who lives."""
    with Site(second_state, CONCORD_DEMO="0") as site:
        master = site.started().children()["web"]
        workers = family([master]) - {master}
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        site.process.kill()
        os.kill(master, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while left := alive(workers):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


@pytest.fixture
def other_database():
    """A new database on the test session's server, as a server of one's own."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("CREATE DATABASE concord_elsewhere")
        parts = connection.info
        url = (
            f"postgresql://{parts.user}@/concord_elsewhere"
            f"?host={parts.host}&port={parts.port}"
        )
        yield url
        connection.execute("DROP DATABASE concord_elsewhere WITH (FORCE)")


def test_starts_no_server_that_the_environment_names(other_database, tmp_path):
    state = State(tmp_path)
    redis_url = os.environ["REDIS_URL"]
    servers = {"DATABASE_URL": other_database, "REDIS_URL": redis_url}
    with Site(state, CONCORD_DEMO="0", **servers) as site:
        site.started()
        assert site.status() == 200
        assert set(site.children()) == {"web", "worker", "scheduler"}
    assert not (tmp_path / "postgres").exists()
    assert not (tmp_path / "valkey").exists()


def test_says_that_a_named_database_does_not_answer(tmp_path):
    url = "postgresql://me@127.0.0.1:1/none"
    with Site(State(tmp_path), DATABASE_URL=url) as site:
        said = site.rest()
    assert said == "   concord | the server of DATABASE_URL does not answer"
    assert site.process.returncode == 1
