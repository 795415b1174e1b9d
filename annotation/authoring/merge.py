"""Compare two versions of a draft, and merge them into one. No database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from actions.json_values import json_equal
from actions.tags import JSON
from annotation.authoring.drafts import Content, keyed_turns, references_of, texts_of
from annotation.text.word_diff import Passage, compare_words

HEAD = "about"


@dataclass(frozen=True)
class Row:
    """A part in which the two versions differ; None where a side lacks it."""

    key: str
    number: int
    """The turn's number in one's own version, or in the other; 0 for what is no turn."""
    mine: tuple[tuple[str, Passage], ...] | None
    theirs: tuple[tuple[str, Passage], ...] | None


def compare(mine: Content, theirs: Content) -> list[Row]:
    """Return the parts in which two versions of a draft differ."""
    rows = []
    if not json_equal(_head(mine), _head(theirs)):
        rows.append(_row(HEAD, 0, _head_texts(mine), _head_texts(theirs)))
    ours, others = keyed_turns(mine), keyed_turns(theirs)
    for number, (key, turn) in enumerate(ours.items(), start=1):
        other = others.get(key)
        if other is None or not json_equal(_bare(turn), _bare(other)):
            texts = _turn_texts(other) if other is not None else None
            rows.append(_row(key, number, _turn_texts(turn), texts))
    for number, (key, turn) in enumerate(others.items(), start=1):
        if key not in ours:
            rows.append(_row(key, number, None, _turn_texts(turn)))
    return rows


def merge(mine: Content, theirs: Content, take: Collection[str]) -> Content:
    """Return ``mine`` with the parts in ``take`` replaced by those of ``theirs``.

    A turn that only ``theirs`` has is inserted after the turn it follows there. A turn
    of ``mine`` that is taken from ``theirs``, which lacks it, is removed.
    """
    ours, others = keyed_turns(mine), keyed_turns(theirs)
    merged = {
        key: others.get(key) if key in take else turn
        for key, turn in ours.items()
        if key not in take or key in others
    }
    order = list(merged)
    previous = ""
    for key, turn in others.items():
        if key in take and key not in ours:
            merged[key] = turn
            order.insert(order.index(previous) + 1 if previous in order else 0, key)
        previous = key
    content: Content = {**theirs, **mine} | (_head(theirs) if HEAD in take else {})
    turns: list[JSON] = [(merged[key] or {}) | {"key": key} for key in order]
    return content | {"turns": turns}


def _head(content: Content) -> Content:
    return {key: content.get(key) for key in ("scenario", "situation", "contexts")}


def _bare(turn: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "input": turn.get("input"),
        "response": turn.get("response"),
        "references": [*references_of(turn)],
    }


def _head_texts(content: Content) -> dict[str, str]:
    contexts = content.get("contexts")
    names = []
    for one in contexts if isinstance(contexts, list) else []:
        if isinstance(one, dict):
            names.append(str(one.get("title") or f"#{one.get('existing', '')}"))
            names += [
                str(one[key])
                for key in ("background", "guideline", "actions")
                if one.get(key)
            ]
    return {
        "scenario": str(content.get("scenario", "")),
        "situation": str(content.get("situation", "")),
        "contexts": "\n".join(names),
    }


def _turn_texts(turn: Mapping[str, JSON]) -> dict[str, str]:
    texts = texts_of(turn)
    return {
        "input": texts.text,
        "response": texts.response,
        **{
            f"reference {number}": text
            for number, text in enumerate(references_of(turn), start=1)
        },
    }


def _row(
    key: str, number: int, mine: dict[str, str] | None, theirs: dict[str, str] | None
) -> Row:
    left: list[tuple[str, Passage]] = []
    right: list[tuple[str, Passage]] = []
    for name in dict.fromkeys([*(mine or {}), *(theirs or {})]):
        one, other, _share = compare_words(
            (mine or {}).get(name, ""), (theirs or {}).get(name, "")
        )
        if (
            mine is not None
            and theirs is not None
            and mine.get(name) == theirs.get(name)
        ):
            continue
        left.append((name, one))
        right.append((name, other))
    return Row(
        key,
        number,
        tuple(left) if mine is not None else None,
        tuple(right) if theirs is not None else None,
    )
