"""A program that says what it was given, then ends as asked: exit N, or signal N."""

import json
import os
import signal
import sys
import time

_, way, number = sys.argv


def told():
    return {
        "name": __name__,
        "arguments": sys.argv[1:],
        "file": sys.argv[0],
        "directory": os.getcwd(),  # noqa: PTH109
        "variable": os.environ.get("MIRRORED"),
        "home": os.environ.get("HOME"),
        "leads": os.getpgrp() == os.getpid(),
        "read": sys.stdin.readline(),
    }


sys.stdout.write(json.dumps(told()) + "\n")
sys.stdout.flush()
sys.stderr.write("to stderr\n")
if way == "exit":
    sys.exit(int(number))
if way == "signal":
    os.kill(os.getpid(), int(number))
if way == "obey":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(number)))
sys.stdout.write(f"waiting {os.getpid()}\n")
sys.stdout.flush()
time.sleep(60)
