"""Writes demo samples: in each conversation the responses follow from what is visible.

A sample depends only on its seed, split and number. Its random generator has a sequence
that Python guarantees, so a sample is the same in every process and Python version.
Training and held-out samples never share the values of a command under the same plan
order: a checksum of both decides the side. ``held-out`` uses plan orders that training
contains, ``held-out-unseen`` the reserved ones, which training never contains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from actions.demo.orders import SeededRandom
from actions.demo.scenarios import (
    SCENARIOS,
    SITUATIONS,
)
from actions.demo.shapes import DIFFICULTIES, Difficulty, Sample
from actions.demo.writer import Writer

Split = Literal["", "held-out", "held-out-unseen"]
SPLITS: tuple[Split, ...] = ("", "held-out", "held-out-unseen")


def generate(
    *,
    seed: int,
    count: int,
    split: str = "",
    difficulty: Difficulty = DIFFICULTIES["normal"],
    habit: float = 0.0,
) -> Iterator[Sample]:
    """Yield ``count`` samples, cycling evenly over scenarios and situations.

    ``split``: "" for training, "held-out" or "held-out-unseen"; another raises
    ValueError. ``habit``: share of samples whose writer ends a task with an offer that
    nobody asked for; experiments measure how judging corrects such labels. The first n
    samples do not depend on ``count``.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, found {split!r}")
    if not 0 <= habit <= 1:
        raise ValueError(f"habit: expected 0 to 1, found {habit}")
    scenarios = tuple(SCENARIOS.values())
    for number in range(count):
        situation, scenario = divmod(number % 30, len(scenarios))
        identity = f"demo-{seed}-{split or 'train'}-{number + 1:06d}"
        writer = Writer(
            scenario=scenarios[scenario],
            situation=SITUATIONS[situation],
            random=SeededRandom(identity),
            difficulty=difficulty,
            split=split,
            habit=habit,
        )
        yield writer.write(identity)
