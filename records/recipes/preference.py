"""The settings of DPO and KTO, ``training.engine.preference``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import (
    BATCH_TOKENS,
    DECAY_SHARE,
    DEVICE,
    LORA_ALPHA,
    LORA_RANK,
    NEW_TOKEN_RATE,
    NEW_TOKENS,
    PRECISION,
    SEED,
    STEPS,
    THREADS,
    WARMUP_STEPS,
    about,
)


@dataclass(frozen=True)
class PreferenceRecipe:
    """Learn straight from judgments, without a reward model (DPO or KTO)."""

    seed: int = field(default=1, metadata=SEED)
    objective: str = field(
        default="dpo",
        metadata=about(
            "dpo: a consistent answer against an inconsistent one to the same turn; "
            "kto: every judged answer by itself.",
            choices=("dpo", "kto"),
        ),
    )
    steps: int = field(default=100, metadata=STEPS)
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
    label_as_good: str = field(
        default="when none was consistent",
        metadata=about(
            "When the label response counts as a consistent answer to its turn.",
            choices=("when none was consistent", "always", "never"),
        ),
    )
    ill_formed: bool = field(
        default=True,
        metadata=about("Learn from answers that broke the grammar, as inconsistent."),
    )
    nll_weight: float = field(
        default=0.0,
        metadata=about(
            "Weight of the likelihood of the good answer beside dpo, which by itself "
            "may lower both.",
            min=0.0,
            max=100.0,
            advanced=True,
            when={"objective": ("dpo",)},
        ),
    )
    good_weight: float = field(
        default=1.0,
        metadata=about(
            "Weight of consistent answers.",
            min=0.0,
            max=100.0,
            advanced=True,
            when={"objective": ("kto",)},
        ),
    )
    bad_weight: float = field(
        default=1.0,
        metadata=about(
            "Weight of inconsistent answers.",
            min=0.0,
            max=100.0,
            advanced=True,
            when={"objective": ("kto",)},
        ),
    )
    method: str = field(
        default="full",
        metadata=about(
            "Train all weights, or a fresh adapter (merged into the saved model).",
            choices=("full", "lora"),
        ),
    )
    learning_rate: float = field(
        default=1e-4, metadata=about("Peak rate of AdamW.", min=0.0, max=1.0)
    )
    new_token_rate: float = field(default=10.0, metadata=NEW_TOKEN_RATE)
    warmup_steps: int = field(default=5, metadata=WARMUP_STEPS)
    decay_share: float = field(default=0.5, metadata=DECAY_SHARE)
    clip_norm: float = field(
        default=1.0,
        metadata=about("Gradient norm limit.", min=0.0, max=1e6, advanced=True),
    )
    lora_rank: int = field(default=16, metadata=LORA_RANK)
    lora_alpha: int = field(default=32, metadata=LORA_ALPHA)
    micro_batch: int = field(
        default=0,
        metadata=about(
            "Pairs or answers computed at once; 0 takes the whole step. Smaller saves "
            "memory and leaves the gradient as it is.",
            min=0,
            max=65536,
            advanced=True,
        ),
    )
    max_tokens: int = field(
        default=4096,
        metadata=about(
            "A longer prompt with its answer is left out, counted and reported.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    evaluate_every: int = field(
        default=25,
        metadata=about(
            "Steps between looks at the held-out set, each with a checkpoint.",
            min=1,
            max=1_000_000,
            unit="steps",
        ),
    )
    held_out_samples: int = field(
        default=48,
        metadata=about(
            "Held-out samples whose turns are answered at every look; 0 takes all.",
            min=0,
            max=100_000,
        ),
    )
    max_new_tokens: int = field(default=256, metadata=NEW_TOKENS)
    batch_tokens: int = field(default=16384, metadata=BATCH_TOKENS)
    precision: str = field(default="fp32", metadata=PRECISION)
    device: str = field(default="auto", metadata=DEVICE)
    threads: int = field(default=0, metadata=THREADS)
