"""A supervisor in a process of its own, as `make up` starts it, for the tests."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg

from config.state import BASE_DIR, State

NOT_OURS = ("DATABASE_URL", "REDIS_URL", "CONCORD_TEST_STATE", "SECRET_KEY")


def clean_environment(state: State, **more: str) -> dict[str, str]:
    """Return what a person's shell has: nothing of the test session's servers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_OURS and name != "DJANGO_SETTINGS_MODULE"
    }
    ours = {"CONCORD_STATE_DIR": str(state.home), "PORT": "0"}
    return {**kept, **ours, **more}


class Site:
    """`python -m local.supervisor` on a state directory; a context manager."""

    def __init__(self, state: State, **environment: str) -> None:
        self.state = state
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local.supervisor"],
            cwd=BASE_DIR,
            env=clean_environment(state, **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._fresh: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._fresh.put(line.rstrip("\n"))
        self._fresh.put(None)

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Return the first new line that holds the text."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._fresh.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no {text!r} in:\n" + "\n".join(self.lines)
            self.lines.append(line)
            if text in line:
                return line

    def started(self) -> "Site":
        line = self.wait_for("running at ")
        self.address = line.partition("running at ")[2].split()[0]
        return self

    def rest(self, seconds: float = 30) -> str:
        """Wait for the end; return all that was said."""
        self.process.wait(seconds)
        while (line := self._fresh.get(timeout=5)) is not None:
            self.lines.append(line)
        return "\n".join(self.lines)

    def children(self) -> dict[str, int]:
        rows = json.loads((self.state.home / "children.json").read_text())
        return {name: pid for name, (pid, _) in rows.items()}

    def status(self, path: str = "/healthz") -> int | None:
        """Return the status of a page, None where nobody answers."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return None

    def wait_until_healthy(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while self.status() != 200:
            assert time.monotonic() < deadline, "the site did not come back"
            time.sleep(0.1)

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.state.database_url, autocommit=True)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)


def family(pids: list[int]) -> set[int]:
    """Return the processes and all that descend from them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = set(pids)
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    found = set()
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] != "Z":
            found.add(pid)
    return found
