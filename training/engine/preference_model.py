"""Train a preference model: a ``reward`` run whose recipe ``judges`` "preference".

For tasks that no label and no rule can decide. One score s(x, y) of an answer y to a
turn x with its history, trained so that of two answers to one turn the one that people
accepted scores higher (Bradley and Terry 1952; Ouyang et al. 2022, equation 1):

    loss = mean over pairs of −log σ(s(x, c) − s(x, b))

with c judged consistent and b not. Where nothing was judged consistent the label stands
for c (``preference_pairs``). Only differences mean something: the score has no zero, so a
run that mixes kinds of tasks normalizes each.

The model is the policy's backbone with one output, read at the last token; any program
that loads a Hugging Face sequence classifier can use it. TRL's ``RewardTrainer`` has the
same loss and is not used: it resumes by skipping batches of a data loader, while the pairs
of a step follow from its number here.

Departure: Ouyang et al. rank K answers and average over all pairs of a prompt at once;
here the pairs of a step come from any turns.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from records.recipes import RewardRecipe
from training.engine.data.conversations import Encoder
from training.engine.data.preference_pairs import (
    BatchSampler,
    Row,
    pair_rows,
    read_questions,
)
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.optim import update
from training.engine.modeling.policies import longest_input, prepare, save_model
from training.engine.modeling.trainer_state import save_trainer_state, seed_step
from training.engine.reward_model.classifier import (
    start_learning,
    starting_classifier,
)
from training.engine.reward_model.preference import (
    bradley_terry_loss,
    scores,
    validate,
)
from training.engine.run.directory import Ending, RunDirectory, RunError
from training.engine.run.distributed import world_size

LOG_EVERY = 10  # steps between metric events


def train_preference_model(run: RunDirectory, recipe: RewardRecipe) -> Ending:
    """Train on ``run``; the last checkpoint's manifest has the held-out figures."""
    started = time.monotonic()
    if world_size() > 1:
        count = str(world_size())
        raise RunError("recipe: `processes`", "1 for a preference model", count)
    place = prepare(recipe)

    # Load: the policy's backbone; of each turn every rejected answer beside an accepted.
    model, tokenizer = starting_classifier(run, recipe, place, outputs=1)
    pad = cast(int, tokenizer.pad_token_id)
    longest = longest_input(model, recipe.max_tokens)
    questions, held_out = read_questions(run, Encoder(tokenizer), longest)
    sampler = BatchSampler(
        questions, seed=recipe.seed, count=recipe.pairs_per_step, paired=True
    )
    tests = pair_rows(held_out)
    run.log(f"{len(sampler.pairs)} pairs to learn from, {len(tests) // 2} held out")
    if not tests:
        run.log("no held-out pair: nothing says how good the model is", "warning")

    # Build.
    optimizer, schedule, first = start_learning(run, recipe, model, model, tokenizer)
    micro_batch = MicroBatch(
        recipe.micro_batch or recipe.pairs_per_step, run.log, "pairs"
    )

    def backward(rows: Sequence[Row]) -> Tensor:
        """Add the gradient of some pairs; return summed loss and pairs right, (2,)."""
        accepted, rejected = scores(model, rows, pad, place).view(-1, 2).unbind(1)
        losses = bradley_terry_loss(accepted, rejected)  # (B,)
        (losses.sum() / recipe.pairs_per_step).backward()  # type: ignore[no-untyped-call]
        return torch.stack([losses.detach().sum(), (accepted > rejected).sum()])

    def write(step: int, folder: Path) -> None:
        save_model(model, folder)
        tokenizer.save_pretrained(folder)
        save_trainer_state(folder, model, optimizer, step)

    def validate_and_save(step: int, final: bool = False) -> dict[str, object]:
        """Return the held-out figures."""
        figures = validate(model, tests, pad, place)
        if figures:
            run.metrics(step, {f"held_out/{name}": v for name, v in figures.items()})
        run.save_checkpoint(
            step,
            functools.partial(write, step),
            kind="reward",
            recipe=recipe,
            metrics=figures,
            final=final,
        )
        return figures

    # Train.
    run.rehearse_checkpoint(functools.partial(write, first))
    step, logged, since = first, first, time.monotonic()
    for step in range(first + 1, recipe.steps + 1):
        seed_step(recipe.seed, step - 1)
        model.train()
        rows = sampler.at(step - 1).rows  # accepted and rejected in turn
        sums = micro_batch.accumulate(
            functools.partial(split, rows), backward, optimizer.zero_grad
        )
        loss, accuracy = (sums / recipe.pairs_per_step).tolist()
        figures = update(
            optimizer,
            schedule,
            model.parameters(),
            loss=loss,
            max_grad_norm=recipe.max_grad_norm,
            step=step,
        )
        run.progress(step, recipe.steps)
        if step % LOG_EVERY == 0 or step in (first + 1, recipe.steps):
            seconds = (time.monotonic() - since) / (step - logged)
            run.metrics(
                step, {**figures, "accuracy": accuracy, "seconds_per_step": seconds}
            )
            since, logged = time.monotonic(), step
        if run.stop_requested:
            break
        if step < recipe.steps and step % recipe.evaluate_every == 0:
            validate_and_save(step)

    # Save.
    done = step == recipe.steps
    values = {**validate_and_save(step, final=done), "steps": step}
    values["seconds"] = round(time.monotonic() - started, 1)
    return Ending("finished" if done else "stopped", values)


def split(rows: Sequence[Row], pairs: int) -> list[Sequence[Row]]:
    """Return the rows in micro-batches of at most so many pairs."""
    return [rows[start : start + 2 * pairs] for start in range(0, len(rows), 2 * pairs)]
