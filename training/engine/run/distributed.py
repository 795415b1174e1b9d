"""Several processes of one program, started by ``accelerate launch`` or torchrun.

The launcher tells each process its rank. All compute; only rank 0 holds the lock of the
run directory and writes events and checkpoints (``directory``).
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
Result = TypeVar("Result")


def process_rank() -> int:
    """Return the number of this process among those of the run, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes compute this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: torch.device) -> None:
    """Let this process talk to the others of the run, if there are any.

    For programs without a trainer, which does so by itself.
    """
    if world_size() > 1 and not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend)


def per_rank_share(setting: str, whole: int) -> int:
    """Return how much of a step each rank computes.

    Raises ``RunError`` naming the setting where it does not divide among them.
    """
    rows, rest = divmod(whole, world_size())
    if rest:
        expected = f"a multiple of the {world_size()} processes"
        raise RunError(f"recipe: `{setting}`", expected, str(whole))
    return rows


def own_part(items: Sequence[Item]) -> Sequence[Item]:
    """Return the part of this process: as many in a row as the others have, or one
    more or less.
    """
    count, rank = world_size(), process_rank()
    return items[len(items) * rank // count : len(items) * (rank + 1) // count]


def map_over_ranks(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Result]],
    write: Callable[[Result], object],
    read: Callable[[Item, Any], Result],
) -> list[Result]:
    """Return ``work(items)``; each rank computes its part and gets the others'.

    Results travel as JSON: ``write`` makes values of one, ``read`` makes it again beside
    its item, which every rank has. Collective: every rank must call it.
    """
    if _is_alone():
        return list(work(items))
    rows = all_gather_rows([write(result) for result in work(own_part(items))])
    return [read(item, row) for item, row in zip(items, rows, strict=True)]


def all_gather_rows(rows: Sequence[Any]) -> list[Any]:
    """Return the JSON rows of all ranks, in the order of ranks.

    Collective: every rank must call it.
    """
    if _is_alone():
        return list(rows)
    parts = _all_gather_bytes(json.dumps(list(rows)).encode())
    return [row for part in parts for row in json.loads(part)]


def broadcast(value: Any) -> Any:
    """Return rank 0's JSON value. Collective: every rank must call it."""
    if _is_alone():
        return value
    text = json.dumps(value) if process_rank() == 0 else ""
    return json.loads(_all_gather_bytes(text.encode())[0])


def _all_gather_bytes(data: bytes) -> list[bytes]:
    """Return the bytes of every rank. Collective: every rank must call it."""
    on_gpu = distributed.get_backend() == "nccl"
    device = torch.device("cuda" if on_gpu else "cpu")
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.zeros_like(size) for _ in range(world_size())]
    distributed.all_gather(sizes, size)
    longest = int(max(sizes))
    filled = bytearray(data.ljust(longest))
    padded = torch.frombuffer(filled, dtype=torch.uint8).to(device)
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return [
        part[: int(count)].cpu().numpy().tobytes()
        for part, count in zip(parts, sizes, strict=True)
    ]


def all_reduce_max(flag: bool, device: torch.device) -> bool:
    """Return whether any rank's flag is set. Collective: every rank must call it."""
    if _is_alone():
        return flag
    largest = torch.tensor([int(flag)], device=device)
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    return bool(largest.item())


def all_reduce_sum(count: float, device: torch.device) -> float:
    """Return the sum over all ranks. Collective: every rank must call it."""
    if _is_alone():
        return count
    total = torch.tensor([count], device=device, dtype=torch.float64)
    distributed.all_reduce(total)
    return float(total.item())


def _is_alone() -> bool:
    return world_size() == 1 or not distributed.is_initialized()
