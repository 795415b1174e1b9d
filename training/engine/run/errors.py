"""What a program cannot work with, said so that the person who started it can mend it."""

from __future__ import annotations


class RunError(Exception):
    """Something in the run directory that the program cannot work with.

    ``place`` names the file and field, ``expected`` and ``found`` say what was wrong.
    """

    def __init__(self, place: str, expected: str, found: str) -> None:
        super().__init__(f"{place}: expected {expected}, found {found}")
        self.place = place
        self.expected = expected
        self.found = found
