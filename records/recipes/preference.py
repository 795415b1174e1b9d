"""The settings of DPO and KTO, ``training.engine.preference``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import about, changed
from records.recipes.groups import (
    Compute,
    Lora,
    Optimizer,
    PolicyValidation,
    Sampling,
)


@dataclass(frozen=True)
class PreferenceRecipe(PolicyValidation, Lora, Optimizer, Compute):
    """Learn straight from judgments, without a reward model (DPO or KTO)."""

    objective: str = field(
        default="dpo",
        metadata=about(
            "dpo: a consistent answer against an inconsistent one to the same turn. "
            "kto: every judged answer by itself.",
            choices=("dpo", "kto"),
        ),
    )
    examples_per_step: int = field(
        default=16,
        metadata=about(
            "Pairs (dpo) or judged answers, half of each verdict (kto), in one step.",
            min=1,
            max=65536,
        ),
    )
    beta: float = field(
        default=0.1,
        metadata=about(
            "How strongly the policy is held to the one it starts from.",
            min=0.0001,
            max=100.0,
        ),
    )
    max_tokens: int = field(
        default=4096,
        metadata=about(
            "Longest prompt with its answer. Longer ones are left out and counted.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    max_new_tokens: int = changed(
        Sampling, "max_new_tokens", 256, section=Sampling.title
    )
    warmup_steps: int = changed(Optimizer, "warmup_steps", 5)
    evaluate_every: int = changed(PolicyValidation, "evaluate_every", 25)
