"""Derived pairs: what a reward model can learn without anybody judging.

A derived pair is made from a written sample, so its verdict is known by construction:
another wording of the label is consistent, a changed value is not. Samples of the
built-in demo carry facts, and from those ``actions.demo.derive`` makes other wordings,
errors of every kind and balanced quads. Samples without facts still have references,
and from their texts alone a value, a name or a step can be changed.

Derived pairs are marked: their ``source`` says what they are, and they are counted
apart from judgments everywhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from actions.demo.derive import (
    NotApplicable,
    applicable_kinds,
    balanced_quad,
    corrupted,
    reworded,
)
from actions.demo.facts import parse_facts, steps_by_wording
from actions.demo.orders import is_reserved
from actions.grammar import ActionCall, Response, Text, parse, render
from actions.plans import find_plan
from actions.tags import JSON
from actions.units import UnitPair
from records.recipes.reward import DERIVED
from training.engine.data.conversations import Sample, Turn
from training.engine.reward_model.packing import Pair, units_of
from training.engine.sampling.answers import is_well_formed

Order = Literal["seen", "unseen"]

TRIES = 1000  # draws without a pair after which a kind of pair is left out
UNKNOWN = -100  # a unit whose label nobody gave; the loss leaves it out


@dataclass(frozen=True)
class Example:
    """A pair with its verdict, and per unit 1 (matches), 0 (differs) or ``UNKNOWN``."""

    pair: Pair
    units: tuple[UnitPair, ...]
    targets: tuple[int, ...]
    consistent: bool
    source: str
    kinds: tuple[str, ...] = ()  # the kinds of error put in, for the figures
    sample: str = ""  # the id of the sample that a judged answer belongs to


def example(
    pair: Pair,
    consistent: bool,
    differs: Iterable[str] | None,
    source: str,
    kinds: tuple[str, ...] = (),
) -> Example | None:
    """Return the example, or None where the sampled response is not well formed.

    ``differs`` names the units that differ; None, or names of no unit, means that
    nobody said: a pair that is not consistent then has unknown units. Raises
    ``FormatError`` when the label does not parse.
    """
    units = units_of(pair)
    if units is None:
        return None
    marked = set(differs or ()) & {unit.key for unit in units}
    if consistent:
        targets = tuple(1 for _ in units)
    elif marked:
        targets = tuple(0 if unit.key in marked else 1 for unit in units)
    else:
        targets = tuple(UNKNOWN for _ in units)
    return Example(pair, units, targets, consistent, source, kinds)


# From text alone


@dataclass(frozen=True)
class PlainTurn:
    """A turn without facts, and the names of the actions in force at it."""

    turn: Turn
    action_names: tuple[str, ...]

    def values(self) -> list[str]:
        """Return the texts among the parameters of the label's calls."""
        turn = self.turn
        label = parse(turn.response, inside_thinking=turn.inside_thinking)
        return [
            value
            for call in label.actions
            for value in call.parameters.values()
            if isinstance(value, str)
        ]


PLAIN_KINDS = ("parameter", "action name", "missing step", "plan order", "answer")
_NUMBER = re.compile(r"\d+")


def change_text(
    turn: PlainTurn, kind: str, values: Sequence[str], rng: random.Random
) -> str | None:
    """Return the label with one error of ``kind``, or None where it has no place for it.

    ``values`` are parameter values of other samples, to put in place of one.
    """
    label = turn.turn.response
    response = parse(label, inside_thinking=turn.turn.inside_thinking)
    if kind == "parameter":
        changed = _change_parameter(response, values, rng)
    elif kind == "action name":
        changed = _change_name(response, turn.action_names, rng)
    elif kind in ("missing step", "plan order"):
        changed = _change_plan(response, kind, rng)
    else:
        changed = _change_answer(response, rng)
    text = render(changed) if changed else None
    return text if text != label else None


def _change_parameter(
    response: Response, values: Sequence[str], rng: random.Random
) -> Response | None:
    places = [
        (call, name)
        for call in response.actions
        for name, value in call.parameters.items()
        if isinstance(value, str | int | float)
    ]
    if not places:
        return None
    call, name = rng.choice(places)
    value = call.parameters[name]
    new: JSON
    if isinstance(value, bool):
        new = not value
    elif isinstance(value, int | float):
        new = value + rng.choice([-2, -1, 1, 2, 5])
    elif isinstance(value, str) and _NUMBER.search(value) and rng.random() < 0.5:
        new = _other_number(value, rng)
    elif values:
        new = rng.choice(values)
    else:
        return None
    changed = ActionCall.make(call.name, {**call.parameters, name: new})
    return _with_call(response, call, changed)


def _change_name(
    response: Response, names: Sequence[str], rng: random.Random
) -> Response | None:
    if not response.actions:
        return None
    call = rng.choice(response.actions)
    others = [name for name in names if name != call.name]
    if not others:
        return None
    changed = ActionCall.make(rng.choice(others), call.parameters)
    return _with_call(response, call, changed)


