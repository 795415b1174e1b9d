"""Several processes of one program, started by ``accelerate launch`` or torchrun.

The launcher tells each process its rank. The first alone holds the lock, writes events
and checkpoints (``rundir``); all compute.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed

from training.engine.run.errors import RunError

Item = TypeVar("Item")
Found = TypeVar("Found")


def process_rank() -> int:
    """Return the number of this process among those of the run, from 0."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return how many processes compute this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: torch.device) -> None:
    """Let this process talk to the others of the run, if there are any.

    For programs without a trainer, which does so by itself.
    """
    if process_count() > 1 and not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend)


def share_of_step(setting: str, whole: int) -> int:
    """Return each process's share of what a step learns from.

    Raises ``RunError`` naming the setting where it does not divide among them.
    """
    alone, rest = divmod(whole, process_count())
    if rest:
        expected = f"a multiple of the {process_count()} processes"
        raise RunError(f"recipe: `{setting}`", expected, str(whole))
    return alone


def own_part(items: Sequence[Item]) -> Sequence[Item]:
    """Return the part of this process: as many in a row as the others have, or one
    more or less.
    """
    count, rank = process_count(), process_rank()
    return items[len(items) * rank // count : len(items) * (rank + 1) // count]


def divided(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Found]],
    write: Callable[[Found], object],
    read: Callable[[Item, Any], Found],
) -> list[Found]:
    """Return ``work(items)``, each process doing its part and telling all the others.

    Between processes goes JSON: ``write`` says what was found for an item in its values,
    ``read`` makes it again beside the item, which all have. All have to ask.
    """
    if _alone():
        return list(work(items))
    own = json.dumps([write(found) for found in work(own_part(items))])
    told = [row for part in _told_by_all(own.encode()) for row in json.loads(part)]
    return [read(item, row) for item, row in zip(items, told, strict=True)]


def all_gather_rows(rows: Sequence[Any]) -> list[Any]:
    """Return the JSON rows of all ranks, in the order of ranks.

    Collective: every rank must call it.
    """
    if _alone():
        return list(rows)
    parts = _told_by_all(json.dumps(list(rows)).encode())
    return [row for part in parts for row in json.loads(part)]


def told_by_first(value: Any) -> Any:
    """Return the JSON value of the first process; all of them have to ask."""
    if _alone():
        return value
    own = json.dumps(value) if process_rank() == 0 else ""
    return json.loads(_told_by_all(own.encode())[0])


def _told_by_all(own: bytes) -> list[bytes]:
    """Return the bytes of every process, by rank."""
    on_gpu = distributed.get_backend() == "nccl"
    device = torch.device("cuda" if on_gpu else "cpu")
    size = torch.tensor([len(own)], device=device)
    sizes = [torch.zeros_like(size) for _ in range(process_count())]
    distributed.all_gather(sizes, size)
    longest = int(max(sizes))
    filled = bytearray(own.ljust(longest))
    padded = torch.frombuffer(filled, dtype=torch.uint8).to(device)
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return [
        part[: int(count)].cpu().numpy().tobytes()
        for part, count in zip(parts, sizes, strict=True)
    ]


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is up in any process; all of them have to ask."""
    if _alone():
        return flag
    told = torch.tensor([int(flag)], device=device)
    distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
    return bool(told.item())


def over_all(count: float, device: torch.device) -> float:
    """Return the sum of the counts of all processes; all of them have to ask."""
    if _alone():
        return count
    told = torch.tensor([count], device=device, dtype=torch.float64)
    distributed.all_reduce(told)
    return float(told.item())


def _alone() -> bool:
    return process_count() == 1 or not distributed.is_initialized()
