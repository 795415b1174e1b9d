"""Out of memory: compute in smaller parts, and say so.

A step's gradient is the sum of its parts', so fewer rows at once change the memory and
nothing else. When a part does not fit, the gradients of the step begun are dropped, the
parts are halved, the whole step is done again, and the later ones keep the smaller size.
The same holds of responses drawn, whose noise does not depend on the batches.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from training.engine.run.distributed import process_count

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Parts:
    """How many rows are computed at once; ``size`` only ever falls.

    ``of`` names what ``size`` counts. ``together`` says whether the processes of a run
    wait for each other in what is computed: then none can try again alone.
    """

    def __init__(
        self,
        size: int,
        tell: Callable[[str, str], None],
        of: str = "rows",
        together: bool = True,
    ) -> None:
        self.size = size
        self.tell, self.of, self.together = tell, of, together
        self.fell = False

    def run(
        self,
        attempt: Callable[[int], Result],
        undo: Callable[[], None] = lambda: None,
        least: int = 1,
    ) -> Result:
        """Return ``attempt(size)``, in ever smaller parts until it fits.

        ``undo`` drops the gradients of a failed attempt. A part of the ``least`` size
        that does not fit is the end; so is running out beside other processes, which
        would wait for this one.
        """
        while True:
            try:
                return attempt(self.size)
            except torch.OutOfMemoryError:
                if self.size <= least or (self.together and process_count() > 1):
                    raise
            # Outside of the handler: the error holds the frames, and they the tensors.
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            before, self.size = self.size, max(least, (self.size + 1) // 2)
            self.fell = True
            self.tell(
                f"out of memory with {before} {self.of} at once: going on with "
                f"{self.size}, what is computed stays the same",
                "warning",
            )


def summed(
    pieces: Sequence[Piece],
    learn: Callable[[Piece], torch.Tensor],
    apart: Callable[[], contextlib.AbstractContextManager[object]],
) -> torch.Tensor:
    """Return the summed losses of the pieces of a step, each learned by ``learn``.

    Several processes exchange their gradients once a step: all pieces but the last are
    learned in the context of ``apart``.
    """
    losses: list[torch.Tensor] = []
    for number, piece in enumerate(pieces, start=1):
        last = number == len(pieces)
        with contextlib.nullcontext() if last else apart():
            losses.append(learn(piece))
    return torch.stack(losses).sum()
