"""The response grammar: parse any text into a Response or raise a FormatError.

::

    response    = [ "<<think>>" thinking "<</think>>" ] answer
    thinking    = { text | action observation }
    action      = "<<action>>" JSON "<</action>>"     {"name": str, "parameters": {…}}
    observation = "<<observation>>" text "<</observation>>"

A turn's response may also end right after ``<</action>>``: decoding stops there. The
next turn, whose input is the observation, continues inside the same thinking; parse it
with ``inside_thinking=True``.

Blanks after that ``<</action>>`` are accepted and kept apart, since people see the same
call. ``format_check`` refuses them in a text to learn from: a policy is stopped at the
tag and never writes them.

The parser goes over the text once, tag by tag, in linear time. It trims and repairs
nothing, and calls keep their source, so ``render(parse(text)) == text``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from actions.definitions import describe
from actions.json_values import JSONError, dump_json, load_json, quote
from actions.plans import Plan, extract_plan
from actions.tags import (
    ACTION_CLOSE,
    ACTION_OPEN,
    JSON,
    OBSERVATION_CLOSE,
    OBSERVATION_OPEN,
    TAG_PATTERN,
    THINK_CLOSE,
    THINK_OPEN,
)

END: Final = "the end of the text"


class FormatError(ValueError):
    """A text violates the response grammar.

    ``position`` counts characters from 0; ``line`` and ``column`` count from 1.
    """

    def __init__(
        self, position: int, expected: str, found: str, text: str | None = None
    ) -> None:
        self.position = position
        self.expected = expected
        self.found = found
        before = "" if text is None else text[:position]
        self.line = before.count("\n") + 1
        self.column = position - (before.rfind("\n") + 1) + 1
        place = (
            f"line {self.line}, column {self.column}"
            if text is not None
            else f"character {position}"
        )
        super().__init__(f"{place}: expected {expected}, found {found}")


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class ActionCall:
    """A call; ``source`` is the text between the tags, exactly as it was written."""

    name: str
    parameters: Mapping[str, JSON]
    source: str

    @classmethod
    def make(cls, name: str, parameters: Mapping[str, JSON]) -> ActionCall:
        """Write the call's source; a tag inside a value is escaped as ``\\u003c``."""
        source = dump_json({"name": name, "parameters": dict(parameters)})
        if TAG_PATTERN.search(source):
            source = source.replace("<", "\\u003c")
        return cls(name, dict(parameters), source)


@dataclass(frozen=True)
class Observation:
    text: str


Node = Text | ActionCall | Observation


@dataclass(frozen=True)
class Response:
    """A parsed response.

    ``opens``: the text began with ``<<think>>``. ``closes``: it had ``<</think>>``. A
    bare answer has neither; a response that ends in ``<</action>>`` has ``closes`` false
    and an empty ``answer``; ``trailing`` are the blanks that followed the tag.
    """

    thinking: tuple[Node, ...]
    answer: str
    opens: bool
    closes: bool
    trailing: str = ""

    @property
    def actions(self) -> tuple[ActionCall, ...]:
        return tuple(node for node in self.thinking if isinstance(node, ActionCall))

    @property
    def thinking_text(self) -> str:
        """The texts of the thinking, without calls and observations."""
        return "".join(node.text for node in self.thinking if isinstance(node, Text))

    @property
    def plan(self) -> Plan | None:
        """The first plan in the thinking, or None."""
        for node in self.thinking:
            if isinstance(node, Text):
                plan = extract_plan(node.text)
                if plan:
                    return plan
        return None

    @property
    def ends_with_action(self) -> bool:
        return bool(self.thinking) and isinstance(self.thinking[-1], ActionCall)

    @property
    def continues(self) -> bool:
        """Whether this was parsed inside the open thinking of the turn before."""
        return not self.opens and (self.closes or bool(self.thinking))


class _Tag(NamedTuple):
    name: str
    start: int
    end: int


def _error(text: str, position: int, expected: str) -> FormatError:
    rest = text[position : position + 40]
    match = TAG_PATTERN.match(rest)
    found = match.group() if match else quote(rest) if rest else END
    return FormatError(position, expected, found, text)


def _parse_call(text: str, start: int, end: int) -> ActionCall:
    source = text[start:end]
    try:
        value = load_json(source)
    except JSONError as error:
        raise FormatError(
            start + error.position, error.expected, error.found, text
        ) from None
    if not isinstance(value, dict):
        raise FormatError(start, "a JSON object", describe(value), text)
    for key in ("name", "parameters"):
        if key not in value:
            raise FormatError(start, f'the key "{key}"', "none", text)
    if len(value) > 2:
        extra = next(key for key in value if key not in ("name", "parameters"))
        raise FormatError(
            start, 'only the keys "name" and "parameters"', quote(extra), text
        )
    name, parameters = value["name"], value["parameters"]
    if not isinstance(name, str) or not name.strip():
        raise FormatError(start, "an action's name", describe(name), text)
    if not isinstance(parameters, dict):
        raise FormatError(start, "parameters as an object", describe(parameters), text)
    return ActionCall(name, parameters, source)


