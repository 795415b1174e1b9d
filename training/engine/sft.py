"""Supervised fine-tuning: the policy learns to write the label responses.

The loss is the mean, over the tokens of responses only, of

    −log π(token | everything before it in the conversation)

so prompts and observations are read but never learned (label −100): the paper trains on
whole action tasks, whose observations come from the environment and not from the model.
One sequence is one whole conversation (``conversations.py``); all its responses are
learned in one pass. Each pass picks the wording of a turn anew: the label, a reference,
or (``judged_answers``) a sampled answer that people judged consistent, which is the
second half of rejection sampling (Yuan et al. 2023, RFT); ``draw`` is the first.

``trl.SFTTrainer`` runs the loop; what is ours is the order of the data, the optimiser
and the checkpoints. The order, the wording chosen for each turn and the learning rate
depend on the seed and the step alone, and so does the state of torch's generator at the
start of a step. A resumed run therefore needs only weights, optimiser moments and the
step number, and gives the very weights of an uninterrupted run (``trainer/`` in the
checkpoint; safetensors and JSON, where TRL's own checkpoints are pickles).

Start: ``inputs.policy`` if given, else the recipe's ``base`` directory, else a small
model from scratch with a tokenizer trained on the data; its random start is kept as
checkpoint ``step-000000``, to be measured against.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch.nn import functional
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from records.recipes import SftRecipe
from training.engine.data.conversations import (
    IGNORED,
    Encoded,
    Encoder,
    Sample,
    read_samples,
    windows,
)
from training.engine.data.sft_batches import Course, padded, report_lengths, split
from training.engine.modeling.configs import restore
from training.engine.modeling.finite_weights import guard_steps
from training.engine.modeling.loading import load_policy
from training.engine.modeling.lora import adapters, load_adapters, merged, save_adapters
from training.engine.modeling.micro_batch import Parts, summed
from training.engine.modeling.new_tokens import (
    NEW_TOKEN_RATE,
    OURS,
    NewRows,
    new_rows,
    new_tokens,
)
from training.engine.modeling.optim import (
    Together,
    adamw_rate,
    load_optimizer,
    muon_and_adamw,
    save_optimizer,
    warmup_stable_decay,
)
from training.engine.modeling.policies import (
    Place,
    build_small_model,
    longest_input,
    on_device,
    prepare,
    save_policy,
)
from training.engine.modeling.throughput import Work, attend, matrix_rate
from training.engine.modeling.tokenizer import train_tokenizer
from training.engine.run.directory import (
    Ending,
    RunDirectory,
    RunError,
    read_rows,
    run_program,
    step_random,
)
from training.engine.run.distributed import (
    any_process,
    over_all,
    process_count,
    share_of_step,
)
from training.engine.sampling.answers import answer, ask, longest_prompt, measure
from training.engine.sampling.decoding import WITHOUT_CACHE, caching
from training.engine.sampling.sampler import Sampling

LOG_EVERY = 10  # steps
WEIGHT_DECAY = 0.01
VOCABULARY = 4096  # the most tokens of a tokenizer that is trained on the data
ANSWER_TOKENS = 256  # of the held-out turns answered at the end
# Our names for the trainer's figures.
FIGURES = {
    "loss": "loss",
    "gradient_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "token_accuracy": "mean_token_accuracy",
}
MEASURED = 8  # conversations that tell whether a base knows the tags


def train(run: RunDirectory, recipe: SftRecipe) -> Ending:
    """Train a policy on ``data.train``; see the module's docstring."""
    place = prepare(recipe)
    sharded = recipe.strategy != "ddp" and process_count() > 1
    if sharded:
        check_sharding(recipe, place)
    alone = share_of_step("conversations_per_step", recipe.conversations_per_step)
    approved = approved_answers(run) if recipe.judged_answers else {}
    samples = read_samples(run.need_data("train"))
    samples = with_wordings(samples, recipe, approved)
    held_out = read_samples(run.data["held_out"]) if "held_out" in run.data else []
    if not samples:
        raise RunError("data.train", "at least one sample", "an empty file")

    model, tokenizer, scratch = starting_policy(run, recipe, samples, place)
    encoder = Encoder(tokenizer)
    longest = longest_input(model, recipe.max_tokens)
    course = Course(encoder, samples, recipe, longest)
    attend(model, place, max(course.lengths))
    learner, first = with_adapters(run, recipe, model)
    rows = None
    if not sharded:  # no process has whole rows
        known = [w for s in samples[:MEASURED] for w in windows(encoder, s, longest)[0]]
        rows = rows_to_learn(run, recipe, model, encoder, known)
    if run.resume and isinstance(learner, PeftModel):
        load_adapters(learner, run.resume / "trainer")
    course.work = work = Work.of(model, passes=3)
    peak = matrix_rate(place) * process_count()
    report_lengths(run, course, longest)
    course.measure_packing(model, alone, run.log)
    if scratch and not first:
        run.save_checkpoint(
            0,
            lambda at: save_policy(model, tokenizer, at),
            kind="policy",
            recipe=recipe,
        )

    optimizer = muon_and_adamw(
        learner.named_parameters(),
        muon_rate=recipe.muon_learning_rate,
        adamw_rate=recipe.learning_rate,
        # Decay would move the rows that get no gradient.
        weight_decay=WEIGHT_DECAY if recipe.method == "full" else 0.0,
        muon=bool(recipe.muon_learning_rate) and recipe.method == "full",
        rows=rows,
    )
    if run.resume:
        load_optimizer(optimizer, run.resume / "trainer")
    schedule = warmup_stable_decay(
        optimizer,
        first=first,
        steps=recipe.steps,
        warmup=recipe.warmup_steps,
        decay_fraction=recipe.decay_fraction,
    )

    pad = tokenizer.pad_token_id
    some_held_out = [
        window
        for sample in held_out[: recipe.evaluate_turns]
        for window in windows(encoder, sample, longest)[0]
    ]
    values: dict[str, object] = {}
    tokens_before, flops_before, time_before = 0.0, 0.0, time.monotonic()
    stopped = False
    log_every = max(1, min(LOG_EVERY, recipe.steps - first))

    def before(step: int) -> None:
        nonlocal time_before
        if step == first:
            started = time.monotonic()
            restore(model)
            run.rehearse_checkpoint(writer(step))
            time_before += time.monotonic() - started
        torch.manual_seed(step_random(recipe.seed, "torch", step).getrandbits(63))

    def logged(step: int, logs: dict[str, float]) -> None:
        nonlocal tokens_before, flops_before, time_before
        now, seen = time.monotonic(), over_all(course.tokens, place.device)
        flops = over_all(work.flops, place.device)
        fresh: dict[str, object] = {
            **{
                ours: logs[theirs] for ours, theirs in FIGURES.items() if theirs in logs
            },
            "tokens_per_second": (seen - tokens_before) / (now - time_before),
            "mfu": (flops - flops_before) / (now - time_before) / peak,
        }
        tokens_before, flops_before, time_before = seen, flops, now
        run.metrics(step, fresh)
        values.update(fresh)

    def after(step: int) -> bool:
        nonlocal stopped, time_before
        if step % log_every == 0 or step == recipe.steps:
            run.progress(step, recipe.steps)
        if some_held_out and step % recipe.evaluate_every == 0:
            started = time.monotonic()
            loss = held_out_loss(learner, some_held_out, pad, place)
            values["held_out_loss"] = loss
            run.metrics(step, {"held_out_loss": loss})
            time_before += time.monotonic() - started
        asked = any_process(run.stop_requested, place.device)
        stopped = asked and step < recipe.steps
        if stopped or (step % recipe.evaluate_every == 0 and step < recipe.steps):
            save(step, values)
        return stopped

    def writer(step: int) -> Callable[[Path], None]:
        # Weights that are cut in parts are put together by all processes.
        whole = trainer.accelerator.get_state_dict(trainer.model) if sharded else None

        def write(folder: Path) -> None:
            save_policy(merged(learner), tokenizer, folder, whole)
            if not sharded:
                save_trainer_state(learner, optimizer, folder / "trainer", step)

        return write

    def save(step: int, metrics: dict[str, object], final: bool = False) -> None:
        run.save_checkpoint(
            step,
            writer(step),
            kind="policy",
            recipe=recipe,
            metrics=metrics,
            final=final,
        )

    run.progress(first, recipe.steps)
    if first < recipe.steps:
        trainer = PartsTrainer(
            parts=Parts(recipe.micro_batch or alone, run.log),
            model=learner,
            processing_class=tokenizer,
            args=SFTConfig(
                output_dir=str(run.outputs),
                max_steps=recipe.steps - first,
                per_device_train_batch_size=alone,
                ddp_find_unused_parameters=False,
                max_grad_norm=recipe.max_grad_norm,
                **checkpointing(recipe.gradient_checkpointing),
                bf16=place.half,
                use_cpu=place.device.type == "cpu",
                seed=recipe.seed,
                logging_steps=log_every,
                logging_nan_inf_filter=False,
                router_aux_loss_coef=0.0,  # the loss is the one above, also of experts
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                train_sampling_strategy="sequential",
                dataloader_pin_memory=place.device.type == "cuda",
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=None,
            ),
            # Rows are only places in the course; the collator brings the tokens.
            train_dataset=Dataset.from_dict(
                {
                    "place": range(
                        first * recipe.conversations_per_step,
                        recipe.steps * recipe.conversations_per_step,
                    )
                }
            ),
            data_collator=course.collate,
            callbacks=[Watch(first, before, logged, after)],
        )
        # Not at once: with weights in parts the trainer refuses to be given them.
        trainer.optimizer, trainer.lr_scheduler = optimizer, schedule
        trainer.remove_callback(PrinterCallback)
        guard_steps(trainer, first)
        trainer.train()
        if not sharded:
            unwrap = trainer.accelerator.unwrap_model
            learner = unwrap(learner, keep_fp32_wrapper=False)
    if stopped:
        return Ending("stopped", values)
    restore(model)
    if not sharded:  # generating from parts is slow: `evaluate` looks later
        seen = first_look(run, recipe, merged(learner), encoder, held_out, place)
        values.update(seen)
    values["tokens"] = round(tokens_before)
    values["turns_left_out"] = len(course.left_out)
    save(recipe.steps, values, final=True)
    return Ending("finished", values)


