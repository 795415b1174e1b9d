"""What a run needs to go on exactly: the ``trainer/`` folder of its checkpoints.

    optimizer.safetensors   moments of the optimizer, by part, parameter and name
    optimizer.json          its counters
    weights.safetensors     under LoRA: adapters and other trained weights, not merged
    state.json              the step, and what else a program keeps of its progress

Neither rates nor a generator's state are kept. Both follow from the seed and the step:
``warmup_stable_decay`` and ``seed_step``. A run whose weights are cut in parts writes
no such folder and cannot be resumed.

It stands in ``modeling`` because it needs torch and adapters; ``run``, below, has neither.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn

from actions.tags import JSON
from training.engine.modeling.lora import load_adapters, save_adapters
from training.engine.modeling.optim import Together, load_optimizer, save_optimizer
from training.engine.run.directory import RunDirectory, RunError, step_random

FOLDER = "trainer"
STATE = "state.json"


def save_trainer_state(
    checkpoint: Path,
    learner: nn.Module,
    optimizer: Together,
    step: int,
    **progress: object,
) -> None:
    """Write the ``trainer/`` folder of a checkpoint.

    ``learner`` is what learns: under LoRA the model with its adapters. ``progress`` is
    JSON that ``resumed_progress`` gives back.
    """
    folder = checkpoint / FOLDER
    folder.mkdir()
    save_optimizer(optimizer, folder)
    state = json.dumps({"step": step, **progress}, allow_nan=False)
    (folder / STATE).write_text(state + "\n")
    if isinstance(learner, PeftModel):
        save_adapters(learner, folder)


def resumed_progress(run: RunDirectory) -> tuple[int, dict[str, JSON]]:
    """Return the steps done and what else was kept of progress: 0 and {} in a new run.

    The step is the checkpoint's own: not every program of older versions wrote it twice.
    """
    manifest = run.manifest("resume")
    if run.resume is None or manifest is None:
        return 0, {}
    path = run.resume / FOLDER / STATE
    if not path.exists():
        return manifest.step, {}
    state = json.loads(path.read_text())
    if not isinstance(state, dict) or state.pop("step", None) != manifest.step:
        expected = f"the progress of step {manifest.step}"
        raise RunError(f"resume: {FOLDER}/{STATE}", expected, "another")
    return manifest.step, state


def resume_trainer(
    run: RunDirectory, learner: nn.Module, optimizer: Together | None
) -> None:
    """Put adapters and moments of the checkpoint that is resumed in place.

    Does nothing in a new run. The weights that the optimizer moves have to require
    gradients by now, rows of new tokens included: they are among what LoRA saved. Raises
    ``RunError`` where the checkpoint has none of it.
    """
    if run.resume is None:
        return
    folder = run.resume / FOLDER
    if not (folder / "optimizer.safetensors").exists():
        expected = "the state of a trainer"
        raise RunError("run.json: `resume`", expected, "a checkpoint without one")
    if isinstance(learner, PeftModel):
        load_adapters(learner, folder)
    if optimizer is not None:
        load_optimizer(optimizer, folder)


def seed_step(seed: int, step: int, *place: int) -> None:
    """Seed torch's generators for a step, so that dropout of a resumed run repeats.

    ``place`` is the rank where the processes of a run shall draw different numbers.
    """
    torch.manual_seed(step_random(seed, "torch", step, *place).getrandbits(63))
