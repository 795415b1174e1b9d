"""Train the consistency reward model (RM): ``python -m training.engine.reward RUN_DIR``.

The RM says whether a sampled response says the same as the label response, by the same
logic, steps in the same order. It is the policy's backbone with two outputs, trained
with cross-entropy on 0/1 verdicts (section 3.3 of the paper). ``scoring`` explains how a
pair becomes a prompt and where the outputs are read.

The program is told in four parts: ``pairs`` is what it learns from, ``pair_loss`` the
maths, ``reward_figures`` how the model is tested, and this the loop.

Departures from the paper, because its form learned shortcuts in small trials
(``docs/reward-model.md``): labels per unit instead of one, laid out unit by unit, and
60 % of the pairs derived from written samples (other wordings, balanced quads, one or
several errors put in) beside 40 % judged answers. All are recipe settings.

With ``judges`` "preference" it is another model that is trained: ``ranking``.

Input ``policy`` is the backbone (an SFT checkpoint). Data: ``train`` and ``held_out``
samples, ``judgments``. The RM is tested on judged pairs of the split "held-out" and on
pairs derived from held-out samples, never on what it was trained on.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from records.recipes import RewardRecipe
from training.engine.data.conversations import lengths_summary, read_samples
from training.engine.modeling.finite_weights import guard_steps
from training.engine.modeling.micro_batch import Parts, summed
from training.engine.modeling.new_tokens import fit_vocabulary
from training.engine.modeling.optim import save_optimizer
from training.engine.modeling.policies import Place, prepare
from training.engine.modeling.throughput import Work, attend, matrix_rate
from training.engine.preference_model import train_preference_model
from training.engine.reward_model.augmentation import Example, Source
from training.engine.reward_model.batches import (
    Judged,
    Steps,
    pieces_of,
    read_judgments,
)
from training.engine.reward_model.classifier import (
    start_learning,
    starting_classifier,
)
from training.engine.reward_model.evaluation import figures, held_out_tests
from training.engine.reward_model.loss import PairLoss, step_inputs
from training.engine.reward_model.model import (
    MarkReader,
    RewardModel,
    save_reward_model,
)
from training.engine.reward_model.packing import Packer, RewardSettings
from training.engine.run.directory import (
    Ending,
    RunDirectory,
    RunError,
    run_program,
    step_random,
)
from training.engine.run.distributed import any_process, over_all, process_count

TELL_EVERY = 10  # steps between metric events


def main(run: RunDirectory, recipe: RewardRecipe) -> Ending:
    """Train on ``run``; the last checkpoint's manifest has the held-out figures."""
    if recipe.judges == "preference":
        return train_preference_model(run, recipe)
    started = time.monotonic()
    place = prepare(recipe)

    # Data: judgments, and whatever can be derived from the written samples.
    samples = read_samples(run.data["train"]) if "train" in run.data else []
    held_out = read_samples(run.data["held_out"]) if "held_out" in run.data else []
    judged = Judged([], [], [], {})
    if "judgments" in run.data:
        histories = {
            (sample.id, number): turn.history
            for sample in (*samples, *held_out)
            for number, turn in enumerate(sample.turns)
        }
        judged = read_judgments(run.data["judgments"], histories)
    trained_on = judged.train if recipe.judged_share else []
    derived = Source(samples, recipe.derived)
    if not trained_on and not derived.can_draw:
        raise RunError("run.json: `data`", "judgments or train samples", "no pair")
    if not trained_on:
        run.log("no judged pair to train on: derived pairs only", "warning")
    tests = held_out_tests(judged, held_out, recipe.evaluate_turns)

    # Model: the policy's backbone with two outputs in place of the vocabulary.
    settings = RewardSettings.of(recipe)
    classifier, tokenizer = starting_classifier(run, recipe, place, outputs=2)
    known = len(tokenizer)
    packer = Packer(tokenizer, settings)
    fit_vocabulary(classifier, tokenizer, known)
    attend(classifier, place, recipe.max_tokens)
    loss = PairLoss(
        MarkReader(classifier),
        by_unit=recipe.labels == "unit",
        pairwise_weight=recipe.pairwise_weight,
    )
    optimizer, schedule, first = start_learning(
        run, recipe, loss, classifier, tokenizer
    )
    pad = cast(int, tokenizer.pad_token_id)
    steps = Steps(recipe, trained_on, derived, packer, pad, first)
    size = sum(parameter.numel() for parameter in classifier.parameters())
    run.log(
        f"{size:,} parameters; {len(trained_on)} judged pairs "
        f"and {len(samples)} samples to derive pairs from"
    )

    def save(step: int, final: bool = False) -> dict[str, object]:
        """Test, and write a checkpoint with the figures."""
        model = RewardModel(classifier, tokenizer, settings)
        values, chosen = figures(model, tests, recipe.calibrate)
        loss.train()
        run.metrics(step, {f"held_out/{name}": v for name, v in values.items()})
        told = {**values, "parameters": size}
        write = functools.partial(write_model, chosen)
        run.save_checkpoint(
            step, write, kind="reward", recipe=recipe, metrics=told, final=final
        )
        return told

    def write_model(chosen: RewardSettings, folder: Path) -> None:
        save_reward_model(folder, classifier, tokenizer, chosen)
        (folder / "trainer").mkdir()
        save_optimizer(optimizer, folder / "trainer")

    # Loop: the Trainer's, told nothing but the inputs of every step.
    watch = Watch(run, recipe, first, loss, steps, save, place)
    trainer = PartsTrainer(
        parts=Parts(recipe.micro_batch or recipe.pairs_per_step, run.log, "pairs"),
        model=loss,
        args=TrainingArguments(
            output_dir=str(run.outputs),
            max_steps=recipe.steps - first,
            per_device_train_batch_size=1,  # an item of the data set is a step's share
            ddp_find_unused_parameters=False,
            train_sampling_strategy="sequential",
            max_grad_norm=recipe.max_grad_norm,
            bf16=place.half,
            use_cpu=place.device.type == "cpu",
            seed=recipe.seed,
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            report_to=[],
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        ),
        data_collator=lambda items: items[0],
        train_dataset=steps,
        optimizers=(optimizer, schedule),
        callbacks=[watch],
    )
    guard_steps(trainer, first)
    if first < recipe.steps:
        run.rehearse_checkpoint(functools.partial(write_model, settings))
        trainer.train()
    done = watch.step >= recipe.steps
    values = save(watch.step, final=done)
    report(run, judged, steps)
    told = {
        **values,
        "steps": watch.step,
        "seconds": round(time.monotonic() - started, 1),
        "judged": judged.counts,
        "trained_on": dict(steps.used),
        "left_out": dict(steps.left_out),
        "tokens": lengths_summary(steps.lengths),
    }
    return Ending("finished" if done else "stopped", told)


