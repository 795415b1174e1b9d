"""The lines of ``events.jsonl``, read with suspicion.

A program may be killed in the middle of a line, write ``NaN`` or a text the database
cannot hold. Nothing of that may stop the supervision of a run, so every line becomes
one of the classes below and never an exception.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TypeAlias

from records.finite import first_not_finite

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

LARGEST_STEP = 2**31 - 1
LONGEST_NAME = 80
LEVELS = ("info", "warning", "error")


@dataclass(frozen=True)
class Progress:
    step: int
    of: int


@dataclass(frozen=True)
class Metrics:
    """``values`` holds finite numbers only; ``not_finite`` names NaN and infinities.

    A figure that is null has no value, and is in neither.
    """

    step: int
    values: dict[str, float]
    not_finite: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShownSample:
    step: int
    prompt: str
    text: str
    label: str
    scores: dict[str, Json]


@dataclass(frozen=True)
class CheckpointWritten:
    """``path`` is relative to the run directory."""

    step: int
    path: str
    digest: str
    final: bool


@dataclass(frozen=True)
class Log:
    level: str
    message: str


@dataclass(frozen=True)
class Result:
    """The last line: how the program says it ended."""

    state: str
    values: dict[str, Json] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Unreadable:
    """A line that is none of the above, and why."""

    why: str


Event: TypeAlias = (
    "Progress | Metrics | ShownSample | CheckpointWritten | Log | Result | Unreadable"
)


def storable(value: Json) -> Json:
    """Return ``value`` as Postgres can hold it.

    NUL characters and lone surrogates are replaced; numbers that are not finite
    become null.
    """
    if isinstance(value, str):
        text = value.replace("\x00", "\N{REPLACEMENT CHARACTER}")
        return text.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [storable(each) for each in value]
    if isinstance(value, dict):
        return {str(storable(key)): storable(each) for key, each in value.items()}
    return value


def read_event(line: bytes) -> tuple[float, Event]:
    """Return when a whole line of ``events.jsonl`` was written, and what it says.

    The time is in unix seconds, 0.0 when the line has none.
    """
    try:
        parsed: Json = json.loads(line)
    except (ValueError, RecursionError) as error:
        return 0.0, Unreadable(f"not a JSON line: {error}")
    if not isinstance(parsed, dict):
        return 0.0, Unreadable(f"not a JSON object: {type(parsed).__name__}")
    event = {key: storable(value) for key, value in parsed.items()}
    time = event.get("time")
    at = float(time) if isinstance(time, int | float) and 0 < time < 1e11 else 0.0
    values = parsed.get("values")
    try:
        return at, _typed(event, values if isinstance(values, dict) else {})
    except _WrongFieldError as error:
        return at, Unreadable(str(error))


class _WrongFieldError(Exception):
    pass


def _typed(event: dict[str, Json], said: dict[str, Json]) -> Event:
    """Return what an event says; ``said`` is its values as they were written."""
    kind = event.get("event")
    if kind == "progress":
        return Progress(_step(event), _step(event, "of"))
    if kind == "metrics":
        return _metrics(event, said)
    if kind == "sample":
        return ShownSample(
            _step(event),
            _text(event, "prompt"),
            _text(event, "text"),
            _text(event, "label"),
            _object(event, "scores"),
        )
    if kind == "checkpoint":
        return CheckpointWritten(
            _step(event),
            _text(event, "path"),
            _text(event, "digest"),
            event.get("final") is True,
        )
    if kind == "log":
        level = _text(event, "level")
        return Log(level if level in LEVELS else "info", _text(event, "message"))
    if kind == "result":
        state = _text(event, "state")
        if state not in ("finished", "stopped", "failed", "killed"):
            raise _WrongFieldError(f"result: no such state: {state!r}")
        error = _text(event, "error")
        not_finite = first_not_finite(said)
        if not_finite is not None and state == "finished":
            name, value = not_finite
            state, error = "failed", f"The program ended with {name} = {value}."
        return Result(state, _object(event, "values"), error)
    raise _WrongFieldError(f"no such event: {kind!r}")


def _metrics(event: dict[str, Json], said: dict[str, Json]) -> Metrics:
    values: dict[str, float] = {}
    not_finite: list[str] = []
    for name, value in said.items():
        name = str(storable(name))[:LONGEST_NAME]
        if isinstance(value, bool | int | float):
            if math.isfinite(value):
                values[name] = float(value)
            else:
                not_finite.append(name)
        elif value is not None:
            raise _WrongFieldError(f"metrics: {name} is not a number: {value!r:.60}")
    return Metrics(_step(event), values, tuple(not_finite))


def _step(event: dict[str, Json], name: str = "step") -> int:
    value = event.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _WrongFieldError(f"{event.get('event')}: {name} is not a whole number")
    if not 0 <= value <= LARGEST_STEP:
        raise _WrongFieldError(f"{event.get('event')}: {name} out of range: {value}")
    return value


def _text(event: dict[str, Json], name: str) -> str:
    value = event.get(name)
    return value if isinstance(value, str) else ""


def _object(event: dict[str, Json], name: str) -> dict[str, Json]:
    value = event.get(name)
    return value if isinstance(value, dict) else {}
