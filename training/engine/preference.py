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

Where no answer to a turn was judged consistent the label response stands for one. A
step of KTO has half good and half bad answers, within the range of balance that the
paper asks for; equal weights are then its default.

The reference is the start policy: under LoRA the model with its adapters off, else a
second model. Answers to one prompt share a row (``shared_prompt``), so a pair costs its
prompt once. As in the policy program, a fixed held-out set is answered at every test and
the checkpoint of the best truth is the final one, the start included. The order of the
data depends on the seed and the step alone; a resumed run repeats an uninterrupted one.

The loop is not that of TRL's ``DPOTrainer`` or ``KTOTrainer``: those know neither shared
prompts nor steps that are halved when memory runs out.

Data: ``train`` and ``judgments``; judgments of the split "held-out" are never learned
from and give the figures called held_out; ``held_out`` samples are answered.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from records.recipes import PreferenceRecipe
from training.engine.data.conversations import IGNORED, Encoder
from training.engine.data.preference_pairs import (
    Batch,
    BatchSampler,
    Question,
    Row,
    pair_rows,
    read_questions,
)
from training.engine.modeling.learner import Learner, load_learner
from training.engine.modeling.loading import load_policy
from training.engine.modeling.lora import merged
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.new_tokens import (
    NEW_TOKEN_RATE,
    new_rows,
    new_tokens,
    start_at_pieces,
)
from training.engine.modeling.optim import muon_and_adamw, schedule_for, update
from training.engine.modeling.policies import Place, longest_input, prepare, save_policy
from training.engine.modeling.reference import WithReference
from training.engine.modeling.shared_prompt import ROWS_OF_THEIR_OWN, sharing
from training.engine.modeling.trainer_state import (
    resume_trainer,
    resumed_progress,
    save_trainer_state,
    seed_step,
)
from training.engine.rl.validation import HeldOut, best_checkpoint, kept_validations
from training.engine.run.directory import Ending, RunDirectory, run_program
from training.engine.sampling.answers import longest_prompt
from training.engine.sampling.decoding import WITHOUT_CACHE, caching
from training.engine.sampling.sampler import Sampling, room

LOG_EVERY = 5  # steps
MEASURED = 8  # answers that tell whether the policy knows the tags
CHUNK = 16  # pairs computed at once for the held-out figures