class PartsTrainer(Trainer):
    """Computes a step in parts, in smaller ones when it runs out of memory."""

    def __init__(self, *, parts: Parts, **settings: Any) -> None:
        super().__init__(**settings)
        self.parts = parts

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return this process's loss of the step."""
        loss = self.accelerator.unwrap_model(model)
        steps = self.train_dataset
        assert isinstance(loss, PairLoss)
        assert isinstance(steps, Steps)

        def learn(examples: list[Example]) -> Tensor:
            given = step_inputs(examples, steps.packer, steps.pad)
            given["counts"] = inputs["counts"]
            step = super(PartsTrainer, self).training_step
            return step(model, given, num_items_in_batch)

        def attempt(size: int) -> Tensor:
            loss.parts.clear()
            apart = functools.partial(self.accelerator.no_sync, model)
            return summed(pieces_of(inputs["clusters"], size), learn, apart)

        return self.parts.run(attempt, model.zero_grad)


class Watch(TrainerCallback):
    """After every step: say where the run is, test, save, and hear a wish to stop."""

    def __init__(
        self,
        run: RunDirectory,
        recipe: RewardRecipe,
        first: int,
        loss: PairLoss,
        steps: Steps,
        save: Callable[[int], object],
        place: Place,
    ) -> None:
        self.run, self.recipe, self.first = run, recipe, first
        self.loss, self.steps = loss, steps
        self.save = save
        self.device = place.device
        self.step = first
        self.work = Work.of(loss.reader.classifier, passes=3)
        self.peak = matrix_rate(place) * process_count()
        self.counted = 0  # of the lengths of pairs
        self.since = time.monotonic()

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        # Dropout hangs on the step too, so that a resumed run repeats it.
        step = self.first + state.global_step
        rng = step_random(self.recipe.seed, "torch", step)
        torch.manual_seed(rng.getrandbits(63))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        run, recipe = self.run, self.recipe
        step = self.step = self.first + state.global_step
        last = step >= recipe.steps
        if step % TELL_EVERY == 0 or last:
            told = {
                name: over_all(value.item(), self.device) / process_count()
                for name, value in self.loss.parts.items()
            }
            seconds = time.monotonic() - self.since
            self.since = time.monotonic()
            lengths = self.steps.lengths[self.counted :]  # of all processes
            self.counted += len(lengths)
            flops = self.work.flops
            self.work.add(lengths)
            told["seconds_per_step"] = seconds / TELL_EVERY
            told["tokens_per_second"] = sum(lengths) / seconds
            told["mfu"] = (self.work.flops - flops) / seconds / self.peak
            run.metrics(step, told)
            run.progress(step, recipe.steps)
        if any_process(run.stop_requested, self.device):
            control.should_training_stop = True
        elif not last and step % recipe.evaluate_every == 0:
            self.save(step)


def report(run: RunDirectory, judged: Judged, steps: Steps) -> None:
    """Say in the log what was learned from and what was left out, derived or judged."""
    used = ", ".join(f"{name} {count}" for name, count in sorted(steps.used.items()))
    run.log(f"pairs learned from (with repeats): {used}")
    if judged.ruled_out:
        run.log(
            f"{len(judged.ruled_out)} judged responses are not well formed: "
            "not consistent by rule, not learned from"
        )
    if unreadable := judged.counts.get("label unreadable"):
        run.log(
            f"{unreadable} judged pairs are left out: their label response breaks the "
            "response grammar",
            "warning",
        )
    if steps.left_out:
        run.log(
            f"pairs longer than {steps.recipe.max_tokens} tokens were left out: "
            f"{dict(steps.left_out)}",
            "warning",
        )


if __name__ == "__main__":
    sys.exit(run_program("reward", RewardRecipe, main))