def parse(text: str, *, inside_thinking: bool = False) -> Response:
    """Parse a response in linear time; raise :class:`FormatError` and nothing else.

    ``inside_thinking``: the turn's input is an observation, so ``text`` starts inside
    the thinking that the turn before left open.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(error.start, "text", "a lone surrogate", text) from None
    tags = (
        _Tag(match.group(), match.start(), match.end())
        for match in TAG_PATTERN.finditer(text)
    )
    tag = next(tags, None)
    position = 0
    if not inside_thinking:
        if tag is None:
            return _finish(text, (), 0, opens=False, closes=False)
        if tag.name != THINK_OPEN:
            raise _error(text, tag.start, "an answer without tags, or <<think>> first")
        if tag.start > 0:
            raise _error(text, 0, "<<think>> at the start, or an answer without tags")
        position = tag.end
        tag = next(tags, None)

    nodes: list[Node] = []
    while True:
        if tag is None:
            raise _error(text, len(text), "<<action>> or <</think>>")
        if tag.start > position:
            nodes.append(Text(text[position : tag.start]))
        if tag.name == THINK_CLOSE:
            after = next(tags, None)
            if after:
                raise _error(text, after.start, "an answer without tags")
            return _finish(
                text, tuple(nodes), tag.end, opens=not inside_thinking, closes=True
            )
        if tag.name != ACTION_OPEN:
            raise _error(text, tag.start, "text, <<action>> or <</think>>")

        opened = tag
        tag = next(tags, None)
        if tag is None or tag.name != ACTION_CLOSE:
            raise _error(text, tag.start if tag else len(text), "<</action>>")
        nodes.append(_parse_call(text, opened.end, tag.start))
        position = tag.end
        tag = next(tags, None)
        if tag is None and not (trailing := text[position:]).strip():
            return Response(
                tuple(nodes),
                "",
                opens=not inside_thinking,
                closes=False,
                trailing=trailing,
            )
        if tag is None or tag.name != OBSERVATION_OPEN or tag.start != position:
            raise _error(text, position, f"<<observation>> or {END}")
        opened = tag
        tag = next(tags, None)
        if tag is None or tag.name != OBSERVATION_CLOSE:
            raise _error(text, tag.start if tag else len(text), "<</observation>>")
        nodes.append(Observation(text[opened.end : tag.start]))
        position = tag.end
        tag = next(tags, None)


def _finish(
    text: str, nodes: tuple[Node, ...], position: int, *, opens: bool, closes: bool
) -> Response:
    answer = text[position:]
    if not answer.strip():
        raise FormatError(position, "an answer", END if not answer else "blanks", text)
    return Response(nodes, answer, opens=opens, closes=closes)


def _render_node(node: Node) -> str:
    if isinstance(node, Text):
        return node.text
    if isinstance(node, ActionCall):
        return ACTION_OPEN + node.source + ACTION_CLOSE
    return OBSERVATION_OPEN + node.text + OBSERVATION_CLOSE


def render(response: Response) -> str:
    """Write a response; ``render(parse(text)) == text``."""
    return "".join(
        [
            THINK_OPEN if response.opens else "",
            *map(_render_node, response.thinking),
            THINK_CLOSE if response.closes else "",
            response.answer,
            response.trailing,
        ]
    )


@dataclass(frozen=True)
class Episode:
    """What an assistant wrote between two user prompts, as turns.

    ``observations[i]`` is the input of ``responses[i + 1]``.
    """

    responses: tuple[str, ...]
    observations: tuple[str, ...]


def split_episode(text: str, *, inside_thinking: bool = False) -> Episode:
    """Cut a whole episode after each observation; raise :class:`FormatError`."""
    response = parse(text, inside_thinking=inside_thinking)
    responses: list[str] = []
    observations: list[str] = []
    pieces: list[str] = [THINK_OPEN] if response.opens else []
    for node in response.thinking:
        if isinstance(node, Observation):
            responses.append("".join(pieces))
            observations.append(node.text)
            pieces = []
        else:
            pieces.append(_render_node(node))
    pieces += [THINK_CLOSE if response.closes else "", response.answer]
    pieces.append(response.trailing)
    responses.append("".join(pieces))
    return Episode(tuple(responses), tuple(observations))


def join_episode(episode: Episode) -> str:
    """Write the turns of an episode as one text; undoes :func:`split_episode`."""
    pieces = [episode.responses[0]]
    for observation, response in zip(
        episode.observations, episode.responses[1:], strict=True
    ):
        pieces += [OBSERVATION_OPEN, observation, OBSERVATION_CLOSE, response]
    return "".join(pieces)
