"""The true verdict on a demo turn: does a text mean what the label response means?

The oracle parses a text by the response grammar, maps plan steps and sentences to their
meaning through the wording bank, and compares them with the turn's facts. A wording
that it does not know counts as different, so it never calls an unclear text consistent.
Its unit keys are those of :mod:`actions.units`. As in the paper, the same steps in
another order are inconsistent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actions.demo.facts import (
    Facts,
    Sentence,
    parse_facts,
    render,
    say,
    steps_by_wording,
)
from actions.grammar import FormatError, Response, Text, parse
from actions.json_values import json_equal
from actions.plans import find_plan
from actions.tags import JSON
from actions.units import align_units

# No label is nearly as long; longer texts are not compared character by character.
LONGEST_SAYING = 2_000

ERROR_KINDS = (
    "format",
    "thinking",
    "plan order",
    "missing step",
    "extra step",
    "changed step",
    "action name",
    "parameter",
    "use of result",
    "question",
    "answer",
)


@dataclass(frozen=True)
class OracleVerdict:
    """``units``: unit key → matches. ``errors``: kinds of :data:`ERROR_KINDS`, each once."""

    consistent: bool
    units: Mapping[str, bool]
    errors: tuple[str, ...]

    @property
    def units_that_differ(self) -> tuple[str, ...]:
        """Keys of the units that differ, in reading order."""
        return tuple(key for key, matches in self.units.items() if not matches)


def judge(turn: Mapping[str, object], text: str) -> OracleVerdict:
    """Judge any text for a turn by the turn's ``facts``; nothing else is read.

    Raises FactsError when the turn has no facts of the demo.
    """
    return judge_facts(parse_facts(turn.get("facts")), text)


def judge_facts(facts: Facts, text: str) -> OracleVerdict:
    """Judge any text against facts; total and linear in the length of the text."""
    try:
        response = parse(text, inside_thinking=facts.inside)
    except FormatError:
        return OracleVerdict(False, {"format": False}, ("format",))
    units: dict[str, bool] = {}
    errors: set[str] = set()
    thinking, steps = _thinking_and_plan(response)

    if thinking or facts.thinking:
        key = "result" if facts.inside else "thinking"
        units[key] = matches(facts, facts.thinking, thinking)
        if not units[key]:
            errors.add("use of result" if facts.inside else "thinking")

    if steps or facts.plan:
        _judge_plan(facts, response, steps, units, errors)
    _judge_actions(facts, response, units, errors)

    if response.answer or facts.answer:
        units["answer"] = bool(response.answer) and matches(
            facts, facts.answer, response.answer
        )
        if not units["answer"]:
            errors.add("question" if facts.asks else "answer")

    return OracleVerdict(
        consistent=not errors,
        units=units,
        errors=tuple(kind for kind in ERROR_KINDS if kind in errors),
    )


def matches(facts: Facts, sentences: Sequence[Sentence], text: str) -> bool:
    """Whether ``text`` says exactly these sentences, in this order, in any wording.

    White space between words does not count; everything else does.
    """
    if len(text) > LONGEST_SAYING:
        return False
    words = " ".join(text.split())
    places = {0}
    for number, sentence in enumerate(sentences):
        space = " " if number else ""
        places = {
            place + len(wording)
            for place in places
            for wording in (space + w for w in say(facts.scenario, sentence))
            if words.startswith(wording, place)
        }
    return len(words) in places


def _thinking_and_plan(response: Response) -> tuple[str, tuple[str, ...]]:
    """Split the thinking into its sentences and the steps of the first plan."""
    parts: list[str] = []
    steps: tuple[str, ...] = ()
    for node in response.thinking:
        if isinstance(node, Text):
            span = None if steps else find_plan(node.text)
            if span:
                steps = span.plan.steps
                parts += [node.text[: span.start], node.text[span.end :]]
            else:
                parts.append(node.text)
    return "\n".join(part.strip() for part in parts if part.strip()), steps


def _judge_plan(
    facts: Facts,
    response: Response,
    steps: tuple[str, ...],
    units: dict[str, bool],
    errors: set[str],
) -> None:
    known = steps_by_wording(facts.scenario.name)
    meant = tuple(known.get(" ".join(step.split())) for step in steps)
    if len(meant) == len(facts.plan):
        pairs = list(zip(facts.plan, meant, strict=True))
        for number, (ours, theirs) in enumerate(pairs, start=1):
            units[f"plan/{number}"] = ours == theirs
    else:
        label = parse(render(facts), inside_thinking=facts.inside)
        for pair in align_units(label, response):
            if pair.kind == "plan step":
                units[pair.key] = (
                    pair.label is not None
                    and pair.sampled is not None
                    and known.get(" ".join(pair.sampled.split()))
                    == known.get(pair.label)
                )
    if meant == facts.plan:
        return
    missing = [step for step in facts.plan if step not in meant]
    extra = len(meant) - (len(facts.plan) - len(missing))
    if missing and extra:
        errors.add("changed step")
    if len(missing) > extra:
        errors.add("missing step")
    if extra > len(missing):
        errors.add("extra step")
    in_order = [step for step in meant if step in facts.plan]
    if in_order != [step for step in facts.plan if step in meant]:
        errors.add("plan order")


def _judge_actions(
    facts: Facts, response: Response, units: dict[str, bool], errors: set[str]
) -> None:
    """Compare the calls; a label has one or none, so every further call is extra."""
    calls = response.actions
    for number in range(1, max(len(calls), 1 if facts.action else 0) + 1):
        ours = facts.action if number == 1 else None
        theirs = calls[number - 1] if number <= len(calls) else None
        key = f"action/{number}/name"
        units[key] = bool(ours and theirs and ours.name == theirs.name)
        if not units[key]:
            errors.add("action name")
        expected: Mapping[str, JSON] = dict(ours.parameters) if ours else {}
        actual: Mapping[str, JSON] = theirs.parameters if theirs else {}
        for name in [*expected, *(name for name in actual if name not in expected)]:
            same = (
                name in expected
                and name in actual
                and json_equal(expected[name], actual[name])
            )
            units[f"action/{number}/parameters/{name}"] = same
            if not same and units[key]:
                errors.add("parameter")
