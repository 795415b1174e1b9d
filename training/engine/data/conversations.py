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
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from actions.definitions import ActionDefinition, DefinitionError, parse_definition
from actions.grammar import FormatError, Response, parse
from actions.in_force import Contexts, definitions_in_force, fetched_before
from actions.rules import Rule, RuleError, rule_of
from actions.tags import JSON, OBSERVATION_CLOSE, OBSERVATION_OPEN
from training.engine.modeling.chat_frame import ChatFrame, content_ids
from training.engine.modeling.token_loss import IGNORED as IGNORED
from training.engine.run.directory import RunError, read_rows

# Samples


@dataclass(frozen=True)
class Turn:
    """One input and its label response. ``kind`` is ``user`` or ``observation``.

    ``history`` is all that stands before the response: the global thinking contexts,
    the turns before with their label responses, and the input.
    """

    kind: str
    text: str
    response: str
    references: tuple[str, ...]
    document: dict[str, JSON] = field(repr=False)
    history: str = field(default="", repr=False)

    @property
    def inside_thinking(self) -> bool:
        """Whether the response goes on inside thinking that is already open."""
        return self.kind == "observation"

    def parsed(self) -> Response | None:
        """Return the label response parsed, or None where it breaks the grammar."""
        try:
            return parse(self.response, inside_thinking=self.inside_thinking)
        except FormatError:
            return None

    @property
    def has_facts(self) -> bool:
        """Whether the oracle can judge responses to this turn."""
        return bool(self.document.get("facts"))


@dataclass(frozen=True)
class Sample:
    """One action task as the programs read it; ``document`` is its whole JSON."""

    id: str
    scenario: str
    situation: str
    split: str
    context: str
    contexts: Contexts
    turns: tuple[Turn, ...]
    document: dict[str, JSON] = field(repr=False)
    rule: Rule | None = None  # of a reasoning task: judges the answer of its last turn

    @property
    def task(self) -> str:
        """The kind of task (the paper's Table 1): "action", "reasoning" or "other"."""
        if self.rule is not None:
            return "reasoning"
        meta = self.document.get("meta")
        is_other = isinstance(meta, dict) and meta.get("task") == "other"
        return "other" if is_other else "action"

    def rule_at(self, turn: int) -> Rule | None:
        """Return the rule that judges answers to ``turn``, if one does."""
        return self.rule if turn == len(self.turns) - 1 else None

    def in_force(self, turn: int) -> dict[str, ActionDefinition]:
        """Return the actions that the response to ``turn`` may call after the labels."""
        return definitions_in_force(self.contexts, self.fetched_by_labels(turn))

    def fetched_by_labels(self, turn: int) -> list[str]:
        """Return what the labels fetched before the response to ``turn``."""
        before = ((each.text, each.parsed()) for each in self.turns[: turn + 1])
        *_, fetched = fetched_before(before)
        return fetched

    def is_verifiable(self, turn: int) -> bool:
        """Whether answers to ``turn`` can be told right or wrong, by oracle or rule."""
        return self.turns[turn].has_facts or self.rule_at(turn) is not None


def read_samples(path: Path) -> list[Sample]:
    """Return the samples of a Concord JSONL file; raise ``RunError`` on a bad line."""
    samples: list[Sample] = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            samples.append(sample_from_json(row))
        except RuleError as error:
            raise RunError(f"sample {row.get('id')}", "a rule", str(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            place = f"{path.name}, sample {number}"
            raise RunError(place, "a Concord sample", f"{error!r}") from error
    return samples


def sample_from_json(row: Mapping[str, JSON]) -> Sample:
    """Return one sample; raise ``KeyError``, ``TypeError`` or ``ValueError``."""
    contexts = [_object(item) for item in _list(row.get("contexts", []))]
    turns = tuple(_turn(_object(item)) for item in _list(row["turns"]))
    if not turns:
        raise ValueError("a sample without turns")
    read = [_read_context(json.dumps(context)) for context in contexts]
    # A local context is not in the prompt: the policy fetches it by an action.
    shown = [
        text
        for context, text in zip(contexts, read, strict=True)
        if context.get("scope", "global") == "global"
    ]
    context = "\n\n".join(shown)
    return Sample(
        id=_text(row["id"]),
        scenario=_text(row.get("scenario", "")),
        situation=_text(row.get("situation", "")),
        split=_text(row.get("split", "")),
        context=context,
        contexts=_contexts(json.dumps(contexts)),
        turns=with_histories(context, turns),
        document=dict(row),
        rule=rule_of(row.get("meta")),
    )


@lru_cache(maxsize=4096)  # thousands of samples share some contexts
def _read_context(text: str) -> str:
    """Return how the policy reads a context given in JSON."""
    return context_text(_object(json.loads(text)))


@lru_cache(maxsize=4096)
def _contexts(text: str) -> Contexts:
    """Return the contexts given in a JSON list, as far as they define actions."""
    return Contexts.of(map(_object, _list(json.loads(text))))


def with_histories(context: str, turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return the turns, each with all that stands before its response."""
    said = [context]
    found: list[Turn] = []
    for turn in turns:
        said.append(turn.text)
        found.append(replace(turn, history="\n".join(said)))
        said.append(turn.response)
    return tuple(found)


def context_text(context: Mapping[str, JSON]) -> str:
    """Return a thinking context as the policy reads it: short, one line an action."""
    lines = [
        f"{word}: {text}"
        for word, key in (("Background", "background"), ("Guideline", "guideline"))
        if (text := _text(context.get(key, "")))
    ]
    for item in _list(context.get("actions", [])):
        try:
            lines.append(definition_text(parse_definition(item)))
        except DefinitionError as error:
            raise ValueError(str(error)) from error
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


def _turn(item: Mapping[str, JSON]) -> Turn:
    given = _object(item["input"])
    kind = _text(given["kind"])
    if kind not in ("user", "observation"):
        raise ValueError(f"input kind {kind!r} is neither user nor observation")
    return Turn(
        kind=kind,
        text=_text(given["text"]),
        response=_text(item["response"]),
        references=tuple(_text(text) for text in _list(item.get("references", []))),
        document=dict(item),
    )


def _object(value: JSON) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {value!r:.60}")
    return value


def _list(value: JSON) -> list[JSON]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {value!r:.60}")
    return value


def _text(value: JSON) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {value!r:.60}")
    return value


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
