"""Two texts compared word by word: which words only one of them has. No HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from annotation.text.blocks import LONG

WORDS = 800
# Below this share of equal words, marking the others would color the whole text.
ENOUGH_SHARED = 0.45

# Blanks belong to the word after them, so that cutting loses no character.
_WORD = re.compile(r"\s*(?:\w+(?:['’.,:-]\w+)*|[^\w\s])|\s+\Z")


@dataclass(frozen=True)
class Piece:
    text: str
    change: Literal["", "del", "ins"] = ""


@dataclass(frozen=True)
class Passage:
    """One side's text, cut into marked and unmarked pieces."""

    pieces: tuple[Piece, ...]

    @property
    def is_long(self) -> bool:
        return sum(len(piece.text) for piece in self.pieces) > LONG


def compare_words(label: str, sampled: str) -> tuple[Passage, Passage, float]:
    """Mark the words that only one side has; also return the share of equal words.

    The share is 1.0 for equal texts; for texts over ``WORDS`` words it is 0.0 and
    nothing is marked.
    """
    plain = Passage((Piece(label),)), Passage((Piece(sampled),))
    if label == sampled:
        return *plain, 1.0
    # A text can hold a very long word, or very many: read no more than can be shown.
    ours = _WORD.findall(label[: 40 * WORDS])
    theirs = _WORD.findall(sampled[: 40 * WORDS])
    if (
        max(len(ours), len(theirs)) > WORDS
        or max(len(label), len(sampled)) > 40 * WORDS
    ):
        return *plain, 0.0
    matcher = SequenceMatcher(
        None, [word.strip() for word in ours], [word.strip() for word in theirs]
    )
    share = matcher.ratio()
    if share < ENOUGH_SHARED:
        return *plain, share
    left: list[Piece] = []
    right: list[Piece] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            left.append(Piece("".join(ours[i1:i2])))
            right.append(Piece("".join(theirs[j1:j2])))
        else:
            left += _marked("".join(ours[i1:i2]), "del")
            right += _marked("".join(theirs[j1:j2]), "ins")
    return Passage(tuple(left)), Passage(tuple(right)), share


def _marked(text: str, change: Literal["del", "ins"]) -> list[Piece]:
    """Keep the blanks before a marked word out of the mark."""
    word = text.lstrip()
    if not word:
        return [Piece(text)] if text else []
    blanks = text[: len(text) - len(word)]
    return [Piece(blanks), Piece(word, change)] if blanks else [Piece(word, change)]
