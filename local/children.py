"""Child processes that cannot outlive the process that started them.

On Linux the kernel tells a child that its parent is gone (PR_SET_PDEATHSIG), even when
the parent dies by `kill -9`. The signal belongs to the *thread* that forked, so a
supervisor starts all its children from its main thread. On other systems the `Record`
finds what an earlier supervisor left running.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from config.web.parent_death import die_with

LOG_BYTES = 10_000_000


@dataclass(frozen=True)
class Account:
    """The user and group that a child runs as, if not ours."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """What to run, and which signals end it.

    `stop_signal` asks for an orderly end. The kernel sends `death_signal` when the
    supervisor is gone, so it is the quickest one that the program survives unharmed.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    account: Account | None = None
    grace: float = 10.0
    descriptors: Sequence[int] = field(default=())


def start(command: Command, *, log: Path, cwd: Path) -> subprocess.Popen[bytes]:
    """Start the command in its own session; append its output to the log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    account = command.account
    with log.open("ab") as output:
        return subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C must reach only us
            pass_fds=command.descriptors,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with(os.getpid(), command.death_signal),
        )


def _die_with(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    """Return what the child runs between fork and exec.

    Python runs it after changing the uid, as it must: a change of uid clears the
    request.
    """
    return partial(die_with, parent, death_signal)


def stop(process: subprocess.Popen[bytes], command: Command) -> None:
    """Ask the process to end, kill it after its grace, then end its whole group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(command.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(command.grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def how_it_ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def trim(log: Path) -> None:
    """Move a large log aside as `.log.1` while it is being written.

    The writer appends, so it continues at the beginning of the emptied file. What it
    writes between copying and emptying is lost.
    """
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def tail(log: Path, lines: int = 5) -> list[str]:
    """Return the last lines of a log, for a message about trouble."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


def started_at(pid: int) -> str | None:
    """Return a mark that differs between two processes with one pid; None if gone."""
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        try:
            stat = (proc / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            return None
        state, *fields = stat.rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    result = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or None


class Record:
    """The file that names our children, so that a later start can end leftovers.

    Only the holder of the state directory's lock uses it: the processes it finds there
    belong to a dead supervisor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, tuple[int, str]] = {}

    def add(self, name: str, pid: int) -> None:
        mark = started_at(pid)
        if mark is not None:
            self.rows[name] = (pid, mark)
            self._write()

    def remove(self, name: str) -> None:
        if self.rows.pop(name, None):
            self._write()

    def _write(self) -> None:
        staged = self.path.with_suffix(".new")
        staged.write_text(json.dumps(self.rows), encoding="utf-8")
        staged.replace(self.path)

    def end_leftovers(self, seconds: float = 10.0) -> list[str]:
        """End what an earlier supervisor left running; return the names."""
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        ended = []
        for name, (pid, mark) in rows.items():
            if started_at(pid) != mark:
                continue
            ended.append(name)
            deadline = time.monotonic() + seconds
            # SIGQUIT ends Postgres and gunicorn quickly and safely.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
            while started_at(pid) == mark and time.monotonic() < deadline:
                time.sleep(0.05)
            if started_at(pid) == mark:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        self.path.unlink(missing_ok=True)
        return ended
