"""The lines of ``events.jsonl``: how a program says what happens.

A program writes each event with ``event_line``. They are read with suspicion: a program
may be killed in the middle of a line, write ``NaN`` or a text the database cannot hold.
Nothing of that may stop the supervision of a run, so ``read_event`` turns every line
into one of the classes below and never raises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from actions.tags import JSON
from records.finite import first_not_finite
from records.reading import LARGEST_STEP

LONGEST_NAME = 80
# The prefix of figures of held-out samples, and a second one of earlier versions.
HELD_OUT, OLD_HELD_OUT = "held_out/", "heldout/"
LARGEST_WHOLE = 2**63
LEVELS = ("info", "warning", "error")
STATES = ("finished", "stopped", "failed", "killed")


@dataclass(frozen=True)
class Progress:
    """The program has done ``step`` of so many steps."""

    kind: ClassVar = "progress"
    step: int
    of: int

    def to_json(self) -> dict[str, JSON]:
        return {"step": self.step, "of": self.of}

    @classmethod
    def from_json(cls, obj: dict[str, JSON]) -> Progress:
        return cls(_step(obj), _step(obj, "of"))


@dataclass(frozen=True)
class Metrics:
    """Figures of one step, by name (docs/run-directory.md); null is no value."""

    kind: ClassVar = "metrics"
    step: int
    values: Mapping[str, JSON]

    @property
    def numbers(self) -> dict[str, float]:
        """The figures that are finite numbers; true and false count as 1 and 0."""
        return {
            name: float(value)
            for name, value in self.values.items()
            if isinstance(value, bool | int | float) and math.isfinite(value)
        }

    @property
    def not_finite(self) -> tuple[str, ...]:
        """The names of the figures that are NaN or infinite."""
        return tuple(
            name
            for name, value in self.values.items()
            if isinstance(value, float) and not math.isfinite(value)
        )

    def to_json(self) -> dict[str, JSON]:
        return {"step": self.step, "values": dict(self.values)}

    @classmethod
    def from_json(cls, obj: dict[str, JSON]) -> Metrics:
        values: dict[str, JSON] = {}
        for name, value in _object(obj, "values").items():
            name = str(storable(name))[:LONGEST_NAME]
            if name.startswith(OLD_HELD_OUT):
                name = HELD_OUT + name.removeprefix(OLD_HELD_OUT)
            if value is not None and not isinstance(value, bool | int | float):
                raise _WrongFieldError(
                    f"metrics: {name} is not a number: {value!r:.60}"
                )
            if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
                raise _WrongFieldError(f"metrics: {name} is too large")
            values[name] = value
        return cls(_step(obj), values)


@dataclass(frozen=True)
class ShownSample:
    """One sampled text beside its label."""

    kind: ClassVar = "sample"
    step: int
    prompt: str
    text: str
    label: str
    scores: Mapping[str, JSON]

    def to_json(self) -> dict[str, JSON]:
        return {
            "step": self.step,
            "prompt": self.prompt,
            "text": self.text,
            "label": self.label,
            "scores": dict(self.scores),
        }

    @classmethod
    def from_json(cls, obj: dict[str, JSON]) -> ShownSample:
        return cls(
            _step(obj),
            _text(obj, "prompt"),
            _text(obj, "text"),
            _text(obj, "label"),
            _stored_object(obj, "scores"),
        )


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint is whole; ``path`` is relative to the run directory.

    ``digest`` is the SHA-256 of its manifest, ``model`` what it is: policy or reward.
    """

    kind: ClassVar = "checkpoint"
    step: int
    path: str
    digest: str
    final: bool
    model: str = ""

    def to_json(self) -> dict[str, JSON]:
        return {
            "step": self.step,
            "digest": self.digest,
            "path": self.path,
            "final": self.final,
            "kind": self.model,
        }

    @classmethod
    def from_json(cls, obj: dict[str, JSON]) -> CheckpointWritten:
        return cls(
            _step(obj),
            _text(obj, "path"),
            _text(obj, "digest"),
            obj.get("final") is True,
            _text(obj, "kind"),
        )


