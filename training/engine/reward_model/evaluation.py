"""How good a consistency reward model is: its figures on held-out pairs.

Three kinds of test, none of them ever learned from:

    judged    pairs that people judged, of the split "held-out"
    quads     balanced quads (a,a′)=1, (b,b′)=1, (a,b)=0, (b,a)=0, where b is a with two
              steps in another order and all that follows changed to fit: only a model
              that compares the sides is right in all four
    derived   other wordings of a label, which it must accept, and labels with an error of
              a known kind, which it must catch

The threshold from which a pair counts as consistent, and the temperature, are chosen on
judged pairs of some held-out samples; every figure comes from the other samples
(``holdout``). The policy program's gate reads the figures (``metrics``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

from training.engine.data.conversations import Sample
from training.engine.data.holdout import HeldOutSplit, split_held_out
from training.engine.reward_model.augmentation import Example, Source
from training.engine.reward_model.batches import Judged
from training.engine.reward_model.metrics import (
    Verdict,
    auc,
    best_temperature,
    best_threshold,
    calibration_error,
    probability,
    shares,
)
from training.engine.reward_model.model import RewardModel, score_of
from training.engine.run.directory import step_random
from training.engine.run.distributed import map_over_ranks

Log = Callable[[str, str], None]


@dataclass(frozen=True)
class Tests:
    """Held-out pairs. ``quads`` has four examples each, by "seen" and "unseen" order.

    Threshold and temperature are chosen on ``judged.choose``; all else is reported on,
    and of other samples.
    """

    judged: HeldOutSplit[Example]
    ruled_out: int  # bad answers to report on that are caught by rule
    quads: dict[str, list[tuple[Example, ...]]]
    changes: list[Example]
    references: list[Example]


def held_out_tests(
    judged: Judged, samples: Sequence[Sample], turns: int, log: Log
) -> Tests:
    """Derive the tests from held-out samples; the same ones in every run.

    ``turns`` limits the turns that each kind of derived test is made from.
    """
    pairs = split_held_out(
        [item for item in judged.held_out if item.source == "people"],
        lambda item: item.sample,
        lambda items: len({item.consistent for item in items}) == 2,
    )
    by_rule = [item for item in judged.ruled_out if item.held_out]
    if pairs.is_split:
        chosen_on = {item.sample for item in pairs.choose}
        reported_on = {item.sample for item in pairs.report}
        log(
            f"held-out: the threshold is chosen on {len(pairs.choose)} judged pairs of "
            f"{len(chosen_on)} samples, the figures come from other samples "
            f"({len(pairs.report)} judged pairs of {len(reported_on)})",
            "info",
        )
        samples = [sample for sample in samples if sample.id not in chosen_on]
        by_rule = [item for item in by_rule if item.sample not in chosen_on]
    elif pairs.report:
        log(
            f"held-out: {len(pairs.report)} judged pairs are too few to be split by "
            "sample. The threshold is 0.5, and the figures come from all of them.",
            "warning",
        )
    derived = Source(samples)
    return Tests(
        judged=pairs,
        ruled_out=sum(not item.consistent for item in by_rule),
        quads={
            order: derived.quads(step_random(0, "quads", order), turns, order)
            for order in ("seen", "unseen")
        },
        changes=derived.changes(step_random(0, "changes"), turns),
        references=derived.rewordings(step_random(0, "references"), turns),
    )


def validate(model: RewardModel, tests: Tests, calibrate: bool) -> dict[str, object]:
    """Return the held-out figures; set threshold and temperature of ``model`` anew.

    Collective: every rank must call it.
    """
    model.reader.eval()
    model.settings = replace(model.settings, temperature=1.0)

    def log_odds(examples: Sequence[Example]) -> list[float]:
        pairs = [item.pair for item in examples]
        scores = map_over_ranks(pairs, model.score, astuple, score_of)
        return [score.logit for score in scores]

    def verdicts(
        examples: Sequence[Example], odds: Sequence[float] | None = None
    ) -> list[Verdict]:
        odds = log_odds(examples) if odds is None else odds
        return [
            Verdict(probability(logit / temperature), item.consistent)
            for logit, item in zip(odds, examples, strict=True)
        ]

    # Choose threshold and temperature, on samples that no figure comes from.
    temperature = 1.0
    choose, odds = tests.judged.choose, log_odds(tests.judged.choose)
    fitted = best_temperature(verdicts(choose, odds)) if calibrate else None
    temperature = fitted or 1.0
    threshold = best_threshold(verdicts(choose, odds)) or 0.5
    values: dict[str, object] = {
        "threshold/picked_on": len(choose),
        "threshold": threshold,
        "temperature": temperature,
    }

    # Judged pairs.
    report, odds = tests.judged.report, log_odds(tests.judged.report)
    judged = verdicts(report, odds)
    by_rule = [Verdict(0.0, False)] * tests.ruled_out
    for name, value in shares(judged + by_rule, threshold).items():
        values[f"judged/{name}"] = value
    values["judged/count"] = len(judged) + tests.ruled_out
    values["judged/by_rule"] = tests.ruled_out
    values["judged/auc"] = auc(judged)
    values["judged/ece"] = calibration_error(judged)
    if fitted is not None:  # the error before, on the same pairs
        uncalibrated = [
            Verdict(probability(logit), item.consistent)
            for logit, item in zip(odds, report, strict=True)
        ]
        values["judged/ece/raw"] = calibration_error(uncalibrated)
    for kind, of_kind in by_kind(judged, report).items():
        values[f"judged/recall/{kind}"] = shares(of_kind, threshold)["bad_caught"]
        values[f"judged/recall/{kind}/count"] = len(of_kind)

    # Balanced quads: right in all four, or blind to one side.
    for order, quads in tests.quads.items():
        of_quads = verdicts([item for quad in quads for item in quad])
        right = [(v.probability >= threshold) == v.consistent for v in of_quads]
        whole = [all(right[i : i + 4]) for i in range(0, len(right), 4)]
        values[f"quads/{order}/accuracy"] = sum(right) / len(right) if right else None
        values[f"quads/{order}/whole"] = sum(whole) / len(whole) if whole else None
        values[f"quads/{order}/count"] = len(whole)

    # Derived pairs: other wordings to accept, errors to catch.
    accepted = shares(verdicts(tests.references), threshold)["good_accepted"]
    values["derived/references_accepted"] = accepted
    changes = verdicts(tests.changes)
    caught = shares(changes, threshold)["bad_caught"]
    values["derived/changes_caught"] = caught
    for kind, of_kind in by_kind(changes, tests.changes).items():
        values[f"derived/recall/{kind}"] = shares(of_kind, threshold)["bad_caught"]
    model.settings = replace(
        model.settings, threshold=threshold, temperature=temperature
    )
    return values


def by_kind(
    verdicts: Sequence[Verdict], examples: Sequence[Example]
) -> dict[str, list[Verdict]]:
    """Return the verdicts on the examples that show each kind of error."""
    return {
        kind: [
            verdict
            for verdict, item in zip(verdicts, examples, strict=True)
            if kind in item.kinds
        ]
        for kind in sorted({kind for item in examples for kind in item.kinds})
    }
