"""Train the consistency reward model (RM): ``python -m training.engine.reward RUN_DIR``.

The RM says whether a sampled response says the same as the label response, by the same
logic, steps in the same order. It is the policy's backbone with two outputs in place of
its vocabulary, trained with cross-entropy on 0/1 verdicts (section 3.3 of the paper).

    packing      a label response and a sampled response become one prompt
    batches      the pairs of a step: judged ones, and others derived from written samples
    loss         cross-entropy by unit and by pair
    evaluation   figures on held-out pairs, and the threshold, chosen on other samples

Departures from the paper, because its form learned shortcuts in small trials
(``docs/reward-model.md``): labels per unit instead of one, laid out unit by unit, and
60 % of the pairs derived from written samples (other wordings, balanced quads, one or
several errors put in) beside 40 % judged answers. All are recipe settings.

With ``judges`` "preference" another model is trained: ``preference_model``.

Input ``policy`` is the backbone (an SFT checkpoint). Data: ``train`` and ``held_out``
samples, ``judgments``. The RM is tested on judged pairs of the split "held-out" and on
pairs derived from held-out samples, never on what it was trained on.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import Tensor

from records.recipes import RewardRecipe
from training.engine.data.conversations import lengths_summary
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.optim import update
from training.engine.modeling.place import accelerator_for, prepare
from training.engine.modeling.throughput import Meter
from training.engine.modeling.trainer_state import save_trainer_state, seed_step
from training.engine.preference_model import train_preference_model
from training.engine.reward_model.augmentation import Example
from training.engine.reward_model.batches import PairSampler, read_pairs
from training.engine.reward_model.classifier import (
    start_learning,
    starting_reward_model,
)
from training.engine.reward_model.evaluation import held_out_tests, validate
from training.engine.reward_model.loss import PairLoss, step_inputs
from training.engine.reward_model.model import save_reward_model
from training.engine.run.directory import Ending, RunDirectory, run_program
from training.engine.run.distributed import all_reduce_max

LOG_EVERY = 10  # steps between metric events


def main(run: RunDirectory, recipe: RewardRecipe) -> Ending:
    """Train on ``run``; the last checkpoint's manifest has the held-out figures."""
    if recipe.judges == "preference":
        return train_preference_model(run, recipe)
    started = time.monotonic()
    place = prepare(recipe)
    accelerator = accelerator_for(place)

    # Load: pairs to learn from and to test on; the policy's backbone.
    data = read_pairs(run, recipe)
    tests = held_out_tests(data.judged, data.held_out, recipe.evaluate_turns, run.log)
    reward_model = starting_reward_model(run, recipe, place)
    packer, classifier = reward_model.packer, reward_model.classifier
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    run.log(
        f"{parameters:,} parameters; {len(data.train)} judged pairs "
        f"and {len(data.samples)} samples to derive pairs from"
    )

    # Build: the loss, a module that DDP can wrap; its optimizer; the sampler of pairs.
    loss = PairLoss(
        reward_model.reader,
        by_unit=recipe.labels == "unit",
        pairwise_weight=recipe.pairwise_weight,
    )
    optimizer, schedule, first = start_learning(
        run, recipe, loss, classifier, reward_model.tokenizer
    )
    learner = accelerator.prepare(loss)
    sampler = PairSampler(recipe, data.train, data.derived, packer)
    micro_batch = MicroBatch(
        recipe.micro_batch or recipe.pairs_per_step, run.log, "pairs"
    )
    meter = Meter(classifier, place)

    def backward(counts: Tensor, pairs: Sequence[Example]) -> Tensor:
        """Add the gradient of a micro-batch; return the terms of its loss, (T,)."""
        inputs = {**step_inputs(pairs, packer), "counts": counts}
        with place.autocast():
            terms = learner(**send_to_device(inputs, place.device))
        accelerator.backward(terms["loss"])
        return torch.stack([*terms.values()]).detach()

    def write(step: int, folder: Path) -> None:
        save_reward_model(
            folder, classifier, reward_model.tokenizer, reward_model.settings
        )
        save_trainer_state(folder, classifier, optimizer, step)

    def validate_and_save(step: int, final: bool = False) -> dict[str, object]:
        """Return the held-out figures. Collective: every rank must call it."""
        with meter.paused():
            values = validate(reward_model, tests, recipe.calibrate)
        run.metrics(step, {f"held_out/{name}": v for name, v in values.items()})
        values["parameters"] = parameters
        run.save_checkpoint(
            step,
            functools.partial(write, step),
            kind="reward",
            recipe=recipe,
            metrics=values,
            final=final,
        )
        return values

    # Train.
    run.rehearse_checkpoint(functools.partial(write, first))
    step, logged, since = first, first, time.monotonic()
    for step in range(first + 1, recipe.steps + 1):
        seed_step(recipe.seed, step - 1)  # of dropout: a resumed run repeats it
        learner.train()
        batch = sampler.batch(step - 1)
        meter.add(batch.lengths)
        terms = micro_batch.accumulate(
            batch.split,
            functools.partial(backward, batch.counts),
            optimizer.zero_grad,
            functools.partial(accelerator.no_sync, learner),
        )
        terms = accelerator.reduce(terms, "mean")
        update(
            optimizer,
            schedule,
            learner.parameters(),
            loss=float(terms[0]),
            max_grad_norm=recipe.max_grad_norm,
            step=step,
            clip=accelerator.clip_grad_norm_,
        )
        if step % LOG_EVERY == 0 or step == recipe.steps:
            values = dict(zip(loss.terms, terms.tolist(), strict=True))
            values["seconds_per_step"] = (time.monotonic() - since) / (step - logged)
            run.metrics(step, {**values, **meter.measure()})
            run.progress(step, recipe.steps)
            since, logged = time.monotonic(), step
        if all_reduce_max(run.stop_requested, place.device):
            break
        if step < recipe.steps and step % recipe.evaluate_every == 0:
            validate_and_save(step)

    # Save.
    done = step == recipe.steps
    values = validate_and_save(step, final=done)
    sampler.report(run, data.judged)
    return Ending(
        "finished" if done else "stopped",
        {
            **values,
            "steps": step,
            "seconds": round(time.monotonic() - started, 1),
            "judged": data.judged.counts,
            "trained_on": dict(sampler.used),
            "left_out": dict(sampler.left_out),
            "tokens": lengths_summary(sampler.lengths),
        },
    )


if __name__ == "__main__":
    sys.exit(run_program("reward", RewardRecipe, main))
