"""Where a program computes, and in which precision."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel, set_seed


class PlaceSettings(Protocol):
    """The settings every recipe has about where and how to compute."""

    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...


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


def prepare(settings: PlaceSettings) -> Place:
    """Seed all generators, set the threads and pick the device."""
    set_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("recipe: `device` is cuda, and torch finds no CUDA device")
    device = torch.device(name)
    if name == "cuda":  # each process of several has a GPU of its own
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return Place(device, settings.precision == "bf16")


def on_device(model: PreTrainedModel, place: Place) -> PreTrainedModel:
    """Return the model after moving its weights to the place's device."""
    torch.nn.Module.to(model, place.device)
    return model
