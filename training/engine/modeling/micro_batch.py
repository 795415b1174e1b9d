"""Micro-batches: a step computed in parts, in smaller ones when memory runs out.

A step's gradient is the sum of its micro-batches', so fewer rows at once change the memory
and nothing else. When a micro-batch does not fit, the gradients of the step begun are
dropped, the size is halved, the whole step is done again, and later steps keep the smaller
size. The same holds of sampled responses, whose noise does not depend on the batches.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from training.engine.run.distributed import world_size

Piece = TypeVar("Piece")
Result = TypeVar("Result")
Context = Callable[[], contextlib.AbstractContextManager[object]]


class MicroBatch:
    """How many rows are computed at once; ``size`` only ever falls.

    ``of`` names what ``size`` counts, ``log`` takes a message and its level.
    ``synchronized`` says whether the processes of a run wait for each other in what is
    computed: then none can try again by itself.
    """

    def __init__(
        self,
        size: int,
        log: Callable[[str, str], None],
        of: str = "rows",
        synchronized: bool = True,
    ) -> None:
        self.size = size
        self.log, self.of, self.synchronized = log, of, synchronized
        self.fell = False

    def run(
        self,
        attempt: Callable[[int], Result],
        undo: Callable[[], None] = lambda: None,
        least: int = 1,
    ) -> Result:
        """Return ``attempt(size)``, with ever smaller sizes until it fits.

        ``undo`` drops the gradients of a failed attempt. Running out at the ``least``
        size is the end; so is running out beside other processes, which would wait for
        this one.
        """
        while True:
            try:
                return attempt(self.size)
            except torch.OutOfMemoryError:
                if self.size <= least or (self.synchronized and world_size() > 1):
                    raise
            # Outside of the handler: the error holds the frames, and they the tensors.
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            before, self.size = self.size, max(least, (self.size + 1) // 2)
            self.fell = True
            self.log(
                f"out of memory with {before} {self.of} at once: going on with "
                f"{self.size}, what is computed stays the same",
                "warning",
            )

    def accumulate(
        self,
        split: Callable[[int], Sequence[Piece]],
        backward: Callable[[Piece], torch.Tensor],
        zero_grad: Callable[[], None],
        no_sync: Context = contextlib.nullcontext,
    ) -> torch.Tensor:
        """Leave the gradient of a whole step; return the sum of what ``backward`` gives.

        ``split(size)`` cuts the step into micro-batches of at most ``size`` rows;
        ``backward`` adds the gradient of one and returns its loss, or a vector of sums.
        """

        def attempt(size: int) -> torch.Tensor:
            return accumulate_gradients(split(size), backward, no_sync)

        return self.run(attempt, zero_grad)


def accumulate_gradients(
    micro_batches: Sequence[Piece],
    backward: Callable[[Piece], torch.Tensor],
    no_sync: Context = contextlib.nullcontext,
) -> torch.Tensor:
    """Return the sum of what ``backward`` gives of the micro-batches of a step.

    Several processes exchange gradients once a step: all micro-batches but the last are
    computed within ``no_sync()``.
    """
    results: list[torch.Tensor] = []
    for number, piece in enumerate(micro_batches, start=1):
        last = number == len(micro_batches)
        with contextlib.nullcontext() if last else no_sync():
            results.append(backward(piece))
    return torch.stack(results).sum(0)
