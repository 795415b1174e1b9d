"""Where a program computes, and in which precision."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from transformers import PreTrainedModel, set_seed

from records.recipes.groups import Compute


@dataclass(frozen=True)
class Place:
    """Where a program computes, and in which precision it multiplies."""

    device: torch.device
    half: bool

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context for forward passes: bf16 products when asked for."""
        if not self.half:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def prepare(settings: Compute, device: str = "") -> Place:
    """Seed all generators and pick the device: a GPU where one is visible.

    ``device`` "cpu" leaves it alone. Threads are torch's to choose (OMP_NUM_THREADS).
    """
    set_seed(settings.seed)
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(name)
    if name == "cuda":  # each process of several has a GPU of its own
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    return Place(chosen, settings.precision == "bf16")


def on_device(model: PreTrainedModel, place: Place) -> PreTrainedModel:
    """Return the model after moving its weights to the place's device."""
    torch.nn.Module.to(model, place.device)
    return model


def accelerator_for(
    place: Place,
    *,
    sharded: bool = False,
    per_rank: int = 1,
    max_grad_norm: float = 0.0,
) -> Accelerator:
    """Return what joins the processes of a run. Collective: every rank must call it.

    A run computes in bf16 within ``place.autocast()``. Only where weights are ``sharded``
    accelerate is told, for it then gathers them in bf16: its state is one a process, and
    cannot change between two runs in one. DeepSpeed wants to know the rows that a process
    has in a step, and clips by itself.
    """
    accelerator = Accelerator(
        cpu=place.device.type == "cpu",
        mixed_precision="bf16" if sharded and place.half else "no",
    )
    if accelerator.state.deepspeed_plugin is not None:
        accelerator.state.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=per_rank, gradient_clipping=max_grad_norm
        )
    return accelerator
