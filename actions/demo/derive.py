"""Make partners of a label response with a known verdict: rewordings and errors.

Every text is written from the turn's facts, and the oracle decides: a text returned as
inconsistent is inconsistent by the oracle, with its unit keys. The kinds of error are
the oracle's (:data:`~actions.demo.oracle.ERROR_KINDS` without ``format``) and
``several`` at once.

An error in the order of a plan can be visible inside one text. A *balanced quad*
excludes this: no text of it contradicts itself, so only a comparison finds the error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, TypeVar

from actions.builtins import GET_THINKING_CONTEXT
from actions.demo.facts import (
    REASONS,
    Call,
    Choose,
    Facts,
    Sentence,
    canonical,
    parse_facts,
    render,
)
from actions.demo.oracle import judge_facts
from actions.demo.orders import is_reserved
from actions.demo.scenarios import NOISE, NUMBERS, SCENARIOS, Value

T = TypeVar("T")

KINDS = (
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
    "several",
)

PLAN_KINDS = ("plan order", "missing step", "extra step", "changed step")

# Random wordings of one text are equal only when nothing in it can be reworded.
TRIES = 200


class NotApplicable(ValueError):
    """The turn has no place for this kind of error, e.g. no plan to reorder."""


@dataclass(frozen=True)
class Quad:
    """Two plans of one turn in two wordings each; each text is consistent in itself.

    (a, a2) and (b, b2) mean the same. a and b differ in the order of two steps and in
    what follows from it; ``differs`` lists these units.
    """

    a: str
    a2: str
    b: str
    b2: str
    differs: tuple[str, ...]


def reworded(turn: Mapping[str, object], rng: random.Random) -> str:
    """Return another wording of the turn's label response, consistent with it."""
    facts = parse_facts(turn.get("facts"))
    label = turn.get("response")
    return _other_wording(facts, rng, label if isinstance(label, str) else None)


def applicable_kinds(turn: Mapping[str, object]) -> tuple[str, ...]:
    """Return the kinds of error for which the turn has a place."""
    return _kinds_of(parse_facts(turn.get("facts")))


def corrupted(
    turn: Mapping[str, object], rng: random.Random, kind: str
) -> tuple[str, tuple[str, ...]]:
    """Return an inconsistent text with one error of ``kind``, and its differing units.

    ``several``: two or three errors of other kinds. The rest of the text has the
    label's wording or a random one, each half of the time. Raises NotApplicable when
    the turn has no place for the kind, ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, found {kind!r}")
    facts = parse_facts(turn.get("facts"))
    possible = _kinds_of(facts)
    if kind not in possible:
        raise NotApplicable(f"no place for {kind!r} in this turn, only for {possible}")
    for _ in range(TRIES):
        changed = facts
        if kind == "several":
            single = [other for other in possible if other != "several"]
            count = min(len(single), rng.choice((2, 2, 3)))
            # Apply errors in reading order, so that a changed plan does not undo a
            # changed action.
            for other in sorted(rng.sample(single, count), key=KINDS.index):
                changed = _CHANGES[other](changed, rng)
        else:
            changed = _CHANGES[kind](changed, rng)
        text = render(changed, _manner(rng))
        verdict = judge_facts(facts, text)
        enough = len(verdict.units_that_differ) > 1 or kind != "several"
        if not verdict.consistent and enough:
            return text, verdict.units_that_differ
    raise NotApplicable(f"no error of kind {kind!r} came out of this turn")


def balanced_quad(
    turn: Mapping[str, object],
    rng: random.Random,
    order: Literal["seen", "unseen"] = "seen",
) -> Quad:
    """Return a balanced quad of a turn with a plan; ``a`` means what the label means.

    ``order`` says whether the plan of ``b`` has an order that training samples have, or
    a reserved one. Raises NotApplicable when the turn has no plan.
    """
    if order not in ("seen", "unseen"):
        raise ValueError(f"order: expected 'seen' or 'unseen', found {order!r}")
    facts = parse_facts(turn.get("facts"))
    if not facts.plan or not facts.openings:
        raise NotApplicable("the turn has no plan")
    swapped = [
        plan
        for plan in _swapped_plans(facts)
        if is_reserved(facts.scenario.name, plan) == (order == "unseen")
    ]
    if not swapped:
        raise NotApplicable(f"no two steps can be swapped for an {order} order")
    other = facts.with_order(rng.choice(swapped))
    a, b = render(facts, _manner(rng)), render(other, _manner(rng))
    return Quad(
        a=a,
        a2=_other_wording(facts, rng, a),
        b=b,
        b2=_other_wording(other, rng, b),
        differs=judge_facts(facts, b).units_that_differ,
    )


def _manner(rng: random.Random) -> Choose:
    """Choose the label's wording or a random one."""
    return canonical if rng.random() < 0.5 else rng.choice


