"""Units: the parts of two responses that can match or differ, side by side.

``align_units`` proposes which units differ, from words, numbers and values. The
proposal helps the person who judges; it is never a judgment. Units are paired by
position, because consistency is about the same thing at the same place: plan steps in
order, actions by number, parameters by name. Parameters are compared as JSON values
(``1`` equals ``1.0``; strings exactly, including case and spaces); thinking, use of
result and answer by their words and numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from actions.grammar import FormatError, Observation, Response, Text, parse, render
from actions.json_values import dump_json, json_equal
from actions.plans import (
    THRESHOLD,
    WORDS_LIMIT,
    Plan,
    align_plans,
    find_plan,
    step_similarity,
    word_weights,
)
from actions.tags import JSON
from actions.words import meaning_words, names, negated, numbers, similarity

UnitKind = Literal[
    "thinking",
    "plan step",
    "action name",
    "parameter",
    "use of result",
    "answer",
    "format",
]

# Up to this many cells, gaps in plans of unequal length are placed optimally.
GAP_CELLS_LIMIT: Final = 10_000

# Two answers that share less of their words than this are proposed as different.
ANSWER_THRESHOLD: Final = 0.5
RESULT_THRESHOLD: Final = 0.25

# Two thinking texts differ when each has at least this share of words that the other
# lacks.
SUBSTITUTION_THRESHOLD: Final = 0.8


@dataclass(frozen=True)
class UnitPair:
    """One unit of the label response beside its partner; None where a side has none.

    ``differs`` is a proposal; ``reason`` is then one of the reasons a judgment can have
    ("content", "step order", "action name", "parameter", "use of result", "missing
    step", "extra step"), else None.
    """

    kind: UnitKind
    key: str
    label: str | None
    sampled: str | None
    differs: bool
    reason: str | None


@dataclass(frozen=True)
class _Pieces:
    thinking: str | None
    plan: Plan


def _pieces(response: Response) -> _Pieces:
    """Separate the plan from the thinking text before and after it."""
    parts: list[str] = []
    plan = Plan(())
    for node in response.thinking:
        if isinstance(node, Text):
            span = None if plan.steps else find_plan(node.text)
            if span:
                plan = span.plan
                parts += [node.text[: span.start], node.text[span.end :]]
            else:
                parts.append(node.text)
        elif isinstance(node, Observation):
            parts.append("\n")
    text = "\n".join(part.strip() for part in parts if part.strip())
    return _Pieces(text or None, plan)


def align_units(label: Response, sampled: Response) -> tuple[UnitPair, ...]:
    """Pair the units of two responses to one turn, in reading order.

    Keys: ``thinking`` or ``result`` (the thinking of a turn whose input is an
    observation), ``plan/1`` …, ``action/1/name``, ``action/1/parameters/<p>`` …,
    ``answer``. A unit that neither response has is left out.
    """
    ours, theirs = _pieces(label), _pieces(sampled)
    pairs: list[UnitPair] = []
    if ours.thinking is not None or theirs.thinking is not None:
        pairs.append(
            _result_pair(ours.thinking, theirs.thinking)
            if label.continues or sampled.continues
            else _thinking_pair(ours.thinking, theirs.thinking)
        )
    pairs += _plan_pairs(ours.plan, theirs.plan)
    pairs += _action_pairs(label, sampled)
    if label.answer or sampled.answer:
        pairs.append(_answer_pair(label.answer or None, sampled.answer or None))
    return tuple(pairs)


def unit_pairs_of_text(
    label: Response, text: str, *, inside_thinking: bool = False
) -> tuple[UnitPair, ...]:
    """Pair a label response with a sampled text that may break the grammar.

    A text that breaks it gives the single unit ``format``, which differs.
    """
    try:
        sampled = parse(text, inside_thinking=inside_thinking)
    except FormatError:
        return (UnitPair("format", "format", render(label), text, True, "content"),)
    return align_units(label, sampled)


def _pair(
    kind: UnitKind, key: str, label: str | None, sampled: str | None, reason: str | None
) -> UnitPair:
    return UnitPair(kind, key, label, sampled, reason is not None, reason)


def _thinking_pair(label: str | None, sampled: str | None) -> UnitPair:
    """Compare thinking, whose wording is free.

    Propose a difference only for different numbers or one word in the place of another.
    """
    clash = False
    if label is not None and sampled is not None:
        ours, theirs = numbers(label), numbers(sampled)
        clash = bool(ours and theirs) and ours.keys() != theirs.keys()
        clash = clash or _substitutes(meaning_words(label), meaning_words(sampled))
    return _pair("thinking", "thinking", label, sampled, "content" if clash else None)


def _result_pair(label: str | None, sampled: str | None) -> UnitPair:
    differs = _says_other(label, sampled, RESULT_THRESHOLD)
    return _pair(
        "use of result", "result", label, sampled, "use of result" if differs else None
    )


def _answer_pair(label: str | None, sampled: str | None) -> UnitPair:
    differs = _says_other(label, sampled, ANSWER_THRESHOLD)
    return _pair("answer", "answer", label, sampled, "content" if differs else None)


def _says_other(label: str | None, sampled: str | None, threshold: float) -> bool:
    """Compare numbers, names, negation, question form, and the share of equal words."""
    if label is None or sampled is None:
        return True
    if label == sampled:
        return False
    words_ours, words_theirs = meaning_words(label), meaning_words(sampled)
    all_words = {*words_ours, *words_theirs}
    # A name in one text that is a plain word of the other does not differ.
    unmatched = (names(label) ^ names(sampled)) - (
        {*_plain(label)} & {*_plain(sampled)}
    )
    return (
        numbers(label).keys() != numbers(sampled).keys()
        or bool(unmatched)
        or negated(label) != negated(sampled)
        or ("?" in label) != ("?" in sampled)
        or (bool(all_words) and similarity(words_ours, words_theirs) < threshold)
    )


def _substitutes(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether two texts are nearly the same but each has words the other lacks.

    A rewording changes many words; one word in the place of another changes the
    meaning.
    """
    first, second = Counter(ours), Counter(theirs)
    return bool(
        first - second
        and second - first
        and similarity(ours, theirs) >= SUBSTITUTION_THRESHOLD
    )


def _plain(text: str) -> Sequence[str]:
    return [word.strip(".,!?:;()\"'“”‘’") for word in text.casefold().split()]


def _plan_pairs(label: Plan, sampled: Plan) -> list[UnitPair]:
    alignment = align_plans(label, sampled)
    partner = {match.a: match for match in alignment.matched}
    partnered = {match.b for match in alignment.matched}
    pairs = []
    for number, (i, j) in enumerate(_in_order(label, sampled), start=1):
        reason: str | None
        match = partner.get(i) if i is not None else None
        if i is None:
            reason = "extra step"
        elif j is None:
            reason = "missing step"
        elif match and match.b == j:
            reason = None if match.score > 0 else "content"
        elif match or j in partnered:
            reason = "step order"
        else:
            reason = "content"
        pairs.append(
            _pair(
                "plan step",
                f"plan/{number}",
                None if i is None else label.steps[i],
                None if j is None else sampled.steps[j],
                reason,
            )
        )
    return pairs


def _in_order(label: Plan, sampled: Plan) -> list[tuple[int | None, int | None]]:
    """Pair steps in order with exactly |difference| gaps, for the best similarity."""
    short, long = sorted((len(label.steps), len(sampled.steps)))
    gaps = long - short
    if gaps == 0:
        return [(i, i) for i in range(long)]
    turned = len(label.steps) > len(sampled.steps)
    shorter, longer = (sampled, label) if turned else (label, sampled)
    if short * (gaps + 1) > GAP_CELLS_LIMIT:
        partner_of = {i: i for i in range(short)}
    else:
        partner_of = _place_gaps(shorter, longer, gaps)
    of_long = {j: i for i, j in partner_of.items()}
    pairs = [(of_long.get(j), j) for j in range(long)]
    return [(j, i) for i, j in pairs] if turned else list(pairs)


def _place_gaps(shorter: Plan, longer: Plan, gaps: int) -> dict[int, int]:
    """Return each short step's partner: step i meets one of i … i + gaps, in order."""
    one = [meaning_words(step)[:WORDS_LIMIT] for step in shorter.steps]
    other = [meaning_words(step)[:WORDS_LIMIT] for step in longer.steps]
    weights = word_weights(one, other)
    # best[i][g]: best total of the first i short steps after g gaps.
    best = [[0.0] * (gaps + 1)]
    takes: list[list[bool]] = []
    for i, words in enumerate(one):
        row: list[float] = []
        took: list[bool] = []
        for g in range(gaps + 1):
            score = step_similarity(words, other[i + g], weights)
            with_pair = best[i][g] + (score if score >= THRESHOLD else score / 100)
            # A later gap wins a tie, so the longer plan's extra steps come last.
            before = row[g - 1] if g else -1.0
            took.append(with_pair > before)
            row.append(max(with_pair, before))
        best.append(row)
        takes.append(took)
    partner: dict[int, int] = {}
    i, g = len(one) - 1, gaps
    while i >= 0:
        if takes[i][g]:
            partner[i] = i + g
            i -= 1
        else:
            g -= 1
    return partner


def _action_pairs(label: Response, sampled: Response) -> list[UnitPair]:
    pairs: list[UnitPair] = []
    ours, theirs = label.actions, sampled.actions
    for number in range(1, max(len(ours), len(theirs)) + 1):
        one = ours[number - 1] if number <= len(ours) else None
        other = theirs[number - 1] if number <= len(theirs) else None
        name = one.name if one else None
        their_name = other.name if other else None
        pairs.append(
            _pair(
                "action name",
                f"action/{number}/name",
                name,
                their_name,
                None if name == their_name else "action name",
            )
        )
        label_parameters = one.parameters if one else {}
        sampled_parameters = other.parameters if other else {}
        for key in [
            *label_parameters,
            *(key for key in sampled_parameters if key not in label_parameters),
        ]:
            same = (
                key in label_parameters
                and key in sampled_parameters
                and json_equal(label_parameters[key], sampled_parameters[key])
            )
            pairs.append(
                _pair(
                    "parameter",
                    f"action/{number}/parameters/{key}",
                    _shown(label_parameters[key]) if key in label_parameters else None,
                    _shown(sampled_parameters[key])
                    if key in sampled_parameters
                    else None,
                    None if same else "parameter",
                )
            )
    return pairs


def _shown(value: JSON) -> str:
    return value if isinstance(value, str) else dump_json(value)
