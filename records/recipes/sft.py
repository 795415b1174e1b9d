"""The settings of supervised fine-tuning, ``training.engine.sft``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import (
    ADAMW_8BIT,
    ATTENTION,
    DECAY_SHARE,
    DEVICE,
    HEADS,
    LAYERS,
    LORA_ALPHA,
    LORA_RANK,
    NEW_TOKEN_RATE,
    NEW_TOKENS,
    PRECISION,
    PROCESSES,
    SEED,
    STEPS,
    STRATEGY,
    THREADS,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    WIDTH,
    about,
)


@dataclass(frozen=True)
class SftRecipe:
    """Supervised fine-tuning on label responses. Defaults: the demo from scratch."""

    seed: int = field(default=1, metadata=SEED)
    base: str = field(
        default="",
        metadata=about(
            "Model to start from when no checkpoint is given: its name in the models "
            "folder; empty starts a small model from scratch. By hand, the path of a "
            "Hugging Face directory.",
        ),
    )
    steps: int = field(default=600, metadata=STEPS)
    conversations_per_step: int = field(
        default=8,
        metadata=about("Conversations in one optimiser step.", min=1, max=65536),
    )
    micro_batch: int = field(
        default=0,
        metadata=about(
            "Conversations computed at once; 0 takes the whole step. Smaller saves "
            "memory and leaves the gradient as it is.",
            min=0,
            max=65536,
            advanced=True,
        ),
    )
    max_tokens: int = field(
        default=2048,
        metadata=about(
            "Longer conversations are cut into windows at turn borders; "
            "what does not fit is left out, counted and reported.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    references: bool = field(
        default=True,
        metadata=about("Train on reference responses in place of the label, by turns."),
    )
    judged_answers: bool = field(
        default=False,
        metadata=about(
            "Train on sampled answers that people judged consistent as well, as further "
            "wordings of the label (rejection sampling)."
        ),
    )
    method: str = field(
        default="full",
        metadata=about(
            "Train all weights, or adapters (merged into the saved model).",
            choices=("full", "lora"),
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
        default=1e-2,
        metadata=about(
            "Peak rate of the Muon part.",
            min=0.0,
            max=1.0,
            when={"optimizer": ("muon",), "method": ("full",)},
        ),
    )
    learning_rate: float = field(
        default=3e-3, metadata=about("Peak rate of the AdamW part.", min=0.0, max=1.0)
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
    lora_rank: int = field(default=16, metadata=LORA_RANK)
    lora_alpha: int = field(default=32, metadata=LORA_ALPHA)
    packing: bool = field(
        default=False,
        metadata=about(
            "Lay the conversations of a batch end to end with block masks, without "
            "padding; pays with flash attention on a GPU, costs on a CPU.",
            advanced=True,
        ),
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata=about("Less memory for one more forward pass.", advanced=True),
    )
    width: int = field(default=128, metadata=WIDTH)
    layers: int = field(default=3, metadata=LAYERS)
    heads: int = field(default=4, metadata=HEADS)
    vocabulary: int = field(
        default=4096,
        metadata=about(
            "Largest vocabulary of a from-scratch tokenizer.",
            min=512,
            max=262144,
            unit="tokens",
            advanced=True,
        ),
    )
    checkpoint_every: int = field(
        default=200,
        metadata=about("Steps between checkpoints.", min=1, max=1_000_000),
    )
    evaluate_every: int = field(
        default=200,
        metadata=about("Steps between held-out losses.", min=1, max=1_000_000),
    )
    evaluate_turns: int = field(
        default=64,
        metadata=about(
            "Held-out turns answered at the end as a first look; 0 for none.",
            min=0,
            max=100_000,
            unit="turns",
        ),
    )
    answer_tokens: int = field(default=256, metadata=NEW_TOKENS)
    attention: str = field(default="auto", metadata=ATTENTION)
    compile: bool = field(
        default=False,
        metadata=about(
            "torch.compile: faster steps after minutes of compiling.", advanced=True
        ),
    )
    liger: bool = field(
        default=False,
        metadata=about(
            "Fused kernels of liger-kernel (when installed; a GPU).", advanced=True
        ),
    )
    processes: int = field(default=1, metadata=PROCESSES)
    strategy: str = field(default="ddp", metadata=STRATEGY)
    precision: str = field(default="bf16", metadata=PRECISION)
    device: str = field(default="auto", metadata=DEVICE)
    threads: int = field(default=0, metadata=THREADS)
