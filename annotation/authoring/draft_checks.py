"""Find what is wrong with a draft, and where, while it is typed. No database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

from django.utils.translation import gettext as _

from actions.builtins import ENABLED_ACTIONS
from actions.definitions import ActionDefinition, check_parameters
from actions.grammar import ActionCall, FormatError, Response, parse, render
from actions.in_force import (
    Contexts,
    calls_in_force,
    definitions_in_force,
    fetched_by,
    fetched_inside,
)
from actions.tags import JSON, find_tag
from actions.units import UnitPair, align_units
from annotation.authoring.draft_blocks import (
    EditBlock,
    blocks_of_post,
    blocks_to_edit,
    kept_blocks,
)
from annotation.authoring.drafts import (
    Content,
    dismissed,
    keyed_turns,
    references_of,
    texts_of,
)
from annotation.authoring.method_hints import Hint, Knowledge, hints_of_turn
from annotation.text.blocks import Block, blocks_of_response
from annotation.text.grammar_messages import grammar_message

AROUND: Final = 60


@dataclass(frozen=True)
class Location:
    """Where a text breaks the grammar: ``position`` from 0, and the line around it."""

    position: int
    before: str
    after: str


@dataclass(frozen=True)
class Problem:
    """``error``: the draft cannot be submitted; ``hint``: worth another look."""

    text: str
    level: Literal["error", "hint"] = "error"
    location: Location | None = None


@dataclass(frozen=True)
class Reference:
    """Another wording of a response, and where its meaning differs."""

    number: int
    text: str
    problems: tuple[Problem, ...]
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One unit in which a reference differs from the label response."""

    title: str
    label: str | None
    reference: str | None


@dataclass(frozen=True)
class Proposal:
    """Where a policy's text was used: unchanged, or edited since."""

    checkpoint: int
    digest: str
    is_edited: bool


@dataclass(frozen=True)
class DraftTurn:
    number: int
    key: str
    kind: str
    text: str
    response: str
    is_valid: bool
    blocks: tuple[Block, ...]
    edit_blocks: tuple[EditBlock, ...]
    problems: tuple[Problem, ...]
    hints: tuple[Hint, ...]
    dismissed: int
    references: tuple[Reference, ...]
    proposal: Proposal | None
    call: ActionCall | None
    """The call that ends the response: its result comes next."""
    call_before: ActionCall | None
    """The call that the input is the result of."""
    exceptions: tuple[str, ...] = ()
    """How that call may fail, by its definition."""
    is_answered: bool = False
    """Whether a result of that call is there already."""
    in_force: Mapping[str, ActionDefinition] = field(default_factory=dict)
    """The definitions that a call at the response's end may name."""

    @property
    def runs_here(self) -> bool:
        """Whether the call is of an action that Concord itself can run."""
        return (
            self.call is not None
            and self.in_force.get(self.call.name) in ENABLED_ACTIONS
        )


def check_turns(
    content: Content,
    contexts: Contexts,
    knowledge: Knowledge | None = None,
) -> list[DraftTurn]:
    """Return the draft's turns as blocks, each with what is wrong and where.

    Hints on the thinking method are given only with ``knowledge``.
    """
    result: list[DraftTurn] = []
    rows = list(keyed_turns(content).items())
    parsed: list[Response | None] = []
    every_action = contexts.every_action()
    fetched: list[str] = []
    for number, (key, turn) in enumerate(rows, start=1):
        texts = texts_of(turn)
        pending = parsed[-1] if parsed else None
        awaited = pending.actions[-1] if pending and pending.ends_with_action else None
        problems = _input_problems(texts.inside, texts.text, awaited)
        fetched += fetched_by(awaited, texts.text)
        in_force = definitions_in_force(contexts, fetched)
        response, wrong = read_response(texts.response, inside=texts.inside)
        problems += wrong
        if response:
            problems += _call_problems(response, contexts, fetched)
            fetched += fetched_inside(response)
            in_force = definitions_in_force(contexts, fetched)
            if response.ends_with_action and number == len(rows):
                text = _("The conversation ends in an action call.")
                problems.append(Problem(text, "hint"))
        parsed.append(response)
        hints: tuple[Hint, ...] = ()
        dismissed_codes = dismissed(turn)
        if knowledge is not None and response is not None:
            turn_hints = hints_of_turn(
                [texts_of(one) for _key, one in rows[:number]], parsed, knowledge
            )
            hints = tuple(
                hint for hint in turn_hints if hint.code not in dismissed_codes
            )
        edited = kept_blocks(
            turn.get("blocks"), texts.response, inside_thinking=texts.inside
        )
        if edited:
            edit_blocks = blocks_of_post(edited, every_action)
        else:
            edit_blocks = blocks_to_edit(response, every_action) if response else ()
        call = response.actions[-1] if response and response.ends_with_action else None
        following = texts_of(rows[number][1]) if number < len(rows) else None
        definition = every_action.get(call.name) if call else None
        definition = in_force.get(call.name, definition) if call else None
        result.append(
            DraftTurn(
                number=number,
                key=key,
                kind=texts.kind,
                text=texts.text,
                response=texts.response,
                is_valid=response is not None,
                blocks=tuple(blocks_of_response(response)) if response else (),
                edit_blocks=edit_blocks,
                problems=tuple(problems),
                hints=hints,
                dismissed=len(dismissed_codes),
                references=tuple(
                    check_reference(place, response, one, inside=texts.inside)
                    for place, one in enumerate(references_of(turn), start=1)
                ),
                proposal=_proposal(turn, texts.response),
                call=call,
                call_before=awaited if texts.inside else None,
                exceptions=tuple(one.name for one in definition.exceptions)
                if definition
                else (),
                is_answered=bool(
                    following and following.inside and following.text.strip()
                ),
                in_force=in_force,
            )
        )
    return result


