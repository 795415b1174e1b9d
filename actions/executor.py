"""Runs action calls and returns every result, good or bad, as an observation.

A policy has to read and handle whatever goes wrong with a call. So nothing here raises
to the caller: an unknown action, bad parameters, a named exception, a time-out and a
bug in a handler all become observations.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from actions.definitions import ActionDefinition, check_parameters
from actions.format_check import check_text
from actions.grammar import ActionCall, FormatError, Observation, parse
from actions.tags import (
    JSON,
    OBSERVATION_CLOSE,
    OBSERVATION_OPEN,
    TAG_PATTERN,
)

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[dict[str, JSON]], str]
"""Takes a call's parameters, valid by its definition, and returns the observation."""


class ActionFailed(Exception):
    """Raised by a handler: one of the definition's named exceptions happened."""

    def __init__(self, name: str, message: str = "") -> None:
        super().__init__(name, message)
        self.name = name
        self.message = message

    def __str__(self) -> str:
        return exception_text(self.name, self.message)


class NotEnabled(Exception):
    """Raised by a handler: nothing here can run this call."""


@dataclass(frozen=True)
class Limits:
    """Limits of a turn: calls, seconds per call, characters per observation."""

    calls_per_turn: int = 8
    seconds: float = 10.0
    characters: int = 8_000


@dataclass(frozen=True)
class Execution:
    """The result of one user prompt.

    ``observations[i]`` answers the call that ends ``responses[i]``. ``ended`` says why
    it stopped: an answer was given, a response broke the grammar (``error``), or the
    policy kept calling after an observation said that no calls are left.
    """

    responses: tuple[str, ...]
    observations: tuple[Observation, ...]
    ended: Literal["answer", "format error", "too many calls"]
    error: FormatError | None = None


def exception_text(name: str, message: str = "") -> str:
    """Return the observation for a named exception."""
    return f"Exception {name}: {message}" if message else f"Exception {name}"


def not_enabled(name: str) -> str:
    """Return the observation for a call that nothing here can run."""
    return f'Error: the action "{name}" is not enabled here.'


def clean_observation(text: str, characters: int) -> str:
    """Make ``text`` safe as an observation.

    A tag inside is broken with a space (``< <think>>``), because an environment must
    not be able to end its own observation. Lone surrogates become ``\\ud800`` as text.
    A text longer than ``characters`` is cut, and a note says so.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    text = TAG_PATTERN.sub(lambda match: "< " + match.group()[1:], text)
    if len(text) > characters:
        return f"{text[:characters]}… [cut: {len(text)} characters, {characters} shown]"
    return text


class Executor:
    """Looks up calls among the allowed definitions and runs their handlers.

    Each handler runs on its own thread, so that the time limit always holds. Python
    cannot stop a thread: one that exceeds the limit is left behind as a daemon thread
    and its result is dropped. Handlers should therefore set their own time-outs for
    what they wait on, and close what they open (a database connection belongs to its
    thread).
    """

    def __init__(
        self,
        definitions: Iterable[ActionDefinition],
        handlers: Mapping[str, Handler],
        limits: Limits | None = None,
    ) -> None:
        self.definitions = {definition.name: definition for definition in definitions}
        self.handlers = dict(handlers)
        self.limits = limits or Limits()

    def execute(self, call: ActionCall) -> Observation:
        """Run one call; never raises."""
        return Observation(
            clean_observation(self._outcome(call), self.limits.characters)
        )

    def _outcome(self, call: ActionCall) -> str:
        definition = self.definitions.get(call.name)
        if definition is None:
            allowed = ", ".join(sorted(self.definitions)) or "none"
            return f'Error: there is no action "{call.name}". Actions: {allowed}.'
        errors = check_parameters(definition, call.parameters)
        if errors:
            listed = "; ".join(map(str, errors))
            return f'Error: wrong parameters for "{call.name}": {listed}.'
        handler = self.handlers.get(call.name)
        if handler is None:
            return not_enabled(call.name)
        return self._run(definition, handler, dict(call.parameters))

    def _run(
        self,
        definition: ActionDefinition,
        handler: Handler,
        parameters: dict[str, JSON],
    ) -> str:
        outcome: list[str] = []

        def work() -> None:
            try:
                outcome.append(handler(parameters))
            except ActionFailed as failure:
                outcome.append(self._failure(definition, failure))
            except NotEnabled:
                outcome.append(not_enabled(definition.name))
            except (Exception, SystemExit) as error:
                logger.exception('The handler of "%s" failed.', definition.name)
                kind = type(error).__name__
                outcome.append(
                    f'Error: the action "{definition.name}" failed ({kind}).'
                )

        thread = threading.Thread(target=work, name="action-handler", daemon=True)
        thread.start()
        thread.join(self.limits.seconds)
        if not outcome:
            return (
                f'Error: the action "{definition.name}" took longer than '
                f"{self.limits.seconds:g} seconds and was given up."
            )
        return outcome[0]

    @staticmethod
    def _failure(definition: ActionDefinition, failure: ActionFailed) -> str:
        if failure.name in {exception.name for exception in definition.exceptions}:
            return exception_text(failure.name, failure.message)
        return f'Error: the action "{definition.name}" failed ({failure}).'

    def run_turn(
        self,
        generate: Callable[[str], str],
        prompt: str,
        *,
        inside_thinking: bool = False,
    ) -> Execution:
        """Decode, run the call, append the observation, and repeat until an answer.

        ``generate`` takes the text so far and returns the continuation, up to and
        including ``<</action>>`` or to the end. When no calls are left, the next call
        is answered with an observation that says so, once.
        """
        text = prompt
        responses: list[str] = []
        observations: list[Observation] = []
        while True:
            response = generate(text)
            responses.append(response)
            error = check_text(response, inside_thinking)
            if error:
                return Execution(
                    tuple(responses), tuple(observations), "format error", error
                )
            parsed = parse(response, inside_thinking=inside_thinking)
            if not parsed.ends_with_action:
                return Execution(tuple(responses), tuple(observations), "answer")
            if len(observations) < self.limits.calls_per_turn:
                observation = self.execute(parsed.actions[-1])
            elif len(observations) == self.limits.calls_per_turn:
                observation = Observation(
                    f"Error: all {self.limits.calls_per_turn} calls of this turn are "
                    "used. Answer now."
                )
            else:
                return Execution(
                    tuple(responses), tuple(observations), "too many calls"
                )
            observations.append(observation)
            text += response + OBSERVATION_OPEN + observation.text + OBSERVATION_CLOSE
            inside_thinking = True
