"""The normal form of a response: the response without spelling that has no meaning.

Two responses with equal normal forms mean the same, so no person needs to judge them.
The form drops white space (but keeps the lines and the order of a plan), the spelling
of numbers, and the order of JSON keys. Strings in a call's parameters are compared
exactly: an action receives a value, not a wording.
"""

from __future__ import annotations

from actions.grammar import ActionCall, Response, Text
from actions.json_values import json_equal
from actions.plans import find_plan
from actions.tags import JSON
from actions.words import with_plain_numbers

# A part of a response: its kind, its words, and a call's parameters.
Piece = tuple[str, str, dict[str, JSON]]


def normal_form(response: Response) -> list[Piece]:
    """Return the parts of a response in reading order, without blank ones."""
    pieces: list[Piece] = []
    for node in response.thinking:
        if isinstance(node, ActionCall):
            pieces.append(("call", node.name, dict(node.parameters)))
        elif isinstance(node, Text):
            pieces += _of_thinking(node.text)
        else:
            pieces.append(("observation", node.text, {}))
    pieces.append(("answer", _plain(response.answer), {}))
    return [piece for piece in pieces if piece[1] or piece[2]]


def same_in_normal_form(one: Response, other: Response) -> bool:
    """Whether two responses to one turn differ in spelling only."""
    first, second = normal_form(one), normal_form(other)
    return len(first) == len(second) and all(
        mine[:2] == theirs[:2] and json_equal(mine[2], theirs[2])
        for mine, theirs in zip(first, second, strict=True)
    )


def _of_thinking(text: str) -> list[Piece]:
    span = find_plan(text)
    if span is None:
        return [("thinking", _plain(text), {})]
    return [
        ("thinking", _plain(text[: span.start]), {}),
        *(("step", _plain(step), {}) for step in span.plan.steps),
        ("thinking", _plain(text[span.end :]), {}),
    ]


def _plain(text: str) -> str:
    return " ".join(with_plain_numbers(text).split())
