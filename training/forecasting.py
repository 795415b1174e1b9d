"""What more judgments would be worth: a learning curve through past reward models.

Plain numbers, no database. The error of a reward model is taken to fall with the number
of judgments n as a power law, error = a · n^(−b), as learning curves mostly do; a and b
are fitted by least squares in the logarithms (Cortes et al. 1994).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_ERROR = 1e-4  # a figure of exactly 1 has no logarithm


@dataclass(frozen=True)
class Known:
    """A reward model: how many judgments it learned from, and a figure of 0 to 1."""

    judgments: int
    figure: float


@dataclass(frozen=True)
class Curve:
    """A fitted curve. ``spread`` is how far the known figures lie from it, on average.

    ``grows`` is False when more judgments did not go with a better figure so far.
    """

    scale: float
    power: float
    spread: float
    grows: bool

    def at(self, judgments: int) -> float:
        """Return the figure expected after so many judgments."""
        return 1 - self.scale * math.pow(max(1, judgments), -self.power)

    def needed_for(self, figure: float) -> int | None:
        """Return how many judgments the figure takes; None if they do not lead there."""
        if not self.grows or figure >= 1:
            return None
        wanted = math.log(self.scale / (1 - figure)) / self.power
        return math.ceil(math.exp(wanted)) if wanted < 18 else None  # e^18: 65 million


def learning_curve(known: Sequence[Known]) -> Curve | None:
    """Return the curve through at least two different numbers of judgments, or None."""
    points = [
        (math.log(k.judgments), math.log(max(LEAST_ERROR, 1 - k.figure)))
        for k in known
        if k.judgments > 0
    ]
    if len({x for x, _ in points}) < 2:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum(
        (x - mean_x) ** 2 for x, _ in points
    )
    grows = slope < -1e-9
    power = -slope if grows else 0.0
    scale = math.exp(mean_y + power * mean_x)
    off = [
        abs(k.figure - (1 - scale * k.judgments**-power)) for k in known if k.judgments
    ]
    return Curve(scale, power, sum(off) / len(off), grows)
