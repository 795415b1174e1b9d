"""How long a program takes to start: almost all of it is its imports.

    python -m benchmarks.program_start [PROGRAM]… [--times 5]

Each start runs a program of the engine on a folder that is not there, so it says so as
soon as it has its imports. One line a program: the median of the wall clock, and of the
processor's seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from benchmarks.runs import say

PROGRAMS = ("sft", "draw", "reward", "policy", "preference", "evaluate")


def start(program: str) -> tuple[float, float]:
    """Return the seconds of one start: of the wall clock, of the processor."""
    begin, before = time.perf_counter(), os.times()
    ended = subprocess.run(
        [sys.executable, "-m", f"training.engine.{program}", "/nowhere"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds, after = time.perf_counter() - begin, os.times()
    if "expected a run directory" not in ended.stderr:
        raise SystemExit(ended.stderr)
    return seconds, (
        after.children_user
        + after.children_system
        - before.children_user
        - before.children_system
    )


def main() -> None:
    """Print the medians of each program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", default=PROGRAMS, metavar="PROGRAM")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    for program in options.programs:
        start(program)  # the files are in memory from here on
        starts = [start(program) for _ in range(options.times)]
        wall, processor = map(statistics.median, zip(*starts, strict=True))
        say(f"{program:<11}{wall:5.2f} s, of the processor {processor:5.2f} s")


if __name__ == "__main__":
    main()
