"""A process that gets a signal when the process that forked it is gone."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with(parent: int, death_signal: signal.Signals) -> None:
    """Send this process a signal when the thread that forked it is gone.

    The parent may have died before the request was made, hence the second check.
    """
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
