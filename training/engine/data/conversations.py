"""From a sample to token ids: what the policy reads, and which tokens it learns.

A whole sample is one sequence:

    [system: thinking contexts] [user: x1] [assistant: y1 …] [user: …] [assistant: …]

An observation does not end the assistant's message: it is placed between the response
that called the action and the response that goes on inside the same thinking. Every
segment is tokenised on its own and the ids are joined, so the prompt of a turn is a
prefix of the sequence, in training and in generation alike, whatever the tokenizer.

The policy learns its responses and the token that ends its turn. Prompts and
observations are labelled -100.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from actions.definitions import ActionDefinition, DefinitionError, parse_definition
from actions.rules import RuleError
from actions.tags import JSON, OBSERVATION_CLOSE, OBSERVATION_OPEN
from records import samples
from records.reading import RecordError
from training.engine.modeling.chat_frame import ChatFrame, content_ids
from training.engine.modeling.token_loss import IGNORED as IGNORED
from training.engine.run.rows import read_records

# Samples


@dataclass(frozen=True)
class Turn(samples.Turn):
    """A turn; ``history`` is all that stands before its response.

    These are the global thinking contexts, the turns before with their label responses,
    and the input.
    """

    history: str = field(default="", repr=False)


@dataclass(frozen=True)
class Sample(samples.Sample):
    """A sample as the programs read it; ``context`` is its global contexts as text."""

    turns: tuple[Turn, ...]
    context: str = ""


def read_samples(path: Path) -> list[Sample]:
    """Return the samples of a Concord JSONL file; raise ``RunError`` on a bad line."""
    return read_records(path, sample_from_json)


def sample_from_json(row: Mapping[str, JSON]) -> Sample:
    """Return one sample; raise ``RecordError``."""
    sample = samples.Sample.from_json(row)
    try:
        sample.rule  # noqa: B018 - read now, so that a bad one is named before training
    except RuleError as error:
        raise RecordError(f"sample {sample.id}", "a rule", str(error)) from error
    texts = [_context_text(json.dumps(each.to_json())) for each in sample.contexts]
    # A local context is not in the prompt: the policy fetches it by an action.
    context = "\n\n".join(
        text
        for each, text in zip(sample.contexts, texts, strict=True)
        if each.scope == "global"
    )
    own = {each.name: getattr(sample, each.name) for each in fields(sample)}
    own["turns"] = with_histories(context, sample.turns)
    return Sample(**own, context=context)


@lru_cache(maxsize=4096)  # thousands of samples share some contexts
def _context_text(text: str) -> str:
    """Return how the policy reads a context written in JSON."""
    return context_text(samples.Context.from_json(json.loads(text)))


def with_histories(context: str, turns: Iterable[samples.Turn]) -> tuple[Turn, ...]:
    """Return the turns, each with all that stands before its response."""
    before = [context]
    complete: list[Turn] = []
    for turn in turns:
        before.append(turn.text)
        own = {each.name: getattr(turn, each.name) for each in fields(samples.Turn)}
        complete.append(Turn(**own, history="\n".join(before)))
        before.append(turn.response)
    return tuple(complete)


def context_text(context: samples.Context) -> str:
    """Return a thinking context as the policy reads it: short, one line an action."""
    lines = [
        f"{word}: {text}"
        for word, text in (
            ("Background", context.background),
            ("Guideline", context.guideline),
        )
        if text
    ]
    for item in context.actions:
        try:
            lines.append(definition_text(parse_definition(item)))
        except DefinitionError as error:
            place = f"context {context.title!r}: {error.place}"
            raise RecordError(place, error.expected, error.found) from error
    return "\n".join(lines)


def definition_text(definition: ActionDefinition) -> str:
    """Return one action definition on one line.

    ``Action: Name (p: type, unit, a|b, optional, what it is; q: …) - description.
    Exceptions: name, name`` carries what the JSON form says in a third of its tokens.
    """
    parameters: list[str] = []
    for parameter in definition.parameters:
        facts: list[str] = [parameter.type]
        if parameter.unit:
            facts.append(parameter.unit)
        if parameter.enumeration:
            facts.append("|".join(str(value) for value in parameter.enumeration))
        if parameter.optional:
            facts.append("optional")
        if parameter.description:
            facts.append(parameter.description)
        parameters.append(f"{parameter.name}: {', '.join(facts)}")
    text = f"Action: {definition.name} ({'; '.join(parameters)})"
    if definition.description:
        text += f" - {definition.description}"
    if definition.exceptions:
        named = ", ".join(exception.name for exception in definition.exceptions)
        text += f" Exceptions: {named}"
    return text


# Sequences


@dataclass(frozen=True)
class Encoded:
    """A conversation as token ids.

    ``labels`` equals ``ids`` where the policy learns and is -100 elsewhere. ``turns``
    are positions in the sample; ``spans`` are (start, end) of each one's response in
    ``ids``, its end token included: ``ids[:start]`` is the prompt of that turn.
    """

    sample: str
    ids: list[int]
    labels: list[int]
    turns: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def prompt(self, turn: int) -> list[int]:
        """Return the ids that the policy is given to answer ``turn``."""
        return self.ids[: self.spans[self.turns.index(turn)][0]]

    def response(self, turn: int) -> list[int]:
        """Return the ids of the response to ``turn``, with the token that ends it."""
        start, end = self.spans[self.turns.index(turn)]
        return self.ids[start:end]


class Encoder:
    """Turns samples into token ids for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.frame = ChatFrame.of(tokenizer)
        self._known: dict[str, tuple[int, ...]] = {}

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a content (``content_ids``)."""
        if text not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[text] = content_ids(self.tokenizer, text, self.frame.anchor)
        return self._known[text]

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a whole response, with the token that ends it."""
        ids = self.text_ids(text)
        if ids and ids[-1] == self.frame.action_close:
            return ids
        return (*ids, self.frame.end_of_turn)

    def following(self, kind: str, text: str, last: int) -> list[int]:
        """Return the ids of an input after a response whose last id is ``last``."""
        if kind == "observation":
            return [*self.text_ids(OBSERVATION_OPEN + text + OBSERVATION_CLOSE)]
        frame = self.frame
        # Where the user interrupts an action, the assistant's message ends first.
        end = [] if last == frame.end_of_turn else [frame.end_of_turn]
        return [
            *end,
            *frame.assistant_to_user,
            *self.text_ids(text),
            *frame.user_to_assistant,
        ]

    def encode(
        self,
        sample: Sample,
        *,
        responses: Sequence[str] | None = None,
        turns: Sequence[int] | None = None,
        learned: Callable[[int], bool] = lambda turn: True,
    ) -> Encoded:
        """Return ``sample`` as one sequence.

        ``responses`` replace the labels turn by turn; ``turns`` keeps only those turns
        (in order) as history and targets; ``learned`` says which turns give labels.
        """
        frame = self.frame
        kept = range(len(sample.turns)) if turns is None else turns
        ids: list[int] = []
        labels: list[int] = []
        spans: list[tuple[int, int]] = []

        def put(more: Iterable[int], learn: bool) -> None:
            before = len(ids)
            ids.extend(more)
            new = ids[before:]
            labels.extend(new if learn else [IGNORED] * len(new))

        if sample.context:
            put(frame.before_system, False)
            put(self.text_ids(sample.context), False)
            put(frame.system_to_user, False)
        else:
            put(frame.before_user, False)
        for position, number in enumerate(kept):
            turn = sample.turns[number]
            if position:
                put(self.following(turn.kind, turn.text, ids[-1]), False)
            elif turn.kind == "user":
                put(self.text_ids(turn.text), False)
                put(frame.user_to_assistant, False)
            else:  # the user's message was cut off: an empty one
                put(frame.user_to_assistant, False)
                put(self.following(turn.kind, turn.text, frame.action_close), False)
            text = turn.response if responses is None else responses[number]
            start = len(ids)
            put(self.response_ids(text), learned(number))
            spans.append((start, len(ids)))
        return Encoded(sample.id, ids, labels, tuple(kept), tuple(spans))


