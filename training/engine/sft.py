"""Supervised fine-tuning: the policy learns to write the label responses.

The loss is the mean, over the tokens of responses only, of

    −log π(token | everything before it in the conversation)

so prompts and observations are read but never learned (label −100): the paper trains on
whole action tasks, whose observations come from the environment and not from the model.
One sequence is one whole conversation (``conversations.py``); all its responses are
learned in one pass. Each pass picks the wording of a turn anew: the label, a reference,
or (``judged_answers``) a sampled answer that people judged consistent, which is the
second half of rejection sampling (Yuan et al. 2023, RFT); ``draw`` is the first.

The order of the data, the wording of each turn, the learning rate and the state of
torch's generator depend on the seed and the step alone. A resumed run therefore needs
only weights, moments and the step number, and gives the very weights of an uninterrupted
one (``trainer_state``; safetensors and JSON, no pickles).

Start: ``inputs.policy`` if given, else the recipe's ``base`` directory, else a small
model from scratch with a tokenizer trained on the data; its random start is kept as
checkpoint ``step-000000``, to be measured against.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from records.recipes import SftRecipe
from training.engine.data.conversations import Encoder, Sample, windows
from training.engine.data.sft_batches import (
    EpochOrder,
    collate,
    packs_exactly,
    padded,
    read_data,
    split,
    texts_of,
)
from training.engine.modeling.learner import Learner, load_learner
from training.engine.modeling.lora import merged
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.new_tokens import (
    NEW_TOKEN_RATE,
    OURS,
    NewRows,
    new_rows,
    new_tokens,
)
from training.engine.modeling.optim import (
    Together,
    muon_and_adamw,
    schedule_for,
    update,
)
from training.engine.modeling.place import accelerator_for
from training.engine.modeling.policies import (
    Place,
    build_small_model,
    checkpoint_activations,
    longest_input,
    on_device,
    prepare,
    save_policy,
)
from training.engine.modeling.throughput import Meter, attend
from training.engine.modeling.token_loss import (
    learned_count,
    mean_token_loss,
    prepare_head,
    token_loss,
)
from training.engine.modeling.tokenizer import train_tokenizer
from training.engine.modeling.trainer_state import (
    resume_trainer,
    resumed_progress,
    save_trainer_state,
    seed_step,
)
from training.engine.run.directory import (
    Ending,
    RunDirectory,
    RunError,
    run_program,
    step_random,
)
from training.engine.run.distributed import (
    all_reduce_max,
    all_reduce_sum,
    per_rank_share,
    world_size,
)
from training.engine.sampling.answers import (
    answer,
    build_prompts,
    longest_prompt,
    measure,
)
from training.engine.sampling.decoding import WITHOUT_CACHE, caching
from training.engine.sampling.sampler import Sampling

LOG_EVERY = 10  # steps
WEIGHT_DECAY = 0.01
VOCABULARY = 4096  # the most tokens of a tokenizer that is trained on the data
ANSWER_TOKENS = 256  # of the held-out turns answered at the end
MEASURED = 8  # conversations that tell whether a base knows the tags
AT_ONCE = 8  # held-out conversations computed at once


def train(run: RunDirectory, recipe: SftRecipe) -> Ending:
    """Train a policy on ``data.train``; see the module's docstring."""
    place = prepare(recipe)
    sharded = recipe.strategy != "ddp" and world_size() > 1
    if sharded:
        check_sharding(recipe, place)
    per_rank = per_rank_share("conversations_per_step", recipe.conversations_per_step)
    samples, held_out = read_data(run, recipe)
    first, _ = resumed_progress(run)

    # The policy, and its conversations in the order that they are learned.
    start = starting_directory(run, recipe)
    learner = starting_policy(run, recipe, samples, place)
    encoder = Encoder(learner.tokenizer)
    longest = longest_input(learner.model, recipe.max_tokens)
    order = EpochOrder(encoder, samples, recipe, longest)
    order.report(run.log)
    attend(learner.model, place, max(order.lengths))
    packs = recipe.packing and packs_exactly(
        learner.model, order.lengths, per_rank, run.log
    )
    validation = held_out_batches(held_out[: recipe.evaluate_turns], encoder, longest)

    # The optimizer, as it was left or new, and the processes that share its steps.
    rows = None  # no process has whole rows where weights are cut
    if not sharded:
        rows = rows_to_learn(run, recipe, learner, encoder, order, start)
    optimizer = build_optimizer(recipe, learner, rows)
    resume_trainer(run, learner.module, optimizer)
    if recipe.gradient_checkpointing:
        checkpoint_activations(learner.module)
    head = prepare_head(learner.model, fused=place.device.type == "cuda")
    meter = Meter(learner.model, place)
    accelerator = accelerator_for(
        place, sharded=sharded, per_rank=per_rank, max_grad_norm=recipe.max_grad_norm
    )
    model, stepper = accelerator.prepare(learner.module, optimizer)
    schedule = schedule_for(optimizer, recipe, first)

    def writer(step: int) -> Callable[[Path], None]:
        # Collective where weights are cut in parts: every rank brings its own.
        weights = accelerator.get_state_dict(model) if sharded else None

        def write(folder: Path) -> None:
            save_policy(merged(learner.module), learner.tokenizer, folder, weights)
            if not sharded:
                save_trainer_state(folder, learner.module, optimizer, step)

        return write

    save = functools.partial(run.save_checkpoint, kind="policy", recipe=recipe)
    if start is None and not first:
        save(0, writer(0))
    else:
        run.rehearse_checkpoint(writer(first))

    # Train.
    def backward(learned: float, batch: dict[str, Tensor]) -> Tensor:
        """Add a micro-batch's gradient; return its summed loss and tokens right, (2,)."""
        with place.autocast():
            loss, right = token_loss(model, head, batch)
        # The mean is over the whole step. Processes average what each has: undone by
        # their number.
        accelerator.backward(loss / learned * world_size())
        return torch.stack([loss.detach(), right])

    micro_batch = MicroBatch(recipe.micro_batch or per_rank, run.log)
    no_sync = functools.partial(accelerator.no_sync, model)
    log_every = max(1, min(LOG_EVERY, recipe.steps - first))
    values: dict[str, object] = {}
    window: list[dict[str, float]] = []  # of the steps since the last log
    run.progress(first, recipe.steps)
    for step in range(first + 1, recipe.steps + 1):
        seed_step(recipe.seed, step - 1)
        model.train()
        conversations = order.step(step - 1)
        meter.add(len(conversation.ids) for conversation in conversations)
        batch = collate(conversations, learner.pad_id, packs, place.device)
        learned = max(1.0, all_reduce_sum(learned_count(batch["labels"]), place.device))
        sums = micro_batch.accumulate(
            functools.partial(split, batch),
            functools.partial(backward, learned),
            stepper.zero_grad,
            no_sync,
        )
        loss, right = (all_reduce_sum(total, place.device) for total in sums.tolist())
        figures = update(
            stepper,
            schedule,
            model.parameters(),
            loss=loss / learned,
            max_grad_norm=recipe.max_grad_norm,
            step=step,
            clip=accelerator.clip_grad_norm_,
        )
        window.append({"loss": figures["loss"], "token_accuracy": right / learned})
        if (step - first) % log_every == 0 or step == recipe.steps:
            figures |= mean_of(window) | meter.measure()
            run.metrics(step, figures)
            run.progress(step, recipe.steps)
            values |= figures
            window.clear()
        if validation and step % recipe.evaluate_every == 0:
            with meter.paused():
                loss = mean_token_loss(learner.module, validation, place)
            values["held_out_loss"] = loss
            run.metrics(step, {"held_out_loss": loss})
        stopped = (
            all_reduce_max(run.stop_requested, place.device) and step < recipe.steps
        )
        if stopped or (step % recipe.evaluate_every == 0 and step < recipe.steps):
            save(step, writer(step), metrics=values)
        if stopped:
            return Ending("stopped", values)

    # Answer held-out turns, and save.
    if not sharded:  # sampling from parts is slow: `evaluate` does it later
        values |= answer_held_out(run, recipe, learner, encoder, held_out, place)
    values |= {"tokens": meter.tokens, "turns_left_out": len(order.left_out)}
    save(recipe.steps, writer(recipe.steps), metrics=values, final=True)
    return Ending("finished", values)


