"""``run.json``: what a program is to do, written by whoever starts it.

A program reads ``program``, ``recipe``, ``inputs``, ``data`` and ``resume``; the rest is
the starter's own, by which it knows its run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actions.definitions import describe
from actions.tags import JSON
from records.reading import Fields, RecordError

RUN_JSON = "run.json"
LOCKED = 75  # the exit status where another process has the run: EX_TEMPFAIL


@dataclass(frozen=True)
class RunJson:
    """The task of one run.

    ``inputs`` maps roles to checkpoints, ``data`` names to files, ``resume`` is the
    checkpoint to go on from; relative paths count from the run directory.
    """

    program: str
    recipe: JSON = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    resume: str | None = None
    run_id: int | None = None
    uuid: str = ""
    attempt: int | None = None
    token: int | None = None

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON]) -> RunJson:
        """Return the task in ``obj``; raise ``RecordError``.

        The recipe is checked by ``recipe_from_json``; an input, a data file or a
        checkpoint to resume from that is null is none.
        """
        fields = Fields(obj, RUN_JSON)
        resume = obj.get("resume")
        if resume is not None and not isinstance(resume, str):
            raise fields.error("resume", "a path or null")
        program = obj.get("program")
        if not isinstance(program, str):
            raise fields.error("program", "a program's name")
        return cls(
            program=program,
            recipe=obj.get("recipe", {}),
            inputs=_paths(fields, "inputs"),
            data=_paths(fields, "data"),
            resume=resume or None,
            run_id=fields.number_or_none("run_id"),
            uuid=fields.text("uuid", ""),
            attempt=fields.number_or_none("attempt"),
            token=fields.number_or_none("token"),
        )

    def to_json(self) -> dict[str, JSON]:
        return {
            "program": self.program,
            "recipe": self.recipe,
            "run_id": self.run_id,
            "uuid": self.uuid,
            "attempt": self.attempt,
            "token": self.token,
            "inputs": dict(self.inputs),
            "data": dict(self.data),
            "resume": self.resume,
        }


def _paths(fields: Fields, name: str) -> dict[str, str]:
    """Return the paths of an object of ``run.json``, leaving out nulls."""
    paths: dict[str, str] = {}
    for key, value in fields.object(name, {}).items():
        if value is None:
            continue
        if not isinstance(value, str):
            place = f"{RUN_JSON}: `{name}.{key}`"
            raise RecordError(place, "a path or null", describe(value))
        paths[key] = value
    return paths
