"""How long `make up` takes to its first answered page.

    .venv/bin/python benchmarks/start.py [--starts 5]

Counts from the shell's call of make to the first HTTP 200 of the sign-in page, on a state
directory of its own: once cold (new database, demo and all), then warm. Exit status 1
when the slowest warm start passes the goal of 5 s.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
GOAL = 5.0


def seconds_to_first_page(state: Path) -> float:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "REDIS_URL")
    }
    begin = time.monotonic()
    process = subprocess.Popen(
        ["make", "up"],
        cwd=BASE_DIR,
        env={**environment, "PORT": str(port), "CONCORD_STATE_DIR": str(state)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/accounts/login/", timeout=60
                ):
                    return time.monotonic() - begin
            except urllib.error.HTTPError:
                raise
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(process.communicate()[0]) from None
                time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    starts = parser.parse_args().starts
    state = Path(tempfile.mkdtemp(prefix="concord-start-", dir="/tmp"))
    try:
        cold = seconds_to_first_page(state)
        warm = [seconds_to_first_page(state) for _ in range(starts)]
    finally:
        shutil.rmtree(state)
    sys.stdout.write(
        f"cold  {cold:5.2f} s\n"
        f"warm  {statistics.median(warm):5.2f} s median of {starts},"
        f" {min(warm):.2f} to {max(warm):.2f} s (goal: {GOAL:g} s)\n"
    )
    return 0 if max(warm) <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
