"""Weights that are not finite, in models in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from records.finite import NotFiniteError

if TYPE_CHECKING:
    from torch import Tensor, nn


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