def _with_call(response: Response, old: ActionCall, new: ActionCall) -> Response:
    nodes = tuple(new if node is old else node for node in response.thinking)
    return replace(response, thinking=nodes)


def _change_plan(response: Response, kind: str, rng: random.Random) -> Response | None:
    for number, node in enumerate(response.thinking):
        span = find_plan(node.text) if isinstance(node, Text) else None
        if not span or not isinstance(node, Text) or len(span.plan.steps) < 2:
            continue
        steps = list(span.plan.steps)
        if kind == "missing step":
            del steps[rng.randrange(len(steps))]
        else:
            i, j = rng.sample(range(len(steps)), 2)
            steps[i], steps[j] = steps[j], steps[i]
        lines = ["Plan:", *(f"{k}. {step}" for k, step in enumerate(steps, start=1))]
        text = node.text[: span.start] + "\n".join(lines) + node.text[span.end :]
        nodes = list(response.thinking)
        nodes[number] = Text(text)
        return replace(response, thinking=tuple(nodes))
    return None


def _change_answer(response: Response, rng: random.Random) -> Response | None:
    if not _NUMBER.search(response.answer):
        return None
    return replace(response, answer=_other_number(response.answer, rng))


def _other_number(text: str, rng: random.Random) -> str:
    """Change one number in ``text``, keeping its count of digits."""
    number = rng.choice(list(_NUMBER.finditer(text)))
    digits = list(number.group())
    place = rng.randrange(len(digits))
    digits[place] = rng.choice([d for d in "123456789" if d != digits[place]])
    return text[: number.start()] + "".join(digits) + text[number.end() :]


def changed_units(turn: PlainTurn, text: str) -> tuple[str, ...]:
    """Return the units of ``text``, made from the label, that are not the label's."""
    units = units_of(Pair(turn.turn.response, text, turn.turn.kind)) or ()
    return tuple(unit.key for unit in units if unit.label != unit.sampled)


# The source


class Source:
    """Draws derived pairs from samples; each draw depends on its generator only.

    Turns with facts and turns without are used alike, each in its own way. ``derived``
    names the kinds of pairs (``RewardRecipe``); ``can_draw`` says whether the samples
    give any. Plan orders that the demo reserves for testing are never drawn.
    """

    def __init__(
        self, samples: Sequence[Sample], derived: Sequence[str] = DERIVED
    ) -> None:
        turns = [turn for sample in samples for turn in sample.turns]
        self.demo = [
            turn
            for turn in turns
            if turn.has_facts and is_well_formed(turn.response, turn)
        ]
        self.plans = [
            turn
            for turn in self.demo
            if "plan order" in applicable_kinds(turn.document)
        ]
        self.plain = [
            PlainTurn(turn, tuple(sample.in_force(number)))
            for sample in samples
            for number, turn in enumerate(sample.turns)
            if not turn.has_facts and is_well_formed(turn.response, turn)
        ]
        self.reworded = [turn for turn in self.plain if len(_wordings(turn)) > 1]
        self.values = sorted({v for turn in self.plain for v in turn.values()})
        # Shares found by trial on the demo (docs/reward-model.md); quads give four
        # pairs at once and need a turn with a plan.
        self.makers: list[tuple[float, Callable[[random.Random], list[Example]]]] = []
        if "quads" in derived and self.plans:
            self.makers.append((0.25, self._quad))
        if "references" in derived and (self.demo or self.reworded):
            self.makers.append((1.0, self._reference))
        if "changes" in derived and (self.demo or self.plain):
            self.makers.append((2.0, self._change))
        # Texts may have no place for a change; then a draw would never come to its end.
        probe = random.Random(0)
        self.makers = [
            (weight, make)
            for weight, make in self.makers
            if any(make(probe) for _ in range(TRIES))
        ]

    @property
    def can_draw(self) -> bool:
        """Whether there is anything to derive from."""
        return bool(self.makers)

    def draw(self, rng: random.Random, count: int) -> list[Example]:
        """Return ``count`` examples (the rest of a quad that is too many is cut)."""
        drawn: list[Example] = []
        if not self.makers:
            return drawn
        weights = [weight for weight, _ in self.makers]
        while len(drawn) < count:
            _, make = rng.choices(self.makers, weights)[0]
            drawn += make(rng)
        return drawn[:count]

    def _quad(self, rng: random.Random) -> list[Example]:
        turn = rng.choice(self.plans)
        return list(quad_of(turn, rng, "seen") or ())

    def _reference(self, rng: random.Random) -> list[Example]:
        turn = self._turn(rng, self.demo, self.reworded)
        made = rewording_of(turn, rng)
        return [made] if made else []

    def _change(self, rng: random.Random) -> list[Example]:
        turn = self._turn(rng, self.demo, self.plain)
        if isinstance(turn, PlainTurn):
            kinds: Sequence[str] = PLAIN_KINDS
        else:
            kinds = [k for k in applicable_kinds(turn.document) if k != "several"]
            if rng.random() < 0.5:  # two or three errors at once
                kinds = ["several"]
        made = change_of(turn, rng.choice(kinds), self.values, rng)
        if not made or _is_reserved(turn, made.pair.sampled):
            return []
        return [made]

    @staticmethod
    def _turn(
        rng: random.Random, demo: Sequence[Turn], plain: Sequence[PlainTurn]
    ) -> Turn | PlainTurn:
        number = rng.randrange(len(demo) + len(plain))
        return demo[number] if number < len(demo) else plain[number - len(demo)]

    # Tests: one of each per turn, from held-out samples.

    def quads(
        self, rng: random.Random, turns: int, order: Order
    ) -> list[tuple[Example, ...]]:
        """Return a balanced quad for each of at most ``turns`` turns with a plan."""
        chosen = rng.sample(self.plans, min(turns, len(self.plans)))
        made = (quad_of(turn, rng, order) for turn in chosen)
        return [quad for quad in made if quad]

    def rewordings(self, rng: random.Random, turns: int) -> list[Example]:
        """Return a consistent pair for each of at most ``turns`` turns."""
        made = (rewording_of(t, rng) for t in self._some(rng, turns, self.reworded))
        return [item for item in made if item]

    def changes(self, rng: random.Random, turns: int) -> list[Example]:
        """Return pairs with one error of every kind that has a place in the turn."""
        made: list[Example | None] = []
        for turn in self._some(rng, turns, self.plain):
            kinds: Sequence[str] = PLAIN_KINDS
            if not isinstance(turn, PlainTurn):
                kinds = applicable_kinds(turn.document)
            made += [change_of(turn, kind, self.values, rng) for kind in kinds]
        return [item for item in made if item]

    def _some(
        self, rng: random.Random, count: int, plain: Sequence[PlainTurn]
    ) -> list[Turn | PlainTurn]:
        turns: list[Turn | PlainTurn] = [*self.demo, *plain]
        return rng.sample(turns, min(count, len(turns)))


