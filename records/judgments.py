"""``judgments.jsonl``: one line for each pair with an outcome, and all that led to it.

A snapshot writes it; the programs that learn from judgments read it (``sft`` with
``judged_answers``, ``reward``, ``preference``). Of each line only the texts and the
outcome are required, so that a file can be written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actions.tags import JSON
from records.reading import Fields

HELD_OUT = "held-out"


@dataclass(frozen=True)
class Producer:
    """The policy that gave the sampled response: its run, checkpoint and step.

    The numbers are the database's own, None where it does not know them.
    """

    run: int | None
    checkpoint: int | None
    step: int | None

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON], place: str = "") -> Producer:
        """Return the producer in ``obj``; raise ``RecordError``."""
        fields = Fields(obj, place)
        return cls(*(fields.number_or_none(name) for name in cls.__annotations__))

    def to_json(self) -> dict[str, JSON]:
        return {"run": self.run, "checkpoint": self.checkpoint, "step": self.step}


@dataclass(frozen=True)
class JudgedPair:
    """A label and a sampled response to one turn, and whether they are consistent.

    ``differs`` names the units that differ (empty: nobody said, or none do).
    ``source``: ``people``; ``identical``, ``rule`` or ``format``, where no person was
    needed; ``demo``, judged by people but given by the demo's generator and no policy.
    ``judgment`` is the first of the ``judgments``; they and ``pair`` are the database's
    numbers. A pair of the ``split`` "held-out" is measured and never learned.
    """

    label: str
    sampled: str
    consistent: bool
    sample: str = ""
    turn: int = 0
    input_kind: str = "user"
    differs: tuple[str, ...] = ()
    source: str = "people"
    split: str = "train"
    facts: JSON = None
    producer: Producer | None = None
    pair: int | None = None
    judgment: int | None = None
    judgments: tuple[int, ...] = ()

    @property
    def is_held_out(self) -> bool:
        return self.split == HELD_OUT

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON]) -> JudgedPair:
        """Return the pair in ``obj``; raise ``RecordError``."""
        fields = Fields(obj)
        producer = obj.get("producer")
        return cls(
            label=fields.text("label"),
            sampled=fields.text("sampled"),
            consistent=fields.flag("consistent"),
            sample=fields.text("sample", ""),
            turn=fields.number_or_none("turn") or 0,
            input_kind=fields.text("input_kind", "user"),
            differs=fields.texts("differs", ()),
            source=fields.text("source", "people"),
            split=fields.text("split", "train"),
            facts=obj.get("facts"),
            producer=Producer.from_json(fields.object("producer"), "producer")
            if producer is not None
            else None,
            pair=fields.number_or_none("pair"),
            judgment=fields.number_or_none("judgment"),
            judgments=fields.numbers("judgments"),
        )

    def to_json(self) -> dict[str, JSON]:
        return {
            "judgment": self.judgment,
            "judgments": list(self.judgments),
            "pair": self.pair,
            "sample": self.sample,
            "turn": self.turn,
            "input_kind": self.input_kind,
            "label": self.label,
            "sampled": self.sampled,
            "consistent": self.consistent,
            "differs": list(self.differs),
            "source": self.source,
            "producer": self.producer.to_json() if self.producer else None,
            "facts": self.facts,
            "split": self.split,
        }
