"""The meaning of a label response apart from its wording: the ``facts`` of a turn.

A response consists of *sentences* ("the price is 12") for the thinking, a plan of step
ids, an action call or none, and sentences for the answer. A sentence is a key of the
wording bank with the values of its slots. One set of facts therefore has many texts:
:func:`render` writes any of them, and the oracle accepts exactly these texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

from actions.demo.scenarios import NOISE, SCENARIOS, Scenario, Value, Wordings
from actions.json_values import dump_json
from actions.tags import (
    ACTION_CLOSE,
    ACTION_OPEN,
    JSON,
    THINK_CLOSE,
    THINK_OPEN,
)

Choose: TypeAlias = Callable[[Wordings], str]
"""Picks one of the wordings of a sentence or of a plan step."""

REASONS = {
    "harm": "it could hurt someone",
    "privacy": "it is private",
    "theft": "it is not yours to take",
}


class FactsError(ValueError):
    """The facts of a turn do not have the demo's form."""

    def __init__(self, place: str, expected: str, found: object) -> None:
        super().__init__(f"facts{place}: expected {expected}, found {found!r:.60}")
        self.place = place
        self.expected = expected
        self.found = found


@dataclass(frozen=True, slots=True)
class Sentence:
    """One statement: a key of the wording bank and the values of its slots."""

    key: str
    slots: Mapping[str, Value]

    def to_json(self) -> list[JSON]:
        slots: dict[str, JSON] = dict(self.slots)
        return [self.key, slots]


@dataclass(frozen=True, slots=True)
class Call:
    """An action call, by name and parameters."""

    name: str
    parameters: Mapping[str, Value]

    def to_json(self) -> dict[str, JSON]:
        parameters: dict[str, JSON] = dict(self.parameters)
        return {"name": self.name, "parameters": parameters}


