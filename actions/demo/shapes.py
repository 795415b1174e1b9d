"""The shape of a demo sample, and how hard it may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from actions.tags import JSON


@dataclass(frozen=True)
class Difficulty:
    """How hard the demo is for a model.

    ``values``: number of values in a command, 2 or 3. ``names``, ``numbers``: how many
    words and numbers a slot can hold. ``steps``: maximum of middle steps in a plan, 3
    or 4. ``wordings``: how many wordings users and observations use. ``references``:
    reference responses per turn. ``local``: share of normal tasks whose guideline must
    be fetched.
    """

    values: int = 2
    names: int = 16
    numbers: int = 50
    steps: int = 3
    wordings: int = 3
    references: int = 1
    local: float = 0.15

    def __post_init__(self) -> None:
        for name, low, high in (
            ("values", 2, 3),
            ("names", 4, 100),
            ("numbers", 10, 90),
            ("steps", 3, 4),
            ("wordings", 1, 10),
            ("references", 0, 10),
            ("local", 0, 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: expected {low} to {high}, found {value}")


DIFFICULTIES: dict[str, Difficulty] = {
    "easy": Difficulty(names=8, numbers=20, wordings=2, local=0.1),
    "normal": Difficulty(),
    "hard": Difficulty(values=3, names=100, numbers=90, steps=4, wordings=10),
}


class Input(TypedDict):
    kind: Literal["user", "observation"]
    text: str


class Turn(TypedDict):
    input: Input
    response: str
    references: list[str]
    facts: dict[str, JSON]


class Context(TypedDict):
    scope: Literal["global", "local"]
    title: str
    background: str
    guideline: str
    actions: list[JSON]


class Sample(TypedDict):
    """One line of Concord JSONL."""

    id: str
    scenario: str
    situation: str
    status: str
    split: NotRequired[str]
    contexts: list[Context]
    turns: list[Turn]
    meta: dict[str, JSON]
