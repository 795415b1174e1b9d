"""JSON read strictly and compared by value.

Python's reader accepts ``NaN``, repeated keys and lone surrogates, turns ``1e999`` into
infinity and dies of recursion on deep nesting. Here each of these is a
:class:`JSONError` with the character position.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final

from actions.tags import JSON

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 100

# Match a string that is never closed to the end of the text: no character is then read
# twice, and the scan stays linear.
_BRACKET_OR_STRING: Final = re.compile(
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL
)


_STEP: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


class JSONError(ValueError):
    """A text is not JSON by the strict rules of this module."""

    def __init__(self, position: int, expected: str, found: str) -> None:
        super().__init__(f"character {position}: expected {expected}, found {found}")
        self.position = position
        self.expected = expected
        self.found = found


class _Refused(Exception):
    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found


def quote(text: str, limit: int = 24) -> str:
    """Return ``text`` in quotes for a message, cut to ``limit`` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return repr(cut.encode("utf-8", "backslashreplace").decode())


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Refused(
            f"a number of at most {MAX_DIGITS} digits", f"{len(digits)} digits"
        )
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Refused("a number a double can hold", quote(digits))
    return value


def _constant(name: str) -> JSON:
    raise _Refused("a JSON value", name)


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused("each key once", f"{quote(key)} twice")
            seen.add(key)
    return value


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
)


def json_depth(text: str) -> int:
    """Return how deep the brackets of a JSON text are nested."""
    depth = deepest = 0
    for match in _BRACKET_OR_STRING.finditer(text):
        depth += _STEP.get(match.group(), 0)
        deepest = max(deepest, depth)
    return deepest


def load_json(text: str) -> JSON:
    """Read one JSON value; raise :class:`JSONError` and nothing else.

    Besides invalid JSON it refuses nesting deeper than 64, integers of more than 100
    digits, numbers too large for a double, ``NaN`` and ``Infinity``, repeated keys and
    lone surrogates.
    """
    depth = 0
    for match in _BRACKET_OR_STRING.finditer(text):
        depth += _STEP.get(match.group(), 0)
        if depth > MAX_DEPTH:
            raise JSONError(
                match.start(), f"nesting of at most {MAX_DEPTH}", "deeper nesting"
            )
    try:
        value: JSON = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        found = quote(text[error.pos : error.pos + 25]) if text[error.pos :] else "end"
        raise JSONError(error.pos, f"JSON ({error.msg})", found) from None
    except _Refused as refused:
        raise JSONError(0, refused.expected, refused.found) from None
    if "\\u" in text or not text.isascii():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise JSONError(0, "text", "a lone surrogate") from None
    return value


def dump_json(value: JSON) -> str:
    """Write ``value`` on one line, with non-ASCII characters as they are."""
    return json.dumps(value, ensure_ascii=False)


def json_equal(one: JSON, other: JSON) -> bool:
    """Compare as JSON values: ``1`` equals ``1.0``, ``true`` does not equal ``1``.

    Strings are compared exactly: case and spaces count. Object keys have no order.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            json_equal(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(json_equal, one, other))
    return one == other
