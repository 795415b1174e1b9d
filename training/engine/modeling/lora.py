"""Low-rank adapters (LoRA): fresh ones, merged ones, and their weights on disk."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

WEIGHTS = "weights.safetensors"


def adapters(rank: int) -> LoraConfig:
    """Return fresh adapters on all linear layers; they start as no change at all.

    Their alpha is twice the rank: they are scaled by 2, whatever the rank.
    """
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def with_adapters(model: PreTrainedModel, rank: int) -> PeftModel:
    """Return fresh adapters around a model whose own weights stay as they are."""
    learner = get_peft_model(model, adapters(rank))
    assert isinstance(learner, PeftModel)
    return learner


def merged(learner: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return a model without adapters: the learner itself, or a merged copy of it."""
    if not isinstance(learner, PeftModel):
        return learner
    model = copy.deepcopy(learner).merge_and_unload()
    assert isinstance(model, PreTrainedModel)
    return model


def save_adapters(learner: PeftModel, folder: Path) -> None:
    """Write the trained weights."""
    trained = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad
    }
    save_file(trained, str(folder / WEIGHTS))


@torch.no_grad()
def load_adapters(learner: PeftModel, folder: Path) -> None:
    """Put saved weights in place; raise ``KeyError`` if one is missing."""
    tensors = load_file(str(folder / WEIGHTS))
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(tensors[name])
