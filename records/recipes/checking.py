"""Whether a value is one that a setting takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

Setting: TypeAlias = int | float | bool | str | tuple[str, ...]


class RecipeError(ValueError):
    """A setting that a program cannot run with.

    ``field`` names the setting, ``expected`` says what it takes, ``found`` shows what
    was given.
    """

    def __init__(self, field: str, expected: str, found: str) -> None:
        super().__init__(f"recipe: `{field}`: expected {expected}, found {found}")
        self.field = field
        self.expected = expected
        self.found = found


def checked(
    name: str, value: object, wanted: object, about: Mapping[str, object]
) -> Setting:
    """Return ``value`` as the type ``wanted``; raise ``RecipeError`` if it cannot be."""
    if wanted is bool:
        if not isinstance(value, bool):
            raise RecipeError(name, "true or false", shown(value))
        return value
    if wanted is str:
        if not isinstance(value, str):
            raise RecipeError(name, "a text", shown(value))
        choices = about.get("choices")
        if isinstance(choices, list) and value not in choices:
            raise RecipeError(name, f"one of {', '.join(choices)}", shown(value))
        return value
    if wanted is int or wanted is float:
        return _number(name, value, wanted is int, about)
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) for item in value
    ):
        raise RecipeError(name, "a list of texts", shown(value))
    choices = about.get("choices")
    if isinstance(choices, list) and not set(value).issubset(choices):
        raise RecipeError(name, f"some of {', '.join(choices)}", shown(value))
    return tuple(value)


def _number(
    name: str, value: object, whole: bool, about: Mapping[str, object]
) -> int | float:
    """Return the number, whole or not, when it lies in the range of its metadata."""
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(name, kind, shown(value))
    if not math.isfinite(value) or (whole and value != int(value)):
        raise RecipeError(name, kind, shown(value))
    lowest, highest = about.get("min"), about.get("max")
    if isinstance(lowest, int | float) and value < lowest:
        raise RecipeError(name, f"at least {lowest}", shown(value))
    if isinstance(highest, int | float) and value > highest:
        raise RecipeError(name, f"at most {highest}", shown(value))
    return int(value) if whole else float(value)


def shown(value: object) -> str:
    """Return ``value`` short enough for one line of an error."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
