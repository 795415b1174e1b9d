"""Fields of a sample that have an effect: they decide rewards or name a text's author.

No form shows them; a pasted or imported file may contain them. Only curators may put
them into a sample, and Review and History show them. No database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from django.utils.translation import gettext as _

from actions.json_values import dump_json
from actions.rules import RuleError, rule_of
from actions.tags import JSON
from annotation.authoring.drafts import Content, turns_of
from records.openai_chat import KEPT

# Fields of ``meta`` that code reads, each with the values it acts on. What an import of
# chats stores under ``KEPT``, an export writes again beside the visible turns.
META: Final[Mapping[str, Callable[[JSON], bool]]] = {
    "rule": lambda value: True,
    "task": lambda value: value == "other",
    KEPT: lambda value: True,
}
TURN: Final = ("facts", "proposal")


@dataclass(frozen=True)
class ActingPart:
    """A field with an effect: its place, the effect in words, and its value as JSON.

    ``is_wrong``: the value cannot be read, so no run takes the sample.
    """

    place: str
    what: str
    value: str
    is_wrong: bool = False


def acting_parts(document: Mapping[str, JSON]) -> list[ActingPart]:
    """Return the fields of a sample's document that have an effect, grouped by kind."""
    parts: list[ActingPart] = []
    meta = document.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    if "rule" in meta:
        try:
            rule_of(meta)
            what = _(
                "This rule alone decides whether an answer to the last turn is right: it "
                "rewards a policy without anybody's judgment."
            )
            parts.append(ActingPart("meta.rule", what, dump_json(meta["rule"])))
        except RuleError as error:
            what = _("This rule cannot be applied: %(why)s.") % {
                "why": f"{error.field}: expected {error.expected}"
            }
            parts.append(ActingPart("meta.rule", what, dump_json(meta["rule"]), True))
    if meta.get("task") == "other":
        what = _(
            "The sample is no action task: a preference model rewards its answers, not "
            "their consistency with the label."
        )
        parts.append(ActingPart("meta.task", what, dump_json("other")))
    whats = {
        "facts": _(
            "The demo's oracle judges answers to this turn by these facts, for "
            "rewards and for the reported truth."
        ),
        "proposal": _(
            "Says that this policy's checkpoint proposed the response, and what it said."
        ),
    }
    parts += [
        ActingPart(f"turns[{number}].{name}", whats[name], dump_json(turn[name]))
        for name in TURN
        for number, turn in enumerate(turns_of(document))
        if turn.get(name) is not None
    ]
    return parts


def without_acting(
    content: Content,
    *,
    known: Mapping[str, JSON] | None = None,
    keeps_proposals: bool = False,
) -> tuple[Content, list[str]]:
    """Return what a writer who is no curator may keep, and the places of the rest.

    ``known`` is the current document of the sample: a curator has accepted the fields
    with an effect in it, and they stay there. ``keeps_proposals``: a page put in the
    proposals, from the policy itself.
    """
    known = known or {}
    known_meta, meta = known.get("meta"), content.get("meta")
    known_meta = known_meta if isinstance(known_meta, dict) else {}
    left_out: list[str] = []
    result: Content = dict(content)
    if isinstance(meta, dict):
        gone = [
            name
            for name, acts in META.items()
            if name in meta and acts(meta[name]) and known_meta.get(name) != meta[name]
        ]
        result["meta"] = {key: value for key, value in meta.items() if key not in gone}
        left_out += [f"meta.{name}" for name in gone]
    known_turns = turns_of(known)
    turns: list[JSON] = []
    for number, turn in enumerate(turns_of(content)):
        gone = [
            name
            for name in TURN
            if turn.get(name) is not None
            and not (name == "proposal" and keeps_proposals)
            and not _stands_in(known_turns, turn, name)
        ]
        turns.append({key: value for key, value in turn.items() if key not in gone})
        left_out += [f"turns[{number}].{name}" for name in gone]
    return result | {"turns": turns}, left_out


def _stands_in(
    known: Iterable[Mapping[str, JSON]], turn: Mapping[str, JSON], name: str
) -> bool:
    """Whether one of the known turns has the same field with the same text.

    Facts describe a response; a proposal stays whatever happens to its response.
    """
    same = ("input", "response", name) if name == "facts" else (name,)
    return any(
        all(one.get(field) == turn.get(field) for field in same) for one in known
    )
