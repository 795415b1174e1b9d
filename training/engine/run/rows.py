"""Reading the JSONL files of a run directory, one record a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from actions.tags import JSON
from records.reading import RecordError, read_lines
from training.engine.run.errors import RunError

Record = TypeVar("Record")


def read_records(
    path: Path, from_json: Callable[[Mapping[str, JSON]], Record]
) -> list[Record]:
    """Return the records of a JSONL file; raise ``RunError`` naming line and field."""
    try:
        return list(read_lines(path, from_json))
    except RecordError as error:
        raise RunError(error.place, error.expected, error.found) from error
