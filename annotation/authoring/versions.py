"""The history of a sample: its content before and after every change.

Version 1 is written at the first change, from the content until then. An import of ten
thousand samples therefore writes no history for the many that never change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final, TypeVar

from django.db.models import Max
from django.utils.translation import gettext

from actions.json_values import dump_json
from annotation.models import Sample, SampleVersion
from annotation.text.changes import changes
from annotation.text.word_diff import Piece
from records.samples import (
    content_hash,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from actions.tags import JSON

WHY_LENGTH: Final = 300
T = TypeVar("T")
# The status of a sample changes without any change of what people wrote.
NO_CONTENT: Final = frozenset({"status"})


def record_change(
    *,
    sample: Sample,
    before: Mapping[str, JSON],
    after: Mapping[str, JSON],
    editor: User | None,
    why: str = "",
) -> SampleVersion | None:
    """Record a change of a sample's document; return None when the content is the same.

    The caller has locked the sample, so the version numbers have no gaps or repeats.
    """
    if _content(before) == _content(after):
        return None
    last = sample.versions.aggregate(last=Max("number"))["last"]
    if last is None:
        last = 1
        first = SampleVersion.objects.create(
            sample=sample, number=1, document=dict(before), editor_id=sample.author_id
        )
        SampleVersion.objects.filter(pk=first.pk).update(created_at=sample.created_at)
    return SampleVersion.objects.create(
        sample=sample,
        number=last + 1,
        document=dict(after),
        editor=editor,
        why=why[:WHY_LENGTH],
    )


def _content(document: Mapping[str, JSON]) -> str:
    return content_hash({k: v for k, v in document.items() if k not in NO_CONTENT})


@dataclass(frozen=True)
class Change:
    """One part of a sample in two versions: its title, and both texts merged."""

    title: str
    pieces: tuple[Piece, ...]


def compare_documents(old: Mapping[str, JSON], new: Mapping[str, JSON]) -> list[Change]:
    """Return the parts that differ; an inserted turn does not shift the others."""
    passages = [
        (gettext("Id"), _text(old.get("id")), _text(new.get("id"))),
        (gettext("Scenario"), _text(old.get("scenario")), _text(new.get("scenario"))),
        (
            gettext("Situation"),
            _text(old.get("situation")),
            _text(new.get("situation")),
        ),
        (gettext("Split"), _text(old.get("split")), _text(new.get("split"))),
        *_meta(old, new),
        *_contexts(old, new),
        *_turns(old, new),
    ]
    return [
        Change(title, changes(before, after))
        for title, before, after in passages
        if before != after
    ]


def _meta(
    old: Mapping[str, JSON], new: Mapping[str, JSON]
) -> Iterator[tuple[str, str, str]]:
    before, after = (
        meta if isinstance(meta := one.get("meta"), dict) else {} for one in (old, new)
    )
    for name in dict.fromkeys([*before, *after]):
        yield f"meta.{name}", _text(before.get(name)), _text(after.get(name))


def _contexts(
    old: Mapping[str, JSON], new: Mapping[str, JSON]
) -> Iterator[tuple[str, str, str]]:
    before = [_context_text(one) for one in _objects(old, "contexts")]
    after = [_context_text(one) for one in _objects(new, "contexts")]
    for number, left, right in _aligned(before, after):
        title = gettext("Thinking context %(number)s") % {"number": number}
        yield title, left or "", right or ""


def _turns(
    old: Mapping[str, JSON], new: Mapping[str, JSON]
) -> Iterator[tuple[str, str, str]]:
    before = [_turn_texts(one) for one in _objects(old, "turns")]
    after = [_turn_texts(one) for one in _objects(new, "turns")]
    nothing = ("",) * 5
    for number, left, right in _aligned(before, after):
        place = {"number": number}
        titles = (
            gettext("Turn %(number)s, input") % place,
            gettext("Turn %(number)s, response") % place,
            gettext("Turn %(number)s, reference responses") % place,
            gettext("Turn %(number)s, facts an oracle judges by") % place,
            gettext("Turn %(number)s, a policy's proposal") % place,
        )
        yield from zip(titles, left or nothing, right or nothing, strict=True)


def _aligned(
    before: list[T], after: list[T]
) -> Iterator[tuple[int, T | None, T | None]]:
    """Yield aligned items that differ, with their present or former number, from 1."""
    codes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for tag, i1, i2, j1, j2 in codes:
        if tag == "equal":
            continue
        for n in range(max(i2 - i1, j2 - j1)):
            left = before[i1 + n] if i1 + n < i2 else None
            right = after[j1 + n] if j1 + n < j2 else None
            yield (j1 if right is not None else i1) + n + 1, left, right


def _objects(document: Mapping[str, JSON], name: str) -> list[Mapping[str, JSON]]:
    value = document.get(name)
    return (
        [one for one in value if isinstance(one, dict)]
        if isinstance(value, list)
        else []
    )


def _turn_texts(turn: Mapping[str, JSON]) -> tuple[str, ...]:
    turn_input = turn.get("input")
    turn_input = turn_input if isinstance(turn_input, dict) else {}
    references = turn.get("references")
    texts = references if isinstance(references, list) else []
    return (
        _text(turn_input.get("text")),
        _text(turn.get("response")),
        "\n\n".join(_text(text) for text in texts),
        _text(turn.get("facts")),
        _text(turn.get("proposal")),
    )


def _context_text(context: Mapping[str, JSON]) -> str:
    """Write a context as lines, one action per line, so that differences stay small."""
    lines = [
        f"{_text(context.get('title'))} ({_text(context.get('scope'))})",
        _text(context.get("background")),
        _text(context.get("guideline")),
    ]
    actions = context.get("actions")
    if isinstance(actions, list):
        lines += [dump_json(action) for action in actions]
    return "\n".join(line for line in lines if line)


def _text(value: JSON) -> str:
    return (
        value if isinstance(value, str) else "" if value is None else dump_json(value)
    )
