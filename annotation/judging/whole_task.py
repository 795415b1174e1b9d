"""Judge a whole sampled task: every turn that a policy answered in one pass, in order.

A task is the set of answers of one producer to one sample with one index. The queue
decides which: the first slot free for a person names the task, and the free slots of
its other turns are leased with it, one per pair. Each turn is then judged by itself,
under its own token, by :func:`annotation.judging.judgments.record_judgment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from django.db import connection, transaction
from django.db.models import Exists, OuterRef

from annotation.access import require_role
from annotation.judging.judgments import last_decisions
from annotation.judging.queue import NothingToDo, claim_slot, lock_person
from annotation.models import (
    Judgment,
    Pair,
    PairSource,
    Project,
    Role,
    Sample,
    SampledResponse,
    Skip,
    Slot,
    SlotState,
    Touch,
    Turn,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

State = Literal[
    "yours",
    "judged",
    "skipped",
    "identical",
    "rule",
    "malformed",
    "others",
    "unanswered",
]

# The other slots of the task, by the rules of a claim: free, of a pair never met, one
# per pair. A slot that another claim is taking is skipped, never waited for.
_LEASE_REST: Final = """
WITH here AS (
    SELECT lease_seconds FROM annotation_project
    WHERE id = %(project)s AND NOT is_paused
),
picked AS (
    SELECT found.id, found.pair_id
    FROM here CROSS JOIN unnest(%(pairs)s::bigint[]) AS wanted(pair_id)
    CROSS JOIN LATERAL (
        SELECT s.id, s.pair_id FROM annotation_slot s
        WHERE s.pair_id = wanted.pair_id
          AND (s.state = 'open'
               OR s.state = 'leased' AND s.leased_until <= statement_timestamp())
          AND (
              SELECT true FROM annotation_touch t
              WHERE t.pair_id = s.pair_id AND t.user_id = %(user)s
          ) IS NULL
        ORDER BY s.place LIMIT 1
        FOR NO KEY UPDATE OF s SKIP LOCKED
    ) found
),
touched AS (
    INSERT INTO annotation_touch (pair_id, user_id, at)
    SELECT pair_id, %(user)s, statement_timestamp() FROM picked
    ON CONFLICT DO NOTHING
    RETURNING pair_id
)
UPDATE annotation_slot slot
SET state = 'leased', holder_id = %(user)s, token = slot.token + 1, is_ahead = false,
    leased_at = statement_timestamp(),
    leased_until = statement_timestamp() + here.lease_seconds * interval '1 second'
