"""How a program hears that it shall end: SIGTERM, and the pipe its starter holds open."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

GRACE_SECONDS = 5.0


def listen(
    request_stop: Callable[[], None],
) -> Callable[[int, FrameType | None], object] | int | None:
    """Turn SIGTERM, and with ``CONCORD_LEASH=1`` the end of stdin, into a wish to stop.

    The leash is a pipe that the starter holds open. When the starter dies, even by
    SIGKILL, the kernel closes the pipe and the program ends itself after a grace, so it
    can never outlive the one that reads its events.
    """
    if os.environ.get("CONCORD_LEASH") == "1":
        threading.Thread(target=_watch_leash, args=(request_stop,), daemon=True).start()
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, lambda *_: request_stop())


def close_stdin() -> None:
    """Let whatever asks a question on standard input read its end.

    Nobody sits there, and what stands there is no answer. A leash stays readable.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    if os.environ.get("CONCORD_LEASH") != "1":
        os.dup2(null, 0)
    sys.stdin = os.fdopen(null)


def _watch_leash(request_stop: Callable[[], None]) -> None:
    while os.read(0, 4096):
        pass
    request_stop()
    time.sleep(GRACE_SECONDS)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)  # with the helpers it started
    os.kill(os.getpid(), signal.SIGKILL)
