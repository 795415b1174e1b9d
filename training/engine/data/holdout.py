"""Two sides of the held-out samples: on one a checkpoint is chosen, on the other reported.

The best of several checkpoints on a set of samples looks better on that set than it is:
its luck was chosen with it (Cawley and Talbot 2010, "On over-fitting in model selection",
JMLR 11). So no sample serves both. Which side a sample is on follows from its id alone. It
is the same in every program and every run and stays as the held-out set grows: a policy
whose best step was chosen on some samples is measured by ``evaluate`` on others.

    split_held_out(samples, lambda sample: sample.id)

Plain Python, no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

LEAST = 4  # samples on each side, below which a set is too small to be split


@dataclass(frozen=True)
class HeldOutSplit(Generic[Item]):
    """What a run chooses its checkpoint or threshold on, and what it reports on.

    Disjoint by sample where ``is_split``. A set that is too small is not split:
    ``report`` has all of it, and ``choose`` has nothing.
    """

    choose: list[Item]
    report: list[Item]

    @property
    def is_split(self) -> bool:
        """Whether there was enough to have some of it to choose on."""
        return bool(self.choose)


def is_to_choose_on(sample: str) -> bool:
    """Return the side of the sample with this id: half of all are to choose on."""
    return hashlib.sha256(f"held-out {sample}".encode()).digest()[0] % 2 == 0


def split_held_out(
    items: Sequence[Item],
    sample_of: Callable[[Item], str],
    is_enough: Callable[[Sequence[Item]], bool] = lambda items: True,
) -> HeldOutSplit[Item]:
    """Return ``items`` split by the id of the sample that each belongs to.

    Not split are items of fewer than ``LEAST`` samples on either side, or of which those
    to choose on are not enough by ``is_enough``.
    """
    choose = [item for item in items if is_to_choose_on(sample_of(item))]
    report = [item for item in items if not is_to_choose_on(sample_of(item))]
    fewest = min(len({sample_of(item) for item in side}) for side in (choose, report))
    if fewest < LEAST or not is_enough(choose):
        return HeldOutSplit([], list(items))
    return HeldOutSplit(choose, report)
