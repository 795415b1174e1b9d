"""Learn from judged answers directly: ``python -m training.engine.preference RUN_DIR``.

No reward model: the judgments themselves say which answers should become likelier. With
π the policy, π_ref the one it starts from, and r(y) = log π(y|x)/π_ref(y|x):

DPO (Rafailov et al. 2023, equation 7), for a consistent answer c and an inconsistent one
b to the same turn x:

    −log σ(β r(c) − β r(b))

KTO (Ethayarajh et al. 2024, equation 8), for every judged answer by itself:

    1 − σ(β (r(y) − z))   if it is consistent
    1 − σ(β (z − r(y)))   if it is not
    z = max(0, mean over the step of log π(y′|x)/π_ref(y′|x)), y′ the answer to another
        turn of the step; z gets no gradient

Where no answer to a turn was judged consistent the label response stands for one. A step of KTO has half good and half bad answers, within the range
of balance that the paper asks for; equal weights are then its default.

The reference is the start policy: under LoRA the model with its adapters off, else a
second model. Answers to one prompt share a row (``prefixes``), so a pair costs its
prompt once. As in the policy program, a fixed held-out set is answered at every look and
the checkpoint of the best truth is the final one, the start included. The order of the
data depends on the seed and the step alone; a resumed run repeats an uninterrupted one.

Data: ``train`` and ``judgments``; judgments of the split "held-out" are never learned
from and give the figures called held_out; ``held_out`` samples are answered.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from records.finite import must_be_finite
from records.recipes import PreferenceRecipe
from training.engine.data.conversations import IGNORED, Encoder
from training.engine.data.preference_pairs import (
    Course,
    Row,
    Step,
    pair_rows,
    read_questions,
)
from training.engine.modeling.exactness import base_of
from training.engine.modeling.loading import load_policy
from training.engine.modeling.lora import adapters, load_adapters, merged, save_adapters
from training.engine.modeling.micro_batch import Parts
from training.engine.modeling.new_tokens import (
    NEW_TOKEN_RATE,
    new_rows,
    new_tokens,
    start_at_pieces,
)
from training.engine.modeling.optim import (
    adamw_rate,
    load_optimizer,
    muon_and_adamw,
    save_optimizer,
    warmup_stable_decay,
)
from training.engine.modeling.policies import Place, longest_input, prepare, save_policy
from training.engine.modeling.shared_prompt import (
    ROWS_OF_THEIR_OWN,
    shared_logprobs,
    sharing,
)
from training.engine.rl.validation import (
    HeldOut,
    Looked,
    best,
    load_progress,
    save_progress,
)
from training.engine.run.directory import (
    Ending,
    RunDirectory,
    run_program,
    step_random,
)
from training.engine.sampling.answers import longest_prompt
from training.engine.sampling.decoding import WITHOUT_CACHE, caching
from training.engine.sampling.sampler import Sampling, room

TELL_EVERY = 5  # steps between metric events
MEASURED = 8  # answers that tell whether the policy knows the tags
CHUNK = 16  # pairs computed at once for the held-out figures

Model: TypeAlias = PreTrainedModel | PeftModel


# The losses


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Return the loss of each pair, (B,), of the log-ratios r of its two answers."""
    return -functional.logsigmoid(beta * (chosen - rejected))


def kto_loss(ratio: Tensor, good: Tensor, divergence: Tensor, beta: float) -> Tensor:
    """Return the loss of each answer, (B,), of its log-ratio and whether it is good."""
    gained = beta * (ratio - divergence)
    return torch.where(good, 1 - gained.sigmoid(), 1 - (-gained).sigmoid())


# Log-ratios


def logprobs(
    model: Model, rows: Sequence[Row], pad: int, place: Place, chunk: int = 0
) -> Tensor:
    """Return log π(answer | prompt) of each row, (B,): the sum over its tokens."""
    if chunk:
        parts = [rows[i : i + chunk] for i in range(0, len(rows), chunk)]
        return torch.cat([logprobs(model, part, pad, place) for part in parts])
    before = max(len(prompt) for prompt, _ in rows)
    after = max(len(answer) for _, answer in rows)
    ids = torch.full((len(rows), before + after), pad)
    mask = torch.zeros_like(ids)
    for line, (prompt, answer) in enumerate(rows):
        start, end = before - len(prompt), before + len(answer)
        ids[line, start:end] = torch.tensor([*prompt, *answer])
        mask[line, start:end] = 1
    ids, mask = ids.to(place.device), mask.to(place.device)
    plain = base_of(model)
    with place.autocast():
        found, _ = shared_logprobs(plain, ids, mask, after, 1.0)
    return found.sum(1)


