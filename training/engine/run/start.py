"""Start a program, forked from the warm process where there is one.

    python -m training.engine.run.start MODULE [ARGUMENT]…

What ``python -m MODULE`` does, without the seconds that its imports take: the process
at the socket ``CONCORD_WARM`` (``warm``) has made them once. This one stays in front of
the fork with its own number, standard streams, signals and exit status, so whoever
started it need not know. Without such a process it becomes the program itself.
``begin_warm`` and ``end_warm`` are for whoever keeps one.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOCKET = "CONCORD_WARM"
# Where one of these is there is a GPU, and its libraries may not bear a fork.
GPUS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvmap")))
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: Sequence[str]) -> None:
    """Run a module with arguments and end as it ends."""
    connection = _connect(os.environ.get(SOCKET, ""))
    if connection is not None:
        status = _run_warm(connection, arguments)
        if status is not None:
            _end_like(status)
    os.execv(sys.executable, [sys.executable, "-m", *arguments])


def bears_warm() -> bool:
    """Say whether this machine can have a warm process: Linux, without a GPU."""
    return hasattr(os, "pidfd_open") and not any(path.exists() for path in GPUS)


def begin_warm(environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start a warm process; return it and its socket.

    Whoever asks there waits while it imports. It ends with this process, at the latest,
    and removes its socket and the folder of that; killed, it leaves them.
    """
    path = f"{tempfile.mkdtemp(prefix='concord-warm-')}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", "training.engine.run.warm", str(listener.fileno())],
            cwd=Path(__file__).parents[3],
            env=environment,
            stdin=subprocess.PIPE,  # it ends when this does
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    return process, path


def end_warm(process: subprocess.Popen[bytes], path: str) -> None:
    """End a warm process; programs that run go on."""
    process.kill()
    process.communicate()
    shutil.rmtree(Path(path).parent, ignore_errors=True)


def _connect(path: str) -> socket.socket | None:
    if not path:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:  # it has ended; the program starts without it
        connection.close()
        return None
    return connection


def _run_warm(connection: socket.socket, arguments: Sequence[str]) -> int | None:
    """Return the exit status of the fork, negative for a signal; None without a fork.

    Until the warm process has answered, a signal ends this one and so asks for nothing.
    """
    asked = {
        "arguments": list(arguments),
        "environment": dict(os.environ),
        "directory": os.getcwd(),  # noqa: PTH109
    }
    try:
        socket.send_fds(connection, [b"3"], [0, 1, 2])
        connection.sendall(json.dumps(asked).encode() + b"\n")
        if not connection.recv(1):
            return None
    except OSError:
        return None
    # The numbers of signals go out as they come, even on the brink of waiting.
    connection.setblocking(False)
    signal.set_wakeup_fd(connection.fileno())
    for number in PASSED_ON:
        signal.signal(number, lambda *_: None)
    ended = b""
    while not ended.endswith(b"\n"):
        select.select([connection], [], [])
        try:
            said = connection.recv(16)
        except OSError:
            said = b""
        if not said:  # its keeper is gone, and the program with it
            return -signal.SIGKILL
        ended += said
    return int(ended)


def _end_like(status: int) -> None:
    if status >= 0:
        os._exit(status)
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


if __name__ == "__main__":
    main(sys.argv[1:])