def check_sharding(recipe: SftRecipe, place: Place) -> None:
    """Raise ``RunError`` where weights cannot be cut in parts.

    On a CPU accelerate would go on without a word, every process holding all of them.
    """
    if recipe.muon_learning_rate:
        expected = f"0 (AdamW only) with {recipe.strategy}"
        found = str(recipe.muon_learning_rate)
        raise RunError("recipe: `muon_learning_rate`", expected, found)
    if recipe.method != "full":
        expected = f"full with {recipe.strategy}"
        raise RunError("recipe: `method`", expected, recipe.method)
    if place.device.type == "cpu":
        raise RunError("recipe: `strategy`", "ddp on a CPU", repr(recipe.strategy))


class PartsTrainer(SFTTrainer):
    """Computes a step in parts, in smaller ones when it runs out of memory."""

    def __init__(self, *, parts: Parts, **settings: Any) -> None:
        super().__init__(**settings)
        self.parts = parts

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the loss of the step; its parts are summed, not averaged."""

        def learn(piece: dict[str, torch.Tensor]) -> torch.Tensor:
            step = super(PartsTrainer, self).training_step
            loss: torch.Tensor = step(model, piece, num_items_in_batch)  # type: ignore[no-untyped-call]
            return loss

        def attempt(size: int) -> torch.Tensor:
            apart = functools.partial(self.accelerator.no_sync, model)
            return summed(split(inputs, size), learn, apart)

        return self.parts.run(attempt, model.zero_grad)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean of −log p over the learned tokens.

        TRL's head is a fused kernel on GPUs. Its stand-in for CPUs scores every
        position, learned or not, in chunks of the vocabulary, and takes half of a small
        model's step; there the learned tokens alone are scored.
        """
        on_gpu = self.accelerator.device.type != "cpu"
        if on_gpu or return_outputs:
            return super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
        shown = {name: t for name, t in inputs.items() if name != "labels"}
        labels = inputs["labels"][:, 1:]
        learned = labels != IGNORED
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        with scoring(head, learned):
            logits = model(**shown, use_cache=False).logits
        right = (logits.argmax(-1) == labels[learned]).sum()
        counts = self.accelerator.gather(torch.stack([right, learned.sum()]).float())
        right, count = counts.view(-1, 2).sum(0).tolist()
        self._metrics["train"]["mean_token_accuracy"].append(right / max(count, 1))
        loss = functional.cross_entropy(logits, labels[learned], reduction="sum")
        if num_items_in_batch is None:
            return loss / learned.sum().clamp(min=1)
        # Counted over all processes, whose gradients are then averaged.
        return loss / num_items_in_batch * self.accelerator.num_processes