class Pupil:
    """The policy that learns, and the reference that it is compared with."""

    def __init__(
        self, learner: Model, reference: Model | None, pad: int, place: Place
    ) -> None:
        self.learner, self.reference = learner, reference
        self.pad, self.place = pad, place

    def logprobs(self, rows: Sequence[Row], chunk: int = 0) -> Tensor:
        """Return log π of each row."""
        return logprobs(self.learner, rows, self.pad, self.place, chunk)

    @torch.no_grad()
    def reference_logprobs(self, rows: Sequence[Row], chunk: int = 0) -> Tensor:
        """Return log π_ref of each row."""
        if self.reference is not None:
            return logprobs(self.reference, rows, self.pad, self.place, chunk)
        assert isinstance(self.learner, PeftModel)
        with self.learner.disable_adapter():
            return logprobs(self.learner, rows, self.pad, self.place, chunk)

    @torch.no_grad()
    def divergence(self, rows: Sequence[Row], chunk: int) -> Tensor:
        """Return KTO's z: the mean log-ratio of answers beside others' prompts."""
        others = [
            (prompt, rows[(i + 1) % len(rows)][1]) for i, (prompt, _) in enumerate(rows)
        ]
        ratio = self.logprobs(others, chunk) - self.reference_logprobs(others, chunk)
        return ratio.mean().clamp(min=0)


def learn(
    pupil: Pupil, recipe: PreferenceRecipe, step: Step, size: int
) -> dict[str, float]:
    """Add the gradient of a step's mean loss, ``size`` examples at once; return its
    figures.
    """
    paired = recipe.objective == "dpo"
    per_example = 2 if paired else 1
    chunk = per_example * size
    divergence = torch.zeros((), device=pupil.place.device)
    if not paired and len(step.rows) > 1:
        divergence = pupil.divergence(step.rows, chunk)
    total = 0.0
    own: list[Tensor] = []
    ratios: list[Tensor] = []
    for start in range(0, len(step.rows), chunk):
        rows = step.rows[start : start + chunk]
        good = torch.tensor(step.good[start : start + chunk], device=divergence.device)
        new = pupil.logprobs(rows)
        ratio = new - pupil.reference_logprobs(rows)
        if paired:
            loss = dpo_loss(ratio[0::2], ratio[1::2], recipe.beta)
        else:
            loss = kto_loss(ratio, good, divergence, recipe.beta)
        part = loss.sum() * per_example / len(step.rows)
        part.backward()  # type: ignore[no-untyped-call]
        total += float(part)
        own.append(new.detach())
        ratios.append(ratio.detach())
    good = torch.tensor(step.good, device=divergence.device)
    values = {"loss": total, **figures(torch.cat(ratios), good, paired)}
    for name, which in (("good", good), ("bad", ~good)):
        if which.any():
            values[f"logprob/{name}"] = float(torch.cat(own)[which].mean())
    if not paired:
        values["kl"] = float(divergence)
    return values


def figures(ratio: Tensor, good: Tensor, paired: bool) -> dict[str, float]:
    """Return how far good answers gained on bad ones, and how often a pair is right."""
    values: dict[str, float] = {}
    if good.any() and (~good).any():
        values["margin"] = float(ratio[good].mean() - ratio[~good].mean())
    if paired:
        values["accuracy"] = float((ratio[0::2] > ratio[1::2]).float().mean())
    return values


# The program


