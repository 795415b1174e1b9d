"""The changes between two versions of a text, merged in one flow; no database, no HTML.

Lines are compared first, then words inside the lines that differ, so that long texts
cost little. The result contains every character of both texts, unless ``context``
limits the number of unchanged lines around a change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Final

from annotation.text.word_diff import ENOUGH_SHARED, Piece

LINES: Final = 2000
TOKENS: Final = 1600
CUT: Final = "⋯\n"

_TOKEN: Final = re.compile(r"\s+|\w+|[^\w\s]")


def changes(
    before: str, after: str, *, context: int | None = None
) -> tuple[Piece, ...]:
    """Return the pieces of ``after``, with those removed from ``before`` among them."""
    if before == after:
        return (Piece(after),) if after else ()
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    if max(len(old), len(new)) > LINES:
        return tuple(_replaced(before, after))
    pieces: list[Piece] = []
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for number, (tag, i1, i2, j1, j2) in enumerate(codes):
        if tag == "equal":
            words = new[j1:j2]
            if context is not None:
                is_first, is_last = number == 0, number == len(codes) - 1
                words = _cut(words, context, is_first=is_first, is_last=is_last)
            pieces.append(Piece("".join(words)))
        else:
            pieces += _words("".join(old[i1:i2]), "".join(new[j1:j2]))
    return tuple(piece for piece in pieces if piece.text)


def _cut(
    lines: Sequence[str], context: int, *, is_first: bool, is_last: bool
) -> list[str]:
    head = 0 if is_first else context
    tail = 0 if is_last else context
    if len(lines) <= head + tail + 1:
        return list(lines)
    return [*lines[:head], CUT, *lines[len(lines) - tail :]]


def _replaced(before: str, after: str) -> Iterator[Piece]:
    if before:
        yield Piece(before, "del")
    if after:
        yield Piece(after, "ins")


def _words(before: str, after: str) -> list[Piece]:
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    if not old or not new or max(len(old), len(new)) > TOKENS:
        return [*_replaced(before, after)]
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < ENOUGH_SHARED:
        return [*_replaced(before, after)]
    pieces: list[Piece] = []
    taken: list[str] = []
    added: list[str] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        same = "".join(new[j1:j2])
        if tag != "equal" or ((taken or added) and same.isspace()):
            # Only blanks between two changes: merge them into one change, which reads
            # better.
            taken += old[i1:i2]
            added += new[j1:j2]
            continue
        pieces += _replaced("".join(taken), "".join(added))
        taken, added = [], []
        pieces.append(Piece(same))
    return [*pieces, *_replaced("".join(taken), "".join(added))]
