"""Which actions a model may call at a given place of a conversation.

These are the built-in actions, the actions of the global thinking contexts, and those
of the local contexts that *Get thinking context* fetched before the call. Of two
actions with one name, the one higher in the order of the thinking elements counts:
global context, built-in, local context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from actions.builtins import BUILT_IN_ACTIONS, GET_THINKING_CONTEXT, LocalContext
from actions.definitions import ActionDefinition, DefinitionError, parse_definition
from actions.executor import exception_text
from actions.grammar import ActionCall, Observation, Response


@dataclass(frozen=True)
class Contexts:
    """The action definitions in the thinking contexts of one conversation."""

    global_actions: tuple[ActionDefinition, ...] = ()
    local: tuple[LocalContext, ...] = ()

    @classmethod
    def of(cls, documents: Iterable[Mapping[str, object]]) -> Contexts:
        """Read contexts in their Concord JSONL form; skip invalid definitions."""
        global_actions: list[ActionDefinition] = []
        local: list[LocalContext] = []
        for document in documents:
            definitions = tuple(_definitions(document.get("actions")))
            if document.get("scope", "global") == "global":
                global_actions += definitions
                continue
            title, background, guideline = (
                str(document.get(key) or "")
                for key in ("title", "background", "guideline")
            )
            local.append(LocalContext(title, background, guideline, definitions))
        return cls(tuple(global_actions), tuple(local))

    def every_action(self) -> dict[str, ActionDefinition]:
        """Return what is in force once all local contexts are fetched."""
        return _by_priority(self, self.local)


def definitions_in_force(
    contexts: Contexts, fetched: Iterable[str] = ()
) -> dict[str, ActionDefinition]:
    """Return by name the definitions a call may use.

    ``fetched``: the observations that answered *Get thinking context* so far
    (:func:`fetched_before`).
    """
    texts = [text for text in fetched if not _is_nothing(text)]
    shown = [
        context
        for context in contexts.local
        if any(shows(text, context) for text in texts)
    ]
    if texts and not shown:  # the observation retells the context
        shown = list(contexts.local)
    return _by_priority(contexts, shown)


def fetched_before(turns: Iterable[tuple[str, Response | None]]) -> Iterator[list[str]]:
    """Yield for each turn what was fetched before its response begins.

    A turn is its input and its response, None where that breaks the grammar. An input
    is an observation where the response before it ends in a call.
    """
    fetched: list[str] = []
    call: ActionCall | None = None
    for text, response in turns:
        fetched = [*fetched, *fetched_by(call, text)]
        yield fetched
        call = None
        if response is not None:
            fetched = [*fetched, *fetched_inside(response)]
            call = response.actions[-1] if response.ends_with_action else None


def calls_in_force(
    response: Response, contexts: Contexts, fetched: Iterable[str] = ()
) -> Iterator[tuple[ActionCall, dict[str, ActionDefinition]]]:
    """Yield each call of a response with the definitions in force where it stands."""
    so_far = list(fetched)
    definitions = definitions_in_force(contexts, so_far)
    call: ActionCall | None = None
    for node in response.thinking:
        if isinstance(node, ActionCall):
            call = node
            yield node, definitions
        elif isinstance(node, Observation) and (more := fetched_by(call, node.text)):
            so_far += more
            definitions = definitions_in_force(contexts, so_far)


def fetched_by(call: ActionCall | None, observation: str) -> list[str]:
    """Return the observation if the call it answers is *Get thinking context*."""
    is_fetch = call is not None and call.name == GET_THINKING_CONTEXT.name
    return [observation] if is_fetch else []


def fetched_inside(response: Response) -> Iterator[str]:
    """Yield what a response itself fetched: calls that an observation follows inside."""
    for node, after in pairwise(response.thinking):
        if isinstance(node, ActionCall) and isinstance(after, Observation):
            yield from fetched_by(node, after.text)


def _by_priority(
    contexts: Contexts, shown: Iterable[LocalContext]
) -> dict[str, ActionDefinition]:
    rising: list[Sequence[ActionDefinition]] = [
        *(context.actions for context in shown),
        BUILT_IN_ACTIONS,
        contexts.global_actions,
    ]
    return {one.name: one for actions in rising for one in actions}


def _is_nothing(observation: str) -> bool:
    """Whether a fetch failed: a named exception or an error of the executor."""
    failures = [exception_text(one.name) for one in GET_THINKING_CONTEXT.exceptions]
    return observation.startswith(("Error: ", *failures))


def shows(observation: str, context: LocalContext) -> bool:
    """Whether an observation contains a context: its title or one of its actions."""
    marks = [context.title, *(action.name for action in context.actions)]
    return any(mark and mark in observation for mark in marks)


def _definitions(values: object) -> Iterator[ActionDefinition]:
    for value in values if isinstance(values, list) else []:
        try:
            yield parse_definition(value)
        except DefinitionError:
            continue
