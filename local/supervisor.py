"""One process that owns all others: `make up`, or `python -m local.supervisor`.

It starts the servers that the environment does not replace, prepares the database, then
runs web, worker and scheduler. It restarts what dies, with growing pauses, and stops
all of them in order on Ctrl-C or SIGTERM. Nothing survives it (see local.children). The
output of each child goes to its own log file; the console shows only the start and
trouble.
"""

import contextlib
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from config import env
from config.state import BASE_DIR, ServerError, State
from local import children, servers
from local.children import Command

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
HEALTHY_AFTER = 20.0  # seconds up after which the pauses start again


class StartError(Exception):
    """The start cannot go on; the message is one line for the console."""


@dataclass
class Child:
    """One process to keep alive, and the record of its starts and ends."""

    command: Callable[[], Command]
    name: str
    before: Callable[[], None] = lambda: None
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    deaths: int = 0
    due: float = field(default=0.0)

    def pause(self) -> float:
        """Return the seconds to wait before the next start; each death doubles them."""
        return min(FIRST_PAUSE * 2.0 ** max(0, self.deaths - 1), LONGEST_PAUSE)


class Supervisor:
    """Starts, watches and stops the children of one state directory."""

    def __init__(self, state: State, *, host: str, port: int) -> None:
        self.state = state
        self.host = host
        self.port = port
        self.record = children.Record(state.home / "children.json")
        self.children: list[Child] = []
        self.asked_to_stop = False
        self.logs_due = 0.0
        self.environment = dict(os.environ)
        self.listener: socket.socket | None = None
        self._wake_in, self._wake_out = os.pipe()

    # --- the console -----------------------------------------------------------------

    def say(self, name: str, message: str) -> None:
        sys.stdout.write(f"{name:>10} | {message}\n")
        sys.stdout.flush()

    @property
    def address(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{host}:{self.port}"

    # --- the whole life --------------------------------------------------------------

    def run(self) -> int:
        """Run until asked to stop; return the exit status."""
        lock = servers.Lock(self.state)
        if not self._take(lock):
            return 0
        self._listen_for_signals()
        try:
            self._bind()
            lock.say(self.address)
            for name in self.record.end_leftovers():
                self.say(name, "ended one that an earlier start had left behind")
            self._start_servers()
            notes = self._prepare()
            # Start the web process first: worker and scheduler would take its processor
            # time.
            self._start_service("web", self._web)
            self._wait_for_the_site()
            self._start_service("worker", self._worker)
            self._start_service("scheduler", self._scheduler)
            self._welcome(notes)
            while not self.asked_to_stop:
                self._watch()
        except _Stop:
            pass
        finally:
            self._stop_all()
            lock.release()
        return 0

    def _take(self, lock: servers.Lock) -> bool:
        """Take the lock; wait for a passing command, give way to a running site."""
        is_announced = False
        while True:
            holder = lock.take()
            if holder is None:
                return True
            if holder.address:
                self.say("concord", f"already running at {holder.address}")
                return False
            if not is_announced:
                is_announced = True
                self.say(
                    "concord",
                    f"waiting for a command that uses the servers (pid {holder.pid})",
                )
            time.sleep(0.2)

    def _bind(self) -> None:
        """Bind the port before anything is started, so that a conflict shows at once.

        The web process inherits the socket: its restart refuses no connection.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
        except PermissionError:
            listener.close()
            raise StartError(
                f"port {self.port} needs more rights (PORT=… picks another)"
            ) from None
        except OSError as error:
            listener.close()
            busy = "busy" if error.errno == 98 or "in use" in str(error) else str(error)
            raise StartError(
                f"port {self.port} is {busy} (PORT=… picks another)"
            ) from None
        listener.listen(256)
        self.listener = listener
        self.port = listener.getsockname()[1]

    # --- starting --------------------------------------------------------------------

    def _start_servers(self) -> None:
        mine = servers.embedded(self.state)
        self.environment.update(servers.urls(self.state, mine))
        self._look_for_external_servers({server.name for server in mine})
        started = []
        for server in mine:
            child = Child(server.command, server.name, before=server.prepare)
            server.prepare()
            self._start(child)
            self.children.append(child)
            started.append((server, child))
        for server, child in started:
            assert child.process is not None
            servers.wait_until_it_answers(server, child.process, self._log(child.name))
            self._stop_if_asked()

    def _look_for_external_servers(self, mine: set[str]) -> None:
        """Report a missing external server now, rather than on every page."""
        if "postgres" not in mine:
            url = env.secret("DATABASE_URL")
            if not servers.database_answers(url):
                raise StartError("the server of DATABASE_URL does not answer")
        if "valkey" not in mine:
            import redis

            client = redis.Redis.from_url(
                env.secret("REDIS_URL"), socket_connect_timeout=5
            )
            try:
                client.ping()
            except (redis.RedisError, OSError) as error:
                raise StartError(
                    f"the server of REDIS_URL does not answer: {error}"
                ) from None
            finally:
                client.close()

    def _prepare(self) -> str:
        """Bring database, static files and demo up to date; return the printed text.

        Skipped when nothing that it reads has changed since it last succeeded.
        """
        stamp = self.state.home / "prepared"
        fingerprint = self._what_was_prepared()
        collected = (self.state.home / "static").is_dir()
        if (
            fingerprint
            and collected
            and stamp.exists()
            and stamp.read_text() == fingerprint
        ):
            return ""
        stamp.unlink(missing_ok=True)
        command = Command(
            name="prepare",
            argv=[sys.executable, "manage.py", "prepare"],
            environment=self.environment,
        )
        output = self.state.logs / "prepare.log"
        output.unlink(missing_ok=True)
        process = children.start(command, log=output, cwd=BASE_DIR)
        shown = ""
        while True:
            text = output.read_text(encoding="utf-8", errors="replace")
            status = process.poll()
            progress = [line for line in text.splitlines() if line.startswith("… ")]
            if progress and progress[-1] != shown:
                shown = progress[-1]
                self.say("concord", shown.removeprefix("… "))
            if status is not None:
                break
            if self.asked_to_stop:
                children.stop(process, command)
                raise _Stop
            time.sleep(0.02)
        text = output.read_text(encoding="utf-8", errors="replace")
        # The log may contain passwords, which are shown once and stored nowhere.
        output.unlink()
        if status:
            output.write_text(text, encoding="utf-8")
            last = "\n".join(text.splitlines()[-12:])
            raise StartError(f"preparing the database failed (log: {output})\n{last}")
        stamp.write_text(fingerprint)
        return "\n".join(
            line for line in text.splitlines() if not line.startswith("… ")
        )

    def _what_was_prepared(self) -> str:
        """Return a digest of migrations, static sources, packages and the database.

        Empty for an external database: others may change it.
        """
        cluster = self.state.home / "postgres" / "PG_VERSION"
        if "postgres" not in {child.name for child in self.children}:
            return ""
        files = [
            cluster,
            BASE_DIR / "constraints.txt",
            *BASE_DIR.glob("*/migrations/*.py"),
            *(path for path in (BASE_DIR / "static").rglob("*") if path.is_file()),
        ]
        digest = hashlib.sha256(str(env.flag("CONCORD_DEMO", True)).encode())
        for path in sorted(files):
            facts = path.stat()
            digest.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _start_service(self, name: str, command: Callable[[], Command]) -> None:
        child = Child(command, name)
        self._start(child)
        self.children.append(child)

    def _web(self) -> Command:
        assert self.listener is not None
        number = self.listener.fileno()
        workers = env.integer("WEB_WORKERS", 2, minimum=1)
        threads = env.integer("WEB_THREADS", 8, minimum=1)
        shared_memory = Path("/dev/shm")
        return Command(
            name="web",
            argv=[
                *(sys.executable, "-m", "gunicorn", "config.wsgi"),
                *("--bind", f"fd://{number}"),
                *("--worker-class", "config.web.buffering.BufferingWorker"),
                *("--worker-connections", "400"),  # below the usual 1024 open files
                *("--workers", str(workers), "--threads", str(threads)),
                *("--graceful-timeout", "5", "--timeout", "60", "--keep-alive", "15"),
                *("--no-control-socket", "--access-logfile", "-"),
                *(
                    ("--worker-tmp-dir", str(shared_memory))
                    if os.access(shared_memory, os.W_OK)
                    else ()
                ),
            ],
            environment=self.environment,
            death_signal=signal.SIGQUIT,
            descriptors=[number],
        )

    def _worker(self) -> Command:
        # Each run holds a thread for its whole life, so there are several; the short
        # tasks of the `default` queue share them.
        threads = env.integer("WORKER_THREADS", 8, minimum=2)
        return Command(
            name="worker",
            argv=[
                *(sys.executable, "-m", "celery", "-A", "config", "worker"),
                *("--pool=threads", "-Q", "runs,default"),
                *(
                    f"--concurrency={threads}",
                    "--loglevel=INFO",
                    "--hostname=concord@%h",
                ),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            ],
            environment=self.environment,
        )

    def _scheduler(self) -> Command:
        return Command(
            name="scheduler",
            argv=[
                *(sys.executable, "-m", "celery", "-A", "config", "beat"),
                *("--pidfile=", "--loglevel=INFO"),
            ],
            environment=self.environment,
            grace=3,
        )

    def _wait_for_the_site(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        request = urllib.request.Request(
            f"{self.address}/healthz", headers={"Host": "localhost"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            self._watch(0)
            try:
                with direct.open(request, timeout=5):
                    return
            except (OSError, urllib.error.HTTPError):
                pass
            if self.asked_to_stop:
                raise _Stop
            if time.monotonic() > deadline:
                last = "\n".join(children.tail(self._log("web"), 8))
                raise StartError(f"the web process does not answer:\n{last}")
            time.sleep(0.05)

    def _welcome(self, notes: str) -> None:
        if notes:
            sys.stdout.write(f"\n{notes}\n\n")
        self.say("concord", f"running at {self.address} (Ctrl-C stops everything)")

    # --- watching --------------------------------------------------------------------

    def _start(self, child: Child) -> None:
        child.process = children.start(
            child.command(), log=self._log(child.name), cwd=BASE_DIR
        )
        child.since = time.monotonic()
        self.record.add(child.name, child.process.pid)

    def _log(self, name: str) -> Path:
        return self.state.logs / f"{name}.log"

    def _watch(self, seconds: float = 1.0) -> None:
        """Start what is due, then sleep until a child dies or a signal comes."""
        now = time.monotonic()
        if now >= self.logs_due:
            self.logs_due = now + 60
            for child in self.children:
                children.trim(self._log(child.name))
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                self._note_death(child, child.process, now)
            if child.process is None and now >= child.due:
                try:
                    child.before()
                    self._start(child)
                except (ServerError, OSError) as error:
                    child.deaths += 1
                    child.due = now + child.pause()
                    self.say(child.name, f"not started: {error}")
                else:
                    self.say(child.name, "started again")
        pauses = [c.due - now for c in self.children if c.process is None]
        select.select([self._wake_in], [], [], max(0, min([seconds, *pauses])))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_in, 1024)

    def _note_death(
        self, child: Child, process: subprocess.Popen[bytes], now: float
    ) -> None:
        # Children that it left behind would still hold sockets and shared memory.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        child.deaths = 1 if now - child.since > HEALTHY_AFTER else child.deaths + 1
        child.due = now + child.pause()
        child.process = None
        self.record.remove(child.name)
        log = self._log(child.name)
        ended = children.how_it_ended(process.returncode)
        self.say(
            child.name,
            f"ended with {ended}; starting again in {child.pause():g} s (log: {log})",
        )
        if child.deaths > 1:
            for line in children.tail(log, 3):
                self.say(child.name, f"  {line}")

    def _listen_for_signals(self) -> None:
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _ask_to_stop(self, *_: object) -> None:
        self.asked_to_stop = True

    def _stop_if_asked(self) -> None:
        if self.asked_to_stop:
            raise _Stop

    def _stop_all(self) -> None:
        """Stop the scheduler, the worker, the web process, then the servers."""
        if any(child.process for child in self.children):
            self.say("concord", "stopping")
        for child in reversed(self.children):
            if child.process is not None:
                children.stop(child.process, child.command())
                child.process = None
            self.record.remove(child.name)
        if self.listener is not None:
            self.listener.close()
        signal.set_wakeup_fd(-1)
        os.close(self._wake_in)
        os.close(self._wake_out)


class _Stop(Exception):
    """A signal asked to stop during the start."""


def main() -> int:
    try:
        supervisor = Supervisor(
            State.from_environment(),
            host=env.text("HOST", "127.0.0.1"),
            port=env.integer("PORT", 8000, minimum=0, maximum=65535),
        )
        return supervisor.run()
    except (ServerError, StartError, env.EnvironmentValueError) as error:
        sys.stderr.write(f"   concord | {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