@contextlib.contextmanager
def scoring(head: torch.nn.Module, learned: torch.Tensor) -> Iterator[None]:
    """Let ``head`` return the logits of the learned tokens only, as (learned, vocabulary).

    ``learned`` is a mask of (batch, length − 1): the positions whose next token is
    learned. Products and sums keep the precision of the head's weights.
    """
    plain = head.forward

    def forward(hidden: torch.Tensor) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            return plain(hidden[:, :-1][learned].to(head.weight.dtype))  # type: ignore[arg-type]

    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # the class's own again


# Where to start


def starting_policy(
    run: RunDirectory, recipe: SftRecipe, samples: Sequence[Sample], place: Place
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]:
    """Return the model to train, its tokenizer, and whether it is from scratch."""
    given = starting_directory(run, recipe)
    if run.resume and (recipe.method == "full" or given is None):
        model, tokenizer = load_policy(run.resume, place)
        return model, tokenizer, given is None
    if given is not None:
        model, tokenizer = load_policy(given, place)
        return model, tokenizer, False
    texts = [text for sample in samples for text in texts_of(sample)]
    new_tokenizer = train_tokenizer(texts, VOCABULARY)
    model = build_small_model(new_tokenizer, width=recipe.width, layers=recipe.layers)
    return on_device(model, place), new_tokenizer, True


