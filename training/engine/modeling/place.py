"""Where a program computes, and in which precision."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import torch
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
