"""What another user of the machine gets at, while the site runs: nothing."""

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
import redis

from config.state import POSTGRES_SOCKET, VALKEY_SOCKET, State
from local import accounts, servers
from tests.local.site import Site, family

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another")
# A start of the whole site, and several of the servers.
pytestmark = [pytest.mark.slow, as_root]

STRANGER = 65534  # nobody: the user of many other programs


def as_stranger(deed, *arguments):
    """Return what ``deed`` returns in a process of the user 65534."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            answer = deed(*arguments)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    return answer


def opened(paths):
    """Return those of the paths that this process can list or read, or connect to."""
    found = []
    for path in map(Path, paths):
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                list(path.iterdir())
            elif stat.S_ISSOCK(mode):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(path))
            else:
                path.open("rb").close()
        except OSError:
            continue
        found.append(str(path))
    return found


def postgres_lets_in(host, port=""):
    """Return the roles under which Postgres takes this process."""
    taken = []
    for role in ("concord", "postgres", "root", "nobody", "", "concord_renames"):
        for database in ("concord", "postgres", "template1"):
            try:
                psycopg.connect(
                    host=host, port=port, user=role, dbname=database, connect_timeout=3
                ).close()
            except psycopg.OperationalError:
                continue
            taken.append(role)
    return taken


def valkey_says(path):
    """Return Valkey's answer to a PING and to a write of this process."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(3)
        client.connect(path)
        client.sendall(b"PING\r\nSET mine 1\r\n")
        return client.recv(1000).decode()


@pytest.fixture(scope="module")
def state():
    home = Path(tempfile.mkdtemp(prefix="concord-others-", dir="/tmp"))
    home.chmod(0o755)  # as a checkout has it: the way to the state directory is open
    state = State(home / ".concord")
    yield state
    state.remove()
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def site(state):
    with Site(state, CONCORD_DEMO="0") as site:
        site.started()
        run = state.home / "data" / "runs" / "1"
        run.mkdir(parents=True)
        (run / "samples.jsonl").write_text("what people wrote")
        yield site


def everything_in(state):
    assert state.home.is_dir()
    paths = [state.home, *state.home.rglob("*")]
    return [str(path) for path in paths]


def test_nobody_else_opens_a_file_or_socket_of_the_state_directory(site, state):
    paths = everything_in(state)
    assert len(paths) > 900
    assert as_stranger(opened, [str(state.home.parent)]) == [str(state.home.parent)]
    assert as_stranger(opened, paths) == []


def test_files_are_closed_even_where_the_directories_are_not(site, state):
    """A second wall: the modes of the files themselves; only style sheets are public."""
    open_ones = [
        path
        for path in map(Path, everything_in(state))
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    static = state.home / "static"
    assert [p for p in open_ones if not p.is_relative_to(static)] == [state.home]
    assert stat.S_IMODE(state.home.stat().st_mode) == 0o710


def test_postgres_and_its_group_have_a_number_that_no_other_program_uses(site, state):
    (uid, gid) = {
        ((facts := Path(f"/proc/{pid}").stat()).st_uid, facts.st_gid)
        for pid in family([site.children()["postgres"]])
    }.pop()
    assert uid == gid
    assert accounts.FIRST_FREE <= uid <= accounts.LAST_FREE
    assert (state.home / "postgres").stat().st_uid == uid
    assert state.home.stat().st_gid == gid


def test_nobody_else_connects_to_postgres(site, state):
    with site.connect() as connection:
        port = connection.execute("SHOW port").fetchone()[0]
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    assert as_stranger(postgres_lets_in, str(state.sockets)) == []
    assert as_stranger(postgres_lets_in, "127.0.0.1", port) == []


def test_passwords_are_no_arguments_of_a_process(site, state):
    secrets = [state.secret_key(), state.valkey_password()]
    for pid in family([site.process.pid]):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert not any(secret in line for secret in secrets), line
    for log in state.logs.iterdir():
        text = log.read_text(errors="replace")
        assert not any(secret in text for secret in secrets), log


@pytest.fixture
def home():
    home = Path(tempfile.mkdtemp(prefix="concord-others-", dir="/tmp"))
    home.chmod(0o755)
    yield home
    State(home / "state").remove()
    shutil.rmtree(home)


def up(state):
    return servers.running(state, [servers.Postgres(state), servers.Valkey(state)])


def test_who_reaches_the_sockets_is_refused_by_the_servers(home):
    state = State(home / "state", throwaway=True)
    with up(state):
        for path in (state.home, state.sockets):
            path.chmod(0o755)
        for name in (POSTGRES_SOCKET, VALKEY_SOCKET):
            (state.sockets / name).chmod(0o777)
        assert as_stranger(postgres_lets_in, str(state.sockets)) == []
        said = as_stranger(valkey_says, str(state.sockets / VALKEY_SOCKET))
        assert said == "-NOAUTH Authentication required.\r\n" * 2
        client = redis.Redis.from_url(state.redis_url)
        assert client.ping()
        assert client.get("mine") is None
        client.close()


def test_the_applications_role_is_no_superuser_and_may_create_databases(home):
    state = State(home / "state", throwaway=True)
    with (
        up(state) as addresses,
        psycopg.connect(addresses["DATABASE_URL"], autocommit=True) as connection,
    ):
        rights = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles"
            " WHERE rolname = current_user"
        )
        assert rights.fetchone() == (False, False, True, False)
        connection.execute("CREATE DATABASE another")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT pg_read_file('postgresql.conf')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'cat'")


