"""``outputs/responses.jsonl``: sampled responses, a line each, and what a policy proposes.

A ``draw`` writes them; the web application makes pairs of them for people to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actions.tags import JSON
from records.reading import LARGEST_STEP, Fields

ROLES = ("current", "initial")


@dataclass(frozen=True)
class ResponseRow:
    """One answer of a policy to one turn.

    ``sample`` is the sample's id, ``turn`` its position counted from 0, ``index`` 0 to
    G-1 among the answers of this ``role`` to the turn. ``observation_source`` says where
    the observation is from: ``recorded``, ``simulator`` or nowhere. ``identical``: equal
    to the label byte for byte. ``rm_score`` is the reward model's probability that it is
    consistent with the label; ``kept`` False is what rejection sampling left out.
    """

    sample: str
    turn: int
    index: int
    text: str
    observation: str = ""
    observation_source: str = ""
    format_error: str = ""
    role: str = "current"
    identical: bool = False
    rm_score: float | None = None
    kept: bool | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Whose answers to which turn: role, sample and turn."""
        return self.role, self.sample, self.turn

    @property
    def goes_to_people(self) -> bool:
        return self.kept is not False

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON]) -> ResponseRow:
        """Return the response in ``obj``; raise ``RecordError``."""
        fields = Fields(obj)
        role = fields.text("role")
        if role not in ROLES:
            raise fields.error("role", " or ".join(ROLES))
        return cls(
            sample=fields.text("sample", ""),
            turn=fields.number("turn", LARGEST_STEP),
            index=fields.number("index", LARGEST_STEP),
            text=fields.text("text", ""),
            observation=fields.text("observation", ""),
            observation_source=fields.text("observation_source", ""),
            format_error=fields.text("format_error", ""),
            role=role,
            identical=fields.flag("identical", False),
            rm_score=fields.real_or_none("rm_score"),
            kept=None if obj.get("kept") is None else fields.flag("kept"),
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the line as JSON, without a score or a choice that nobody made."""
        row: dict[str, JSON] = {
            "sample": self.sample,
            "turn": self.turn,
            "index": self.index,
            "role": self.role,
            "text": self.text,
            "format_error": self.format_error,
            "observation": self.observation,
            "observation_source": self.observation_source,
            "identical": self.identical,
        }
        if self.rm_score is not None:
            row["rm_score"] = self.rm_score
        if self.kept is not None:
            row["kept"] = self.kept
        return row


@dataclass(frozen=True)
class ProposalRequest:
    """What the program ``propose`` reads: a sample whose last response is to be written.

    ``settings`` are those of ``ProposeSettings``; what is left out has its default.
    """

    document: dict[str, JSON]
    settings: dict[str, JSON]

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON]) -> ProposalRequest:
        """Return the request in ``obj``; raise ``RecordError``."""
        fields = Fields(obj, "request")
        return cls(fields.object("document"), fields.object("settings", {}))

    def to_json(self) -> dict[str, JSON]:
        return {"document": self.document, "settings": self.settings}


@dataclass(frozen=True)
class ProposedResponse:
    """What ``propose`` writes; ``format_error`` is empty for a well-formed text."""

    text: str
    format_error: str = ""
    seconds: float = 0.0

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON]) -> ProposedResponse:
        """Return the answer in ``obj``; raise ``RecordError``."""
        fields = Fields(obj, "answer")
        return cls(
            text=fields.text("text"),
            format_error=fields.text("format_error", ""),
            seconds=fields.real_or_none("seconds") or 0.0,
        )

    def to_json(self) -> dict[str, JSON]:
        return {
            "text": self.text,
            "format_error": self.format_error,
            "seconds": self.seconds,
        }