@dataclass(frozen=True)
class Log:
    """Something said to the person who reads the run's page."""

    kind: ClassVar = "log"
    level: str
    message: str

    def to_json(self) -> dict[str, JSON]:
        return {"level": self.level, "message": self.message}

    @classmethod
    def from_json(cls, obj: dict[str, JSON]) -> Log:
        level = _text(obj, "level")
        return cls(level if level in LEVELS else "info", _text(obj, "message"))


@dataclass(frozen=True)
class Result:
    """The last line: how the program says it ended."""

    kind: ClassVar = "result"
    state: str
    values: Mapping[str, JSON] = field(default_factory=dict)
    error: str = ""

    def to_json(self) -> dict[str, JSON]:
        return {"state": self.state, "values": dict(self.values), "error": self.error}

    @classmethod
    def from_json(cls, obj: dict[str, JSON]) -> Result:
        state, error = _text(obj, "state"), _text(obj, "error")
        if state not in STATES:
            raise _WrongFieldError(f"result: no such state: {state!r}")
        bad = first_not_finite(_object(obj, "values"))
        if bad is not None and state == "finished":
            state, error = "failed", "The program ended with {} = {}.".format(*bad)
        return cls(state, _stored_object(obj, "values"), error)


@dataclass(frozen=True)
class Unreadable:
    """A line that is none of the above, and why."""

    why: str


Written: TypeAlias = Progress | Metrics | ShownSample | CheckpointWritten | Log | Result
Event: TypeAlias = Written | Unreadable

_CLASSES = (Progress, Metrics, ShownSample, CheckpointWritten, Log, Result)


def event_line(event: Written, at: float) -> bytes:
    """Return an event as its line; ``at`` is when it happens, in unix seconds.

    Raises ``ValueError`` for NaN and infinities.
    """
    obj = {"event": event.kind, **event.to_json(), "time": round(at, 3)}
    line = json.dumps(obj, ensure_ascii=False, allow_nan=False) + "\n"
    # A lone surrogate becomes its JSON escape; UTF-8 has no bytes for it.
    return line.encode("utf-8", "backslashreplace")


def read_event(line: bytes) -> tuple[float, Event]:
    """Return when a whole line of ``events.jsonl`` was written, and what it says.

    The time is in unix seconds, 0.0 when the line has none.
    """
    try:
        obj: JSON = json.loads(line)
    except (ValueError, RecursionError) as error:
        return 0.0, Unreadable(f"not a JSON line: {error}")
    if not isinstance(obj, dict):
        return 0.0, Unreadable(f"not a JSON object: {type(obj).__name__}")
    time = obj.get("time")
    at = float(time) if isinstance(time, int | float) and 0 < time < 1e11 else 0.0
    for event in _CLASSES:
        if obj.get("event") == event.kind:
            try:
                return at, event.from_json(obj)
            except _WrongFieldError as error:
                return at, Unreadable(str(error))
    return at, Unreadable(f"no such event: {storable(obj.get('event'))!r}")


def storable(value: JSON) -> JSON:
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


class _WrongFieldError(Exception):
    pass


def _step(obj: Mapping[str, JSON], name: str = "step") -> int:
    value = obj.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _WrongFieldError(f"{obj.get('event')}: {name} is not a whole number")
    if not 0 <= value <= LARGEST_STEP:
        raise _WrongFieldError(f"{obj.get('event')}: {name} out of range: {value}")
    return value


def _text(obj: Mapping[str, JSON], name: str) -> str:
    value = obj.get(name)
    return str(storable(value)) if isinstance(value, str) else ""


def _object(obj: Mapping[str, JSON], name: str) -> dict[str, JSON]:
    value = obj.get(name)
    return value if isinstance(value, dict) else {}


def _stored_object(obj: Mapping[str, JSON], name: str) -> dict[str, JSON]:
    value = storable(_object(obj, name))
    return value if isinstance(value, dict) else {}
