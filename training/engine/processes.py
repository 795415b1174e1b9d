"""Several processes of one program, started by ``accelerate launch`` or torchrun.

The launcher tells each process its rank. The first alone holds the lock, writes events
and checkpoints (``rundir``); all compute.
"""

from __future__ import annotations

import os

import torch
from torch import distributed


def process_rank() -> int:
    """Return the number of this process among those of the run, from 0."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return how many processes compute this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is up in any process; all of them have to ask."""
    if process_count() == 1 or not distributed.is_initialized():
        return flag
    told = torch.tensor([int(flag)], device=device)
    distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
    return bool(told.item())


def over_all(count: float, device: torch.device) -> float:
    """Return the sum of the counts of all processes; all of them have to ask."""
    if process_count() == 1 or not distributed.is_initialized():
        return count
    told = torch.tensor([count], device=device, dtype=torch.float64)
    distributed.all_reduce(told)
    return float(told.item())
