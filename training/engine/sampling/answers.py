"""How good answers are: grammar, label and oracle, one turn at a time.

Shared by the programs that answer turns. Policies answer with *teacher-forced history*:
the turns before are the label's, so that each turn is measured on its own, and a task
counts as complete when all its turns are right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from actions.demo import oracle
from actions.demo.facts import FactsError
from actions.format_check import check_token_ids
from actions.grammar import FormatError, Response, parse
from actions.json_values import json_equal
from actions.plans import THRESHOLD, align_plans
from training.engine.data.conversations import Encoder, Sample, Turn
from training.engine.modeling.policies import Place, longest_input
from training.engine.modeling.tokenizer import tag_ids
from training.engine.run.distributed import map_over_ranks
from training.engine.sampling.backends import vllm_responses
from training.engine.sampling.sampler import (
    Sampled,
    Sampling,
    Seed,
    response_text,
    sample_responses,
)


@dataclass(frozen=True)
class Prompt:
    """A turn to answer; ``ids`` are all tokens before the answer."""

    sample: Sample
    turn: int
    ids: list[int] = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """One answer to a turn. ``format_error`` is None when the format check passed."""

    sample: Sample
    turn: int
    index: int
    text: str
    format_error: FormatError | None
    sampled: Sampled = field(repr=False)


def build_prompts(
    encoder: Encoder, samples: Sequence[Sample], longest_prompt: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Return all turns of ``samples``: those that fit, and those left out."""
    fitting: list[Prompt] = []
    left_out: list[Prompt] = []
    for sample in samples:
        encoded = encoder.encode(sample)
        for turn in range(len(sample.turns)):
            prompt = Prompt(sample, turn, encoded.prompt(turn))
            (fitting if len(prompt.ids) <= longest_prompt else left_out).append(prompt)
    return fitting, left_out


def longest_prompt(model: PreTrainedModel, wanted: int, new_tokens: int) -> int:
    """Return how long a prompt may be so that the answer fits in the model too."""
    return min(wanted, longest_input(model, wanted + new_tokens) - new_tokens)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    place: Place,
    seed: Seed,
    per_turn: int = 1,
) -> list[list[Answer]]:
    """Return ``per_turn`` answers to each turn, in order, with their format checked."""
    ids = [item.ids for item in prompts]
    if sampling.engine is not None and ids:
        drawn = vllm_responses(sampling.engine, ids, sampling, per_turn)
    else:
        drawn = sample_responses(
            model, ids, sampling, place=place, seed=seed, per_prompt=per_turn
        )
    checked = check_of(tokenizer, sampling.stop_ids[-1])
    return [
        [
            checked(item.sample, item.turn, index, sampled)
            for index, sampled in enumerate(group)
        ]
        for item, group in zip(prompts, drawn, strict=True)
    ]


def answer_together(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    place: Place,
    seeds: Sequence[int],
    per_turn: int = 1,
) -> list[list[Answer]]:
    """Return what ``answer`` does with a seed for each turn; each process of the run
    answers a part of the turns and tells the others. All of them have to ask.
    """
    checked = check_of(tokenizer, sampling.stop_ids[-1])

    def of_part(numbers: Sequence[int]) -> list[list[Answer]]:
        return answer(
            model,
            tokenizer,
            [prompts[number] for number in numbers],
            sampling,
            place=place,
            seed=[seeds[number] for number in numbers],
            per_turn=per_turn,
        )

    return map_over_ranks(
        range(len(prompts)),
        of_part,
        lambda group: [astuple(given.sampled) for given in group],
        lambda number, told: [
            checked(
                prompts[number].sample, prompts[number].turn, index, Sampled(*sampled)
            )
            for index, sampled in enumerate(told)
        ],
    )


def check_of(
    tokenizer: PreTrainedTokenizerBase, end_of_turn: int
) -> Callable[[Sample, int, int, Sampled], Answer]:
    """Return what makes an answer, its format checked, of sample, turn, index and tokens."""
    tags = tag_ids(tokenizer)

    def decode(ids: Sequence[int]) -> str:
        text = tokenizer.decode(list(ids), skip_special_tokens=False)
        assert isinstance(text, str)
        return text

    def checked(sample: Sample, turn: int, index: int, sampled: Sampled) -> Answer:
        text = response_text(tokenizer, sampled, end_of_turn)
        ids = sampled.ids
        if ids and ids[-1] == end_of_turn:
            ids = ids[:-1]
        error: FormatError | None
        if sampled.ended:
            inside = sample.turns[turn].inside_thinking
            error = check_token_ids(ids, tags, decode, inside)
        else:
            error = FormatError(
                len(text), "the end of the response", "more tokens", text
            )
        return Answer(sample, turn, index, text, error, sampled)

    return checked


