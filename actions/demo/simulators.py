"""Answers the action calls of a demo sample, as its recorded situation does.

A call that the sample records gets the recorded outcome, a named exception included. Any
other call gets "not found": the simulated world holds what the sample is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from actions.builtins import GET_THINKING_CONTEXT
from actions.executor import ActionFailed, Handler, exception_text
from actions.grammar import FormatError, parse
from actions.json_values import dump_json
from actions.tags import JSON

NOT_FOUND = "not found"


class _Script:
    """The outcomes of one action in the order in which the sample records them."""

    def __init__(self, missing: Exception | str) -> None:
        self.outcomes: dict[str, list[Exception | str]] = {}
        self.missing = missing

    def __call__(self, parameters: dict[str, JSON]) -> str:
        outcomes = self.outcomes.get(_key(parameters), [])
        # The last outcome stays: asking again does not change the world.
        outcome = (
            outcomes.pop(0) if len(outcomes) > 1 else (outcomes or [self.missing])[0]
        )
        if isinstance(outcome, ActionFailed):
            raise ActionFailed(outcome.name, outcome.message)
        return str(outcome)


def _key(parameters: Mapping[str, JSON]) -> str:
    return dump_json({name: parameters[name] for name in sorted(parameters)})


def handlers(sample: Mapping[str, object], *, turn: int = 0) -> dict[str, Handler]:
    """Return a handler for every action of a sample's contexts and for its fetches.

    ``turn`` (from 0) is where the conversation stands: what happened before is not
    repeated, so an action that failed in an earlier turn succeeds now. Handlers keep
    count of their calls; take new ones for every conversation.
    """
    exceptions: dict[str, tuple[str, ...]] = {
        GET_THINKING_CONTEXT.name: tuple(
            exception.name for exception in GET_THINKING_CONTEXT.exceptions
        )
    }
    for context in _objects(sample.get("contexts")):
        for definition in _objects(context.get("actions")):
            named = definition.get("exception")
            exceptions[str(definition.get("name"))] = (
                tuple(map(str, named)) if isinstance(named, Mapping) else ()
            )
    scripts = {
        name: _Script(
            ActionFailed("Nothing found", "no thinking context fits")
            if name == GET_THINKING_CONTEXT.name
            else NOT_FOUND
        )
        for name in exceptions
    }
    turns = _objects(sample.get("turns"))
    for number, (at, following) in enumerate(pairwise(turns)):
        given, after = at.get("input"), following.get("input")
        if not isinstance(given, Mapping) or not isinstance(after, Mapping):
            continue
        if after.get("kind") != "observation":
            continue
        inside = given.get("kind") == "observation"
        try:
            response = parse(str(at.get("response")), inside_thinking=inside)
        except FormatError:
            continue
        if not response.actions:
            continue
        call = response.actions[-1]
        script = scripts.get(call.name)
        if script is None:
            continue
        outcomes = script.outcomes.setdefault(_key(call.parameters), [])
        if number <= turn:  # what was answered before this is over
            outcomes.clear()
        outcomes.append(_outcome(str(after.get("text")), exceptions[call.name]))
    return dict(scripts)


def _outcome(observation: str, exceptions: Sequence[str]) -> Exception | str:
    """Read an observation back: the named exception it tells of, or the text itself."""
    for name in exceptions:
        start = exception_text(name)
        if observation == start or observation.startswith(start + ": "):
            return ActionFailed(name, observation[len(start) + 2 :])
    return observation


def _objects(value: object) -> list[Mapping[str, object]]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return []
    return [item for item in value if isinstance(item, Mapping)]
