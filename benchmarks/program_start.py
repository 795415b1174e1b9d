"""How long a program takes to start: by itself, and forked from a warm process.

    python -m benchmarks.program_start [--times 5]

Each start runs ``training.engine.sft`` on a folder that is not there, so the program says
so as soon as it has its imports. The warm process's own start is told beside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from benchmarks.runs import START, say, warm_starts

PROGRAM = [*START, "training.engine.sft", "/nowhere"]


def starts(times: int) -> list[float]:
    """Return the seconds of so many starts."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        ended = subprocess.run(PROGRAM, stderr=subprocess.PIPE, text=True, check=False)
        found.append(time.perf_counter() - begin)
        if "expected a run directory" not in ended.stderr:
            raise SystemExit(ended.stderr)
    return found


def main() -> int:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    starts(1)  # the files are in memory from here on
    cold = statistics.median(starts(times))
    with warm_starts():
        if "CONCORD_WARM" not in os.environ:
            say(f"cold {cold:.2f} s; a GPU is here, or this is not Linux: none is warm")
            return 0
        (first,) = starts(1)
        warm = statistics.median(starts(times))
    say(f"cold {cold:.2f} s, warm {warm:.2f} s: {cold / warm:.1f} times as fast")
    say(f"the warm process was ready after {first:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