@dataclass(frozen=True)
class Measured:
    """What can be said of one answer; None where the question does not apply.

    ``plan_order``: the plan has the label's steps in the label's order, by the oracle
    where the turn has facts, else by alignment (asked where the label has a plan). ``action_name`` and ``action_parameters``: the calls are the
    label's (asked where the label calls). ``consistent``: right by the task's rule,
    else the oracle's verdict (asked where there is a rule or the turn has facts);
    ``errors`` are the oracle's kinds of error.
    """

    format_valid: bool
    plan_order: bool | None
    action_name: bool | None
    action_parameters: bool | None
    consistent: bool | None
    errors: tuple[str, ...] = ()


def measure(given: Answer) -> Measured:
    """Return what grammar, label and oracle say of one answer."""
    turn = given.sample.turns[given.turn]
    consistent: bool | None = None
    errors: tuple[str, ...] = ()
    units: Mapping[str, bool] = {}
    verdict = oracle_verdict(turn, given.text)
    right = rule_verdict(given)
    if right is not None:
        consistent, errors = right, () if right else ("rule",)
    elif verdict is not None:
        consistent = verdict.consistent and given.format_error is None
        errors = tuple(verdict.errors)
        units = verdict.units
        if given.format_error is not None and not errors:
            errors = ("format",)
    label = parsed_label(turn)
    found: Response | None = None
    if given.format_error is None:
        found = parse(given.text, inside_thinking=turn.inside_thinking)
    return Measured(
        format_valid=found is not None,
        plan_order=_same_plan(label, found, units),
        action_name=_same_names(label, found),
        action_parameters=_same_parameters(label, found),
        consistent=consistent,
        errors=errors,
    )


def oracle_verdict(turn: Turn, text: str) -> oracle.OracleVerdict | None:
    """Return the oracle's verdict on a text, or None where the turn has no facts of it."""
    if not turn.has_facts:
        return None
    try:
        return oracle.judge(turn.document, text)
    except FactsError:  # facts of somebody else's
        return None


def rule_verdict(given: Answer) -> bool | None:
    """Return whether an answer is right by its task's rule, None where it has none."""
    rule = given.sample.rule_at(given.turn)
    if rule is None:
        return None
    if given.format_error is not None:
        return False
    inside = given.sample.turns[given.turn].inside_thinking
    return rule.accepts(parse(given.text, inside_thinking=inside).answer)


def parsed_label(turn: Turn) -> Response | None:
    """Return the label response parsed, or None where it breaks the grammar."""
    return turn.parsed()


def is_well_formed(text: str, turn: Turn) -> bool:
    """Say whether a label or reference of ``turn`` keeps to the response grammar."""
    try:
        parse(text, inside_thinking=turn.inside_thinking)
    except FormatError:
        return False
    return True


def count_unreadable(prompts: Sequence[Prompt]) -> int:
    """Return how many turns have a label response that breaks the grammar.

    No reward model can compare an answer with such a label.
    """
    turns = [item.sample.turns[item.turn] for item in prompts]
    return sum(not is_well_formed(turn.response, turn) for turn in turns)


def _same_plan(
    label: Response | None, found: Response | None, units: Mapping[str, bool]
) -> bool | None:
    if label is None or label.plan is None:
        return None
    if found is None or found.plan is None:
        return False
    if found.plan.steps == label.plan.steps:
        return True
    steps = [matches for key, matches in units.items() if key.startswith("plan/")]
    if steps:
        return all(steps)
    aligned = align_plans(label.plan, found.plan)
    return not (
        aligned.missing
        or aligned.extra
        or aligned.inversions
        or any(match.score < THRESHOLD for match in aligned.matched)
    )


def _same_names(label: Response | None, found: Response | None) -> bool | None:
    if label is None or not label.actions:
        return None
    return found is not None and [call.name for call in found.actions] == [
        call.name for call in label.actions
    ]


def _same_parameters(label: Response | None, found: Response | None) -> bool | None:
    if label is None or not label.actions:
        return None
    if found is None or len(found.actions) != len(label.actions):
        return False
    return all(
        json_equal(dict(ours.parameters), dict(theirs.parameters))
        for ours, theirs in zip(found.actions, label.actions, strict=True)
    )
