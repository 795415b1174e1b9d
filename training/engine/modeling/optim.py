"""Optimisers, their schedule, and their state as safetensors and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from records.finite import must_be_finite
from records.recipes.groups import Optimizer as Schedule
from training.engine.modeling.new_tokens import NewRows, RowsAdamW

ClipGradients: TypeAlias = Callable[..., torch.Tensor | None]


class Together(Optimizer):
    """Several optimisers, each with its own parameters, that step as one.

    The groups are shared with the parts, so a scheduler over this one reaches them.
    """

    def __init__(self, parts: Iterable[Optimizer]) -> None:
        self.parts = tuple(parts)
        held = [
            p for part in self.parts for g in part.param_groups for p in g["params"]
        ]
        # Once each: new rows belong to a matrix that another part may train as well.
        super().__init__({id(parameter): parameter for parameter in held}.values(), {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [g for part in self.parts for g in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step every part."""
        if closure is not None:
            raise ValueError("a closure cannot be shared between optimisers")
        for part in reversed(self.parts):  # new rows come last, and step first
            part.step()

    def state_dict(self) -> dict[str, object]:
        """Return the states of the parts, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Load what ``state_dict`` returned."""
        states = state_dict["parts"]
        assert isinstance(states, list)
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self._share_groups()


def adamw_rate(optimizer: object, otherwise: float | None) -> float | None:
    """Return the rate of the AdamW part now; ``otherwise`` where there is none."""
    groups: list[dict[str, float]] = getattr(optimizer, "param_groups", [])
    return next((group["lr"] for group in groups if "betas" in group), otherwise)


def muon_and_adamw(
    parameters: Iterable[tuple[str, torch.nn.Parameter]],
    *,
    muon_rate: float,
    adamw_rate: float,
    weight_decay: float,
    muon: bool = True,
    rows: NewRows | None = None,
) -> Together:
    """Return Muon for the hidden matrices and AdamW for embeddings, heads and norms.

    Muon (Jordan et al., 2024) makes each matrix update orthogonal, so it takes one
    large rate for all hidden matrices; rows of embeddings are looked up, not
    multiplied, and keep AdamW. With ``muon=False`` everything gets AdamW.
    ``rows`` of new tokens are a group of their own, at a multiple of ``adamw_rate``.
    """
    apart = {id(weight) for weight in rows.weights} if rows and rows.alone else set()
    matrices: list[torch.nn.Parameter] = []
    embeddings: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for name, parameter in parameters:
        if not parameter.requires_grad or id(parameter) in apart:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif (
            parameter.ndim > 2
            or "embed" in name
            or "lm_head" in name
            or "score" in name
            or not muon
        ):
            embeddings.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": embeddings, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    parts: list[Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, lr=muon_rate, weight_decay=weight_decay))
    if embeddings or vectors:
        kept = [group for group in groups if group["params"]]
        parts.append(AdamW(kept, lr=adamw_rate, betas=(0.9, 0.95), eps=1e-8))
    if rows is not None:
        parts.append(RowsAdamW(rows, adamw_rate * rows.rate))
    return Together(parts)


def warmup_stable_decay(
    optimizer: Optimizer, *, first: int, steps: int, warmup: int, decay_fraction: float
) -> LambdaLR:
    """Return a schedule: linear warm-up, flat, linear fall to zero at ``steps``.

    Warmup-stable-decay (Hu et al. 2024, MiniCPM, section 4), the fall over the last
    ``decay_fraction`` of the steps. It depends on the step alone; ``first`` is the number
    of steps already done.
    """
    decay = max(1, round(steps * decay_fraction))

    def scale(step: int) -> float:
        done = first + step
        rising = (done + 1) / warmup if warmup else 1.0
        falling = (steps - done) / decay
        return max(0.0, min(1.0, rising, falling))

    return LambdaLR(optimizer, scale)


def schedule_for(optimizer: Optimizer, settings: Schedule, first: int) -> LambdaLR:
    """Return ``warmup_stable_decay`` as a recipe sets it, after ``first`` steps."""
    return warmup_stable_decay(
        optimizer,
        first=first,
        steps=settings.steps,
        warmup=settings.warmup_steps,
        decay_fraction=settings.decay_fraction,
    )


def update(
    optimizer: Optimizer,
    schedule: LRScheduler | None,
    parameters: Iterable[torch.Tensor],
    *,
    loss: float,
    max_grad_norm: float,
    step: int,
    clip: ClipGradients = torch.nn.utils.clip_grad_norm_,
) -> dict[str, float]:
    """Take one optimizer step on the gradients in hand; return its figures.

    Every program's weights move here and nowhere else, so here a run stops whose loss or
    gradient norm is not finite: the weights have not moved yet and are still good.
    ``loss`` and the norm are those of all processes, so all stop together. ``step`` counts
    from 1 and is named in the error. A ``max_grad_norm`` of 0 does not clip. ``clip`` is
    ``accelerator.clip_grad_norm_`` where several processes hold the gradients; DeepSpeed
    has no norm before its first step. Raises ``NotFiniteError``.
    """
    place = f"step {step}"
    must_be_finite(loss, "loss", place)
    norm = clip(parameters, max_grad_norm or float("inf"))
    figures = {"loss": loss}
    if norm is not None:
        figures["gradient_norm"] = must_be_finite(float(norm), "gradient norm", place)
    rate = adamw_rate(optimizer, optimizer.param_groups[0]["lr"])
    assert rate is not None
    figures["learning_rate"] = rate
    optimizer.step()
    if schedule is not None:
        schedule.step()
    optimizer.zero_grad()
    return figures


def save_optimizer(optimizer: Together, folder: Path) -> None:
    """Write moments to ``optimizer.safetensors`` and counters to ``optimizer.json``.

    Learning rates are not kept: the schedule sets them from the step.
    """
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, float] = {}
    for part_number, part in enumerate(optimizer.parts):
        for index, state in part.state_dict()["state"].items():
            for name, value in state.items():
                key = f"{part_number}.{index}.{name}"
                if isinstance(value, torch.Tensor):
                    # Copied: what several parameters share cannot be written.
                    tensors[key] = value.detach().cpu().clone().contiguous()
                else:
                    numbers[key] = value
    save_file(tensors, str(folder / "optimizer.safetensors"))
    (folder / "optimizer.json").write_text(json.dumps(numbers, indent=1) + "\n")


def load_optimizer(optimizer: Together, folder: Path) -> None:
    """Load what ``save_optimizer`` wrote into an optimiser built the same way."""
    values: dict[str, object] = dict(load_file(str(folder / "optimizer.safetensors")))
    values.update(json.loads((folder / "optimizer.json").read_text()))
    parts: list[dict[str, object]] = []
    for part_number, part in enumerate(optimizer.parts):
        state: dict[int, dict[str, object]] = {}
        for key, value in values.items():
            owner, index, name = key.split(".", 2)
            if int(owner) == part_number:
                state.setdefault(int(index), {})[name] = value
        groups = part.state_dict()["param_groups"]
        parts.append({"state": state, "param_groups": groups})
    # Through the whole, which shares the parts' groups anew: a part that loads makes new
    # ones, and a schedule would go on turning the old.
    optimizer.load_state_dict({"parts": parts})
