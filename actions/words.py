"""Meaning-bearing words: a sentence without its stop words and word endings.

Our own code on purpose: small, deterministic and readable, made for English imperatives
such as plan steps. It only proposes; people decide.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

# A number with its separators, or a run of letters and digits (with inner ' - _ . @ /
# so that "user_8", "HAT-001" and "a@b.org" stay whole).
_WORD: Final = re.compile(
    r"\d+(?:[.,:/-]\d+)*(?![\w])|\w+(?:['’_.@/-]\w+)*", re.UNICODE
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


STOP_WORDS: Final = _set(
    "a an and are as at be been by can do does for from had has have having he her him "
    "his how i if in into is it its let may me my of on or our shall she should so "
    "some make than that the their them then there these they this those to us was we were "
    "what when where which while who will with within would you your please also just "
    "about up out any all am i'm it's i'll you're we'll that's i've"
)

NEGATIONS: Final = _set(
    "no not never none nothing without cannot can't won't don't doesn't didn't isn't "
    "aren't wasn't couldn't wouldn't unable neither nor"
)

_NUMBER_WORDS: Final = {
    word: number
    for pair in _set(
        "two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 "
        "twelve=12 fifteen=15 twenty=20 thirty=30 forty=40 fifty=50 sixty=60"
    )
    for word, number in [pair.split("=")]
}

_DAYS_AND_MONTHS: Final = _set(
    "monday tuesday wednesday thursday friday saturday sunday january february april "
    "june july august september october november december"
)

# Synonyms in plan steps; the first word of each line stands for all.
_SAME: Final[dict[str, str]] = {
    word: line.split()[0]
    for line in (
        "check see verify look examine inspect ensure sure",
        "compare contrast",
        "tell report inform notify say",
        "ask request query",
        "available free availability",
        "find search locate",
        "order buy purchase",
        "get obtain fetch retrieve",
        "confirm confirmation",
        "user customer client",
        "choose select pick",
        "cancel abort",
        "begin start",
        "fix repair",
        "cost price",
    )
    for word in line.split()
}


def stem(word: str) -> str:
    """Remove common English endings from a lower-case word; digits stay unchanged."""
    if len(word) <= 3 or not word.isalpha():
        return word
    for ending, replacement in (
        ("ies", "y"),
        ("sses", "ss"),
        ("shes", "sh"),
        ("ches", "ch"),
        ("xes", "x"),
        ("ing", ""),
        ("edly", ""),
        ("ed", ""),
        ("ly", ""),
        ("s", ""),
    ):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            if ending == "s" and word[-2] in "su":
                break
            word = word[: -len(ending)] + replacement
            doubled = len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz"
            if doubled and ending in ("ing", "ed"):
                word = word[:-1]
            break
    if len(word) > 4 and word.endswith("e"):
        word = word[:-1]
    return word


_SAME_STEMS: Final = {stem(word): stem(head) for word, head in _SAME.items()}


def raw_words(text: str) -> list[str]:
    """Return the words and numbers of ``text`` as written."""
    return [match.group() for match in _WORD.finditer(text)]


def meaning_words(text: str) -> list[str]:
    """Return the stems of the meaning-bearing words, in order.

    A text of stop words only keeps them all, so that there is something to compare.
    """
    words = [word.casefold().replace("’", "'") for word in raw_words(text)]
    content_words = [word for word in words if word not in STOP_WORDS] or words
    stems = (stem(word.removesuffix("'s")) for word in content_words)
    return [_SAME_STEMS.get(word, _NUMBER_WORDS.get(word, word)) for word in stems]


def numbers(text: str) -> Counter[str]:
    """Count the numbers in ``text``.

    ``1,200``, ``1200`` and ``1200.0`` are one number, and so are ``8`` and ``eight``
    (not ``one``, which is mostly a pronoun).
    """
    counts: Counter[str] = Counter()
    for word in raw_words(text):
        if word.casefold() in _NUMBER_WORDS:
            counts[_NUMBER_WORDS[word.casefold()]] += 1
        elif word[0].isdigit() and not any(character.isalpha() for character in word):
            plain = re.sub(r",(?=\d{3}(?:\D|$))", "", word)
            if re.fullmatch(r"\d+\.\d+", plain):
                plain = plain.rstrip("0").rstrip(".")
            counts[plain] += 1
    return counts


def with_plain_numbers(text: str) -> str:
    """Spell each number one way: ``1,200`` and ``1200.00`` as ``1200``, ``eight`` as ``8``.

    A fraction keeps its zeros unless it is nothing else: ``1.10`` may be a version.
    """

    def plain(match: re.Match[str]) -> str:
        word = match.group()
        if not word[0].isdigit():
            return _NUMBER_WORDS.get(word.casefold(), word)
        if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", word):
            word = word.replace(",", "")
        return re.sub(r"\A(\d+)\.0+\Z", r"\1", word)

    return _WORD.sub(plain, text)


def names(text: str) -> frozenset[str]:
    """Return names and codes.

    These are words with a digit or an inner capital, capitalized words that do not
    begin a sentence, days and months.
    """
    result = set()
    for match in _WORD.finditer(text):
        word = match.group()
        number = word[0].isdigit() and not re.search(r"[^\W\d_]", word)
        if number or word.casefold() in STOP_WORDS:
            continue
        inner = word.casefold() in _DAYS_AND_MONTHS or any(
            c.isdigit() or c.isupper() or c in "_@" for c in word[1:]
        )
        before = text[max(0, match.start() - 8) : match.start()].rstrip(" \t\"'“‘(*")
        begins = not before or before[-1] in ".!?:;\n-•"
        if inner or (word[0].isupper() and not begins):
            result.add(word.casefold().removesuffix("'s"))
    return frozenset(result)


def negated(text: str) -> bool:
    """Whether ``text`` contains a negation."""
    return any(
        word.casefold().replace("’", "'") in NEGATIONS for word in raw_words(text)
    )


def similarity(one: Iterable[str], other: Iterable[str]) -> float:
    """Return the Dice overlap of two bags of words, 0 to 1; two empty bags give 1."""
    first, second = Counter(one), Counter(other)
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0
