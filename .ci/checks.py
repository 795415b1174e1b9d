"""Run the checks of `make check` (lint) and `make test` (lint tests).

All of them run, whatever fails, the tests beside the rest; the output of a failed one is
shown whole, and a table at the end names each with its time. The exit status is 1 when
any failed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BASE_DIR))

from config.state import State  # noqa: E402
from local import servers  # noqa: E402

PYTHON = sys.executable
BIN = Path(PYTHON).parent


def lint() -> Iterator[tuple[str, list[str]]]:
    yield "ruff check", [f"{BIN}/ruff", "check", "."]
    yield "ruff format", [f"{BIN}/ruff", "format", "--check", "."]
    templates = sorted(map(str, (BASE_DIR / "templates").rglob("*.html")))
    if templates:
        djade = [f"{BIN}/djade", "--target-version", "5.2", "--check"]
        yield "djade", [*djade, *templates]
    yield "imports", [f"{BIN}/lint-imports", "--no-cache"]
    yield "mypy", [f"{BIN}/mypy"]
    makemigrations = [PYTHON, "manage.py", "makemigrations", "--check", "--dry-run"]
    yield "migrations", makemigrations
    yield "django check", [PYTHON, "manage.py", "check", "--fail-level", "WARNING"]


def tests() -> Iterator[tuple[str, list[str]]]:
    yield (
        "pytest",
        [
            *(f"{BIN}/pytest", "tests", "--durations", "12"),
            *("-m", "not gpu and not browser"),  # the slow ones and the engine's too
        ],
    )


def main(parts: list[str]) -> int:
    home = Path(tempfile.mkdtemp(prefix="concord-checks-", dir="/tmp"))
    state = State(home, throwaway=True)
    # The tests start servers of their own; the checks need them only for migrations.
    environment = {**os.environ, "SECRET_KEY": "for-checks-only"}

    def run_all(
        steps: Iterator[tuple[str, list[str]]],
    ) -> list[tuple[str, bool, float]]:
        return [run(name, command, environment) for name, command in steps]

    begin = time.monotonic()
    results: list[tuple[str, bool, float]] = []
    try:
        with servers.running(state) as addresses, ThreadPoolExecutor(1) as beside:
            environment.update(addresses)
            if "lint" in parts:
                linted = beside.submit(run_all, lint())
            if "tests" in parts:
                results += run_all(tests())
            if "lint" in parts:
                results[:0] = linted.result()
    finally:
        state.remove()
    sys.stdout.write("\n")
    for name, passed, seconds in results:
        sys.stdout.write(
            f"  {'ok    ' if passed else 'FAILED'}  {name:<13}{seconds:6.1f} s\n"
        )
    sys.stdout.write(f"          {'in all':<13}{time.monotonic() - begin:6.1f} s\n")
    return 0 if all(passed for _, passed, _ in results) else 1


def run(
    name: str, command: list[str], environment: dict[str, str]
) -> tuple[str, bool, float]:
    """Run one check; show the output of a failure whole, and that of pytest always."""
    sys.stdout.write(f"--- {name}\n")
    sys.stdout.flush()
    live = name == "pytest"
    begin = time.monotonic()
    done = subprocess.run(
        command,
        cwd=BASE_DIR,
        env=environment,
        stdout=None if live else subprocess.PIPE,
        stderr=None if live else subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode and not live:
        sys.stdout.write(done.stdout)
        sys.stdout.flush()
    return name, done.returncode == 0, time.monotonic() - begin


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
