"""The settings that several recipes share, in groups.

A recipe inherits the groups it needs: in JSON and as attributes its settings stay flat
(``recipe.temperature``), and what needs sampling settings alone takes ``settings:
Sampling``, which a recipe with that group is. ``title`` heads the group's part of the
form.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from records.recipes.fields import about

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Compute:
    """What every run has: its seed, and how precisely it computes."""

    title: ClassVar[str] = "Compute"

    seed: int = field(
        default=1,
        metadata=about("Seed of every random number in the run.", min=0, max=2**31 - 1),
    )
    precision: str = field(
        default="fp32",
        metadata=about(
            "Precision of matrix products. Weights stay in fp32.",
            choices=("bf16", "fp32"),
            advanced=True,
        ),
    )


@dataclass(frozen=True)
class Parallel(Compute):
    """Several processes that compute one run together."""

    processes: int = field(
        default=1,
        metadata=about(
            "Number of processes (one per GPU). Results do not depend on it.",
            min=1,
            max=4096,
            advanced=True,
        ),
    )


@dataclass(frozen=True)
class Checkpointing(Compute):
    """Memory for time."""

    gradient_checkpointing: bool = field(
        default=False,
        metadata=about(
            "Compute activations twice instead of keeping them: less memory, one more "
            "forward pass.",
            advanced=True,
        ),
    )


@dataclass(frozen=True)
class Optimizer:
    """AdamW and its warmup-stable-decay schedule."""

    title: ClassVar[str] = "Optimizer"

    steps: int = field(
        default=100,
        metadata=about("Optimizer steps.", min=1, max=10_000_000, unit="steps"),
    )
    learning_rate: float = field(
        default=1e-4,
        metadata=about("Peak learning rate of AdamW.", min=0.0, max=1.0),
    )
    warmup_steps: int = field(
        default=20,
        metadata=about(
            "Steps of linear warm-up.",
            min=0,
            max=1_000_000,
            unit="steps",
            advanced=True,
        ),
    )
    decay_fraction: float = field(
        default=0.5,
        metadata=about(
            "Last part of the steps, in which the learning rate falls linearly to zero.",
            min=0.0,
            max=1.0,
            advanced=True,
        ),
    )
    max_grad_norm: float = field(
        default=1.0,
        metadata=about(
            "Gradients are clipped to this norm; 0 turns clipping off.",
            min=0.0,
            max=1e6,
            advanced=True,
        ),
    )
    micro_batch: int = field(
        default=0,
        metadata=about(
            "Sequences in one forward and backward pass; 0 takes the whole step. A "
            "smaller number saves memory and leaves the gradient as it is.",
            min=0,
            max=65536,
            advanced=True,
        ),
    )


@dataclass(frozen=True)
class Muon(Optimizer):
    """AdamW, with Muon for the hidden matrices (Jordan et al. 2024)."""

    muon_learning_rate: float = field(
        default=0.0,
        metadata=about(
            "Peak learning rate of Muon, which trains the hidden matrices when all "
            "weights are trained; with 0 AdamW trains them too.",
            min=0.0,
            max=1.0,
        ),
    )


@dataclass(frozen=True)
class Lora:
    """Which weights are trained: all, or low-rank adapters (Hu et al. 2021)."""

    title: ClassVar[str] = "Weights"

    method: str = field(
        default="full",
        metadata=about(
            "Train all weights, or LoRA adapters (merged into the saved model).",
            choices=("full", "lora"),
        ),
    )
    lora_rank: int = field(
        default=16,
        metadata=about(
            "Rank of the LoRA adapters; their alpha is twice the rank.",
            min=1,
            max=4096,
            when={"method": ("lora",)},
        ),
    )


@dataclass(frozen=True)
class Scratch:
    """The size of a model that is made from scratch."""

    title: ClassVar[str] = "Model from scratch"

    width: int = field(
        default=128,
        metadata=about("Hidden size of a model from scratch.", min=16, max=8192),
    )
    layers: int = field(
        default=3,
        metadata=about("Layers of a model from scratch.", min=1, max=128),
    )


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled."""

    title: ClassVar[str] = "Sampling"

    temperature: float = field(
        default=1.0,
        metadata=about("Sampling temperature.", min=0.01, max=10.0),
    )
    max_new_tokens: int = field(
        default=256,
        metadata=about(
            "Longest response. A longer one is cut and fails the format check.",
            min=1,
            max=32768,
            unit="tokens",
        ),
    )
    max_prompt_tokens: int = field(
        default=4096,
        metadata=about(
            "Longest prompt. Turns with a longer one are skipped and counted.",
            min=16,
            max=1_000_000,
            unit="tokens",
        ),
    )


@dataclass(frozen=True)
class Validation:
    """When the model is tested on held-out samples."""

    title: ClassVar[str] = "Validation"

    evaluate_every: int = field(
        default=100,
        metadata=about(
            "Steps between held-out tests, each with a checkpoint.",
            min=1,
            max=1_000_000,
            unit="steps",
        ),
    )


@dataclass(frozen=True)
class PolicyValidation(Validation):
    """A fixed held-out set whose turns the policy answers at every test."""

    held_out_samples: int = field(
        default=48,
        metadata=about(
            "Held-out samples answered at every test; 0 takes all.",
            min=0,
            max=100_000,
        ),
    )


GATED = {"consistency_source": ("reward model",)}


@dataclass(frozen=True)
class Gate:
    """What a reward model must reach on held-out pairs before a policy learns from it."""

    title: ClassVar[str] = "Gate"

    gate_balanced_order: float = field(
        default=0.9,
        metadata=about(
            "Least accuracy on balanced quads, of seen and of unseen orders. Below it "
            "the run does not start.",
            min=0.0,
            max=1.0,
            when=GATED,
        ),
    )
    gate_bad_recall: float = field(
        default=0.85,
        metadata=about(
            "Least share of inconsistent held-out answers that the reward model rejects.",
            min=0.0,
            max=1.0,
            when=GATED,
        ),
    )
    gate_override: str = field(
        default="",
        metadata=about(
            "A reason to start although the reward model misses its gate. It is kept "
            "with the run.",
            when=GATED,
        ),
    )


@dataclass(frozen=True)
class Critic:
    """PPO's value function."""

    title: ClassVar[str] = "Critic"

    critic_learning_rate: float = field(
        default=1e-3,
        metadata=about(
            "Learning rate of the critic.",
            min=0.0,
            max=1.0,
            advanced=True,
            when={"algorithm": ("ppo",)},
        ),
    )
    gae_lambda: float = field(
        default=0.95,
        metadata=about(
            "Lambda of generalized advantage estimation: 1 trusts the rewards, 0 the "
            "critic.",
            min=0.0,
            max=1.0,
            advanced=True,
            when={"algorithm": ("ppo",)},
        ),
    )


def title_of(recipe: type[DataclassInstance], name: str) -> str:
    """Return the title of the group that a setting belongs to; empty for its own."""
    for ancestor in reversed(recipe.__mro__[1:]):
        if name in vars(ancestor).get("__annotations__", {}):
            return str(getattr(ancestor, "title", ""))
    (setting,) = [item for item in dataclasses.fields(recipe) if item.name == name]
    return str(setting.metadata.get("section", ""))
