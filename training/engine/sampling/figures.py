"""Figures of answers: shares, with intervals over samples, and gains of one over another.

A metric gives each turn True, False or None where it does not apply. Its figure is the
share of True, and the interval beside it a percentile bootstrap over *samples*, not turns
(Efron and Tibshirani 1993, chapter 13): turns of one conversation stand or fall together,
and counting them as independent would make the interval too narrow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from records.recipes.groups import Compute
from training.engine.data.conversations import Sample
from training.engine.sampling.answers import Answer, Measured, Prompt

RESAMPLES, CONFIDENCE = 1000, 0.95  # of the bootstrap behind each interval


@dataclass(frozen=True)
class Row:
    """One turn as answered and measured; ``rm`` is the reward model's probability."""

    answer: Answer
    measured: Measured
    rm: float | None
    rm_consistent: bool | None


Verdicts = dict[str, list[bool]]  # by sample id, what one metric said

METRICS: dict[str, Callable[[Row], bool | None]] = {
    "format_valid": lambda row: row.measured.format_valid,
    "plan_order": lambda row: row.measured.plan_order,
    "action_name": lambda row: row.measured.action_name,
    "action_parameters": lambda row: row.measured.action_parameters,
    "turns_right": lambda row: row.measured.consistent,
    "rm_consistent": lambda row: row.rm_consistent,
    "rm_agreement": lambda row: (
        None
        if row.rm_consistent is None or row.measured.consistent is None
        else row.rm_consistent == row.measured.consistent
    ),
}


def summary(
    rows: Sequence[Row],
    left_out: Sequence[Prompt],
    samples: Sequence[Sample],
    settings: Compute,
) -> dict[str, dict[str, float]]:
    """Return every metric that applies: value, interval, number of verdicts."""
    figures: dict[str, dict[str, float]] = {}
    for name, metric in METRICS.items():
        verdicts = verdicts_of(rows, metric)
        if verdicts:
            figures[name] = with_interval(verdicts, settings)
    complete = tasks_complete(rows, left_out, samples)
    if complete:
        figures["tasks_complete"] = with_interval(complete, settings)
    return figures


def verdicts_of(rows: Sequence[Row], metric: Callable[[Row], bool | None]) -> Verdicts:
    """Return what one metric says of the turns it applies to, by sample."""
    verdicts: Verdicts = {}
    for row in rows:
        verdict = metric(row)
        if verdict is not None:
            verdicts.setdefault(row.answer.sample.id, []).append(verdict)
    return verdicts


def tasks_complete(
    rows: Sequence[Row], left_out: Sequence[Prompt], samples: Sequence[Sample]
) -> Verdicts:
    """Return for each sample the oracle can judge whether all its turns are right."""
    right: Counter[str] = Counter()
    for row in rows:
        right[row.answer.sample.id] += bool(row.measured.consistent)
    judged_turns = Counter(
        row.answer.sample.id for row in rows if row.measured.consistent is not None
    )
    for prompt in left_out:
        judged_turns[prompt.sample.id] += prompt.sample.is_verifiable(prompt.turn)
    return {
        sample.id: [right[sample.id] == len(sample.turns)]
        for sample in samples
        if judged_turns[sample.id] == len(sample.turns)
    }


def with_interval(verdicts: Verdicts, settings: Compute) -> dict[str, float]:
    """Return the share of True with a percentile bootstrap interval over samples."""
    sums = torch.tensor([float(sum(v)) for v in verdicts.values()])
    counts = torch.tensor([float(len(v)) for v in verdicts.values()])
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randint(len(sums), (RESAMPLES, len(sums)), generator=generator)
    shares = sums[drawn].sum(1) / counts[drawn].sum(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(shares, torch.tensor([tail, 1 - tail])).tolist()
    return {
        "value": float(sums.sum() / counts.sum()),
        "low": low,
        "high": high,
        "n": int(counts.sum()),
    }


def gains(
    truth: dict[str, dict[str, Verdicts]], settings: Compute
) -> dict[str, dict[str, dict[str, float]]]:
    """Return, for each policy, what it gained over ``initial``, with its interval."""
    before = truth.get("initial", {})
    return {
        role: {
            name: gain
            for name, verdicts in measures.items()
            if (gain := paired_gain(before[name], verdicts, settings))
        }
        for role, measures in truth.items()
        if before and role != "initial"
    }


def paired_gain(
    before: Verdicts, after: Verdicts, settings: Compute
) -> dict[str, float]:
    """Return the difference of two shares of True on the samples that both have.

    ``n`` counts these samples, ``changed`` those whose verdicts are not the same. Empty
    where they have none in common.
    """
    both = [name for name in before if name in after]
    if not both:
        return {}

    def tensors(verdicts: Verdicts) -> tuple[torch.Tensor, torch.Tensor]:
        sums = [float(sum(verdicts[name])) for name in both]
        counts = [float(len(verdicts[name])) for name in both]
        return torch.tensor(sums), torch.tensor(counts)

    (old, old_n), (new, new_n) = tensors(before), tensors(after)
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randint(len(both), (RESAMPLES, len(both)), generator=generator)
    shares_old = old[drawn].sum(1) / old_n[drawn].sum(1)
    shares_new = new[drawn].sum(1) / new_n[drawn].sum(1)
    tail = (1 - CONFIDENCE) / 2
    bounds = torch.tensor([tail, 1 - tail])
    low, high = torch.quantile(shares_new - shares_old, bounds).tolist()
    return {
        "value": float(new.sum() / new_n.sum() - old.sum() / old_n.sum()),
        "low": low,
        "high": high,
        "n": len(both),
        "changed": sum(before[name] != after[name] for name in both),
    }


def situation_of(sample: Sample) -> str:
    """Return the situation a sample is tagged with."""
    return sample.situation or "none"


def split_of(sample: Sample) -> str:
    """Return the split of a sample: held-out or held-out-unseen."""
    return sample.split or "none"


def grouped(
    rows: Sequence[Row],
    left_out: Sequence[Prompt],
    samples: Sequence[Sample],
    settings: Compute,
    group_of: Callable[[Sample], str],
) -> dict[str, object]:
    """Return the summary of every group of samples."""
    return {
        group: summary(
            [row for row in rows if group_of(row.answer.sample) == group],
            [prompt for prompt in left_out if group_of(prompt.sample) == group],
            [sample for sample in samples if group_of(sample) == group],
            settings,
        )
        for group in sorted({group_of(sample) for sample in samples})
    }


def error_counts(rows: Sequence[Row]) -> Counter[str]:
    """Return how many answers show each of the oracle's kinds of error."""
    return Counter(kind for row in rows for kind in row.measured.errors)