def _other_wording(facts: Facts, rng: random.Random, text: str | None) -> str:
    for _ in range(TRIES):
        other = render(facts, rng.choice)
        if other != text:
            return other
    raise NotApplicable("the turn has only one wording")


def _kinds_of(facts: Facts) -> tuple[str, ...]:
    present = {
        "thinking": not facts.inside,
        "use of result": facts.inside,
        "action name": facts.action is not None,
        "parameter": facts.action is not None,
        "question": facts.asks,
        "answer": bool(facts.answer) and not facts.asks,
        "several": True,
        **dict.fromkeys(PLAN_KINDS, bool(facts.plan)),
    }
    return tuple(kind for kind in KINDS if present[kind])


def _swapped_plans(facts: Facts) -> list[tuple[str, ...]]:
    """Return the plans with two of the middle steps swapped."""
    plans = []
    for i, j in combinations(range(len(facts.plan) - 1), 2):
        plan = list(facts.plan)
        plan[i], plan[j] = plan[j], plan[i]
        plans.append(tuple(plan))
    return plans


# Changes: each returns the facts with one error.


def _other(items: Sequence[T], than: T, rng: random.Random) -> T:
    return rng.choice([item for item in items if item != than])


def _other_value(facts: Facts, slot: str, value: Value, rng: random.Random) -> Value:
    """Return another value that the slot could hold."""
    if slot == "n":
        return _other((1, 2, 3, 4), value, rng)
    scenario = facts.scenario
    if slot == "exception":
        steps = (scenario.find, scenario.lookup, scenario.check, scenario.last)
        return _other([step.trouble.name for step in steps], value, rng)
    # Policies confuse the values they see more often than they invent new ones.
    near = [
        seen
        for seen in _values_of(facts)
        if seen != value and isinstance(seen, int) == isinstance(value, int)
    ]
    if near and rng.random() < 0.3:
        return rng.choice(near)
    pool = {"other": "thing", "alternative": "option"}.get(slot, slot)
    return _other(scenario.pools.get(pool, NUMBERS), value, rng)


def _values_of(facts: Facts) -> list[Value]:
    """Return the values that the response mentions."""
    values = [
        value
        for sentence in (*facts.thinking, *facts.answer)
        for slot, value in sentence.slots.items()
        if slot not in ("n", "exception")
    ]
    calls = [facts.action, *(opening.action for opening in facts.openings.values())]
    for call in calls:
        if call and call.name != GET_THINKING_CONTEXT.name:
            values += call.parameters.values()
    return values


def _changed_sentence(facts: Facts, sentence: Sentence, rng: random.Random) -> Sentence:
    """Return a sentence with another meaning to put in its place."""
    scenario = facts.scenario
    family, _, member = sentence.key.partition("/")
    slots = dict(sentence.slots)
    members: Sequence[str] = {
        "new": scenario.middle,
        "fetched": scenario.middle,
        "step": (*scenario.middle, scenario.last.id),
        "reply": tuple(NOISE),
        "unsafe": tuple(REASONS),
        "refuse": tuple(REASONS),
    }.get(family, ())
    if members and (not slots or rng.random() < 0.7):
        return Sentence(f"{family}/{_other(members, member, rng)}", slots)
    if slots and rng.random() < 0.9:
        slot = rng.choice(list(slots))
        slots[slot] = _other_value(facts, slot, slots[slot], rng)
        return Sentence(sentence.key, slots)
    return rng.choice(
        [other for other in _strays(facts, rng) if other.key != sentence.key]
    )


def _strays(facts: Facts, rng: random.Random) -> list[Sentence]:
    """Return sentences that belong elsewhere: stray questions and thoughts."""
    scenario = facts.scenario
    values: dict[str, Value] = {
        slot: rng.choice(pool) for slot, pool in scenario.pools.items()
    }
    values |= {"n": rng.choice((1, 2, 3, 4)), "alternative": values["option"]}
    values["option"] = _other_value(facts, "option", values["alternative"], rng)
    elsewhere = _other(list(SCENARIOS), scenario.name, rng)
    keys: dict[str, tuple[str, ...]] = {
        f"ask/{scenario.ask.id}": (),
        f"elsewhere/{elsewhere}": (),
        "offer": ("option", "alternative"),
        "done": ("thing", "option"),
        "stopped": (),
    }
    return [
        Sentence(key, {slot: values[slot] for slot in slots})
        for key, slots in keys.items()
    ]


def _stray_thoughts(facts: Facts, rng: random.Random) -> list[Sentence]:
    place: dict[str, Value] = {"n": rng.choice((1, 2, 3, 4))}
    return [
        Sentence("noise", place),
        Sentence("stop", {}),
        Sentence("aside", place),
        Sentence("finished", {}),
        Sentence(f"new/{rng.choice(facts.scenario.middle)}", {}),
    ]