@dataclass(frozen=True, slots=True)
class Opening:
    """How a response continues when it has just planned and this step comes first."""

    action: Call | None
    answer: tuple[Sentence, ...]

    def to_json(self) -> dict[str, JSON]:
        return {
            "action": self.action.to_json() if self.action else None,
            "answer": [sentence.to_json() for sentence in self.answer],
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """The whole meaning of a label response.

    ``inside``: the turn's input is an observation, so the text starts inside thinking.
    ``openings``: for a turn with a plan, how the response continues if another middle
    step comes first. A plan in another order needs this to be consistent in itself.
    """

    scenario: Scenario
    inside: bool
    thinking: tuple[Sentence, ...]
    plan: tuple[str, ...]
    action: Call | None
    answer: tuple[Sentence, ...]
    openings: Mapping[str, Opening]

    def to_json(self) -> dict[str, JSON]:
        form: dict[str, JSON] = {
            "scenario": self.scenario.name,
            "inside": self.inside,
            "thinking": [sentence.to_json() for sentence in self.thinking],
            "plan": list(self.plan),
            "action": self.action.to_json() if self.action else None,
            "answer": [sentence.to_json() for sentence in self.answer],
        }
        if self.openings:
            form["openings"] = {
                step: opening.to_json() for step, opening in self.openings.items()
            }
        return form

    def with_order(self, plan: Sequence[str]) -> Facts:
        """Return the facts with the plan in another order, and its consequences."""
        opening = self.openings[plan[0]]
        last = self.thinking[-1]
        prefix = last.key.partition("/")[0]
        return replace(
            self,
            thinking=(*self.thinking[:-1], Sentence(f"{prefix}/{plan[0]}", last.slots)),
            plan=tuple(plan),
            action=opening.action,
            answer=opening.answer,
        )

    @property
    def asks(self) -> bool:
        """Whether the answer ends in a question to the user."""
        return bool(self.answer) and self.answer[-1].key.partition("/")[0] in (
            "ask",
            "offer",
        )


def _mapping(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise FactsError(place, "an object", value)
    return value


def _list(value: object, place: str) -> Sequence[object]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise FactsError(place, "a list", value)
    return value


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise FactsError(place, "a text", value)
    return value


def _values(value: object, place: str) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key, item in _mapping(value, place).items():
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise FactsError(f"{place}.{key}", "a text or a whole number", item)
        values[key] = item
    return values


def _sentences(value: object, place: str, scenario: Scenario) -> tuple[Sentence, ...]:
    wordings = bank(scenario.name)
    sentences = []
    for index, item in enumerate(_list(value, place)):
        here = f"{place}[{index}]"
        pair = _list(item, here)
        if len(pair) != 2:
            raise FactsError(here, "a key and its slots", item)
        key = _text(pair[0], here)
        if key not in wordings:
            raise FactsError(here, "a key of the wording bank", key)
        sentence = Sentence(key, _values(pair[1], here))
        try:
            say(scenario, sentence)
        except KeyError as error:
            raise FactsError(here, f"the slot {error.args[0]}", pair[1]) from None
        sentences.append(sentence)
    return tuple(sentences)


def _call(value: object, place: str, scenario: Scenario) -> Call | None:
    """Read a call; sort its parameters as labels do: a database may reorder them."""
    if value is None:
        return None
    form = _mapping(value, place)
    parameters = _values(form.get("parameters"), f"{place}.parameters")
    ordered = {
        name: parameters.pop(name) for name in scenario.parameters if name in parameters
    }
    return Call(_text(form.get("name"), f"{place}.name"), ordered | parameters)


def parse_facts(value: object) -> Facts:
    """Read the JSON form; raise :class:`FactsError` naming the place."""
    form = _mapping(value, "")
    name = form.get("scenario")
    scenario = SCENARIOS.get(name) if isinstance(name, str) else None
    if scenario is None:
        raise FactsError(".scenario", "a demo scenario", name)
    plan = []
    for index, item in enumerate(_list(form.get("plan"), ".plan")):
        step = _text(item, f".plan[{index}]")
        if f"plan/{step}" not in bank(scenario.name):
            raise FactsError(f".plan[{index}]", "a step of the scenario", step)
        plan.append(step)
    openings = {}
    for step, item in _mapping(form.get("openings", {}), ".openings").items():
        place = f".openings.{step}"
        opening = _mapping(item, place)
        openings[step] = Opening(
            _call(opening.get("action"), f"{place}.action", scenario),
            _sentences(opening.get("answer"), f"{place}.answer", scenario),
        )
    return Facts(
        scenario=scenario,
        inside=form.get("inside") is True,
        thinking=_sentences(form.get("thinking"), ".thinking", scenario),
        plan=tuple(plan),
        action=_call(form.get("action"), ".action", scenario),
        answer=_sentences(form.get("answer"), ".answer", scenario),
        openings=openings,
    )


@cache
def bank(scenario: str) -> Mapping[str, Wordings]:
    """Return the wordings of every sentence of a scenario by key, canonical first."""
    s = SCENARIOS[scenario]
    entries: dict[str, Wordings] = {
        "fetch": (
            "This is a new task. Its guideline has to be fetched.",
            "A new request. The guideline is not here, so get it.",
            "This request needs a guideline from elsewhere.",
        ),
        "again": (
            "The action failed: {exception}. Try it again.",
            "It did not work: {exception}. One more try.",
            "There was a problem: {exception}. Call it again.",
        ),
        "taken": s.taken,
        "offer": s.offer,
        "accepted": (
            "The user takes {option}.",
            "The user is fine with {option}.",
            "So it is {option}.",
        ),
        "noise": (
            "This is not about the task. Back to step {n}.",
            "The user talks about something else. Return to step {n}.",
            "That does not change the plan. Step {n} is still open.",
        ),
        "stop": (
            "The user breaks off the task. Stop the plan.",
            "The user does not want it any more. Drop the plan.",
            "The task is broken off. End the plan here.",
        ),
        "stopped": tuple(
            f"{start} {end}"
            for start in ("All right, I stopped.", "Fine, I leave it.", "As you wish.")
            for end in s.last.stopped
        ),
        "aside": (
            "This is a second task inside the first. Do it, then go back to step {n}.",
            "The user asks for something else first. After that step {n} is next.",
            "A task in between. Step {n} has to wait.",
        ),
        "back": (
            "Back to step {n}.",
            "Return to step {n}.",
            "Step {n} is still open.",
        ),
        "told_aside": s.told_aside,
        "told": s.told,
        "done": s.last.done,
        "told_number": s.last.told_number,
        "finished": (
            "The plan is done.",
            "All steps are done.",
            "This was the last step.",
        ),
        "got/number": s.last.got,
    }
    for reason, clause in REASONS.items():
        entries[f"unsafe/{reason}"] = (
            f"This is unsafe, {clause}. Refuse.",
            f"I must refuse this, {clause}.",
            f"This may not be done, since {clause}.",
        )
        entries[f"refuse/{reason}"] = (
            f"Sorry, I cannot help with that, {clause}.",
            f"I will not do that, {clause}.",
            f"No, that is not possible, since {clause}.",
        )
    for topic, (_, replies) in NOISE.items():
        entries[f"reply/{topic}"] = replies
    for step in (s.find, s.lookup, s.check, s.ask):
        entries[f"new/{step.id}"] = (
            f"This is a new task. The guideline starts with {step.noun}.",
            f"The last plan does not match. The guideline puts {step.noun} first.",
            f"A new request. By the guideline {step.noun} comes first.",
        )
        entries[f"fetched/{step.id}"] = (
            f"The guideline starts with {step.noun}.",
            f"This guideline puts {step.noun} first.",
            f"By the guideline {step.noun} comes first.",
        )
        entries[f"got/{step.id}"] = step.got
    entries[f"ask/{s.ask.id}"] = s.ask.questions
    # Always wrong: a habit of some writers, and questions of a confused assistant.
    entries["upsell"] = (
        "Would you like anything else with it?",
        "Shall I add something to it?",
        "May I show you what else we have?",
    )
    for other in SCENARIOS.values():
        if other is not s:
            entries[f"elsewhere/{other.name}"] = other.ask.questions
    for id_, phrases in [
        *((step.id, step.phrases) for step in (s.find, s.lookup, s.check, s.ask)),
        (s.last.id, s.last.phrases),
    ]:
        entries[f"plan/{id_}"] = phrases
        entries[f"step/{id_}"] = tuple(
            start + phrase + "."
            for start in ("Step {n}: ", "Next is step {n}: ", "Now step {n}: ")
            for phrase in phrases
        )
    return entries


@cache
def steps_by_wording(scenario: str) -> Mapping[str, str]:
    """Step id by wording of a plan step, for every wording of the scenario."""
    return {
        phrase: key.partition("/")[2]
        for key, phrases in bank(scenario).items()
        if key.startswith("plan/")
        for phrase in phrases
    }


def say(scenario: Scenario, sentence: Sentence) -> Wordings:
    """Return all wordings of a sentence with its slots filled in, canonical first."""
    slots = sentence.slots
    return tuple(
        template.format_map(slots) for template in bank(scenario.name)[sentence.key]
    )


def canonical(wordings: Wordings) -> str:
    """Choose the wording that labels use."""
    return wordings[0]


def render(facts: Facts, choose: Choose = canonical) -> str:
    """Write a response with the meaning ``facts``, each part worded by ``choose``."""
    scenario = facts.scenario
    text = "" if facts.inside else THINK_OPEN
    text += _say_all(scenario, facts.thinking, choose)
    if facts.plan:
        text += "\nPlan:"
        for number, step in enumerate(facts.plan, start=1):
            text += f"\n{number}. {choose(bank(scenario.name)[f'plan/{step}'])}"
    if facts.action:
        return f"{text}\n{ACTION_OPEN}{dump_json(facts.action.to_json())}{ACTION_CLOSE}"
    return f"{text}{THINK_CLOSE}{_say_all(scenario, facts.answer, choose)}"


def _say_all(scenario: Scenario, sentences: Sequence[Sentence], choose: Choose) -> str:
    wordings = bank(scenario.name)
    return " ".join(
        choose(wordings[sentence.key]).format_map(sentence.slots)
        for sentence in sentences
    )