def test_a_state_directory_within_another_keeps_its_data_there(home):
    outer = State(home / "state", throwaway=True)
    inner = State(outer.home / "loop", throwaway=True)
    with up(outer), up(inner) as addresses:
        assert (inner.home / "postgres").is_dir()
        assert not (inner.home / "private").is_symlink()
        psycopg.connect(addresses["DATABASE_URL"]).close()
        assert as_stranger(opened, everything_in(outer)) == []


def make_state_of_an_earlier_version(state):
    """A cluster as versions before this one made it: nobody's, with trust."""
    (state.home / "logs").mkdir(parents=True)
    (state.home / "logs" / "web.log").write_text("GET /")
    (state.home / "data" / "runs").mkdir(parents=True)
    for path in (state.home / "logs", state.home / "logs" / "web.log"):
        path.chmod(0o755)
    state.home.chmod(0o711)
    data, sockets = state.home / "postgres", state.home / "run"
    nobody = {"user": STRANGER, "group": STRANGER, "extra_groups": [], "cwd": "/"}
    for path in (data, sockets):
        path.mkdir(mode=0o700)
        os.chown(path, STRANGER, STRANGER)
    binaries = servers.Postgres(state).binaries
    subprocess.run(
        [
            *(binaries / "initdb", "--pgdata", data, "--username", "concord"),
            *("--auth", "trust", "--encoding", "UTF8", "--no-sync"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
            *("--locale", "C"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
        **nobody,
    )
    control = [binaries / "pg_ctl", "--pgdata", data, "--wait", "--silent"]
    options = f"-c listen_addresses= -c unix_socket_directories={sockets} -c fsync=off"
    log = data / "start.log"
    subprocess.run(
        [*control, "--log", log, "-o", options, "start"], check=True, **nobody
    )
    try:
        where = {"host": str(sockets), "user": "concord", "autocommit": True}
        with psycopg.connect(dbname="postgres", **where) as connection:
            connection.execute("CREATE DATABASE concord")
        with psycopg.connect(dbname="concord", **where) as connection:
            connection.execute(
                "CREATE TABLE kept (id int GENERATED BY DEFAULT AS IDENTITY, n int);"
                "INSERT INTO kept (n) VALUES (7);"
                "CREATE VIEW seen AS SELECT n FROM kept; CREATE SEQUENCE numbers;"
                "CREATE FUNCTION two() RETURNS int LANGUAGE sql AS 'SELECT 2'"
            )
    finally:
        # As after a `kill -9`: the socket and its lock stay behind.
        subprocess.run([*control, "--mode", "immediate", "stop"], check=True, **nobody)
    for name in (POSTGRES_SOCKET, f"{POSTGRES_SOCKET}.lock"):
        (sockets / name).touch(0o600)
        os.chown(sockets / name, STRANGER, STRANGER)


def test_a_state_directory_of_an_earlier_version_opens_and_is_closed_to_others(home):
    state = State(home / "state")
    make_state_of_an_earlier_version(state)
    for _ in range(2):  # the second start finds nothing left to do
        with up(state) as addresses:
            assert as_stranger(opened, everything_in(state)) == []
            with psycopg.connect(addresses["DATABASE_URL"]) as connection:
                found = connection.execute(
                    "SELECT n, two(), nextval('numbers') > 0, rolsuper FROM seen,"
                    " pg_roles WHERE rolname = current_user"
                )
                assert found.fetchone() == (7, 2, True, False)
                for change in (
                    "INSERT INTO kept (n) VALUES (8); DELETE FROM kept WHERE n = 8",
                    "ALTER TABLE kept ADD more int; ALTER TABLE kept DROP more",
                    "CREATE TABLE later (n int); DROP TABLE later",
                    "CREATE OR REPLACE VIEW seen AS SELECT n FROM kept",
                ):
                    connection.execute(change)
        owners = {path.stat().st_uid for path in (state.home / "postgres").rglob("*")}
        assert len(owners) == 1
        assert owners.isdisjoint({0, STRANGER})


def run_servers(home):
    """Start the servers twice as this process's user; return who the database knows."""
    state = State(Path(home))
    found = []
    for _ in range(2):
        with up(state) as addresses:
            with psycopg.connect(addresses["DATABASE_URL"]) as connection:
                found += connection.execute("SELECT current_user").fetchone()
            with redis.Redis.from_url(addresses["REDIS_URL"]) as client:
                found.append(client.ping())
    return found


def test_without_root_the_engines_run_as_oneself(home):
    state = State(home / "mine" / "state")
    state.home.parent.mkdir()
    os.chown(state.home.parent, STRANGER, STRANGER)
    said = as_stranger(run_servers, str(state.home))
    assert said == ["concord", True] * 2
    paths = [state.home, *state.home.rglob("*")]
    assert len(paths) > 900
    assert {path.stat().st_uid for path in paths} == {STRANGER}
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in paths)
