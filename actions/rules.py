"""Rules that say whether an answer is right, for tasks whose answer can be checked.

A reasoning task has its rule in its meta (``docs/data-formats.md``); it judges the
answer of the last turn:

    {"rule": {"match": "numeric", "answer": 42, "tolerance": 0.5, "after": "Answer:"}}

======== ====================================== =======================================
match    answer                                 right is
======== ====================================== =======================================
exact    a text, or a list of texts             one of them, whatever its case, spaces
                                                and last full stop
numeric  a number                               the last number of the answer, within
                                                ``tolerance`` (0)
set      a list of texts                        just these, in any order, separated by
                                                commas, semicolons, "and" or lines
regex    a pattern                              the answer has it somewhere
======== ====================================== =======================================

``after``: only what follows its last occurrence counts; without an occurrence the
answer is wrong. Patterns are those of RE2, which looks for any of them in time linear in
the answer: Python's own ``re`` takes years for ``(a|a)*b``. Nothing here raises for any
answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Final, Protocol

from actions.tags import JSON

MATCHES: Final = ("exact", "numeric", "set", "regex")
FIELDS: Final = ("match", "answer", "tolerance", "after")
LONGEST_PATTERN: Final = 200
LONGEST_SEARCHED: Final = 2000  # characters searched for a pattern
_NUMBER: Final = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_BETWEEN: Final = re.compile(r"[,;\n]|\s+and\s+")
# From google-re2; needed only where a sample has a pattern, so a machine may lack it.
_RE2: Final = import_module("re2") if find_spec("re2") else None


class Pattern(Protocol):
    """The part of a compiled pattern that this module uses."""

    def search(self, text: str) -> object | None: ...


class RuleError(ValueError):
    """A rule cannot be read; the message names field, expectation and value."""

    def __init__(self, field: str, expected: str, found: JSON) -> None:
        super().__init__(f"rule: {field}: expected {expected}, found {found!r:.60}")
        self.field = field
        self.expected = expected
        self.found = found


@dataclass(frozen=True)
class Rule:
    """One rule. ``texts`` holds the texts or the pattern, ``number`` the number."""

    match: str
    texts: tuple[str, ...] = ()
    number: float = 0.0
    tolerance: float = 0.0
    after: str = ""

    def accepts(self, answer: str) -> bool:
        """Whether ``answer``, the part of a response after its thinking, is right."""
        if self.after:
            _, separator, answer = answer.rpartition(self.after)
            if not separator:
                return False
        if self.match == "numeric":
            numbers = _NUMBER.findall(answer)
            if not numbers:
                return False
            number = float(numbers[-1].replace(",", ""))
            return abs(number - self.number) <= self.tolerance + 1e-9 * abs(self.number)
        if self.match == "set":
            parts = {plain(part) for part in _BETWEEN.split(answer)} - {""}
            return parts == {plain(text) for text in self.texts}
        if self.match == "regex":
            # RE2 works on UTF-8, which cannot encode a lone surrogate.
            searched = answer[:LONGEST_SEARCHED].encode("utf-8", "replace").decode()
            return _compiled(self.texts[0]).search(searched) is not None
        return plain(answer) in {plain(text) for text in self.texts}


def plain(text: str) -> str:
    """Normalize a text: case, spaces and a final full stop do not matter."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def rule_of(meta: JSON) -> Rule | None:
    """Return the rule in the meta of a sample, or None; raise ``RuleError``."""
    if not isinstance(meta, Mapping) or "rule" not in meta:
        return None
    return parse_rule(meta["rule"])


def parse_rule(obj: JSON) -> Rule:
    """Return the rule that a JSON value describes; raise ``RuleError``."""
    if not isinstance(obj, Mapping):
        raise RuleError("the rule", "an object", obj)
    for name in obj:
        if name not in FIELDS:
            raise RuleError(name, f"one of {', '.join(FIELDS)}", "an unknown field")
    match, answer = obj.get("match"), obj.get("answer")
    if match not in MATCHES:
        raise RuleError("match", f"one of {', '.join(MATCHES)}", match)
    after = obj.get("after", "")
    if not isinstance(after, str):
        raise RuleError("after", "a text", after)
    if match == "numeric":
        number = _number("answer", answer)
        tolerance = _number("tolerance", obj.get("tolerance", 0))
        if tolerance < 0:
            raise RuleError("tolerance", "zero or more", tolerance)
        return Rule("numeric", (), number, tolerance, after)
    if "tolerance" in obj:
        raise RuleError("tolerance", "only with numeric", obj["tolerance"])
    if match == "regex":
        return Rule("regex", (_pattern(answer),), after=after)
    texts = [answer] if match == "exact" and isinstance(answer, str) else answer
    if not isinstance(texts, list) or not texts:
        expected = (
            "a text or a list of texts" if match == "exact" else "a list of texts"
        )
        raise RuleError("answer", expected, answer)
    entries: list[str] = []
    for text in texts:
        if not isinstance(text, str) or not plain(text):
            raise RuleError("answer", "texts that are not empty", text)
        entries.append(text)
    return Rule(str(match), tuple(entries), after=after)


def _number(name: str, value: JSON) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RuleError(name, "a number", value)
    if not math.isfinite(value):
        raise RuleError(name, "a finite number", value)
    return float(value)


def _pattern(value: JSON) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_PATTERN:
        expected = f"a pattern of at most {LONGEST_PATTERN} characters"
        raise RuleError("answer", expected, value)
    if _RE2 is None:
        expected = "no pattern: the package google-re2 is not installed here"
        raise RuleError("answer", expected, value)
    try:
        _compiled(value)
    except (_RE2.error, UnicodeEncodeError) as error:
        raise RuleError("answer", f"a pattern of RE2 ({_why(error)})", value) from error
    return value


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Pattern:
    assert _RE2 is not None
    options = _RE2.Options()
    options.log_errors = False  # errors are raised instead
    options.max_mem = 2**20  # bytes, compiled pattern and search cache
    compiled: Pattern = _RE2.compile(pattern, options)
    return compiled


def _why(error: Exception) -> str:
    """Return RE2's reason, which it gives as bytes."""
    reason = error.args[0] if error.args else ""
    return reason.decode() if isinstance(reason, bytes) else str(error)
