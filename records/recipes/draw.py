"""The settings of drawing answers for people to judge, ``training.engine.draw``."""

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
class DrawRecipe:
    """Draw sampled responses for people to judge."""

    seed: int = field(default=1, metadata=SEED)
    turns: int = field(
        default=64,
        metadata=about("Turns to answer; 0 takes all.", min=0, max=10_000_000),
    )
    responses_per_turn: int = field(
        default=4,
        metadata=about(
            "G: sampled responses of each policy for one turn.", min=1, max=1024
        ),
    )
    choice: str = field(
        default="random",
        metadata=about(
            "hard first: turns whose label surprises the current policy most.",
            choices=("random", "hard first"),
        ),
    )
    initial_too: bool = field(
        default=True,
        metadata=about("Draw from the initial policy as well, when it is given."),
    )
    keep: str = field(
        default="all",
        metadata=about(
            "accepted: send people only well-formed answers that differ from the label "
            "and that the reward model (or the task's rule) accepts, ahead of others: "
            "new wordings to approve.",
            choices=("all", "accepted"),
        ),
    )
    keep_at_most: int = field(
        default=2,
        metadata=about(
            "Most accepted answers of each policy to one turn that go to people; 0 for "
            "no limit.",
            min=0,
            max=1024,
            advanced=True,
            when={"keep": ("accepted",)},
        ),
    )
    temperature: float = field(
        default=1.0, metadata=about("Sampling temperature.", min=0.01, max=10.0)
    )
    top_p: float = field(
        default=1.0, metadata=about("Nucleus of the sampling.", min=0.01, max=1.0)
    )
    max_new_tokens: int = field(default=256, metadata=NEW_TOKENS)
    max_prompt_tokens: int = field(default=4096, metadata=PROMPT_TOKENS)
    batch_tokens: int = field(default=16384, metadata=BATCH_TOKENS)
    backend: str = field(default="own", metadata=BACKEND)
    action_seconds: float = field(
        default=10.0,
        metadata=about(
            "Longest time one action may take.",
            min=0.1,
            max=3600.0,
            unit="s",
            advanced=True,
        ),
    )
    processes: int = field(default=1, metadata=SHARING)
    precision: str = field(default="fp32", metadata=PRECISION)
    device: str = field(default="auto", metadata=DEVICE)
    threads: int = field(default=0, metadata=THREADS)
