"""The warm process: it has imported what the programs import, and forks them.

    python -m training.engine.run.warm NUMBER

NUMBER is the file descriptor of a Unix socket that listens (``training.runs.warm``).
PyTorch and the libraries above it take seconds to import, each time a program starts.
This process imports them once and forks a program whenever ``start`` asks at its socket.
It computes nothing itself, touches no device and starts no thread; memory that nobody
writes to is shared by all. It ends when its standard input does, that is with whoever
keeps it; programs that run by then go on.

For each program it forks twice: a keeper, which passes signals on, tells ``start`` how
the program ended and kills it when ``start`` is gone; and the program.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

PROGRAMS = ("sft", "draw", "reward", "policy", "preference", "evaluate", "propose")
LAUNCHER = ("accelerate.commands.launch", "torch.distributed.run")


def main(listening: int) -> None:
    """Serve until standard input ends; in a program, run what was asked for."""
    with socket.socket(fileno=listening) as listener:
        path = Path(listener.getsockname())
        for name in (*(f"training.engine.{each}" for each in PROGRAMS), *LAUNCHER):
            import_module(name)
        gc.collect()
        gc.freeze()  # a collection would write to what the forks share
        asked = serve(listener)
    if asked is not None:
        become(asked)
        return
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork for whoever asks; None at the end, in a program what it was asked to be."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        ready, _, _ = select.select([0, listener.fileno()], [], [])
        if 0 in ready and not os.read(0, 4096):
            return None
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()  # nobody answers there once this process is gone
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return keep(connection)


def keep(connection: socket.socket) -> dict[str, Any]:
    """See a program through to its end; returns in the program alone."""
    try:
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        asked: dict[str, Any] = json.loads(connection.makefile("r").readline())
        number = os.fork()
        if number == 0:
            os.setsid()  # a group of its own, to be killed as one
            for own, stream in enumerate(streams):
                os.dup2(stream, own)
                os.close(stream)
            return asked
        for stream in (0, 1, 2, *streams):
            os.close(stream)
        connection.sendall(b"!")  # there is a fork
        ended = _watch(number, connection)
        connection.sendall(b"%d\n" % ended)
    except (OSError, ValueError):  # whoever asked is gone
        os._exit(1)
    os._exit(0)


def _watch(number: int, connection: socket.socket) -> int:
    """Return the exit status of a program once it has ended, negative for a signal."""
    end = os.pidfd_open(number)
    told: list[Any] = [end, connection]
    while True:
        ready, _, _ = select.select(told, [], [])
        if end in ready:
            _, status = os.waitpid(number, 0)
            return os.waitstatus_to_exitcode(status)
        signals = connection.recv(16)
        if not signals:
            told.remove(connection)
            with contextlib.suppress(ProcessLookupError):  # not a group yet
                os.killpg(number, signal.SIGKILL)
            os.kill(number, signal.SIGKILL)
        for each in signals:
            os.kill(number, each)


def become(asked: dict[str, Any]) -> None:
    """Run a module as ``python -m`` does, in the environment it was asked in."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["directory"])
    if threads := os.environ.get("OMP_NUM_THREADS", ""):
        # The library has read its environment long ago.
        with contextlib.suppress(ValueError):
            torch.set_num_threads(int(threads))
    module, *sys.argv[1:] = asked["arguments"]
    with contextlib.suppress(OSError):  # the name that `top` shows
        Path("/proc/self/comm").write_text(module.rpartition(".")[2])
    sys.modules.pop(module, None)  # run once, not twice under two names
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
