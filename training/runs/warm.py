"""Keeping a warm process, from which programs start without their seconds of imports."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING

from django.conf import settings

from training.engine.run.start import SOCKET, bears_warm, begin_warm, end_warm
from training.runs.command import program_environment

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger(__name__)

_one_at_a_time = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_path = ""


def warm_environment() -> dict[str, str]:
    """Return what a program finds in its environment to start from the warm process.

    Begins that process unless it runs. Nothing where there shall be none: with
    ``CONCORD_WARM_START=0``, beside a GPU, without Linux, or where it cannot begin.
    """
    global _process, _path
    if not settings.WARM_START or not bears_warm():
        return {}
    with _one_at_a_time:
        if _process is None or _process.poll() is not None:
            cool_down()
            try:
                _process, _path = begin_warm(program_environment(os.environ))
            except OSError as error:  # such as no room for its socket
                logger.warning("Programs start from nothing: %s", error)
                return {}
        return {SOCKET: _path}


@atexit.register
def cool_down() -> None:
    """End the warm process, if there is one; programs that run go on."""
    global _process
    if _process is not None:
        end_warm(_process, _path)
        _process = None
