"""The settings of a reward model, ``training.engine.reward`` and ``ranking``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import (
    ADAMW_8BIT,
    ATTENTION,
    DECAY_SHARE,
    DEVICE,
    HEADS,
    LAYERS,
    NEW_TOKEN_RATE,
    PRECISION,
    PROCESSES,
    SEED,
    STEPS,
    THREADS,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    WIDTH,
    about,
)

PAIRS = {"judges": ("consistency",)}  # what only learns from pairs with a label
SCRATCH = {"backbone": ("scratch",)}


@dataclass(frozen=True)
class RewardRecipe:
    """Train the consistency reward model on judgments and derived pairs.

    Derived pairs are made from the samples, fresh at every step. Defaults: the demo.
    """

    seed: int = field(default=1, metadata=SEED)
    judges: str = field(
        default="consistency",
        metadata=about(
            "consistency: whether an answer says the same as its label; preference: one "
            "score of an answer by itself, for other tasks, from judged answers to one "
            "turn (Bradley–Terry). A preference model uses none of the settings of "
            "layout, labels, derived pairs and threshold.",
            choices=("consistency", "preference"),
        ),
    )
    steps: int = field(default=300, metadata=STEPS)
    pairs_per_step: int = field(
        default=32,
        metadata=about("Pairs in one optimiser step.", min=1, max=65536, unit="pairs"),
    )
    layout: str = field(
        default="interleaved",
        metadata=about(
            "How label and sampled response are packed into one prompt: whole after "
            "whole (the paper's) or unit by unit.",
            choices=("sequential", "interleaved"),
            when=PAIRS,
        ),
    )
    labels: str = field(
        default="unit",
        metadata=about(
            "One label for the pair (the paper's) or one per unit, with the minimum "
            "as the score.",
            choices=("final", "unit"),
            when=PAIRS,
        ),
    )
    differences: bool = field(
        default=True,
        metadata=about(
            "Unit by unit: write equal texts as equal, and after two others the words "
            "that only one of them has. Small models need it to compare values.",
            when={**PAIRS, "layout": ("interleaved",)},
        ),
    )
    history_tokens: int = field(
        default=0,
        metadata=about(
            "How much of the conversation before stands ahead of the pair, its end; 0 "
            "compares the two responses alone.",
            min=0,
            max=1_000_000,
            unit="tokens",
            advanced=True,
            when=PAIRS,
        ),
    )
    backbone: str = field(
        default="checkpoint",
        metadata=about(
            "Start from the weights of the given policy, or from scratch with its "
            "tokenizer.",
            choices=("checkpoint", "scratch"),
        ),
    )
    judged_share: float = field(
        default=0.4,
        metadata=about(
            "Share of judged pairs in a step; the rest is derived.",
            min=0.0,
            max=1.0,
            when=PAIRS,
        ),
    )
    judgments: bool = field(
        default=True,
        metadata=about(
            "Train on the judgments of people.",
            when=PAIRS,
        ),
    )
    references: bool = field(
        default=True,
        metadata=about(
            "Derive consistent pairs from other wordings of the label.",
            when=PAIRS,
        ),
    )
    quads: bool = field(
        default=True,
        metadata=about(
            "Derive balanced quads: two steps in another order and all that follows "
            "changed to fit, so that only comparing the sides tells the verdict.",
            when=PAIRS,
        ),
    )
    changes: bool = field(
        default=True,
        metadata=about(
            "Derive inconsistent pairs: one value, action name, question or step "
            "changed.",
            when=PAIRS,
        ),
    )
    several_changes: bool = field(
        default=True,
        metadata=about(
            "Change two or three places at once in half of these.",
            when={**PAIRS, "changes": (True,)},
        ),
    )
    optimizer: str = field(
        default="muon",
        metadata=about(
            "muon: Muon for hidden matrices, AdamW for the rest; adamw: AdamW for all.",
            choices=("muon", "adamw"),
        ),
    )
    adamw_8bit: bool = field(default=False, metadata=ADAMW_8BIT)
    muon_learning_rate: float = field(
        default=5e-3,
        metadata=about(
            "Peak rate of the Muon part.",
            min=0.0,
            max=1.0,
            when={"optimizer": ("muon",)},
        ),
    )
    learning_rate: float = field(
        default=2e-3, metadata=about("Peak rate of the AdamW part.", min=0.0, max=1.0)
    )
    weight_decay: float = field(default=0.01, metadata=WEIGHT_DECAY)
    new_token_rate: float = field(default=10.0, metadata=NEW_TOKEN_RATE)
    warmup_steps: int = field(default=20, metadata=WARMUP_STEPS)
    decay_share: float = field(default=0.5, metadata=DECAY_SHARE)
    clip_norm: float = field(
        default=1.0,
        metadata=about(
            "Gradient norm limit; 0 turns it off.", min=0.0, max=1e6, advanced=True
        ),
    )
    pair_weight: float = field(
        default=0.5,
        metadata=about(
            "Weight of the loss on the pair's minimum beside the loss on its units.",
            min=0.0,
            max=100.0,
            advanced=True,
            when={**PAIRS, "labels": ("unit",)},
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
    micro_batch: int = field(
        default=0,
        metadata=about(
            "Pairs computed at once; 0 takes the whole step. Smaller saves memory and "
            "leaves the gradient as it is.",
            min=0,
            max=65536,
            advanced=True,
        ),
    )
    max_tokens: int = field(
        default=1024,
        metadata=about(
            "A longer pair is left out of training, counted and reported.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    width: int = field(default=128, metadata={**WIDTH, "when": SCRATCH})
    layers: int = field(default=3, metadata={**LAYERS, "when": SCRATCH})
    heads: int = field(default=4, metadata={**HEADS, "when": SCRATCH})
    threshold: float = field(
        default=0.0,
        metadata=about(
            "Probability from which a pair counts as consistent; 0 picks it on one half "
            "of the held-out judged pairs, and the figures come from the other half.",
            min=0.0,
            max=1.0,
            when=PAIRS,
        ),
    )
    calibrate: bool = field(
        default=False,
        metadata=about(
            "Fit a temperature on one half of the held-out judged pairs, so that a "
            "probability of 0.8 means four in five.",
            when=PAIRS,
        ),
    )
    evaluate_every: int = field(
        default=100,
        metadata=about("Steps between held-out figures.", min=1, max=1_000_000),
    )
    early_stop: int = field(
        default=0,
        metadata=about(
            "Stop after so many held-out tests in a row without a better AUC on judged "
            "pairs, and keep the checkpoint of the best; 0 trains to the end.",
            min=0,
            max=1000,
            advanced=True,
            when=PAIRS,
        ),
    )
    evaluate_turns: int = field(
        default=150,
        metadata=about(
            "Held-out turns from which test quads and test changes are derived.",
            min=0,
            max=100_000,
            unit="turns",
            when=PAIRS,
        ),
    )
    checkpoint_every: int = field(
        default=100,
        metadata=about("Steps between checkpoints.", min=1, max=1_000_000),
    )
    processes: int = field(default=1, metadata=PROCESSES)
    attention: str = field(default="auto", metadata=ATTENTION)
    precision: str = field(default="bf16", metadata=PRECISION)
    device: str = field(default="auto", metadata=DEVICE)
    threads: int = field(default=0, metadata=THREADS)
