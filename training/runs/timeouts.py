"""How long a supervisor waits for a program that is silent or does not stop."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.runs.claim import Timing

Staged = tuple[str, int, int, int]  # a folder's name, files, bytes, newest change


class Patience:
    """Watches a program's signs of life; times are seconds of a monotonic clock.

    A program is silent when it has written no event, and nothing of a checkpoint, for
    ``timing.silence``. A program that was asked to stop gets ``timing.grace``, and more
    only for the checkpoint it is writing by then: as long as that grows, with pauses of
    at most ``timing.pause``.
    """

    def __init__(self, directory: Path, timing: Timing) -> None:
        self.checkpoints, self.timing = directory / "checkpoints", timing
        self.asked_at: float | None = None
        self.heard_at = time.monotonic()
        self._staged: Staged | None = None
        self._awaited = ""  # the checkpoint being waited for
        self._grew_at = 0.0

    def hear(self) -> None:
        """Record that the program has written something."""
        self.heard_at = time.monotonic()

    def is_silent(self) -> bool:
        now = time.monotonic()
        if now - self.heard_at <= self.timing.silence:
            return False
        # Walking through the folder is expensive: only when it matters.
        staged = self._look()
        if staged is not None and staged != self._staged:
            self._staged, self.heard_at = staged, now
            return False
        return True

    def ask(self) -> None:
        """Record that the program was asked to stop."""
        self.asked_at = time.monotonic()

    def is_over(self) -> bool:
        """Whether a program that was asked to stop has used up its time."""
        now = time.monotonic()
        if self.asked_at is None or now - self.asked_at <= self.timing.grace:
            return False
        staged = self._look()
        if staged is None or now - self.asked_at > self.timing.grace + self.timing.save:
            return True
        if not self._awaited:
            self._awaited, self._grew_at = staged[0], now
        if staged[0] != self._awaited:  # it continues working and saves another
            return True
        if staged != self._staged:
            self._staged, self._grew_at = staged, now
        return now - self._grew_at > self.timing.pause

    def _look(self) -> Staged | None:
        """Return the present state of a checkpoint that is being written."""
        for folder in self.checkpoints.glob(".staging-*"):
            files = size = newest = 0
            for parent, _folders, names in os.walk(folder):
                for name in names:
                    try:
                        status = (Path(parent) / name).stat()
                    except OSError:  # moved meanwhile
                        continue
                    files, size = files + 1, size + status.st_size
                    newest = max(newest, status.st_mtime_ns)
            return folder.name, files, size, newest
        return None
