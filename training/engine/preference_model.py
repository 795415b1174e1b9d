"""Train a preference model: a ``reward`` run whose recipe ``judges`` "preference".

For tasks that no label and no rule can decide. One score s(x, y) of an answer y to a
turn x with its history, trained so that of two answers to one turn the one that people
accepted scores higher (Bradley and Terry 1952; Ouyang et al. 2022, equation 1):

    loss = mean over pairs of −log σ(s(x, c) − s(x, b))

with c judged consistent and b not. Where nothing was judged consistent the label stands
for c (``questions``). Only differences mean something: the score has no zero, so a run
that mixes kinds of tasks normalises each.

The model is the policy's backbone with one output, read at the last token; any program
that loads a Hugging Face sequence classifier can use it (``preferring``).

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
from torch.nn import functional

from records.finite import must_be_finite
from records.recipes import RewardRecipe
from training.engine.data.conversations import Encoder
from training.engine.data.preference_pairs import Course, Row, pair_rows, read_questions
from training.engine.modeling.micro_batch import Parts
from training.engine.modeling.optim import save_optimizer
from training.engine.modeling.policies import longest_input, prepare, save_model
from training.engine.reward_model.classifier import (
    start_learning,
    starting_classifier,
)
from training.engine.reward_model.preference import scores
from training.engine.run.directory import Ending, RunDirectory, RunError, step_random
from training.engine.run.distributed import process_count

CHUNK = 32  # rows computed at once for the held-out figures
TELL_EVERY = 10  # steps between metric events


def ranking_loss(accepted: Tensor, rejected: Tensor) -> Tensor:
    """Return the mean loss of the pairs, of the two scores of each, (B,) and (B,)."""
    return functional.softplus(rejected - accepted).mean()


def train_preference_model(run: RunDirectory, recipe: RewardRecipe) -> Ending:
    """Train on ``run``; the last checkpoint's manifest has the held-out figures."""
    started = time.monotonic()
    if process_count() > 1:
        count = str(process_count())
        raise RunError("recipe: `processes`", "1 for a preference model", count)
    place = prepare(recipe)
    model, tokenizer = starting_classifier(run, recipe, place, outputs=1)
    pad = cast(int, tokenizer.pad_token_id)

    # Data: of each turn every rejected answer, beside one that was accepted.
    questions, held_out = read_questions(
        run, Encoder(tokenizer), longest_input(model, recipe.max_tokens)
    )
    course = Course(
        questions, seed=recipe.seed, count=recipe.pairs_per_step, paired=True
    )
    tests = pair_rows(held_out)
    run.log(f"{len(course.pairs)} pairs to learn from, {len(tests) // 2} held out")
    if not tests:
        run.log("no held-out pair: nothing says how good the model is", "warning")

    optimizer, schedule, first = start_learning(run, recipe, model, model, tokenizer)

    def test(step: int) -> dict[str, object]:
        """Return how often, and by how much, the accepted answer scores higher."""
        if not tests:
            return {}
        model.eval()  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            found = torch.cat(
                [
                    scores(model, tests[i : i + CHUNK], pad, place)
                    for i in range(0, len(tests), CHUNK)
                ]
            )
        above = found[0::2] - found[1::2]
        told: dict[str, object] = {
            "accuracy": float((above > 0).float().mean()),
            "margin": float(above.mean()),
            "loss": float(functional.softplus(-above).mean()),
            "pairs": len(above),
        }
        run.metrics(step, {f"held_out/{name}": value for name, value in told.items()})
        return told

    def write(folder: Path) -> None:
        save_model(model, folder)
        tokenizer.save_pretrained(folder)
        (folder / "trainer").mkdir()
        save_optimizer(optimizer, folder / "trainer")

    def save(step: int, final: bool = False) -> dict[str, object]:
        told = test(step)
        run.save_checkpoint(
            step, write, kind="reward", recipe=recipe, metrics=told, final=final
        )
        return told

    def learn(rows: Sequence[Row], size: int) -> Tensor:
        """Leave the gradients of a step's pairs, ``size`` at once; return the scores."""
        found: list[Tensor] = []
        for start in range(0, len(rows), 2 * size):
            piece = rows[start : start + 2 * size]
            score = scores(model, piece, pad, place)
            loss = ranking_loss(score[0::2], score[1::2]) * len(piece) / len(rows)
            loss.backward()  # type: ignore[no-untyped-call]
            found.append(score.detach())
        return torch.cat(found)

    run.rehearse_checkpoint(write)
    parts = Parts(recipe.micro_batch or recipe.pairs_per_step, run.log, "pairs")
    step, since, told_at = first, time.monotonic(), first
    while step < recipe.steps and not run.stop_requested:
        model.train()
        torch.manual_seed(step_random(recipe.seed, "torch", step).getrandbits(62))
        rows = course.at(step).rows
        found = parts.run(functools.partial(learn, rows), optimizer.zero_grad)
        loss = ranking_loss(found[0::2], found[1::2])
        must_be_finite(float(loss), "loss", f"step {step + 1}")
        norm = torch.nn.utils.clip_grad_norm_(
            model.parameters(), recipe.max_grad_norm or float("inf")
        )
        must_be_finite(float(norm), "gradient norm", f"step {step + 1}")
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        step += 1
        run.progress(step, recipe.steps)
        if step % TELL_EVERY == 0 or step in (first + 1, recipe.steps):
            values = {
                "loss": float(loss),
                "accuracy": float((found[0::2] > found[1::2]).float().mean()),
                "gradient_norm": float(norm),
                "seconds_per_step": (time.monotonic() - since) / (step - told_at),
            }
            run.metrics(step, values)
            since, told_at = time.monotonic(), step
        if step < recipe.steps and step % recipe.evaluate_every == 0:
            save(step)
    done = step >= recipe.steps
    figures = {**save(step, final=done), "steps": step}
    figures["seconds"] = round(time.monotonic() - started, 1)
    return Ending("finished" if done else "stopped", figures)
