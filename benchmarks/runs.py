"""Run directories of the training programs, for trials of many runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent


def say(line: str = "") -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


class RunFailedError(Exception):
    """A program did not finish; the message has the end of its log."""


@dataclass
class Site:
    """Where run directories are, and how many programs compute at a time."""

    folder: Path
    slots: threading.Semaphore
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(
        self,
        name: str,
        program: str,
        recipe: Mapping[str, object],
        data: Mapping[str, Path],
        **inputs: Path | None,
    ) -> Run:
        """Return the finished run ``name``; one that finished before is kept."""
        run = Run(name, self.folder / name)
        if run.state == "finished":
            return run
        shutil.rmtree(run.path, ignore_errors=True)
        run.path.mkdir(parents=True)
        document = {
            "program": program,
            "recipe": dict(recipe),
            "run_id": 0,
            "uuid": name,
            "attempt": 1,
            "token": 1,
            "inputs": {role: str(path) for role, path in inputs.items() if path},
            "data": {key: str(path) for key, path in data.items()},
            "resume": None,
        }
        (run.path / "run.json").write_text(json.dumps(document, indent=1))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "CONCORD_LEASH": "1",  # the program ends with this one
        }
        with self.slots, (run.path / "log.txt").open("wb") as log:
            started = time.monotonic()
            with subprocess.Popen(
                [sys.executable, "-m", f"training.engine.{program}", str(run.path)],
                cwd=BASE_DIR,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            ) as process:
                self.processes[process.pid] = process
                process.wait()
                del self.processes[process.pid]
            seconds = time.monotonic() - started
        (run.path / "seconds").write_text(f"{seconds:.1f}\n")
        if run.state != "finished":
            tail = (run.path / "log.txt").read_text(errors="replace")[-2000:]
            raise RunFailedError(f"{name}: {run.state or 'no result'}\n{tail}")
        say(f"{time.strftime('%H:%M:%S')}  {name}: {seconds:.0f} s")
        return run

    def stop(self) -> None:
        """Ask the programs that still run to end."""
        for process in list(self.processes.values()):
            process.send_signal(signal.SIGTERM)


@dataclass(frozen=True)
class Run:
    """A run directory that a program worked in."""

    name: str
    path: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        file = self.path / "events.jsonl"
        found = read(file) if file.is_file() else []
        return [event for event in found if event["event"] == kind]

    @property
    def state(self) -> str:
        ended = self.events("result")
        return str(ended[-1]["state"]) if ended else ""

    @property
    def result(self) -> dict[str, Any]:
        values: dict[str, Any] = self.events("result")[-1]["values"]
        return values

    @property
    def seconds(self) -> float:
        return float((self.path / "seconds").read_text())

    @property
    def model(self) -> Path:
        """The checkpoint that the run ends with."""
        final = [e for e in self.events("checkpoint") if e["final"]]
        return self.path / final[-1]["path"]

    def at(self, step: int) -> Path:
        """The checkpoint of a step."""
        found = [e for e in self.events("checkpoint") if e["step"] == step]
        return self.path / found[-1]["path"]
