"""A response as the blocks that a person reads; no database, no HTML.

Thinking text, the plan inside it, each action call, each observation and the answer are
one block each, in their order. No text is left out. A text outside the grammar is one
block "raw" with the format error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from actions.grammar import ActionCall, FormatError, Response, Text, parse
from actions.json_values import dump_json
from actions.plans import find_plan
from actions.tags import JSON
from annotation.text.grammar_messages import grammar_message

BlockKind = Literal["thinking", "plan", "action", "observation", "answer", "raw"]

# Longer texts get a scroll box of their own.
LONG = 4000
PLANS = 4


@dataclass(frozen=True)
class Block:
    kind: BlockKind
    text: str = ""
    steps: tuple[str, ...] = ()
    name: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    error: str = ""

    @property
    def is_long(self) -> bool:
        return len(self.text) > LONG or len(self.steps) > 40


def value_text(value: JSON) -> str:
    """Write a parameter's value for people: a string without its quotes."""
    return value if isinstance(value, str) else dump_json(value)


def blocks_of_response(response: Response) -> Iterator[Block]:
    """Yield the blocks of a parsed response; skip blank thinking text."""
    for node in response.thinking:
        if isinstance(node, Text):
            yield from _blocks_of_thinking(node.text)
        elif isinstance(node, ActionCall):
            yield Block(
                "action",
                name=node.name,
                parameters=tuple(
                    (name, value_text(value)) for name, value in node.parameters.items()
                ),
            )
        else:
            yield Block("observation", text=node.text)
    if response.answer.strip():
        yield Block("answer", text=response.answer.strip())


def _blocks_of_thinking(text: str) -> Iterator[Block]:
    # Each search reads the rest of the text, so the number of plans shown as plans is
    # limited; later ones are shown as thinking text.
    for _ in range(PLANS):
        span = find_plan(text)
        if span is None:
            break
        if text[: span.start].strip():
            yield Block("thinking", text=text[: span.start].strip())
        yield Block("plan", steps=span.plan.steps)
        text = text[span.end :]
    if text.strip():
        yield Block("thinking", text=text.strip())


def blocks_of_text(text: str, *, inside_thinking: bool = False) -> tuple[Block, ...]:
    """Return the blocks of any text; never raises."""
    try:
        response = parse(text, inside_thinking=inside_thinking)
    except FormatError as error:
        return (Block("raw", text=text, error=grammar_message(error)),)
    return tuple(blocks_of_response(response))
