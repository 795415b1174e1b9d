"""The settings of supervised fine-tuning, ``training.engine.sft``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import about, changed
from records.recipes.groups import (
    Checkpointing,
    Compute,
    Lora,
    Muon,
    Parallel,
    Scratch,
    Validation,
)


@dataclass(frozen=True)
class SftRecipe(Scratch, Validation, Lora, Muon, Checkpointing, Parallel):
    """Supervised fine-tuning on label responses. Defaults: the demo from scratch."""

    base: str = field(
        default="",
        metadata=about(
            "Model to start from when no checkpoint is given: its name in the models "
            "folder. Empty makes a small model from scratch.",
        ),
    )
    conversations_per_step: int = field(
        default=8,
        metadata=about("Conversations in one optimizer step.", min=1, max=65536),
    )
    max_tokens: int = field(
        default=2048,
        metadata=about(
            "Longest sequence. Longer conversations are cut between turns; a turn that "
            "does not fit is left out and counted.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    references: bool = field(
        default=True,
        metadata=about(
            "Train on the reference responses too: each pass picks one wording of a "
            "turn."
        ),
    )
    judged_answers: bool = field(
        default=False,
        metadata=about(
            "Train on sampled answers that people judged consistent too (rejection "
            "sampling)."
        ),
    )
    packing: bool = field(
        default=False,
        metadata=about(
            "Put the conversations of a batch end to end, without padding. Faster with "
            "flash attention on a GPU, slower on a CPU.",
            advanced=True,
            section=Compute.title,
        ),
    )
    strategy: str = field(
        default="ddp",
        metadata=about(
            "ddp: each process holds the whole model. fsdp2, deepspeed-zero3: the "
            "processes share weights, gradients and moments (AdamW only; such a run "
            "cannot be resumed).",
            choices=("ddp", "fsdp2", "deepspeed-zero3"),
            advanced=True,
            section=Compute.title,
        ),
    )
    steps: int = changed(Muon, "steps", 600)
    learning_rate: float = changed(Muon, "learning_rate", 3e-3)
    muon_learning_rate: float = changed(
        Muon, "muon_learning_rate", 1e-2, when={"method": ["full"]}
    )
    evaluate_every: int = changed(Validation, "evaluate_every", 200)
    evaluate_turns: int = field(
        default=64,
        metadata=about(
            "Held-out turns answered at the end; 0 answers none.",
            min=0,
            max=100_000,
            unit="turns",
            section=Validation.title,
        ),
    )
    precision: str = changed(Compute, "precision", "bf16")
