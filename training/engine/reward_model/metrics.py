"""What a reward model is worth: figures from its probabilities, and the gate before RL.

Plain functions of numbers, no torch. "Bad" pairs are the inconsistent ones: a policy
under training will look for the bad answers that its reward model accepts, so the share
of bad answers caught matters more than accuracy.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BINS = 10

# The names under which a reward checkpoint's manifest has the figures the gate reads.
SEEN_ORDERS = "quads/seen/accuracy"
UNSEEN_ORDERS = "quads/unseen/accuracy"
BAD_CAUGHT = "judged/bad_caught"


@dataclass(frozen=True)
class Verdict:
    """A probability of "consistent" beside what is true."""

    probability: float
    consistent: bool


def auc(verdicts: Sequence[Verdict]) -> float | None:
    """Return the chance that a good pair scores above a bad one, ties counting half.

    None when one of the two is missing.
    """
    good = [v.probability for v in verdicts if v.consistent]
    bad = sorted(v.probability for v in verdicts if not v.consistent)
    if not good or not bad:
        return None
    below = sum(bisect.bisect_left(bad, p) + bisect.bisect_right(bad, p) for p in good)
    return below / (2 * len(good) * len(bad))


def calibration_error(verdicts: Sequence[Verdict]) -> float | None:
    """Return the expected calibration error over ten equal bins (Guo et al. 2017)."""
    if not verdicts:
        return None
    bins: list[list[Verdict]] = [[] for _ in range(BINS)]
    for verdict in verdicts:
        bins[min(BINS - 1, int(verdict.probability * BINS))].append(verdict)
    gaps = (
        abs(sum(v.probability for v in b) - sum(v.consistent for v in b)) for b in bins
    )
    return sum(gaps) / len(verdicts)


def best_threshold(verdicts: Sequence[Verdict]) -> float | None:
    """Return a probability that tells good from bad as well as any.

    Well: by the sum of the share of bad caught and the share of good accepted. Of all
    thresholds within one standard error of the best (Breiman et al. 1984, section 3.4.3,
    shares smoothed by one success and one failure) it is the one in the middle of the
    widest gap: a few odd pairs then do not push it to an edge, and small shifts of the
    scores change no verdict. None when good or bad pairs are missing.
    """
    good = sorted(v.probability for v in verdicts if v.consistent)
    bad = sorted(v.probability for v in verdicts if not v.consistent)
    if not good or not bad:
        return None
    edges = sorted({0.0, 1.0, *good, *bad})
    gap_of = {(a + b) / 2: b - a for a, b in itertools.pairwise(edges)}

    def counts(threshold: float) -> tuple[int, int]:
        caught = bisect.bisect_left(bad, threshold)
        return caught, len(good) - bisect.bisect_left(good, threshold)

    def worth(threshold: float) -> float:
        caught, accepted = counts(threshold)
        return caught / len(bad) + accepted / len(good)

    best = max(gap_of, key=worth)
    variance = 0.0
    for right, of in zip(counts(best), (len(bad), len(good)), strict=True):
        share = (right + 1) / (of + 2)
        variance += share * (1 - share) / of
    least = worth(best) - math.sqrt(variance)
    return max((t for t in gap_of if worth(t) >= least), key=lambda t: gap_of[t])


def best_temperature(verdicts: Sequence[Verdict]) -> float | None:
    """Return the temperature T for which σ(log-odds / T) fits the verdicts best.

    Temperature scaling (Guo et al. 2017, section 4.2): the least cross-entropy, found by
    golden section over log T between 1/20 and 20, where it has one minimum. It moves no
    order, so ranks and AUC stay. None when good or bad pairs are missing.
    """
    if len({v.consistent for v in verdicts}) < 2:
        return None
    odds = [(log_odds(v.probability), v.consistent) for v in verdicts]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return sum(_softplus(-x * scale if good else x * scale) for x, good in odds)

    low, high, ratio = -math.log(20), math.log(20), (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def log_odds(probability: float) -> float:
    """Return log(p / (1 − p)), finite for 0 and 1 too."""
    p = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(p) - math.log1p(-p)


def probability(odds: float) -> float:
    """Return 1 / (1 + exp(−odds)) for any odds."""
    return math.exp(-_softplus(-odds))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def shares(verdicts: Sequence[Verdict], threshold: float) -> dict[str, float | None]:
    """Return accuracy, share of bad caught, share of good accepted, and the precision
    of "bad", at ``threshold``; None where there is nothing to divide by.
    """
    good = [v for v in verdicts if v.consistent]
    bad = [v for v in verdicts if not v.consistent]
    caught = sum(v.probability < threshold for v in bad)
    accepted = sum(v.probability >= threshold for v in good)
    flagged = caught + len(good) - accepted
    return {
        "accuracy": _share(caught + accepted, len(verdicts)),
        "bad_caught": _share(caught, len(bad)),
        "good_accepted": _share(accepted, len(good)),
        "bad_precision": _share(caught, flagged),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# The gate


class GateError(RuntimeError):
    """A reward model that is not good enough to be optimised against.

    ``misses`` has one sentence for each figure that is below its bound or missing.
    """

    def __init__(self, misses: Sequence[str]) -> None:
        super().__init__("the reward model misses its gate: " + "; ".join(misses))
        self.misses = tuple(misses)


def gate_misses(
    metrics: Mapping[str, object], *, balanced_order: float, bad_caught: float
) -> list[str]:
    """Return what keeps a reward model from its gate; empty when it passes.

    ``metrics`` are those of its manifest. A figure that was not measured is a miss.
    """
    wanted = {
        SEEN_ORDERS: ("accuracy on balanced quads of seen orders", balanced_order),
        UNSEEN_ORDERS: ("accuracy on balanced quads of unseen orders", balanced_order),
        BAD_CAUGHT: ("share of bad held-out answers caught", bad_caught),
    }
    misses: list[str] = []
    for name, (words, bound) in wanted.items():
        value = metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            misses.append(f"{words} was not measured, wanted at least {bound:g}")
        elif not value >= bound:  # NaN is not at least anything
            misses.append(f"{words} is {value:.3f}, wanted at least {bound:g}")
    return misses


# The alarm


@dataclass(frozen=True)
class Look:
    """One look at the fixed held-out set: mean RM score and mean truth, 0 to 1."""

    step: int
    rm_score: float
    truth: float


def parted(looks: Sequence[Look], *, tolerance: float, evaluations: int) -> str | None:
    """Return why the run must stop, or None: the RM's score went up, the truth down.

    Compared with the look of the best truth so far: the last ``evaluations`` looks must
    all have a higher RM score and a truth lower by more than ``tolerance``. One such
    look may be chance; the policy that learns to please its reward model stays there.
    """
    if len(looks) <= evaluations:
        return None
    recent = looks[-evaluations:]
    best = max(looks[:-evaluations], key=lambda look: (look.truth, look.step))
    if not all(
        look.rm_score > best.rm_score and look.truth < best.truth - tolerance
        for look in recent
    ):
        return None
    last = recent[-1]
    return (
        f"score and truth part: since step {best.step} the reward model's score rose "
        f"from {best.rm_score:.3f} to {last.rm_score:.3f} while held-out truth fell "
        f"from {best.truth:.3f} to {last.truth:.3f} (step {last.step})"
    )


def best_look(looks: Sequence[Look], *, by_truth: bool = True) -> Look:
    """Return the look of the best truth (or RM score); the earliest among equals."""
    return max(
        looks, key=lambda look: (look.truth if by_truth else look.rm_score, -look.step)
    )
