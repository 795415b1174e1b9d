"""The loss of fine-tuning: −log π(token | everything before it), summed over learned tokens.

Most tokens of a conversation are read and not learned (prompts, observations, padding),
and the head, hidden state times vocabulary, is much of a small model's step. So only the
positions whose next token is learned go through it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from training.engine.modeling.place import Place

IGNORED = -100  # a label that is not learned


def learned_count(labels: Tensor) -> int:
    """Return how many tokens of a batch are learned; ``labels`` is (B, T)."""
    return int((labels[:, 1:] != IGNORED).sum())


def prepare_head(model: PreTrainedModel, *, fused: bool) -> nn.Module | None:
    """Return the vocabulary's head; or give the model TRL's fused one and return None.

    The fused head computes log-probabilities tile by tile and never holds all logits. It
    is made for GPUs: on CPUs it scores every position, learned or not.
    """
    if fused:
        # Not at the top: CPUs never use it, and it takes a second to import.
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, outputs=("log_probs", "is_top1"))
        return None
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(head, nn.Module)
    return head


def token_loss(
    model: nn.Module, head: nn.Module | None, batch: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the summed loss over the learned tokens, and how many were the likeliest.

    ``model`` may be wrapped, by adapters or for several processes; ``head`` is what
    ``prepare_head`` returned. ``batch`` has ``input_ids`` and ``labels`` of (B, T), a
    label −100 where the token is not learned, and what else the model takes.
    """
    if head is None:
        fused = model(**batch, fused_lm_head=True)
        return -fused.log_probs.sum(), fused.is_top1.sum()
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    labels = batch["labels"][:, 1:]  # logits at t predict the token at t + 1
    learned = labels != IGNORED
    with head_of_learned(head, learned):
        logits = model(**inputs, use_cache=False).logits
    targets = labels[learned]
    right = (logits.argmax(-1) == targets).sum()
    return functional.cross_entropy(logits, targets, reduction="sum"), right


@contextlib.contextmanager
def head_of_learned(head: nn.Module, learned: Tensor) -> Iterator[None]:
    """Let ``head`` return the logits of the learned tokens only, as (learned, vocabulary).

    ``learned`` is a mask of (B, T − 1). Products and sums keep the precision of the
    head's weights. The model is still called as a whole: whatever it does to its logits
    is done, and hooks that exchange gradients between processes run.
    """
    plain = head.forward

    def forward(hidden: Tensor) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            return plain(hidden[:, :-1][learned].to(head.weight.dtype))  # type: ignore[arg-type]

    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # the class's own again


@torch.no_grad()
def mean_token_loss(
    model: PreTrainedModel | PeftModel,
    batches: Sequence[Mapping[str, Tensor]],
    place: Place,
) -> float:
    """Return the mean loss over the learned tokens of ``batches``, without dropout.

    Collective where the weights are sharded: every rank must then call it.
    """
    model.train(False)
    total, count = 0.0, 0
    for batch in batches:
        inputs = {name: tensor.to(place.device) for name, tensor in batch.items()}
        labels = inputs.pop("labels")
        with place.autocast():
            logits = model(**inputs).logits[:, :-1]
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
        )
        total += float(loss)
        count += learned_count(labels)
    model.train(True)
    return total / max(1, count)
