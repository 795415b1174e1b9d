"""Answers the action calls of a sample as the recorded situation does.

A call that the sample records gets its recorded outcome, including a named exception.
Any other call of an action of its contexts gets "not found": the simulated world holds
only what the sample contains. Of the built-in actions, *Calculate* calculates, *Get
thinking context* finds the sample's local contexts, and the others are not enabled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from actions.builtins import (
    BUILT_IN_ACTIONS,
    GET_THINKING_CONTEXT,
    LocalContext,
    built_in_handlers,
    show_context,
)
from actions.definitions import ActionDefinition
from actions.executor import ActionFailed, Handler, NotEnabled, exception_text
from actions.grammar import FormatError, parse
from actions.in_force import Contexts, shows
from actions.json_values import dump_json
from actions.tags import JSON
from actions.words import meaning_words

NOT_FOUND = "not found"


class _Script:
    """The outcomes of one action in the order in which the sample records them.

    ``otherwise`` answers the calls that the sample does not record.
    """

    def __init__(self, otherwise: Handler) -> None:
        self.outcomes: dict[str, list[Exception | str]] = {}
        self.otherwise = otherwise

    def __call__(self, parameters: dict[str, JSON]) -> str:
        outcomes = self.outcomes.get(_key(parameters))
        if not outcomes:
            return self.otherwise(parameters)
        # Keep the last outcome: asking again does not change the simulated world.
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if isinstance(outcome, ActionFailed):
            raise ActionFailed(outcome.name, outcome.message)
        return str(outcome)


def _key(parameters: Mapping[str, JSON]) -> str:
    return dump_json({name: parameters[name] for name in sorted(parameters)})


def handlers(sample: Mapping[str, object], *, turn: int = 0) -> dict[str, Handler]:
    """Return a handler for every action of a sample's contexts and every built-in one.

    ``turn`` (from 0) is the current turn of the conversation. Outcomes of earlier turns
    are not repeated, so an action that failed in an earlier turn succeeds now. Handlers
    count their calls; build new ones for every conversation.
    """
    contexts = Contexts.of(_objects(sample.get("contexts")))
    fetched: dict[str, list[str]] = {}  # results the label got, by query
    built_in = built_in_handlers()
    built_in[GET_THINKING_CONTEXT.name] = _fetch(contexts.local, fetched)
    definitions = contexts.every_action()
    scripts = {
        name: _Script(built_in.get(name, _refuse) if _is_built_in(one) else _not_found)
        for name, one in definitions.items()
    }
    turns = _objects(sample.get("turns"))
    for number, (at, following) in enumerate(pairwise(turns)):
        current, after = at.get("input"), following.get("input")
        if not isinstance(current, Mapping) or not isinstance(after, Mapping):
            continue
        if after.get("kind") != "observation":
            continue
        inside = current.get("kind") == "observation"
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
        exception_names = [
            exception.name for exception in definitions[call.name].exceptions
        ]
        outcome = _outcome(str(after.get("text")), exception_names)
        outcomes = script.outcomes.setdefault(_key(call.parameters), [])
        if number <= turn:  # outcomes of earlier turns are used up
            outcomes.clear()
        outcomes.append(outcome)
        if call.name == GET_THINKING_CONTEXT.name and isinstance(outcome, str):
            query = str(call.parameters.get("query", ""))
            fetched.setdefault(outcome, []).append(query)
    return dict(scripts)


def _is_built_in(definition: ActionDefinition) -> bool:
    """Whether no context defines another action of this name."""
    return definition in BUILT_IN_ACTIONS


def _not_found(parameters: dict[str, JSON]) -> str:
    return NOT_FOUND


def _refuse(parameters: dict[str, JSON]) -> str:
    raise NotEnabled


def _fetch(
    contexts: Sequence[LocalContext], fetched: Mapping[str, Sequence[str]]
) -> Handler:
    """Return the handler that finds a sample's local contexts by the words of a query.

    A context that the label fetched is returned as the label read it.
    """

    def get_thinking_context(parameters: dict[str, JSON]) -> str:
        words = set(meaning_words(str(parameters["query"])))
        scored: list[tuple[int, str]] = []
        for text, queries in fetched.items():
            scored.append((_shared(words, "\n".join([text, *queries])), text))
        for context in contexts:
            if not any(shows(text, context) for text in fetched):
                text = show_context(context)
                scored.append((_shared(words, text), text))
        best = sorted((one for one in scored if one[0]), key=lambda one: -one[0])
        if not best:
            raise ActionFailed("Nothing found", "no thinking context fits")
        return best[0][1]

    return get_thinking_context


def _shared(words: set[str], text: str) -> int:
    """Count the words that stand in a text; stems, and languages without spaces, too."""
    folded = text.casefold()
    return sum(word in folded for word in words)


def _outcome(observation: str, exceptions: Sequence[str]) -> Exception | str:
    """Read an observation back: the named exception in it, or the text itself."""
    for name in exceptions:
        start = exception_text(name)
        if observation == start or observation.startswith(start + ": "):
            return ActionFailed(name, observation[len(start) + 2 :])
    return observation


def _objects(value: object) -> list[Mapping[str, object]]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return []
    return [item for item in value if isinstance(item, Mapping)]
