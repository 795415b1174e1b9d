"""The orders of plan steps that a scenario allows, and those held out of training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import permutations
from typing import TypeVar

from actions.demo.scenarios import (
    SCENARIOS,
)

T = TypeVar("T")

# One in this many combinations of values and order is held out.
HELD_OUT_SHARE = 8


Order = tuple[str, ...]


@cache
def reserved_orders(scenario: str) -> frozenset[Order]:
    """Return the plan orders of middle steps that training never contains.

    Of the six orders of any three middle steps, two are reserved, one of each parity:
    swapping two steps of any order can therefore give both a trained and a reserved
    order. Every step still occurs at every position. An order of four steps is reserved
    when the order of its first three is.
    """
    middle = SCENARIOS[scenario].middle
    index = list(SCENARIOS).index(scenario)
    even = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    odd = ((0, 2, 1), (1, 0, 2), (2, 1, 0))
    reserved: set[Order] = set()
    for left_out in range(4):
        three = [step for number, step in enumerate(middle) if number != left_out]
        for order in (
            even[(left_out + index) % 3],
            odd[(left_out * 2 + index + 1) % 3],
        ):
            first = tuple(three[place] for place in order)
            reserved |= {first, (*first, middle[left_out])}
    return frozenset(reserved)


def is_reserved(scenario: str, plan: Sequence[str]) -> bool:
    """Whether the order of a plan is held out of training.

    The plan may come with or without its last step.
    """
    middle = SCENARIOS[scenario].middle
    return tuple(step for step in plan if step in middle) in reserved_orders(scenario)


@cache
def allowed_orders(scenario: str, reserved: bool, steps: int) -> tuple[Order, ...]:
    reserved_set = reserved_orders(scenario)
    return tuple(
        order
        for length in range(3, steps + 1)
        for order in permutations(SCENARIOS[scenario].middle, length)
        if (order in reserved_set) == reserved
    )


class SeededRandom:
    """Random choices from ``random.random`` only, whose sequence is guaranteed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def below(self, limit: float) -> float:
        return self._random.random() * limit

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.below(len(items)))]