def quad_of(turn: Turn, rng: random.Random, order: Order) -> tuple[Example, ...] | None:
    """Return (a,a')=1, (b,b')=1, (a,b)=0, (b,a)=0, or None when no steps can swap."""
    try:
        quad = balanced_quad(turn.document, rng, order)
    except NotApplicable:
        return None
    kind = ("plan order",)
    rows = [
        (quad.a, quad.a2, None, ()),
        (quad.b, quad.b2, None, ()),
        (quad.a, quad.b, quad.differs, kind),
        (quad.b, quad.a, quad.differs, kind),
    ]
    made = [
        example(
            Pair(one, other, turn.kind, turn.history),
            differs is None,
            differs,
            "quad",
            kinds,
        )
        for one, other, differs, kinds in rows
    ]
    return tuple(item for item in made if item)


def rewording_of(turn: Turn | PlainTurn, rng: random.Random) -> Example | None:
    """Return a consistent pair of two wordings, in either role."""
    if isinstance(turn, PlainTurn):
        one, other = rng.sample(_wordings(turn), 2)
        pair = Pair(one, other, turn.turn.kind, turn.turn.history)
        return example(pair, True, None, "reference")
    try:
        one, other = _wording(turn, rng), reworded(turn.document, rng)
    except NotApplicable:
        return None
    if rng.random() < 0.5:
        one, other = other, one
    pair = Pair(one, other, turn.kind, turn.history)
    return example(pair, True, None, "reference")


def change_of(
    turn: Turn | PlainTurn, kind: str, values: Sequence[str], rng: random.Random
) -> Example | None:
    """Return an inconsistent pair with an error of ``kind``; None without a place."""
    if isinstance(turn, PlainTurn):
        text = change_text(turn, kind, values, rng)
        if text is None:
            return None
        label, differs = turn.turn.response, changed_units(turn, text)
        return example(
            Pair(label, text, turn.turn.kind, turn.turn.history),
            False,
            differs,
            "change",
            (kind,),
        )
    try:
        text, differs = corrupted(turn.document, rng, kind)
        label = _wording(turn, rng)
    except NotApplicable:
        return None
    pair = Pair(label, text, turn.kind, turn.history)
    return example(pair, False, differs, "change", (kind,))


def _wordings(turn: PlainTurn) -> list[str]:
    """Return the label and its references, those that keep to the grammar."""
    every = (turn.turn.response, *turn.turn.references)
    return [text for text in every if is_well_formed(text, turn.turn)]


def _wording(turn: Turn, rng: random.Random) -> str:
    """Return the label, or as often another wording of it."""
    return turn.response if rng.random() < 0.5 else reworded(turn.document, rng)


def _is_reserved(turn: Turn | PlainTurn, text: str) -> bool:
    """Whether ``text`` has a plan in an order that is kept for tests."""
    if isinstance(turn, PlainTurn):
        return False
    plan = parse(text, inside_thinking=turn.inside_thinking).plan
    if plan is None:
        return False
    scenario = parse_facts(turn.document["facts"]).scenario.name
    known = steps_by_wording(scenario)
    return is_reserved(scenario, tuple(known.get(step, "") for step in plan.steps))
