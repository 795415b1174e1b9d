"""The settings of a measurement, ``training.engine.evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import (
    BACKEND,
    BATCH_TOKENS,
    DEVICE,
    NEW_TOKENS,
    PRECISION,
    PROMPT_TOKENS,
    SEED,
    SHARING,
    THREADS,
    about,
)


@dataclass(frozen=True)
class EvaluateRecipe:
    """Measure one or several policies on held-out samples."""

    seed: int = field(default=1, metadata=SEED)
    samples: int = field(
        default=0,
        metadata=about("Held-out samples to use; 0 takes all.", min=0, max=10_000_000),
    )
    history: str = field(
        default="labels",
        metadata=about(
            "labels: each turn is answered after the label responses; own: whole tasks "
            "with a simulated user and environment, after the policy's own responses.",
            choices=("labels", "own"),
        ),
    )
    temperature: float = field(
        default=0.0,
        metadata=about("Sampling temperature; 0 decodes greedily.", min=0.0, max=10.0),
    )
    top_p: float = field(
        default=1.0,
        metadata=about("Nucleus of the sampling.", min=0.01, max=1.0, advanced=True),
    )
    max_new_tokens: int = field(default=256, metadata=NEW_TOKENS)
    max_prompt_tokens: int = field(default=4096, metadata=PROMPT_TOKENS)
    batch_tokens: int = field(default=16384, metadata=BATCH_TOKENS)
    backend: str = field(default="own", metadata=BACKEND)
    resamples: int = field(
        default=1000,
        metadata=about(
            "Bootstrap resamples (by sample) behind each interval.",
            min=100,
            max=100_000,
            advanced=True,
        ),
    )
    confidence: float = field(
        default=0.95,
        metadata=about("Coverage of the interval.", min=0.5, max=0.999, advanced=True),
    )
    processes: int = field(default=1, metadata=SHARING)
    precision: str = field(default="fp32", metadata=PRECISION)
    device: str = field(default="auto", metadata=DEVICE)
    threads: int = field(default=0, metadata=THREADS)
