"""Samples: one action task each, a line of Concord JSONL (docs/data-formats.md).

A snapshot's ``train.jsonl`` and ``held_out.jsonl`` are written and read with these
classes, and an import or export speaks in them. ``from_json`` reads what Concord wrote:
it takes only what it knows and does not ask whether texts keep to the grammar.
``records.sample_format`` is the strict reader of what people bring.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property

from actions.definitions import ActionDefinition
from actions.grammar import FormatError, Response, parse
from actions.in_force import Contexts, definitions_in_force, fetched_before
from actions.rules import Rule, rule_of
from actions.tags import JSON
from records.reading import Fields, object_of

DEFAULT_STATUS = "submitted"
INPUT_KINDS = ("user", "observation")

# A text that holds no whole float does not match; one that matches need not hold any.
_WHOLE_FLOAT = re.compile(r"[0-9]\.0(?![0-9])|[0-9]e\+")


@dataclass(frozen=True)
class Context:
    """A thinking context: global (always read) or local (fetched by an action)."""

    scope: str
    title: str
    background: str = ""
    guideline: str = ""
    actions: list[JSON] = field(default_factory=list)

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON], place: str = "") -> Context:
        """Return the context in ``obj``; raise ``RecordError``."""
        fields = Fields(obj, place)
        return cls(
            scope=fields.text("scope", "global"),
            title=fields.text("title", ""),
            background=fields.text("background", ""),
            guideline=fields.text("guideline", ""),
            actions=fields.list("actions", ()),
        )

    def to_json(self) -> dict[str, JSON]:
        return {
            "scope": self.scope,
            "title": self.title,
            "background": self.background,
            "guideline": self.guideline,
            "actions": self.actions,
        }

    @property
    def content_hash(self) -> str:
        return content_hash(self.to_json())


@dataclass(frozen=True)
class Turn:
    """One input and its label response. ``kind`` is ``user`` or ``observation``.

    ``facts`` is what an oracle judges by; ``proposal`` a policy's text as proposed, with
    its checkpoint and digest.
    """

    kind: str
    text: str
    response: str
    references: tuple[str, ...] = ()
    facts: JSON = None
    proposal: JSON = None

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON], place: str = "") -> Turn:
        """Return the turn in ``obj``; raise ``RecordError``."""
        fields = Fields(obj, place)
        within = Fields(fields.object("input"), f"{place}.input" if place else "input")
        kind = within.text("kind")
        if kind not in INPUT_KINDS:
            raise within.error("kind", "user or observation")
        return cls(
            kind=kind,
            text=within.text("text"),
            response=fields.text("response"),
            references=fields.texts("references", ()),
            facts=obj.get("facts"),
            proposal=obj.get("proposal"),
        )

    def to_json(self) -> dict[str, JSON]:
        form: dict[str, JSON] = {
            "input": {"kind": self.kind, "text": self.text},
            "response": self.response,
        }
        if self.references:
            form["references"] = list(self.references)
        if self.facts is not None:
            form["facts"] = self.facts
        if self.proposal is not None:
            form["proposal"] = self.proposal
        return form

    @cached_property
    def document(self) -> dict[str, JSON]:
        """The turn as JSON, which the demo's oracle and generator read."""
        return self.to_json()

    @property
    def inside_thinking(self) -> bool:
        """Whether the response goes on inside thinking that is already open."""
        return self.kind == "observation"

    def parsed(self) -> Response | None:
        """Return the label response parsed, or None where it breaks the grammar."""
        try:
            return parse(self.response, inside_thinking=self.inside_thinking)
        except FormatError:
            return None

    @property
    def has_facts(self) -> bool:
        """Whether the oracle can judge responses to this turn."""
        return bool(self.facts)


@dataclass(frozen=True)
class Sample:
    """One action task; ``status`` is None where a file says none."""

    id: str
    turns: tuple[Turn, ...]
    scenario: str = ""
    situation: str = "normal"
    status: str | None = None
    split: str = ""
    contexts: tuple[Context, ...] = ()
    meta: dict[str, JSON] = field(default_factory=dict)

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON]) -> Sample:
        """Return the sample in ``obj``; raise ``RecordError``."""
        fields = Fields(obj)
        turns = fields.list("turns")
        if not turns:
            raise fields.error("turns", "at least one turn")
        return cls(
            id=fields.text("id"),
            turns=tuple(
                Turn.from_json(object_of(item, place), place)
                for number, item in enumerate(turns)
                for place in (f"turns[{number}]",)
            ),
            scenario=fields.text("scenario", ""),
            situation=fields.text("situation", ""),
            status=fields.text("status", "") or None,
            split=fields.text("split", ""),
            contexts=tuple(
                Context.from_json(object_of(item, place), place)
                for number, item in enumerate(fields.list("contexts", ()))
                for place in (f"contexts[{number}]",)
            ),
            meta=fields.object("meta", {}),
        )

    def to_json(self) -> dict[str, JSON]:
        return {
            "id": self.id,
            "scenario": self.scenario,
            "situation": self.situation,
            "status": self.status or DEFAULT_STATUS,
            "split": self.split,
            "contexts": [context.to_json() for context in self.contexts],
            "turns": [turn.to_json() for turn in self.turns],
            "meta": self.meta,
        }

    @cached_property
    def document(self) -> dict[str, JSON]:
        """The sample as JSON, which the demo's simulators read."""
        return self.to_json()

    @property
    def content_hash(self) -> str:
        """Hash what people wrote: not the id, the status or the split."""
        form = self.to_json()
        for key in ("id", "status", "split"):
            del form[key]
        return content_hash(form)

    @cached_property
    def rule(self) -> Rule | None:
        """The rule of a reasoning task, which judges answers to its last turn.

        Raises ``RuleError`` where it cannot be read.
        """
        return rule_of(self.meta)

    @property
    def task(self) -> str:
        """The kind of task (the paper's Table 1): "action", "reasoning" or "other"."""
        if self.rule is not None:
            return "reasoning"
        return "other" if self.meta.get("task") == "other" else "action"

    @cached_property
    def action_contexts(self) -> Contexts:
        """The contexts as far as they define actions."""
        return Contexts.of(context.to_json() for context in self.contexts)

    def rule_at(self, turn: int) -> Rule | None:
        """Return the rule that judges answers to ``turn``, if one does."""
        return self.rule if turn == len(self.turns) - 1 else None

    def in_force(self, turn: int) -> dict[str, ActionDefinition]:
        """Return the actions that the response to ``turn`` may call after the labels."""
        return definitions_in_force(self.action_contexts, self.fetched_by_labels(turn))

    def fetched_by_labels(self, turn: int) -> list[str]:
        """Return what the labels fetched before the response to ``turn``."""
        before = ((each.text, each.parsed()) for each in self.turns[: turn + 1])
        *_, fetched = fetched_before(before)
        return fetched

    def is_verifiable(self, turn: int) -> bool:
        """Whether answers to ``turn`` can be told right or wrong, by oracle or rule."""
        return self.turns[turn].has_facts or self.rule_at(turn) is not None


def content_hash(value: JSON) -> str:
    """Hash a JSON value: equal values have equal hashes, whatever their key order.

    Numbers are hashed by value (``1``, ``1.0`` and ``1e0`` are one), because Postgres
    keeps the value of a number and not its spelling.
    """
    text = _canonical(value)
    if _WHOLE_FLOAT.search(text):
        text = _canonical(_plain(value))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: JSON) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _plain(value: JSON) -> JSON:
    """Turn whole floats into integers: the only numbers that have two spellings."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(Decimal(repr(value)))
    return value