def windows(
    encoder: Encoder,
    sample: Sample,
    longest: int,
    *,
    responses: Sequence[str] | None = None,
) -> tuple[list[Encoded], list[int]]:
    """Cut ``sample`` into sequences of at most ``longest`` ids; nothing gets lost.

    Returns the sequences and the turns that fit in none (their contexts, their user
    message and they themselves are together too long). Each turn is learned once: in
    the first window that holds it. A window has the contexts and whole turns from some
    user turn on; only older history is missing from it.
    """
    whole = encoder.encode(sample, responses=responses)
    if len(whole.ids) <= longest:
        return [whole], []
    found: list[Encoded] = []
    left_out: list[int] = []
    count = len(sample.turns)
    number = 0
    while number < count:
        first = number
        while first and sample.turns[first].kind != "user":
            first -= 1
        best: Encoded | None = None
        last = number
        while last < count:
            tried = encoder.encode(
                sample,
                responses=responses,
                turns=range(first, last + 1),
                learned=lambda turn, start=number: turn >= start,  # type: ignore[misc]
            )
            if len(tried.ids) > longest:
                break
            best = tried
            last += 1
        if best is None:
            left_out.append(number)
            number += 1
        else:
            found.append(best)
            number = last
    return found, left_out


def lengths_summary(lengths: Sequence[int]) -> dict[str, int]:
    """Return count, sum, median, 95th percentile and maximum of token lengths."""
    ordered = sorted(lengths)
    if not ordered:
        return {"count": 0, "sum": 0, "median": 0, "p95": 0, "max": 0}
    return {
        "count": len(ordered),
        "sum": sum(ordered),
        "median": ordered[len(ordered) // 2],
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max": ordered[-1],
    }
