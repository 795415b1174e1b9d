"""Reading the fields of one JSON object: an error names place, expectation and finding.

An optional field that is absent or null takes its default. Fields that nobody reads are
tolerated: a newer program may write more than an older one knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from actions.definitions import describe
from actions.tags import JSON

LARGEST_NUMBER = 2**31 - 1  # what a database column for whole numbers holds


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

    def number(self, name: str) -> int:
        """Return a whole number from 0 to ``LARGEST_NUMBER``; "1" and true are none."""
        value = self.values.get(name)
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 0 <= value <= LARGEST_NUMBER
        ):
            raise self.error(name, "a whole number")
        return value

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
