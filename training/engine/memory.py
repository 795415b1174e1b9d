"""Out of memory: compute a step in more parts, and say so.

A step's gradient is the sum of its parts', so fewer rows at once change the memory and
nothing else. When a part does not fit, the gradients of the step begun are dropped, the
parts are halved, the whole step is done again, and the later ones keep the smaller size.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from training.engine.processes import process_count


class Parts:
    """How many rows of a step are computed at once; ``size`` only ever falls."""

    def __init__(self, size: int, tell: Callable[[str, str], None]) -> None:
        self.size = size
        self.tell = tell

    def run(
        self,
        attempt: Callable[[int], torch.Tensor],
        undo: Callable[[], None],
    ) -> torch.Tensor:
        """Return ``attempt(size)``, in ever smaller parts until it fits.

        ``undo`` drops the gradients of a failed attempt. One row that does not fit is
        the end; so is running out beside other processes, which would wait for this one.
        """
        while True:
            try:
                return attempt(self.size)
            except torch.OutOfMemoryError:
                if self.size <= 1 or process_count() > 1:
                    raise
            # Outside of the handler: the error holds the frames, and they the tensors.
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            before, self.size = self.size, (self.size + 1) // 2
            self.tell(
                f"out of memory with {before} rows at once: going on with {self.size}, "
                "the step stays as large as it was",
                "warning",
            )
