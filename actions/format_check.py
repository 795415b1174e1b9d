"""The format check, on text and on token ids.

A policy's turn must be a response of the grammar without observations, which only the
environment writes. On token ids, each tag must also be its one token: a tag spelt with
ordinary tokens looks right as text but does not stop decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actions.grammar import END, FormatError, Observation, parse
from actions.tags import OBSERVATION_OPEN, TAG_PATTERN


def check_text(
    text: str,
    inside_thinking: bool = False,
    *,
    episode: bool = False,
    may_trail: bool = False,
) -> FormatError | None:
    """Return what is wrong with a response, or None.

    ``episode``: the text is a whole episode, in which observations follow the calls.
    ``may_trail`` allows blanks after the last call. They are an error in a text to
    learn from, because decoding stops at ``<</action>>``.
    """
    try:
        response = parse(text, inside_thinking=inside_thinking)
    except FormatError as error:
        return error
    if not episode and any(isinstance(n, Observation) for n in response.thinking):
        position = text.index(OBSERVATION_OPEN)
        return FormatError(position, END, OBSERVATION_OPEN, text)
    if response.trailing and not may_trail:
        return FormatError(len(text) - len(response.trailing), END, "blanks", text)
    return None


def check_token_ids(
    ids: Sequence[int],
    tag_ids: Mapping[str, int],
    decode: Callable[[Sequence[int]], str],
    inside_thinking: bool = False,
    *,
    episode: bool = False,
) -> FormatError | None:
    """Return what is wrong with a response given as token ids, or None.

    ``tag_ids`` names the token of each tag; ``decode`` turns the ids between two tags
    into text. Positions count characters of the decoded text.
    """
    tags = {number: tag for tag, number in tag_ids.items()}
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    length = 0
    start = 0
    for index, number in enumerate(ids):
        if number not in tags:
            continue
        between = decode(ids[start:index]) if start < index else ""
        pieces += [between, tags[number]]
        length += len(between)
        spans.append((length, length + len(tags[number])))
        length += len(tags[number])
        start = index + 1
    pieces.append(decode(ids[start:]) if start < len(ids) else "")
    text = "".join(pieces)
    tokens = set(spans)
    for match in TAG_PATTERN.finditer(text):
        if match.span() not in tokens:
            return FormatError(
                match.start(),
                f"{match.group()} as one token",
                "it spelt with other tokens",
                text,
            )
    return check_text(text, inside_thinking, episode=episode)