def starting_directory(run: RunDirectory, recipe: SftRecipe) -> Path | None:
    """Return the model directory that the run starts from; None from scratch."""
    given: Path | None = run.inputs.get("policy")
    if given is None and recipe.base:
        given = Path(recipe.base)
        if not (given / "config.json").is_file():
            expected = "a Hugging Face model directory"
            raise RunError("recipe: `base`", expected, repr(recipe.base))
    return given


Approved = Mapping[tuple[str, int], Sequence[str]]  # texts by sample and turn


def approved_answers(run: RunDirectory) -> Approved:
    """Return the sampled answers that people judged consistent, but for those of the
    held-out split.
    """
    approved: dict[tuple[str, int], list[str]] = {}
    for row in read_rows(run.need_data("judgments")):
        learned = row["source"] == "people" and row.get("split") != "held-out"
        if row["consistent"] and learned:
            turn = str(row["sample"]), int(str(row["turn"]))
            approved.setdefault(turn, []).append(str(row["sampled"]))
    count = sum(map(len, approved.values()))
    run.log(f"{count} answers judged consistent are learned as further wordings")
    return approved


def with_wordings(
    samples: Sequence[Sample], recipe: SftRecipe, approved: Approved
) -> list[Sample]:
    """Return the samples with just those references that are learned: the written ones
    where the recipe wants them, and the approved answers.
    """

    def wordings(sample: Sample, number: int) -> tuple[str, ...]:
        written = sample.turns[number].references if recipe.references else ()
        return (*written, *approved.get((sample.id, number), ()))

    return [
        replace(
            sample,
            turns=tuple(
                replace(turn, references=wordings(sample, number))
                for number, turn in enumerate(sample.turns)
            ),
        )
        for sample in samples
    ]


def texts_of(sample: Sample) -> list[str]:
    """Return every text of a sample that a tokenizer should know."""
    texts = [sample.context]
    for turn in sample.turns:
        texts += [turn.text, turn.response, *turn.references]
    return texts


def with_adapters(
    run: RunDirectory, recipe: SftRecipe, model: PreTrainedModel
) -> tuple[PreTrainedModel | PeftModel, int]:
    """Return what is trained (the model, or adapters on it) and the steps done."""
    state: dict[str, int] = {}
    if run.resume:
        state = json.loads((run.resume / "trainer" / "state.json").read_text())
    if recipe.method == "full":
        return model, state.get("step", 0)
    learner = get_peft_model(model, adapters(recipe.lora_rank))
    return learner, state.get("step", 0)


def rows_to_learn(
    run: RunDirectory,
    recipe: SftRecipe,
    model: PreTrainedModel,
    encoder: Encoder,
    sequences: Sequence[Encoded],
) -> NewRows | None:
    """Return the rows of tokens that the base did not have, as a group of their own.

    Under LoRA they are the only rows that learn: a tag cannot be learned by adapters of
    the layers above it alone. (peft's trainable tokens do not work with the fused head
    of TRL 1.16.) Muon runs have an AdamW rate for embeddings already.
    """
    start = starting_directory(run, recipe)
    if start is None:  # from scratch: every row is trained
        run.new_tokens = OURS
        return None
    texts = [(each.ids, each.labels) for each in sequences]
    new = new_tokens(run, model, encoder.tokenizer, start=start, texts=texts)
    if new:
        run.log(f"{len(new)} tokens are new to the base: {', '.join(run.new_tokens)}")
    lora = recipe.method == "lora"
    if not lora and recipe.muon_learning_rate:
        return None
    return new_rows(model, new, NEW_TOKEN_RATE, alone=lora)


