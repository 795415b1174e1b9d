"""The settings of drawing answers for people to judge, ``training.engine.draw``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import about
from records.recipes.groups import Parallel, Sampling


@dataclass(frozen=True)
class DrawRecipe(Sampling, Parallel):
    """Draw sampled responses for people to judge."""

    turns: int = field(
        default=64,
        metadata=about("Turns to answer; 0 takes all.", min=0, max=10_000_000),
    )
    responses_per_turn: int = field(
        default=4,
        metadata=about(
            "Responses that each policy samples for a turn.", min=1, max=1024
        ),
    )
    choice: str = field(
        default="random",
        metadata=about(
            "hard first: the turns whose label surprises the current policy most.",
            choices=("random", "hard first"),
        ),
    )
    keep: str = field(
        default="all",
        metadata=about(
            "accepted: people see only well-formed answers that differ from the label "
            "and that the reward model (or the task's rule) accepts, at most two of each "
            "policy to a turn, ahead of other pairs.",
            choices=("all", "accepted"),
        ),
    )
