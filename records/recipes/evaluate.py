"""The settings of a measurement, ``training.engine.evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import about, changed
from records.recipes.groups import Parallel, Sampling


@dataclass(frozen=True)
class EvaluateRecipe(Sampling, Parallel):
    """Measure one or several policies on held-out samples."""

    temperature: float = changed(
        Sampling,
        "temperature",
        0.0,
        help="Sampling temperature; 0 decodes greedily.",
        min=0.0,
    )
    samples: int = field(
        default=0,
        metadata=about("Held-out samples to use; 0 takes all.", min=0, max=10_000_000),
    )
    history: str = field(
        default="labels",
        metadata=about(
            "labels: each turn is answered after the label responses. own: whole tasks "
            "with a simulated user and environment, after the policy's own responses.",
            choices=("labels", "own"),
        ),
    )
