"""The value of more judgments: a learning curve through past reward models.

Plain numbers, no database. The error of a reward model is assumed to fall with the
number of judgments n as a power law, error = a · n^(−b), as most learning curves do; a
and b are fitted by least squares in the logarithms (Cortes et al. 1994). The next
model's error lies, 19 times in 20, within the prediction interval of that regression:
with k models, s the standard deviation of their log errors about the line and x = ln n,

    ln error ± t(k − 2) · s · sqrt(1 + 1/k + (x − mean)² / Σ (xᵢ − mean)²)

t is Student's, so three models give a very wide interval, and two none. The interval
covers the scatter of these models (held-out samples, seeds), not a change of recipe or
a bend of the power law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_ERROR = 1e-4  # a figure of exactly 1 has no logarithm
# Student's t: the 0.975 quantile for 1, 2, … degrees of freedom, then of the normal.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL_975 = 1.960
LEAST_FOR_INTERVAL = 3


@dataclass(frozen=True)
class Known:
    """A reward model: its number of judgments, and a figure from 0 to 1."""

    judgments: int
    figure: float


@dataclass(frozen=True)
class Scatter:
    """The log errors about the fitted line; ``deviation`` is s of the formula."""

    models: int
    freedom: int
    deviation: float
    mean: float
    squares: float

    def half_width(self, x: float) -> float:
        """Return half of the 95 % prediction interval of ln error at ln n = ``x``."""
        beyond = (x - self.mean) ** 2 / self.squares if self.squares else 0.0
        t = T_975[self.freedom - 1] if self.freedom <= len(T_975) else NORMAL_975
        return t * self.deviation * math.sqrt(1 + 1 / self.models + beyond)


@dataclass(frozen=True)
class Curve:
    """A fitted curve.

    ``spread`` is the mean distance of the known figures from it. ``grows`` is False
    when more judgments did not improve the figure so far; the curve is then their mean.
    ``scatter`` is None with too few models for an interval.
    """

    scale: float
    power: float
    spread: float
    grows: bool
    scatter: Scatter | None = None

    def at(self, judgments: int) -> float:
        """Return the expected figure after this many judgments."""
        return 1 - self.scale * math.pow(max(1, judgments), -self.power)

    def between(self, judgments: int) -> tuple[float, float] | None:
        """Return the next model's 95 % interval; None with too few models."""
        if self.scatter is None:
            return None
        half = self.scatter.half_width(math.log(max(1, judgments)))
        error = 1 - self.at(judgments)
        return (
            max(0.0, 1 - error * math.exp(min(half, 700.0))),
            1 - error * math.exp(-half),
        )

    def needed_for(self, figure: float) -> int | None:
        """Return how many judgments the figure needs; None if it is out of reach."""
        if not self.grows or figure >= 1:
            return None
        log_judgments = math.log(self.scale / (1 - figure)) / self.power
        if log_judgments >= 18:  # e^18: 65 million
            return None
        return math.ceil(math.exp(log_judgments))


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
    squares = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / squares
    grows = slope < -1e-9
    power = -slope if grows else 0.0
    level = mean_y + power * mean_x
    scale = math.exp(level)
    off = [
        abs(k.figure - (1 - scale * k.judgments**-power)) for k in known if k.judgments
    ]
    freedom = len(points) - (2 if grows else 1)
    scatter = None
    if len(points) >= LEAST_FOR_INTERVAL:
        residuals = sum((y - level + power * x) ** 2 for x, y in points)
        scatter = Scatter(
            len(points),
            freedom,
            math.sqrt(residuals / freedom),
            mean_x,
            squares if grows else 0.0,
        )
    return Curve(scale, power, sum(off) / len(off), grows, scatter)
