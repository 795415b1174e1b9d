"""How good a consistency reward model is: its figures on held-out pairs.

Three kinds of test, none of them ever learned from:

    judged    pairs that people judged, of the split "held-out"
    quads     balanced quads (a,a′)=1, (b,b′)=1, (a,b)=0, (b,a)=0, where b is a with two
              steps in another order and all that follows changed to fit: only a model
              that compares the sides is right in all four
    derived   other wordings of a label, which it must accept, and labels with an error of
              a known kind, which it must catch

A pair counts as consistent from a threshold on; the policy program's gate reads the
figures that hold there (``verdicts``).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from training.engine.data.conversations import Sample
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
from training.engine.reward_model.packing import RewardSettings
from training.engine.run.directory import step_random
from training.engine.run.distributed import divided


@dataclass(frozen=True)
class Tests:
    """Held-out pairs. ``quads`` has four examples each, by "seen" and "unseen" order."""

    judged: list[Example]
    ruled_out: int  # bad answers that are caught by rule
    quads: dict[str, list[tuple[Example, ...]]]
    changes: list[Example]
    references: list[Example]


def held_out_tests(judged: Judged, samples: Sequence[Sample], turns: int) -> Tests:
    """Derive the tests from held-out samples; the same ones in every run."""
    derived = Source(samples)
    return Tests(
        judged=[item for item in judged.held_out if item.source == "people"],
        ruled_out=sum(held and not good for held, good in judged.ruled_out),
        quads={
            order: derived.quads(step_random(0, "quads", order), turns, order)
            for order in ("seen", "unseen")
        },
        changes=derived.changes(step_random(0, "changes"), turns),
        references=derived.rewordings(step_random(0, "references"), turns),
    )


def figures(
    model: RewardModel, tests: Tests, calibrate: bool
) -> tuple[dict[str, object], RewardSettings]:
    """Return the held-out figures, and the settings they hold at.

    The threshold is picked on one half of the judged pairs (cut by label, so that no
    label is in both), as is the temperature with ``calibrate``, and the judged figures
    come from the other half. ``model`` scores with a temperature of 1.
    """
    temperature = 1.0

    def verdicts(examples: Sequence[Example]) -> list[Verdict]:
        pairs = [item.pair for item in examples]
        scores = divided(pairs, model.score, astuple, score_of)
        return [
            Verdict(probability(score.logit / temperature), item.consistent)
            for score, item in zip(scores, examples, strict=True)
        ]

    values: dict[str, object] = {}
    judged = verdicts(tests.judged)
    half = [zlib.crc32(item.pair.label.encode()) % 2 for item in tests.judged]
    picking = [v for v, h in zip(judged, half, strict=True) if h == 0]
    fitted = best_temperature(picking) if calibrate else None
    if fitted is not None:
        # The expected calibration error before, on the pairs of the figures below.
        raw = [v for v, h in zip(judged, half, strict=True) if h == 1]
        values["judged/ece/raw"] = calibration_error(raw)
        temperature = fitted
        judged = verdicts(tests.judged)
        picking = [v for v, h in zip(judged, half, strict=True) if h == 0]
    picked = best_threshold(picking)
    reported = list(zip(judged, tests.judged, strict=True))
    if picked is not None or fitted is not None:
        reported = [r for r, h in zip(reported, half, strict=True) if h == 1]
    threshold = 0.5 if picked is None else picked
    values["threshold/picked_on"] = len(judged) - len(reported)
    values["threshold"] = threshold
    values["temperature"] = temperature
    by_rule = [Verdict(0.0, False)] * tests.ruled_out
    for name, value in shares([v for v, _ in reported] + by_rule, threshold).items():
        values[f"judged/{name}"] = value
    values["judged/count"] = len(reported) + tests.ruled_out
    values["judged/by_rule"] = tests.ruled_out
    values["judged/auc"] = auc([v for v, _ in reported])
    values["judged/ece"] = calibration_error([v for v, _ in reported])
    for kind in sorted({kind for _, item in reported for kind in item.kinds}):
        of_kind = [v for v, item in reported if kind in item.kinds]
        values[f"judged/recall/{kind}"] = shares(of_kind, threshold)["bad_caught"]
        values[f"judged/recall/{kind}/count"] = len(of_kind)

    for order, quads in tests.quads.items():
        found = verdicts([item for quad in quads for item in quad])
        right = [(v.probability >= threshold) == v.consistent for v in found]
        whole = [all(right[i : i + 4]) for i in range(0, len(right), 4)]
        values[f"quads/{order}/accuracy"] = sum(right) / len(right) if right else None
        values[f"quads/{order}/whole"] = sum(whole) / len(whole) if whole else None
        values[f"quads/{order}/count"] = len(whole)
    accepted = shares(verdicts(tests.references), threshold)["good_accepted"]
    values["derived/references_accepted"] = accepted
    changes = list(zip(verdicts(tests.changes), tests.changes, strict=True))
    values["derived/changes_caught"] = shares([v for v, _ in changes], threshold)[
        "bad_caught"
    ]
    for kind in sorted({kind for _, item in changes for kind in item.kinds}):
        of_kind = [v for v, item in changes if kind in item.kinds]
        values[f"derived/recall/{kind}"] = shares(of_kind, threshold)["bad_caught"]
    chosen = replace(model.settings, threshold=threshold, temperature=temperature)
    return values, chosen
