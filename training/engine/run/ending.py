"""How one of several processes of a program ends.

It asks for ``torch.distributed`` only where the program has imported it: the run
directory itself needs no torch.
"""

from __future__ import annotations

import os
import sys


def has_lost_another(error: Exception) -> bool:
    """Say whether the error tells that another process has left what all do together."""
    if "WORLD_SIZE" not in os.environ:
        return False
    distributed = sys.modules.get("torch.distributed")
    is_of_torch = distributed is not None and isinstance(error, distributed.DistError)
    return is_of_torch or "/gloo/" in str(error)


def leave(status: int) -> None:
    """End this process, if it computed with others, with everything written.

    At once, without tearing Python down: gloo's threads drop their last results when
    they please, and one that does so while Python is going takes the process with it
    ("terminate called without an active exception"), though the run is complete.
    """
    distributed = sys.modules.get("torch.distributed")
    if "WORLD_SIZE" not in os.environ or distributed is None:
        return
    if not distributed.is_initialized():
        return
    if status == 0:  # else others may wait for what will not come
        distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
