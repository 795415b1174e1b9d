"""Turn policies' responses into pairs, and pairs into slots of the queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from django.db import connection, transaction

from actions.grammar import FormatError, Response, parse
from actions.normal_form import same_in_normal_form
from annotation.judging.slots import open_slots
from annotation.models import (
    CONSISTENT_BY_RULE,
    InputKind,
    Pair,
    PairOrigin,
    PairSource,
    Producer,
    ProducerSource,
    Project,
    ReferenceResponse,
    SampledResponse,
    SampleStatus,
    Turn,
    text_hash,
)
from records.responses import ResponseRow as ResponseRow

if TYPE_CHECKING:
    from actions.tags import JSON

BATCH: Final = 500
FORMAT_ERROR_LENGTH: Final = 300


@dataclass(frozen=True)
class ProducerFacts:
    """The lineage that every sampled response carries: run, checkpoint and settings."""

    run_id: int
    checkpoint_id: int
    checkpoint_digest: str
    step: int
    policy_role: str
    settings: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class RefusedResponse:
    """A row that could not be taken in, and why."""

    sample: str
    turn: int
    index: int
    reason: str


@dataclass(frozen=True)
class Received:
    """What a delivery added; all numbers are 0 for a delivery received before.

    Of ``responses``, ``identical`` equal their label response byte for byte,
    ``by_rule`` equal it or a reference in normal form, and ``malformed`` break the
    grammar. ``pairs`` counts new pairs, derived ones included. ``slots`` counts
    judgments that people have to give, and ``saved`` those that the first two kinds
    would have needed.
    """

    responses: int = 0
    pairs: int = 0
    identical: int = 0
    by_rule: int = 0
    malformed: int = 0
    slots: int = 0
    saved: int = 0
    refused: tuple[RefusedResponse, ...] = ()


def pair_hash(label: str, sampled: str) -> str:
    """Return the hash that identifies a pair within its turn."""
    return text_hash(f"{len(label)}:{label}{sampled}")


def receive_responses(
    *,
    project: Project,
    producer: ProducerFacts | None,
    responses: Iterable[ResponseRow],
    judge_malformed: bool = False,
    priority: int = 0,
) -> Received:
    """Store sampled responses, pair each with its label response, and open slots.

    Idempotent: the same run, checkpoint, role, turn and index are stored once. Equal
    texts for one turn form one pair with one set of slots, however often they were
    sampled. Without a ``producer`` the responses come from the demo's generator, and no
    count of a policy's responses includes them.

    A rule settles pairs that need no person: a response equal to the label byte for
    byte (source ``identical``, outcome 1), one equal to the label or a reference in
    normal form (``rule``, 1), and one that breaks the grammar (``format``, 0), unless
    ``judge_malformed`` sends those to people. Pairs of returned and retired samples get
    no slots until the sample is approved again. Deliveries to one project run one after
    the other.
    """
    refused: list[RefusedResponse] = []
    names = ["responses", "pairs", "identical", "by_rule", "malformed", "saved"]
    counts = dict.fromkeys(names, 0)
    for_people: dict[int, None] = {}
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                [f"annotation.judging.pairing {project.pk}"],
            )
        made_by = _producer(producer)
        for rows in _batches(responses):
            answers = _keep_responses(project, made_by, rows, refused)
            pairs = _keep_pairs(project, answers, judge_malformed)
            new_pairs = [pair for pair, is_new in pairs.values() if is_new]
            counts["responses"] += len(answers)
            counts["pairs"] += len({pair.pk for pair in new_pairs})
            counts["saved"] += project.overlap * sum(
                pair.source in CONSISTENT_BY_RULE for pair in new_pairs
            )
            for answer in answers:
                pair, _ = pairs[answer.turn_id, _hash_of(answer)]
                if pair.source == PairSource.IDENTICAL:
                    counts["identical"] += 1
                elif pair.source == PairSource.RULE:
                    counts["by_rule"] += 1
                elif answer.format_error:
                    counts["malformed"] += 1
                if pair.source == PairSource.PEOPLE:
                    for_people[pair.pk] = None
        wanting = set(
            Pair.objects.filter(pk__in=for_people)
            .wanting_slots()
            .exclude(
                turn__sample__status__in=[SampleStatus.RETURNED, SampleStatus.RETIRED]
            )
            .values_list("pk", flat=True)
        )
        slots = open_slots(
            project=project,
            pairs=[pair for pair in for_people if pair in wanting],
            priority=priority,
        )
    return Received(**counts, slots=slots, refused=tuple(refused))


def _producer(facts: ProducerFacts | None) -> Producer:
    if facts is None:
        return Producer.objects.get_or_create(source=ProducerSource.DEMO)[0]
    return Producer.objects.get_or_create(
        run_id=facts.run_id,
        checkpoint_id=facts.checkpoint_id,
        policy_role=facts.policy_role,
        defaults={
            "checkpoint_digest": facts.checkpoint_digest,
            "step": facts.step,
            "settings": dict(facts.settings),
        },
    )[0]


def _batches(rows: Iterable[ResponseRow]) -> Iterator[list[ResponseRow]]:
    rest = iter(rows)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _keep_responses(
    project: Project,
    producer: Producer,
    rows: list[ResponseRow],
    refused: list[RefusedResponse],
) -> list[SampledResponse]:
    """Store the responses that are new, and return them with their turns."""
    turns = {
        (turn.sample.external_id, turn.position): turn
        for turn in Turn.objects.filter(
            sample__project=project,
            sample__external_id__in={row.sample for row in rows},
        ).select_related("sample")
    }
    known = set(
        SampledResponse.objects.filter(
            producer=producer, turn__in=[turn.pk for turn in turns.values()]
        ).values_list("turn", "index")
    )
    answers: list[SampledResponse] = []
    for row in rows:
        turn = turns.get((row.sample, row.turn))
        if turn is None or "\x00" in row.text:
            reason = "has a NUL character" if turn else "no such sample or turn here"
            refused.append(RefusedResponse(row.sample, row.turn, row.index, reason))
        elif (turn.pk, row.index) not in known:
            known.add((turn.pk, row.index))
            error = row.format_error or _format_error(turn, row.text)
            answers.append(
                SampledResponse(
                    turn=turn,
                    producer=producer,
                    index=row.index,
                    text=row.text,
                    observation=row.observation,
                    observation_source=row.observation_source,
                    format_error=error[:FORMAT_ERROR_LENGTH],
                )
            )
    return SampledResponse.objects.bulk_create(answers)


def _format_error(turn: Turn, text: str) -> str:
    try:
        _parsed(turn, text)
    except FormatError as error:
        return str(error)
    return ""


def _parsed(turn: Turn, text: str) -> Response:
    return parse(text, inside_thinking=turn.input_kind == InputKind.OBSERVATION)


def _hash_of(answer: SampledResponse) -> str:
    return pair_hash(answer.turn.response, answer.text)


def _keep_pairs(
    project: Project, answers: list[SampledResponse], judge_malformed: bool
) -> dict[tuple[int, str], tuple[Pair, bool]]:
    """Find or create the pair of each response; key them by turn and content hash."""
    hashes = [_hash_of(answer) for answer in answers]
    pairs = {
        (pair.turn_id, pair.content_hash): (pair, False)
        for pair in Pair.objects.filter(
            turn__in={answer.turn_id for answer in answers}, content_hash__in=hashes
        ).defer("label_text", "sampled_text")
    }
    wordings = _Wordings(answers)
    new: dict[tuple[int, str], Pair] = {}
    for answer, content_hash in zip(answers, hashes, strict=True):
        key = (answer.turn_id, content_hash)
        if key in pairs or key in new:
            continue
        if answer.text == answer.turn.response:
            source = PairSource.IDENTICAL
        elif answer.format_error and not judge_malformed:
            source = PairSource.FORMAT
        elif not answer.format_error and wordings.have(answer):
            source = PairSource.RULE
        else:
            source = PairSource.PEOPLE
        new[key] = Pair(
            project=project,
            turn=answer.turn,
            label_text=answer.turn.response,
            sampled_text=answer.text,
            content_hash=content_hash,
            source=source,
        )
    Pair.objects.bulk_create(new.values())
    pairs |= {key: (pair, True) for key, pair in new.items()}
    PairOrigin.objects.bulk_create(
        PairOrigin(pair=pairs[answer.turn_id, content_hash][0], sampled_response=answer)
        for answer, content_hash in zip(answers, hashes, strict=True)
    )
    return pairs


class _Wordings:
    """The label and the reference responses of the turns that were answered."""

    def __init__(self, answers: Iterable[SampledResponse]) -> None:
        turns = {answer.turn_id: answer.turn for answer in answers}
        self._texts = {pk: [turn.response] for pk, turn in turns.items()}
        for reference in ReferenceResponse.objects.filter(turn__in=turns):
            self._texts[reference.turn_id].append(reference.text)
        self._parsed: dict[int, list[Response]] = {}

    def have(self, answer: SampledResponse) -> bool:
        """Whether the well-formed response equals one of them in normal form."""
        sampled = _parsed(answer.turn, answer.text)
        if answer.turn_id not in self._parsed:
            self._parsed[answer.turn_id] = [
                response
                for text in self._texts[answer.turn_id]
                if (response := _readable(answer.turn, text)) is not None
            ]
        return any(
            same_in_normal_form(one, sampled) for one in self._parsed[answer.turn_id]
        )


def _readable(turn: Turn, text: str) -> Response | None:
    try:
        return _parsed(turn, text)
    except FormatError:
        return None
