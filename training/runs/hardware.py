"""The hardware and resource use of a program, read from outside the program.

On Linux from ``/proc``; GPUs from ``nvidia-smi`` where it is installed. What cannot be
read is left out.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actions.tags import JSON

EVERY = 5.0  # seconds between two readings
PROC = Path("/proc")
QUERY = "name,memory.used,memory.total,utilization.gpu"


class Meter:
    """Watches a program; ``read`` returns its use since the last reading."""

    def __init__(
        self, program: subprocess.Popen[bytes], visible: str | None = None
    ) -> None:
        self.program = program
        self.visible = visible
        self.facts = machine()
        self.peak = 0
        self.looked_at = 0.0
        self.cpu_seconds = 0.0

    def is_due(self) -> bool:
        return time.monotonic() - self.looked_at >= EVERY

    def read(self) -> dict[str, JSON]:
        """Return the machine's facts, and the program's memory and processor use now."""
        now, before = time.monotonic(), self.looked_at
        self.looked_at = now
        memory, cpu_seconds = usage(self.program)
        if memory:
            self.peak = max(self.peak, memory)
            self.facts |= {"memory": memory, "memory_peak": self.peak}
        if before and cpu_seconds >= self.cpu_seconds:
            used = (cpu_seconds - self.cpu_seconds) / (now - before)
            self.facts["cores_used"] = round(used, 2)
        self.cpu_seconds = cpu_seconds
        if devices := gpus(self.visible):
            self.facts["gpus"] = devices
        return dict(self.facts)


def machine() -> dict[str, JSON]:
    """Return the constant facts: host, processor, cores, memory."""
    facts: dict[str, JSON] = {"host": socket.gethostname(), "cores": os.cpu_count()}
    for line in _lines("cpuinfo"):
        if line.startswith("model name"):
            facts["processor"] = line.partition(":")[2].strip()
            break
    for line in _lines("meminfo"):
        if line.startswith("MemTotal:"):
            facts["memory_total"] = int(line.split()[1]) * 1024
    return facts


def usage(program: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Return the resident bytes and the processor seconds of a program.

    It covers its process group, and the group of each process whose standard input is
    the same pipe: the processes of a run that has several.
    """
    leash = ""
    if program.stdin and not program.stdin.closed:
        leash = _link(PROC / "self" / "fd" / str(program.stdin.fileno()))
    groups = {program.pid}
    taken: list[tuple[int, int, float]] = []
    try:
        page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
        every = [path for path in PROC.iterdir() if path.name.isdecimal()]
    except (OSError, ValueError):
        return 0, 0.0
    for path in every:
        try:
            # The name in parentheses may contain blanks; the fields begin after it.
            rest = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if len(rest) > 21:
            group = int(rest[2])
            if leash and _link(path / "fd" / "0") == leash:
                groups.add(group)
            seconds = (int(rest[11]) + int(rest[12])) / tick
            taken.append((group, int(rest[21]) * page, seconds))
    processes = [each for each in taken if each[0] in groups]
    return sum(each[1] for each in processes), sum(each[2] for each in processes)


def _link(path: Path) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - no path: "pipe:[123]"
    except OSError:
        return ""


def gpus(visible: str | None = None) -> list[JSON]:
    """Return name, memory and use of each GPU, or of those visible to a program.

    Empty where there is none. ``visible`` is a CUDA_VISIBLE_DEVICES.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None or visible == "":
        return []
    chosen = [f"--id={visible}"] if visible else []
    try:
        output = subprocess.run(
            [tool, *chosen, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=3,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows: list[JSON] = []
    for line in output.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and all(part.isdecimal() for part in parts[1:]):
            used, total, percent = map(int, parts[1:])
            rows.append(
                {
                    "name": parts[0],
                    "memory": used << 20,
                    "memory_total": total << 20,
                    "percent": percent,
                }
            )
    return rows


def _lines(name: str) -> list[str]:
    try:
        return (PROC / name).read_text().splitlines()
    except OSError:
        return []