def _change_thinking(facts: Facts, rng: random.Random) -> Facts:
    sentences = list(facts.thinking)
    at = rng.randrange(len(sentences))
    if len(sentences) > 1 and rng.random() < 0.15:
        del sentences[at]
    elif sentences[at].slots or "/" in sentences[at].key:
        sentences[at] = _changed_sentence(facts, sentences[at], rng)
    else:
        sentences[at] = rng.choice(
            [s for s in _stray_thoughts(facts, rng) if s.key != sentences[at].key]
        )
    return replace(facts, thinking=tuple(sentences))


def _change_answer(facts: Facts, rng: random.Random) -> Facts:
    sentences = list(facts.answer)
    if not sentences:
        return facts
    at = rng.randrange(len(sentences))
    if len(sentences) > 1 and rng.random() < 0.15:
        del sentences[at]
    else:
        sentences[at] = _changed_sentence(facts, sentences[at], rng)
    return replace(facts, answer=tuple(sentences))


def _change_order(facts: Facts, rng: random.Random) -> Facts:
    """Swap two steps; usually adapt what follows to the new order."""
    if rng.random() < 0.1:
        plan = list(facts.plan)
        i, j = rng.sample(range(len(plan)), 2)
        plan[i], plan[j] = plan[j], plan[i]
        return replace(facts, plan=tuple(plan))
    swapped = rng.choice(_swapped_plans(facts))
    if rng.random() < 0.7:
        return facts.with_order(swapped)
    return replace(facts, plan=swapped)


def _new_step(facts: Facts, rng: random.Random) -> str:
    """Return a step that the plan lacks; any middle step when it has all of them."""
    middle = facts.scenario.middle
    return rng.choice([step for step in middle if step not in facts.plan] or middle)


def _drop_step(facts: Facts, rng: random.Random) -> Facts:
    at = rng.randrange(len(facts.plan))
    return replace(facts, plan=facts.plan[:at] + facts.plan[at + 1 :])


def _add_step(facts: Facts, rng: random.Random) -> Facts:
    at = rng.randrange(len(facts.plan))
    plan = (*facts.plan[:at], _new_step(facts, rng), *facts.plan[at:])
    return replace(facts, plan=plan)


def _replace_step(facts: Facts, rng: random.Random) -> Facts:
    at = rng.randrange(len(facts.plan))
    plan = (*facts.plan[:at], _new_step(facts, rng), *facts.plan[at + 1 :])
    return replace(facts, plan=plan)


def _change_name(facts: Facts, rng: random.Random) -> Facts:
    """Call another action, with the same parameters or with its own."""
    call, scenario = facts.action, facts.scenario
    if call is None:
        return facts
    steps = [
        step
        for step in (scenario.find, scenario.lookup, scenario.check)
        if step.action != call.name
    ]
    if rng.random() < 0.5:
        step = rng.choice(steps)
        slot = "option" if step is scenario.check else "thing"
        value = call.parameters.get(step.parameter, rng.choice(scenario.pools[slot]))
        return replace(facts, action=Call(step.action, {step.parameter: value}))
    names = [step.action for step in steps]
    if call.name != scenario.last.action:
        names.append(scenario.last.action)
    if call.name != GET_THINKING_CONTEXT.name:
        names.append(GET_THINKING_CONTEXT.name)
    return replace(facts, action=Call(rng.choice(names), call.parameters))


def _change_parameter(facts: Facts, rng: random.Random) -> Facts:
    """Give a parameter another value; sometimes drop the parameter."""
    call, scenario = facts.action, facts.scenario
    if call is None or not call.parameters:
        return facts
    parameters = dict(call.parameters)
    name = rng.choice(list(parameters))
    slot = {
        scenario.find.parameter: "thing",
        scenario.check.parameter: "option",
        scenario.ask.parameter: "asked",
        scenario.found_parameter: "found",
        "name": "extra",
    }.get(name)
    if len(parameters) > 1 and rng.random() < 0.1:
        del parameters[name]
    elif slot is None:  # the query for a thinking context
        parameters[name] = rng.choice(list(map(str, scenario.middle)))
    else:
        parameters[name] = _other_value(facts, slot, parameters[name], rng)
    return replace(facts, action=Call(call.name, parameters))


_CHANGES: dict[str, Callable[[Facts, random.Random], Facts]] = {
    "thinking": _change_thinking,
    "plan order": _change_order,
    "missing step": _drop_step,
    "extra step": _add_step,
    "changed step": _replace_step,
    "action name": _change_name,
    "parameter": _change_parameter,
    "use of result": _change_thinking,
    "question": _change_answer,
    "answer": _change_answer,
}
