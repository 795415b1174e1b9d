"""The settings of a reward model, ``training.engine.reward`` and ``preference_model``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import about, changed
from records.recipes.groups import Compute, Muon, Parallel, Scratch, Validation

PAIRS = {"judges": ("consistency",)}  # what only learns from pairs with a label
FROM_SCRATCH = {"when": {"backbone": ["scratch"]}}
DERIVED = ("references", "quads", "changes")


@dataclass(frozen=True)
class RewardRecipe(Scratch, Validation, Muon, Parallel):
    """Train the consistency reward model on judgments and derived pairs.

    Derived pairs are made from the samples, fresh at every step. Defaults: the demo.
    """

    judges: str = field(
        default="consistency",
        metadata=about(
            "consistency: whether an answer says the same as its label. preference: one "
            "score of an answer by itself, for other tasks, from judged answers to one "
            "turn (Bradley–Terry).",
            choices=("consistency", "preference"),
        ),
    )
    pairs_per_step: int = field(
        default=32,
        metadata=about("Pairs in one optimizer step.", min=1, max=65536, unit="pairs"),
    )
    layout: str = field(
        default="interleaved",
        metadata=about(
            "How label and sampled response are packed into one prompt: one after the "
            "other (the paper's), or unit by unit.",
            choices=("sequential", "interleaved"),
            when=PAIRS,
        ),
    )
    labels: str = field(
        default="unit",
        metadata=about(
            "One verdict for the pair (the paper's), or one for each unit with the "
            "minimum as the score.",
            choices=("final", "unit"),
            when=PAIRS,
        ),
    )
    history_tokens: int = field(
        default=0,
        metadata=about(
            "Tokens of the conversation that stand ahead of the pair; 0 compares the two "
            "responses alone.",
            min=0,
            max=1_000_000,
            unit="tokens",
            advanced=True,
            when=PAIRS,
        ),
    )
    judged_share: float = field(
        default=0.4,
        metadata=about(
            "Share of judged pairs in a step; the others are derived. 0 learns from no "
            "judgment.",
            min=0.0,
            max=1.0,
            when=PAIRS,
        ),
    )
    derived: tuple[str, ...] = field(
        default=DERIVED,
        metadata=about(
            "Pairs derived from the samples. references: other wordings of the label, "
            "consistent. quads: two steps in another order, balanced so that only "
            "comparing the sides tells the verdict. changes: one to three values, action "
            "names, questions or steps changed, inconsistent.",
            choices=DERIVED,
            when=PAIRS,
        ),
    )
    pairwise_weight: float = field(
        default=0.0,
        metadata=about(
            "Weight of the Bradley–Terry loss: a consistent answer above an inconsistent "
            "one to the same label.",
            min=0.0,
            max=100.0,
            advanced=True,
            when=PAIRS,
        ),
    )
    max_tokens: int = field(
        default=1024,
        metadata=about(
            "Longest pair. Longer ones are left out of training and counted.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    backbone: str = field(
        default="checkpoint",
        metadata=about(
            "Start from the policy's weights, or from scratch with its tokenizer.",
            choices=("checkpoint", "scratch"),
        ),
    )
    width: int = changed(Scratch, "width", 128, **FROM_SCRATCH)
    layers: int = changed(Scratch, "layers", 3, **FROM_SCRATCH)
    steps: int = changed(Muon, "steps", 300)
    learning_rate: float = changed(Muon, "learning_rate", 2e-3)
    muon_learning_rate: float = changed(Muon, "muon_learning_rate", 5e-3)
    evaluate_turns: int = field(
        default=150,
        metadata=about(
            "Held-out turns from which test quads and test changes are derived.",
            min=0,
            max=100_000,
            unit="turns",
            when=PAIRS,
            section=Validation.title,
        ),
    )
    calibrate: bool = field(
        default=False,
        metadata=about(
            "Fit a temperature on one half of the held-out judged pairs, so that a "
            "probability of 0.8 means four in five.",
            when=PAIRS,
            section=Validation.title,
        ),
    )
    precision: str = changed(Compute, "precision", "bf16")