def main(run: RunDirectory, recipe: PreferenceRecipe) -> Ending:
    """Train on ``run``; announce the best checkpoint by held-out truth as final."""
    started = time.monotonic()
    place = prepare(recipe)
    start = run.need_input("policy")
    full = recipe.method == "full"
    model, tokenizer = load_policy(run.resume if run.resume and full else start, place)
    encoder = Encoder(tokenizer)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)

    # Data: pairs and answers to learn from, held-out pairs, held-out turns to answer.
    longest = longest_input(model, recipe.max_tokens)
    questions, held_out_questions = read_questions(run, encoder, longest)
    course = Course(
        questions,
        seed=recipe.seed,
        count=recipe.examples_per_step,
        paired=recipe.objective == "dpo",
    )
    tests = pair_rows(held_out_questions)
    run.log(
        f"{len(course.pairs)} pairs, {len(course.good)} good and {len(course.bad)} bad "
        f"answers to learn from; {len(tests) // 2} held-out pairs"
    )
    held_out = HeldOut(
        run,
        encoder,
        Sampling(
            0.0,
            1.0,
            recipe.max_new_tokens,
            encoder.frame.stop_ids,
            pad,
            parts=room(place, run.log),
        ),
        place,
        None,
        longest=longest_prompt(model, recipe.max_tokens, recipe.max_new_tokens),
        count=recipe.held_out_samples,
    )

    sharing(model, longest).tell(run.log, ROWS_OF_THEIR_OWN)
    if held_out.asked:
        caching(model, longest).tell(run.log, WITHOUT_CACHE)

    # Model, reference, optimiser.
    learner: Model = model
    reference: PreTrainedModel | None = None
    texts = [
        ((*prompt, *answer), (*[IGNORED] * len(prompt), *answer))
        for prompt, answer in pair_rows(questions)[: 2 * MEASURED : 2]
    ]
    new = new_tokens(run, model, tokenizer, start=start, texts=texts)
    if full or new:  # new rows are no adapters, to be turned off
        reference = load_policy(start, place)[0]
        named = zip(run.new_tokens, new, strict=True)
        untrained = [token for name, token in named if name not in run.trained_tokens]
        start_at_pieces(reference, tokenizer, untrained)
    if not full:
        learner = get_peft_model(model, adapters(recipe.lora_rank))
    rows = new_rows(model, new, NEW_TOKEN_RATE, alone=not full)
    pupil = Pupil(learner, reference, pad, place)
    optimizer = muon_and_adamw(
        learner.named_parameters(),
        muon_rate=0.0,
        adamw_rate=recipe.learning_rate,
        weight_decay=0.0,
        muon=False,
        rows=rows,
    )
    first, looks = 0, list[Looked]()
    if run.resume:
        first, looks = load_progress(run.resume / "trainer")
        load_optimizer(optimizer, run.resume / "trainer")
        if isinstance(learner, PeftModel):
            load_adapters(learner, run.resume / "trainer")
    schedule = warmup_stable_decay(
        optimizer,
        first=first,
        steps=recipe.steps,
        warmup=recipe.warmup_steps,
        decay_fraction=recipe.decay_fraction,
    )

    def look(step: int) -> dict[str, object]:
        learner.eval()
        found: dict[str, object] = {}
        if tests:
            with torch.no_grad():
                ratio = pupil.logprobs(tests, CHUNK) - pupil.reference_logprobs(
                    tests, CHUNK
                )
            good = torch.tensor([True, False] * (len(tests) // 2), device=ratio.device)
            found |= {
                f"held_out/{name}": value
                for name, value in figures(ratio, good, True).items()
            }
            run.metrics(step, found)
        if held_out.asked:
            looks.append(held_out.look(cast(PreTrainedModel, learner), step))
        return found

    def write(step: int, folder: Path) -> None:
        save_policy(merged(learner), tokenizer, folder)
        (folder / "trainer").mkdir()
        save_optimizer(optimizer, folder / "trainer")
        save_progress(folder / "trainer", step, looks)
        if isinstance(learner, PeftModel):
            save_adapters(learner, folder / "trainer")

    def save(step: int, metrics: dict[str, object], final: bool = False) -> None:
        latest = next((x for x in reversed(looks) if x.step == step), None)
        told = {**metrics, "truth": latest.truth} if latest else metrics
        run.save_checkpoint(
            step,
            functools.partial(write, step),
            kind="policy",
            recipe=recipe,
            metrics=told,
            final=final,
        )

    # Loop.
    measured: dict[str, object] = {}
    if first:
        run.rehearse_checkpoint(functools.partial(write, first))
    else:
        measured = look(0)
        save(0, measured)
    trained = [p for p in learner.parameters() if p.requires_grad]
    parts = Parts(recipe.micro_batch or recipe.examples_per_step, run.log, "examples")
    since, told_at, step = time.monotonic(), first, first
    while step < recipe.steps and not run.stop_requested:
        learner.train()
        torch.manual_seed(step_random(recipe.seed, "torch", step).getrandbits(62))
        learn_step = functools.partial(learn, pupil, recipe, course.at(step))
        values: dict[str, object] = {**parts.run(learn_step, optimizer.zero_grad)}
        must_be_finite(cast(float, values["loss"]), "loss", f"step {step + 1}")
        norm = torch.nn.utils.clip_grad_norm_(
            trained, recipe.max_grad_norm or float("inf")
        )
        must_be_finite(float(norm), "gradient norm", f"step {step + 1}")
        rate = adamw_rate(optimizer, float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        step += 1
        run.progress(step, recipe.steps)
        if step % TELL_EVERY == 0 or step in (first + 1, recipe.steps):
            values |= {"gradient_norm": float(norm), "learning_rate": rate}
            values["seconds_per_step"] = (time.monotonic() - since) / (step - told_at)
            run.metrics(step, values)
            since, told_at = time.monotonic(), step
        if step % recipe.evaluate_every == 0 or step == recipe.steps:
            measured = look(step)
            save(step, measured)
    seconds = round(time.monotonic() - started, 1)
    told: dict[str, object] = {"steps": step, "seconds": seconds, **measured}
    if step < recipe.steps:
        save(step, {})
        return Ending("stopped", told)
    if not looks:  # nothing held out to answer
        save(step, measured, final=True)
        return Ending("finished", told)
    kept = functools.partial(run.has_checkpoint, recipe=recipe)
    chosen, why = best(looks, held_out.has_truth, kept)
    save(chosen.step, {}, final=True)
    return Ending("finished", told | why)


if __name__ == "__main__":
    sys.exit(run_program("preference", PreferenceRecipe, main))