# While it trains


class Watch(TrainerCallback):
    """Calls back before and after each step, and with each log of the trainer.

    Steps are counted from ``first``; training ends when ``after`` returns True.
    """

    def __init__(
        self,
        first: int,
        before: Callable[[int], None],
        logged: Callable[[int, dict[str, float]], None],
        after: Callable[[int], bool],
    ) -> None:
        self.first = first
        self.before = before
        self.logged = logged
        self.after = after

    def on_step_begin(
        self, args: object, state: TrainerState, control: object, **kwargs: object
    ) -> None:
        self.before(self.first + state.global_step)

    def on_log(
        self,
        args: object,
        state: TrainerState,
        control: object,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if logs and "loss" in logs:  # the last log is a summary without one
            rate = adamw_rate(kwargs.get("optimizer"), logs.get("learning_rate"))
            known = logs if rate is None else {**logs, "learning_rate": rate}
            self.logged(self.first + state.global_step, known)

    def on_step_end(
        self,
        args: object,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        if self.after(self.first + state.global_step):
            control.should_training_stop = True


def checkpointing(wanted: bool) -> dict[str, Any]:
    """Return the setting under the name that this version of transformers has for it."""
    new = "activation_checkpointing"
    known = new in SFTConfig.__dataclass_fields__
    return {new if known else "gradient_checkpointing": wanted}


@torch.no_grad()
def held_out_loss(
    model: torch.nn.Module, sequences: Sequence[Encoded], pad: int, place: Place
) -> float:
    """Return the mean loss over the learned tokens of ``sequences``."""
    model.train(False)
    total, count = 0.0, 0
    for start in range(0, len(sequences), 8):
        batch = padded(sequences[start : start + 8], pad)
        inputs = {name: tensor.to(place.device) for name, tensor in batch.items()}
        labels = inputs.pop("labels")[:, 1:]
        with place.autocast():
            logits = model(**inputs).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), reduction="sum"
        )
        total += float(loss)
        count += int((labels != IGNORED).sum())
    model.train(True)
    return total / max(1, count)


def first_look(
    run: RunDirectory,
    recipe: SftRecipe,
    model: PreTrainedModel,
    encoder: Encoder,
    held_out: Sequence[Sample],
    place: Place,
) -> dict[str, object]:
    """Answer some held-out turns greedily; return the shares that are right.

    A first look only: ``evaluate`` measures with intervals and by situation.
    """
    longest = longest_prompt(model, recipe.max_tokens, ANSWER_TOKENS)
    fitting, left_out = ask(encoder, held_out, longest)
    chosen = step_random(recipe.seed, "first look").sample(
        fitting, min(recipe.evaluate_turns, len(fitting))
    )
    if not chosen:
        return {}
    frame, pad = encoder.frame, encoder.tokenizer.pad_token_id
    assert isinstance(pad, int)
    sampling = Sampling(0.0, 1.0, ANSWER_TOKENS, frame.stop_ids, pad)
    caching(model, longest + ANSWER_TOKENS).tell(run.log, WITHOUT_CACHE)
    answers = answer(
        model, encoder.tokenizer, chosen, sampling, place=place, seed=recipe.seed
    )
    measured = [measure(group[0]) for group in answers]
    for group in answers[:3]:
        shown = group[0]
        turn = shown.sample.turns[shown.turn]
        run.sample(recipe.steps, prompt=turn.text, text=shown.text, label=turn.response)
    values: dict[str, object] = {
        "held_out_turns": len(chosen),
        "held_out_turns_too_long": len(left_out),
        "held_out_format_valid": share([m.format_valid for m in measured]),
    }
    verdicts = [m.consistent for m in measured if m.consistent is not None]
    if verdicts:
        values["held_out_turns_right"] = share(verdicts)
    return values


def share(verdicts: Sequence[bool]) -> float:
    """Return the share of True."""
    return sum(verdicts) / len(verdicts)


# Checkpoints


def save_trainer_state(
    learner: PreTrainedModel | PeftModel, optimizer: Together, folder: Path, step: int
) -> None:
    """Write what a resumed run needs beside the model: moments, step, adapters."""
    folder.mkdir()
    save_optimizer(optimizer, folder)
    (folder / "state.json").write_text(json.dumps({"step": step}) + "\n")
    if isinstance(learner, PeftModel):
        save_adapters(learner, folder)


if __name__ == "__main__":
    sys.exit(run_program("sft", SftRecipe, train))