def mean_of(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every figure over the steps of a window."""
    return {name: fmean(figures[name] for figures in window) for name in window[0]}


def check_sharding(recipe: SftRecipe, place: Place) -> None:
    """Raise ``RunError`` where weights cannot be cut in parts.

    On a CPU accelerate would go on without a word, every process holding all of them.
    """
    if recipe.muon_learning_rate:
        rate = str(recipe.muon_learning_rate)
        raise RunError(
            "recipe: `muon_learning_rate`", f"0 with {recipe.strategy}", rate
        )
    if recipe.method != "full":
        expected = f"full with {recipe.strategy}"
        raise RunError("recipe: `method`", expected, recipe.method)
    if place.device.type == "cpu":
        raise RunError("recipe: `strategy`", "ddp on a CPU", repr(recipe.strategy))
    if recipe.strategy == "deepspeed-zero3" and recipe.micro_batch:
        # DeepSpeed steps its optimizer in every backward pass.
        expected = f"0 with {recipe.strategy}"
        raise RunError("recipe: `micro_batch`", expected, str(recipe.micro_batch))


# Where to start


def starting_policy(
    run: RunDirectory, recipe: SftRecipe, samples: Sequence[Sample], place: Place
) -> Learner:
    """Return the policy to train: of the checkpoint that is resumed, of the directory to
    start from, or small and new.
    """
    start = starting_directory(run, recipe)
    if start is None and recipe.method == "full":
        start = run.resume  # adapters resume on the new model, the same each time
    if start is not None:
        return load_learner(run, recipe, start, place)
    tokenizer = train_tokenizer(texts_of(samples), VOCABULARY)
    model = build_small_model(tokenizer, width=recipe.width, layers=recipe.layers)
    return Learner.of(on_device(model, place), tokenizer, recipe)


def starting_directory(run: RunDirectory, recipe: SftRecipe) -> Path | None:
    """Return the model directory that the run starts from; None from scratch."""
    start: Path | None = run.inputs.get("policy")
    if start is None and recipe.base:
        start = Path(recipe.base)
        if not (start / "config.json").is_file():
            expected = "a Hugging Face model directory"
            raise RunError("recipe: `base`", expected, repr(recipe.base))
    return start


def rows_to_learn(
    run: RunDirectory,
    recipe: SftRecipe,
    learner: Learner,
    encoder: Encoder,
    order: EpochOrder,
    start: Path | None,
) -> NewRows | None:
    """Return the rows of tokens that the base did not have, as a group of their own.

    Under LoRA they are the only rows that learn: a tag cannot be learned by adapters of
    the layers above it alone. (peft's trainable tokens do not work with the fused head
    of TRL 1.16.) Muon runs have an AdamW rate for embeddings already.
    """
    if start is None:  # from scratch: every row is trained
        run.new_tokens = OURS
        return None
    texts = [
        (encoded.ids, encoded.labels)
        for sample in order.samples[:MEASURED]
        for encoded in windows(encoder, sample, order.longest)[0]
    ]
    new = new_tokens(run, learner.model, learner.tokenizer, start=start, texts=texts)
    if new:
        run.log(f"{len(new)} tokens are new to the base: {', '.join(run.new_tokens)}")
    lora = recipe.method == "lora"
    if not lora and recipe.muon_learning_rate:
        return None
    return new_rows(learner.model, new, NEW_TOKEN_RATE, alone=lora)


def build_optimizer(
    recipe: SftRecipe, learner: Learner, rows: NewRows | None
) -> Together:
    """Return AdamW, with Muon for the hidden matrices where the recipe wants it.

    Nothing decays under LoRA: decay would move the rows that get no gradient.
    """
    full = recipe.method == "full"
    return muon_and_adamw(
        learner.module.named_parameters(),
        muon_rate=recipe.muon_learning_rate,
        adamw_rate=recipe.learning_rate,
        weight_decay=WEIGHT_DECAY if full else 0.0,
        muon=full and recipe.muon_learning_rate > 0,
        rows=rows,
    )


# Held-out conversations


def held_out_batches(
    samples: Sequence[Sample], encoder: Encoder, longest: int
) -> list[dict[str, Tensor]]:
    """Return the conversations of held-out samples, padded, a few to a batch."""
    pad = encoder.tokenizer.pad_token_id
    assert isinstance(pad, int)
    sequences = [w for sample in samples for w in windows(encoder, sample, longest)[0]]
    return [
        padded(sequences[i : i + AT_ONCE], pad)
        for i in range(0, len(sequences), AT_ONCE)
    ]


def answer_held_out(
    run: RunDirectory,
    recipe: SftRecipe,
    learner: Learner,
    encoder: Encoder,
    held_out: Sequence[Sample],
    place: Place,
) -> dict[str, object]:
    """Answer some held-out turns greedily; return the shares that are right.

    A first look only: ``evaluate`` measures with intervals and by situation.
    """
    longest = longest_prompt(learner.model, recipe.max_tokens, ANSWER_TOKENS)
    fitting, left_out = build_prompts(encoder, held_out, longest)
    prompts = step_random(recipe.seed, "first look").sample(
        fitting, min(recipe.evaluate_turns, len(fitting))
    )
    if not prompts:
        return {}
    stop_ids = encoder.frame.stop_ids
    sampling = Sampling(0.0, 1.0, ANSWER_TOKENS, stop_ids, learner.pad_id)
    model = merged(learner.module)
    caching(model, longest + ANSWER_TOKENS).tell(run.log, WITHOUT_CACHE)
    groups = answer(
        model, encoder.tokenizer, prompts, sampling, place=place, seed=recipe.seed
    )
    for shown, *_ in groups[:3]:
        turn = shown.sample.turns[shown.turn]
        run.sample(recipe.steps, prompt=turn.text, text=shown.text, label=turn.response)
    measured = [measure(group[0]) for group in groups]
    values: dict[str, object] = {
        "held_out_turns": len(prompts),
        "held_out_turns_too_long": len(left_out),
        "held_out_format_valid": sum(m.format_valid for m in measured) / len(measured),
    }
    verdicts = [m.consistent for m in measured if m.consistent is not None]
    if verdicts:
        values["held_out_turns_right"] = sum(verdicts) / len(verdicts)
    return values


if __name__ == "__main__":
    sys.exit(run_program("sft", SftRecipe, train))
