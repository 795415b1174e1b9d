"""Reading the fields of one JSON object: an error names place, expectation and finding.

An optional field that is absent or null takes its default. Fields that nobody reads are
tolerated: a newer program may write more than an older one knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, TypeVar

from actions.definitions import describe
from actions.tags import JSON

Record = TypeVar("Record")

LARGEST_STEP = 2**31 - 1  # what the database holds of a step
LARGEST_KEY = 2**63 - 1  # what it holds of a row's number


class RecordError(ValueError):
    """A record is not of its form: where, what was expected there and what was found."""

    def __init__(self, place: str, expected: str, found: str) -> None:
        super().__init__(f"{place}: expected {expected}, found {found}")
        self.place = place
        self.expected = expected
        self.found = found


def parse_object(text: str | bytes, place: str) -> dict[str, JSON]:
    """Return the JSON object that ``text`` is; raise ``RecordError``."""
    try:
        value: JSON = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(place, "a JSON object", f"invalid JSON ({error})") from error
    return object_of(value, place)


def object_of(value: JSON, place: str) -> dict[str, JSON]:
    """Return ``value`` if it is a JSON object; raise ``RecordError``."""
    if not isinstance(value, dict):
        raise RecordError(place, "a JSON object", describe(value))
    return value


def read_lines(
    path: Path, from_json: Callable[[Mapping[str, JSON]], Record], name: str = ""
) -> Iterator[Record]:
    """Yield what ``from_json`` makes of each line of a JSONL file.

    Empty lines are passed over. Raises ``RecordError`` naming the file, by ``name``
    where it is given, the line and the field; ``OSError`` where it cannot be read.
    """
    with path.open("rb") as lines:  # only line breaks end a line, not U+2028
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{name or path.name}, line {number}"
            try:
                yield from_json(parse_object(line, place))
            except RecordError as error:
                if error.place == place:
                    raise
                where = f"{place}: {error.place}"
                raise RecordError(where, error.expected, error.found) from error


@dataclass(frozen=True)
class Fields:
    """The fields of one JSON object; ``place`` says where it stands, "" at the top."""

    values: Mapping[str, JSON]
    place: str = ""

    def error(self, name: str, expected: str) -> RecordError:
        """Return the error of a field whose value is not as expected."""
        value = self.values.get(name)
        place = f"{self.place}: `{name}`" if self.place else f"`{name}`"
        return RecordError(
            place, expected, describe(value) if name in self.values else "nothing"
        )

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text; without ``default`` the field is required."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.error(name, "a text")
        return value

    def number(self, name: str, most: int = LARGEST_KEY) -> int:
        """Return a whole number from 0 to ``most``; "1", 1.0 and true are none."""
        value = self.values.get(name)
        if not _is_whole(value):
            raise self.error(name, "a whole number")
        if not 0 <= value <= most:
            raise self.error(name, f"a whole number from 0 to {most}")
        return value

    def number_or_none(self, name: str) -> int | None:
        """Return a whole number, None where the field is absent or null."""
        return None if self.values.get(name) is None else self.number(name)

    def real_or_none(self, name: str) -> float | None:
        """Return a finite number, None where the field is absent or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(name, "a finite number")
        return number

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return the whole numbers of a list, none where it is absent or null."""
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(name, "a list of whole numbers")
        numbers = tuple(item for item in value if _is_whole(item))
        if len(numbers) != len(value):
            raise self.error(name, "a list of whole numbers")
        return numbers

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return true or false; 1 and 0 stand for them."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise self.error(name, "true or false")
        return bool(value)

    def texts(
        self, name: str, default: tuple[str, ...] | None = None
    ) -> tuple[str, ...]:
        """Return the texts of a list."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, list):
            raise self.error(name, "a list of texts")
        texts = tuple(item for item in value if isinstance(item, str))
        if len(texts) != len(value):
            raise self.error(name, "a list of texts")
        return texts

    def object(
        self, name: str, default: Mapping[str, JSON] | None = None
    ) -> dict[str, JSON]:
        """Return the fields of a JSON object within this one."""
        value = self.values.get(name)
        if value is None and default is not None:
            return dict(default)
        if not isinstance(value, dict):
            raise self.error(name, "a JSON object")
        return value

    def list(self, name: str, default: tuple[JSON, ...] | None = None) -> list[JSON]:
        """Return the items of a list."""
        value = self.values.get(name)
        if value is None and default is not None:
            return [*default]
        if not isinstance(value, list):
            raise self.error(name, "a list")
        return value


def _is_whole(value: JSON) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