FROM picked, touched, here
WHERE slot.id = picked.id AND touched.pair_id = picked.pair_id
"""

# What the person already holds of the task is on screen again: seen, and with a whole
# lease. A slot that is being judged or left at this moment is skipped too.
_RENEW_REST: Final = """
WITH held AS MATERIALIZED (
    SELECT id FROM annotation_slot
    WHERE pair_id = ANY(%(pairs)s::bigint[])
      AND holder_id = %(user)s AND state = 'leased'
    FOR NO KEY UPDATE SKIP LOCKED
),
renewed AS (
    UPDATE annotation_slot slot
    SET leased_at = statement_timestamp(), is_ahead = false,
        leased_until =
            statement_timestamp() + project.lease_seconds * interval '1 second'
    FROM annotation_project project, held
    WHERE project.id = %(project)s AND NOT project.is_paused AND slot.id = held.id
    RETURNING slot.pair_id
)
UPDATE annotation_touch t SET is_seen = true FROM renewed
WHERE t.pair_id = renewed.pair_id AND t.user_id = %(user)s AND NOT t.is_seen
"""


@dataclass(frozen=True)
class TaskTurn:
    """A turn of the task and its state for this person.

    ``yours``: ``slot`` is leased to them. ``judged``: ``judgment`` is theirs, and
    ``can_undo`` says whether they may still undo it. ``others``: other people have
    given or are giving its judgments. The remaining states say why no person is asked.
    """

    turn: Turn
    state: State
    pair: Pair | None = None
    slot: Slot | None = None
    judgment: Judgment | None = None
    can_undo: bool = False


@dataclass(frozen=True)
class Task:
    """A sampled task; ``answer`` is the key of any of its answers."""

    sample: Sample
    answer: int
    turns: tuple[TaskTurn, ...]

    @property
    def yours(self) -> tuple[TaskTurn, ...]:
        return tuple(one for one in self.turns if one.state == "yours")

    @property
    def judged(self) -> tuple[TaskTurn, ...]:
        return tuple(one for one in self.turns if one.state == "judged")


def claim_task(
    *, project: Project, user: User, answer: int | None = None
) -> Task | NothingToDo | None:
    """Lease all turns of a sampled task that are free for ``user``, or say why not.

    With ``answer`` it is that task again with fresh leases, or None if the person has
    not met it: nobody chooses what to judge. Without ``answer``, None means that the
    person holds a pair without a known sampled response; the Judge page shows it.
    Locks: the person, then slots. Slots that others are taking are skipped, so two
    people get different tasks or different slots.
    """
    with transaction.atomic():
        if answer is None:
            claim = claim_slot(project=project, user=user)
            if isinstance(claim, NothingToDo):
                return claim
            origins = SampledResponse.objects.filter(origin__pair=claim.pair)
            first = origins.select_related("turn__sample").order_by("pk").first()
        else:
            require_role(project, user, Role.LABELER, deed="Judging")
            lock_person(project=project, user=user)
            first = _met_answer(project, user, answer)
        if first is None:
            return None
        pairs = _pairs_of(first)
        places: Mapping[str, Any] = {
            "project": project.pk,
            "user": user.pk,
            "pairs": [pair.pk for pair in pairs],
        }
        with connection.cursor() as cursor:
            cursor.execute(_RENEW_REST, places)
            cursor.execute(_LEASE_REST, places)
        return _task(project, user, first, pairs)


def task_of(*, project: Project, user: User, answer: int) -> Task | None:
    """Return the present state of a task the person has met; lease nothing."""
    first = _met_answer(project, user, answer)
    if first is None:
        return None
    return _task(project, user, first, _pairs_of(first))


def _met_answer(project: Project, user: User, answer: int) -> SampledResponse | None:
    """Return the answer if ``user`` has met a pair of its task."""
    touches = Touch.objects.filter(
        user=user,
        pair__origins__sampled_response__producer=OuterRef("producer"),
        pair__origins__sampled_response__index=OuterRef("index"),
        pair__turn__sample=OuterRef("turn__sample"),
    )
    return (
        SampledResponse.objects.filter(
            Exists(touches), pk=answer, turn__sample__project=project
        )
        .select_related("turn__sample")
        .first()
    )


def _pairs_of(answer: SampledResponse) -> list[Pair]:
    return list(
        Pair.objects.filter(
            origins__sampled_response__producer=answer.producer_id,
            origins__sampled_response__index=answer.index,
            turn__sample__turns=answer.turn_id,
        )
        .select_related("turn")
        .order_by("turn__position")
    )


def _task(
    project: Project, user: User, answer: SampledResponse, pairs: Sequence[Pair]
) -> Task:
    sample = answer.turn.sample
    keys = [pair.pk for pair in pairs]
    of_turn = {pair.turn_id: pair for pair in pairs}
    held = {
        slot.pair_id: slot
        for slot in Slot.objects.filter(
            pair__in=keys, holder=user, state=SlotState.LEASED
        )
    }
    judged = {
        judgment.pair_id: judgment
        for judgment in Judgment.objects.current().filter(pair__in=keys, labeler=user)
    }
    skipped = set(
        Skip.objects.filter(pair__in=keys, user=user).values_list("pair", flat=True)
    )
    recent = {judgment.pk for judgment in last_decisions(user, project)}

    def turn_of(turn: Turn) -> TaskTurn:
        pair = of_turn.get(turn.pk)
        if pair is None:
            return TaskTurn(turn, "unanswered")
        if slot := held.get(pair.pk):
            return TaskTurn(turn, "yours", pair, slot)
        if judgment := judged.get(pair.pk):
            can_undo = judgment.pk in recent and not judgment.is_extra
            return TaskTurn(turn, "judged", pair, None, judgment, can_undo)
        state: State = "others"
        if pair.source == PairSource.IDENTICAL:
            state = "identical"
        elif pair.source == PairSource.RULE:
            state = "rule"
        elif pair.source == PairSource.FORMAT:
            state = "malformed"
        elif pair.pk in skipped:
            state = "skipped"
        return TaskTurn(turn, state, pair)

    turns = Turn.objects.filter(sample=sample).order_by("position")
    return Task(sample, answer.pk, tuple(turn_of(turn) for turn in turns))
