"""The five built-in actions, which a policy may call beside those of its contexts.

Calculate and Get thinking context run. Search Internet, Open file and Send email are
defined but have no handler: a call of one is answered "not enabled". Their results are
never faked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from actions.calculate import CalculationError, calculate
from actions.definitions import ActionDefinition, ActionException, Parameter
from actions.executor import ActionFailed, Handler
from actions.json_values import dump_json
from actions.tags import JSON

CALCULATE: Final = ActionDefinition(
    name="Calculate",
    description=(
        "Calculate an arithmetic expression with + - * / // % **, parentheses and the "
        "functions abs, ceil, exp, floor, ln, log10, max, min, round, sqrt, sum."
    ),
    parameters=(
        Parameter("expression", "string", "The expression, e.g. (3 + 4) * 2.5"),
    ),
    exceptions=(
        ActionException("Cannot calculate", "The expression has no value; says why."),
    ),
)

GET_THINKING_CONTEXT: Final = ActionDefinition(
    name="Get thinking context",
    description=(
        "Find background, guideline and action definitions for a task that the chat "
        "history, the system context and the built-in actions do not suffice for."
    ),
    parameters=(Parameter("query", "string", "What the task is about, in words."),),
    exceptions=(ActionException("Nothing found", "No thinking context fits."),),
)

SEARCH_INTERNET: Final = ActionDefinition(
    name="Search Internet",
    description="Search the Internet and return the best results.",
    parameters=(Parameter("query", "string", "What to search for."),),
)

OPEN_FILE: Final = ActionDefinition(
    name="Open file",
    description="Open a file and return its text.",
    parameters=(Parameter("path", "string", "The path of the file."),),
)

SEND_EMAIL: Final = ActionDefinition(
    name="Send email",
    description="Send an email.",
    parameters=(
        Parameter("to", "string", "The address of the recipient."),
        Parameter("subject", "string", "The subject."),
        Parameter("text", "string", "The text of the email."),
    ),
)

BUILT_IN_ACTIONS: Final = (
    GET_THINKING_CONTEXT,
    SEARCH_INTERNET,
    OPEN_FILE,
    SEND_EMAIL,
    CALCULATE,
)
ENABLED_ACTIONS: Final = (GET_THINKING_CONTEXT, CALCULATE)


@dataclass(frozen=True)
class LocalContext:
    """A local thinking context as the action returns it."""

    title: str
    background: str
    guideline: str
    actions: tuple[ActionDefinition, ...] = ()


Search = Callable[[str], Sequence[LocalContext]]
"""Finds local thinking contexts for a query, best first."""


def show_context(context: LocalContext) -> str:
    """Write a thinking context as text, one action definition per line."""
    parts = [context.title, context.background, context.guideline]
    if context.actions:
        lines = [dump_json(action.to_json()) for action in context.actions]
        parts.append("\n".join(["Actions:", *lines]))
    return "\n".join(part for part in parts if part)


def built_in_handlers(search: Search | None = None) -> dict[str, Handler]:
    """Return the handlers of the enabled built-in actions by name.

    Without ``search``, Get thinking context is not enabled either.
    """
    handlers: dict[str, Handler] = {CALCULATE.name: _calculate}
    if search is not None:

        def get_thinking_context(parameters: dict[str, JSON]) -> str:
            contexts = search(str(parameters["query"]))
            if not contexts:
                raise ActionFailed("Nothing found", "no thinking context fits")
            return "\n\n".join(map(show_context, contexts))

        handlers[GET_THINKING_CONTEXT.name] = get_thinking_context
    return handlers


def _calculate(parameters: dict[str, JSON]) -> str:
    try:
        return calculate(str(parameters["expression"]))
    except CalculationError as error:
        raise ActionFailed("Cannot calculate", str(error)) from None
