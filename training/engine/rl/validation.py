"""Validation on held-out samples: the reward model beside the truth, and the best step."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from training.engine.data.conversations import Encoder, Sample, read_samples
from training.engine.data.holdout import split_held_out
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
        self.choose_on = self._to_choose_on(samples)

    def _to_choose_on(self, samples: Sequence[Sample]) -> frozenset[int]:
        """Return the numbers of the samples that choose the best step; empty if too few.

        Their turns have known truth, and so have those of others that report it.
        """
        with_truth = {
            p.sample.id for p in self.prompts if p.sample.is_verifiable(p.turn)
        }
        split = split_held_out(sorted(with_truth), str)
        if split.is_split:
            self.run.log(
                f"held-out: the best step is chosen on {len(split.choose)} samples, its "
                f"truth and gain are those of {len(split.report)} others"
            )
        elif with_truth:
            self.run.log(
                f"held-out: {len(with_truth)} samples are too few to be split. The best "
                "step is chosen on all of them, so its truth and gain are flattered.",
                "warning",
            )
        return frozenset(
            number for number, sample in enumerate(samples) if sample.id in split.choose
        )

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
            "held_out/format": mean([float(m.format_valid) for m in measured])
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
                    "held_out/rm_score": rm_score,
                    "held_out/rm_score/low": low,
                    "held_out/rm_score/high": high,
                    "held_out/rm_accepted": mean(accepted),
                }
        if right:
            as_numbers = [float(verdict) for verdict in right]
            truth = mean(as_numbers)
            low, high = interval(as_numbers, of_right)
            values |= {
                "held_out/truth": truth,
                "held_out/truth/low": low,
                "held_out/truth/high": high,
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
    validations: Sequence[Validation],
    held_out: HeldOut,
    is_kept: Callable[[int], bool],
) -> tuple[Validation, dict[str, object]]:
    """Return the validation to end with, and why: the best by truth, the start included.

    It is the best on the samples of ``held_out.choose_on``; truth and gain beside it are
    those of the other samples. Where there are too few to be split, all do both.
    ``is_kept`` says of a step whether its checkpoint is still there; the last validation
    is of the weights in hand.
    """
    last = validations[-1]
    if not held_out.has_truth:
        why = "the last step: no truth"
        return last, {"chosen_step": last.step, "chosen_by": why}
    report_on = frozenset(validations[0].sample) - held_out.choose_on
    to_choose = validations
    if held_out.choose_on:
        to_choose = [restricted(each, held_out.choose_on) for each in validations]
    ranked = sorted(to_choose, key=lambda each: (-(each.truth or 0.0), each.step))
    step = next(x.step for x in ranked if x.step == last.step or is_kept(x.step))
    count = len(held_out.choose_on or report_on)
    why = f"held-out truth of {count} samples, the best of all validations"
    if step != ranked[0].step:
        why += f" whose checkpoint is still there (that of {ranked[0].step} is not)"
    if held_out.choose_on:
        why += f"; truth and gain are of {len(report_on)} others"
    else:
        why += "; truth and gain are of the same samples"
    chosen = next(each for each in validations if each.step == step)
    before, after = (restricted(each, report_on) for each in (validations[0], chosen))
    return chosen, {
        "chosen_step": step,
        "truth": after.truth,
        "truth_at_start": before.truth,
        **gain(before, after),
        "chosen_by": why,
    }


def restricted(validation: Validation, samples: Collection[int]) -> Validation:
    """Return a validation with the verdicts, and the truth, of some samples only."""
    kept = [i for i, number in enumerate(validation.sample) if number in samples]
    right = tuple(validation.right[i] for i in kept)
    truth = mean([float(verdict) for verdict in right])
    sample = tuple(validation.sample[i] for i in kept)
    return replace(validation, truth=truth, right=right, sample=sample)


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