# The losses


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Return the loss of each pair, (B,), of the log-ratios r of its two answers."""
    return -functional.logsigmoid(beta * (chosen - rejected))


def kto_loss(log_ratio: Tensor, good: Tensor, kl: Tensor, beta: float) -> Tensor:
    """Return the loss of each answer, (B,), of its log-ratio and whether it is good.

    ``kl`` is z, one number for the whole step.
    """
    gain = beta * (log_ratio - kl)
    return torch.where(good, 1 - gain.sigmoid(), 1 - (-gain).sigmoid())


def mismatched(rows: Sequence[Row]) -> list[Row]:
    """Return each row's prompt with the answer of the next row, which KTO's z is of."""
    return [
        (prompt, rows[(i + 1) % len(rows)][1]) for i, (prompt, _) in enumerate(rows)
    ]


def accumulate_gradient(
    models: WithReference, recipe: PreferenceRecipe, batch: Batch, size: int
) -> dict[str, float]:
    """Add the gradient of a step's mean loss, ``size`` examples at once; return its
    figures.
    """
    paired = recipe.objective == "dpo"
    chunk = 2 * size if paired else size  # rows
    examples = len(batch.rows) // 2 if paired else len(batch.rows)
    kl = torch.zeros((), device=models.place.device)
    if not paired and len(batch.rows) > 1:
        kl = models.log_ratios(mismatched(batch.rows), chunk).mean().clamp(min=0)
    good = torch.tensor(batch.good, device=models.place.device)
    total = 0.0
    logprobs, log_ratios = list[Tensor](), list[Tensor]()
    for start in range(0, len(batch.rows), chunk):
        rows = batch.rows[start : start + chunk]
        logprob = models.logprobs(rows)
        log_ratio = logprob - models.reference_logprobs(rows)
        if paired:
            losses = dpo_loss(log_ratio[0::2], log_ratio[1::2], recipe.beta)
        else:
            losses = kto_loss(log_ratio, good[start : start + chunk], kl, recipe.beta)
        loss = losses.sum() / examples
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        logprobs.append(logprob.detach())
        log_ratios.append(log_ratio.detach())
    figures = {"loss": total, **separation(torch.cat(log_ratios), good, paired)}
    for name, which in (("good", good), ("bad", ~good)):
        if which.any():
            figures[f"logprob/{name}"] = float(torch.cat(logprobs)[which].mean())
    if not paired:
        figures["kl"] = float(kl)
    return figures


def separation(log_ratio: Tensor, good: Tensor, paired: bool) -> dict[str, float]:
    """Return how far good answers gained on bad ones, and how often a pair is right."""
    figures: dict[str, float] = {}
    if good.any() and (~good).any():
        figures["margin"] = float(log_ratio[good].mean() - log_ratio[~good].mean())
    if paired:
        figures["accuracy"] = float((log_ratio[0::2] > log_ratio[1::2]).float().mean())
    return figures


# The program


def main(run: RunDirectory, recipe: PreferenceRecipe) -> Ending:
    """Train on ``run``; announce the best checkpoint by held-out truth as final."""
    started = time.monotonic()
    place = prepare(recipe)
    start = run.need_input("policy")
    first, progress = resumed_progress(run)
    validations = kept_validations(progress)

    # The policy; pairs and answers to learn from, held-out pairs, turns to answer.
    learner = load_learner(run, recipe, start, place)
    encoder = Encoder(learner.tokenizer)
    longest = longest_input(learner.model, recipe.max_tokens)
    questions, held_out_questions = read_questions(run, encoder, longest)
    sampler = BatchSampler(
        questions,
        seed=recipe.seed,
        count=recipe.examples_per_step,
        paired=recipe.objective == "dpo",
    )
    held_out_pairs = pair_rows(held_out_questions)
    run.log(
        f"{len(sampler.pairs)} pairs, {len(sampler.good)} good and {len(sampler.bad)} "
        f"bad answers to learn from; {len(held_out_pairs) // 2} held-out pairs"
    )
    held_out = held_out_turns(run, recipe, learner, encoder, place)
    sharing(learner.model, longest).tell(run.log, ROWS_OF_THEIR_OWN)
    if held_out.prompts:
        caching(learner.model, longest).tell(run.log, WITHOUT_CACHE)

    # Reference and optimizer, as they were left or new.
    new = tokens_to_learn(run, learner, questions, start)
    models = with_reference(run, recipe, learner, new, start, place)
    optimizer = muon_and_adamw(
        learner.module.named_parameters(),
        muon_rate=0.0,
        adamw_rate=recipe.learning_rate,
        weight_decay=0.0,
        muon=False,
        rows=new_rows(
            learner.model, new, NEW_TOKEN_RATE, alone=recipe.method != "full"
        ),
    )
    resume_trainer(run, learner.module, optimizer)
    schedule = schedule_for(optimizer, recipe, first)

    def validate(step: int) -> dict[str, object]:
        """Measure held-out pairs and answer held-out turns; return the former."""
        learner.module.eval()
        figures: dict[str, object] = {}
        if held_out_pairs:
            log_ratio = models.log_ratios(held_out_pairs, CHUNK)
            good = torch.tensor([True, False] * (len(held_out_pairs) // 2))
            separated = separation(log_ratio, good.to(place.device), paired=True)
            figures = {f"held_out/{name}": value for name, value in separated.items()}
            run.metrics(step, figures)
        if held_out.prompts:
            validations.append(
                held_out.validate(cast(PreTrainedModel, learner.module), step)
            )
        return figures

    def write(step: int, folder: Path) -> None:
        save_policy(merged(learner.module), learner.tokenizer, folder)
        rows = [asdict(each) for each in validations]
        save_trainer_state(folder, learner.module, optimizer, step, validations=rows)

    def save(step: int, figures: dict[str, object], final: bool = False) -> None:
        truths = {each.step: each.truth for each in validations}
        if step in truths:
            figures = {**figures, "truth": truths[step]}
        run.save_checkpoint(
            step,
            functools.partial(write, step),
            kind="policy",
            recipe=recipe,
            metrics=figures,
            final=final,
        )

    # Train.
    measured: dict[str, object] = {}
    if first:
        run.rehearse_checkpoint(functools.partial(write, first))
    else:
        measured = validate(0)
        save(0, measured)
    trained = [p for p in learner.module.parameters() if p.requires_grad]
    micro_batch = MicroBatch(
        recipe.micro_batch or recipe.examples_per_step, run.log, "examples"
    )
    step, logged, since = first, first, time.monotonic()
    while step < recipe.steps and not run.stop_requested:
        learner.module.train()
        seed_step(recipe.seed, step)
        figures = micro_batch.run(
            functools.partial(accumulate_gradient, models, recipe, sampler.at(step)),
            optimizer.zero_grad,
        )
        step += 1
        figures |= update(
            optimizer,
            schedule,
            trained,
            loss=figures["loss"],
            max_grad_norm=recipe.max_grad_norm,
            step=step,
        )
        run.progress(step, recipe.steps)
        if step % LOG_EVERY == 0 or step in (first + 1, recipe.steps):
            figures["seconds_per_step"] = (time.monotonic() - since) / (step - logged)
            run.metrics(step, figures)
            logged, since = step, time.monotonic()
        if step % recipe.evaluate_every == 0 or step == recipe.steps:
            measured = validate(step)
            save(step, measured)

    # End with the checkpoint of the best held-out truth.
    seconds = round(time.monotonic() - started, 1)
    result: dict[str, object] = {"steps": step, "seconds": seconds, **measured}
    if step < recipe.steps:
        save(step, {})
        return Ending("stopped", result)
    if not validations:  # nothing held out to answer
        save(step, measured, final=True)
        return Ending("finished", result)
    is_kept = functools.partial(run.has_checkpoint, recipe=recipe)
    chosen, why = best_checkpoint(validations, held_out, is_kept)
    save(chosen.step, {}, final=True)
    return Ending("finished", result | why)


# What it starts from


def held_out_turns(
    run: RunDirectory,
    recipe: PreferenceRecipe,
    learner: Learner,
    encoder: Encoder,
    place: Place,
) -> HeldOut:
    """Return the fixed set of held-out turns, which is answered greedily."""
    sampling = Sampling(
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=recipe.max_new_tokens,
        stop_ids=encoder.frame.stop_ids,
        pad_id=learner.pad_id,
        parts=room(place, run.log),
    )
    return HeldOut(
        run,
        encoder,
        sampling,
        place,
        None,
        longest=longest_prompt(learner.model, recipe.max_tokens, recipe.max_new_tokens),
        count=recipe.held_out_samples,
    )


def tokens_to_learn(
    run: RunDirectory, learner: Learner, questions: Sequence[Question], start: Path
) -> list[int]:
    """Return the ids of the tokens that the start policy does not know yet."""
    texts = [
        ((*prompt, *answer), (*[IGNORED] * len(prompt), *answer))
        for prompt, answer in pair_rows(questions)[: 2 * MEASURED : 2]
    ]
    return new_tokens(run, learner.model, learner.tokenizer, start=start, texts=texts)


def with_reference(
    run: RunDirectory,
    recipe: PreferenceRecipe,
    learner: Learner,
    new: Sequence[int],
    start: Path,
    place: Place,
) -> WithReference:
    """Return the policy and its reference, the start policy.

    A second model is needed where all weights learn, or the rows of ``new`` tokens: those
    are no adapters, to be turned off.
    """
    reference = None
    if recipe.method == "full" or new:
        reference, _ = load_policy(start, place)
        named = zip(run.new_tokens, new, strict=True)
        untrained = [token for name, token in named if name not in run.trained_tokens]
        start_at_pieces(reference, learner.tokenizer, untrained)
    return WithReference(learner.module, reference, learner.pad_id, place)


if __name__ == "__main__":
    sys.exit(run_program("preference", PreferenceRecipe, main))
