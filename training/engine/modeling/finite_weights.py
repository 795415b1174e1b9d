"""Weights and steps that are not finite: models in memory, and trainers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from records.finite import NotFiniteError, at, must_be_finite

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import Trainer


def tensors_must_be_finite(
    tensors: Iterable[tuple[str, Tensor]], place: str = ""
) -> None:
    """Raise ``NotFiniteError`` naming the first tensor with a NaN or an infinity."""
    for name, tensor in tensors:
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if tensor.itemsize == 1:  # 8-bit floats know no minimum
            tensor = tensor.float()
        # One pass and no copy: NaN goes before every other number.
        for value in map(float, tensor.aminmax()):
            if not math.isfinite(value):
                raise NotFiniteError(f"weight `{name}`", value, place)


def weights_must_be_finite(model: nn.Module, place: str) -> None:
    """Raise ``NotFiniteError`` naming the weight of ``model`` that is not finite.

    Weights are what a checkpoint holds: parameters and buffers that are saved.
    """
    tensors_must_be_finite(model.state_dict().items(), place)


def guard_steps(trainer: Trainer, first: int) -> None:
    """Let ``trainer`` refuse a loss or gradient norm that is not finite.

    The optimiser has not moved by then, so the weights in hand are still good. ``first``
    is the number of steps done before. The norm is that of all processes: they stop at
    the same step, also when the loss of only one of them is not finite.
    """
    learn, clip = trainer.training_step, trainer.accelerator.clip_grad_norm_

    def step() -> str:
        return f"step {first + trainer.state.global_step + 1}"

    def training_step(*args: Any, **named: Any) -> Tensor:
        with at(step()):
            loss: Tensor = learn(*args, **named)
            must_be_finite(float(loss), "loss")
        return loss

    def clip_grad_norm_(*args: Any, **named: Any) -> Tensor | None:
        norm: Tensor | None = clip(*args, **named)
        if norm is not None:  # DeepSpeed has none before its first step
            must_be_finite(float(norm), "gradient norm", step())
        return norm

    # Set on the instance: what transformers gives callbacks holds neither number.
    trainer.training_step = training_step  # type: ignore[method-assign]
    trainer.accelerator.clip_grad_norm_ = clip_grad_norm_