def read_response(text: str, *, inside: bool) -> tuple[Response | None, list[Problem]]:
    """Parse a response; a grammar error becomes a problem with its location."""
    if not text.strip():
        return None, [Problem(_("The response is empty."), "hint")]
    try:
        return parse(text, inside_thinking=inside), []
    except FormatError as error:
        message = _("Response, %(error)s.") % {"error": grammar_message(error)}
        return None, [Problem(message, "error", _location(text, error.position))]


def _location(text: str, position: int) -> Location:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    end = len(text) if end < 0 else end
    return Location(
        position,
        ("…" if position - start > AROUND else "")
        + text[max(start, position - AROUND) : position],
        text[position : min(end, position + AROUND)],
    )


def _input_problems(
    inside: bool, text: str, awaited: ActionCall | None
) -> list[Problem]:
    problems = []
    if inside and awaited is None:
        problems.append(
            Problem(
                _(
                    "An observation follows a response that ends in an action call; "
                    "the turn before does not."
                )
            )
        )
    elif awaited is not None and not inside:
        problems.append(
            Problem(
                _("The turn before ends in an action call: its observation comes next.")
            )
        )
    if not text.strip() and not inside:
        problems.append(Problem(_("The user says nothing yet."), "hint"))
    elif tag := find_tag(text):
        problems.append(Problem(_("The input holds the tag %(tag)s.") % {"tag": tag}))
    return problems


def _call_problems(
    response: Response, contexts: Contexts, fetched: Sequence[str]
) -> list[Problem]:
    problems = []
    for call, in_force in calls_in_force(response, contexts, fetched):
        definition = in_force.get(call.name)
        if definition is None:
            known = ", ".join(sorted(in_force)[:6])
            message = _("No action is named “%(name)s” here: %(known)s.")
            if call.name in contexts.every_action():
                message = _(
                    "“%(name)s” belongs to a local thinking context, which no call "
                    "before has fetched."
                )
            problems.append(
                Problem(message % {"name": call.name, "known": known}, "hint")
            )
            continue
        problems += [
            Problem(f"{call.name}: {error}", "hint")
            for error in check_parameters(definition, call.parameters)
        ]
    return problems


@lru_cache(maxsize=256)
def _aligned_texts(label: str, reference: str, inside: bool) -> tuple[UnitPair, ...]:
    """Align two texts, cached: every save of a page sends mostly the same ones."""
    return align_units(
        parse(label, inside_thinking=inside), parse(reference, inside_thinking=inside)
    )


def check_reference(
    number: int, label: Response | None, text: str, *, inside: bool
) -> Reference:
    """Compare a reference with the label response: same plan order, same actions."""
    parsed, problems = read_response(text, inside=inside)
    if parsed is None or label is None:
        return Reference(number, text, tuple(problems))
    differences = []
    titles = {
        "step order": _("Other order"),
        "missing step": _("Missing step"),
        "extra step": _("Extra step"),
        "content": _("Other step"),
        "action name": _("Other action"),
        "parameter": _("Other parameter"),
    }
    for pair in _aligned_texts(render(label), text, inside):
        if pair.differs and pair.kind in ("plan step", "action name", "parameter"):
            what = titles.get(pair.reason or "", pair.kind)
            place = pair.key.replace("parameters/", "").replace("/", " ")
            differences.append(Difference(f"{what}, {place}", pair.label, pair.sampled))
    if parsed == label:
        problems.append(
            Problem(_("This is still the response itself, word by word."), "hint")
        )
    return Reference(number, text, tuple(problems), tuple(differences))


def _proposal(turn: Mapping[str, JSON], response: str) -> Proposal | None:
    proposal = turn.get("proposal")
    if not isinstance(proposal, dict):
        return None
    number = proposal.get("checkpoint")
    return Proposal(
        number if isinstance(number, int) else 0,
        str(proposal.get("digest") or ""),
        proposal.get("text") != response,
    )


def error_count(turns: Sequence[DraftTurn]) -> int:
    return sum(problem.level == "error" for turn in turns for problem in turn.problems)
