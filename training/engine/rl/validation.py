"""Validation on held-out samples: the reward model beside the truth, and the best step."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from training.engine.data.conversations import Encoder, read_samples
from training.engine.modeling.policies import Place
from training.engine.rl.rewards import Rewards
from training.engine.rl.rollouts import mean
from training.engine.run.directory import RunDirectory, step_random
from training.engine.sampling.answers import answer_together, build_prompts, measure
from training.engine.sampling.sampler import Sampling

RESAMPLES = 1000


@dataclass(frozen=True)
class Validation:
    """What was measured on the fixed held-out set. ``right`` is the truth of each turn,
    ``sample`` the number of its sample; both empty where no turn has facts.
    """

    step: int
    rm_score: float | None
    truth: float | None
    right: tuple[bool, ...]
    sample: tuple[int, ...]


class HeldOut:
    """The fixed set on which score and truth are watched, answered greedily."""

    def __init__(
        self,
        run: RunDirectory,
        encoder: Encoder,
        sampling: Sampling,
        place: Place,
        rewards: Rewards | None,
        *,
        longest: int,
        count: int,
    ) -> None:
        samples = read_samples(run.data["held_out"]) if "held_out" in run.data else []
        # The same set in every run, so that runs can be compared.
        if count and len(samples) > count:
            samples = step_random(0, "held out").sample(samples, count)
        self.prompts, left_out = build_prompts(encoder, samples, longest)
        if left_out:
            run.log(f"{len(left_out)} held-out turns are too long to ask", "warning")
        self.samples = [sample.id for sample in samples]
        self.sampling, self.place, self.encoder = sampling, place, encoder
        self.rewards, self.run = rewards, run
        self.has_truth = any(a.sample.is_verifiable(a.turn) for a in self.prompts)

    def validate(self, model: PreTrainedModel, step: int) -> Validation:
        """Answer the set, report score and truth with their intervals, return them."""
        started = time.monotonic()
        groups = answer_together(
            model,
            self.encoder.tokenizer,
            self.prompts,
            self.sampling,
            place=self.place,
            seeds=[0] * len(self.prompts),  # greedy: of no effect
        )
        answers = [group[0] for group in groups]
        numbers = {name: number for number, name in enumerate(self.samples)}
        owners = [numbers[given.sample.id] for given in answers]
        measured = [measure(given) for given in answers]
        values: dict[str, object] = {
            "heldout/format": mean([float(m.format_valid) for m in measured])
        }
        rm_score = truth = None
        right: list[bool] = []
        of_right: list[int] = []
        for owner, found in zip(owners, measured, strict=True):
            if found.consistent is not None:
                right.append(found.consistent)
                of_right.append(owner)
        if self.rewards is not None and self.rewards.model is not None:
            # The reward model speaks of action tasks only.
            chosen = [
                i for i, a in enumerate(answers) if a.sample.task == "action"
            ] or list(range(len(answers)))
            accepts = self.rewards.model.accepts
            probabilities: list[float] = []
            accepted: list[float] = []
            of_scored: list[int] = []
            scores = self.rewards.scores([answers[i] for i in chosen])
            for i, score in zip(chosen, scores, strict=True):
                if score is None:
                    continue  # its label breaks the grammar
                ok = measured[i].format_valid
                probabilities.append(score.probability if ok else 0.0)
                accepted.append(float(ok and accepts(score)))
                of_scored.append(owners[i])
            if probabilities:
                rm_score = mean(probabilities)
                low, high = interval(probabilities, of_scored)
                values |= {
                    "heldout/rm_score": rm_score,
                    "heldout/rm_score/low": low,
                    "heldout/rm_score/high": high,
                    "heldout/rm_accepted": mean(accepted),
                }
        if right:
            as_numbers = [float(verdict) for verdict in right]
            truth = mean(as_numbers)
            low, high = interval(as_numbers, of_right)
            values |= {
                "heldout/truth": truth,
                "heldout/truth/low": low,
                "heldout/truth/high": high,
            }
        values["seconds/evaluation"] = time.monotonic() - started
        self.run.metrics(step, values)
        return Validation(step, rm_score, truth, tuple(right), tuple(of_right))


def interval(values: Sequence[float], owners: Sequence[int]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean, resampling whole samples."""
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    for value, owner in zip(values, owners, strict=True):
        sums[owner] = sums.get(owner, 0.0) + value
        counts[owner] = counts.get(owner, 0) + 1
    rows = [(sums[owner], counts[owner]) for owner in sums]
    rng = random.Random(0)
    means: list[float] = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(rows, k=len(rows))
        means.append(sum(row[0] for row in drawn) / sum(row[1] for row in drawn))
    means.sort()
    return means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]


def gain(before: Validation, after: Validation) -> dict[str, float]:
    """Return the paired gain in held-out truth between two validations, with its interval."""
    differences = [
        float(b) - float(a) for a, b in zip(before.right, after.right, strict=True)
    ]
    low, high = interval(differences, after.sample)
    return {"gain": mean(differences), "gain/low": low, "gain/high": high}


def best_checkpoint(
    validations: Sequence[Validation], has_truth: bool, is_kept: Callable[[int], bool]
) -> tuple[Validation, dict[str, object]]:
    """Return the validation to end with, and why: the best by truth, the start included.

    ``is_kept`` says of a step whether its checkpoint is still there; the last validation
    is of the weights in hand.
    """
    if not has_truth:
        last = validations[-1]
        why = "the last step: no truth"
        return last, {"chosen_step": last.step, "chosen_by": why}
    ranked = sorted(validations, key=lambda x: (-(x.truth or 0.0), x.step))
    now = validations[-1].step
    chosen = next(x for x in ranked if x.step == now or is_kept(x.step))
    among = "all validations on this very set"
    if chosen is not ranked[0]:
        among += f" whose checkpoint is still there (that of {ranked[0].step} is not)"
    return chosen, {
        "chosen_step": chosen.step,
        "truth": chosen.truth,
        "truth_at_start": validations[0].truth,
        **gain(validations[0], chosen),
        "chosen_by": f"held-out truth, the best of {among}",
    }


def kept_validations(progress: Mapping[str, Any]) -> list[Validation]:
    """Return the validations among what a checkpoint keeps of progress.

    Older checkpoints call them looks.
    """
    return [
        Validation(
            row["step"],
            row["rm_score"],
            row["truth"],
            tuple(row["right"]),
            tuple(row["sample"]),
        )
        for row in progress.get("validations", progress.get("looks", []))
    ]
