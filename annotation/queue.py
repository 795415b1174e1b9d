"""The queue: which pair a person is shown next, and how a slot is held and given back.

docs/queue.md tells the design in words. In short: one row per needed judgment (``Slot``),
a unique ``Touch`` per pair and person, a fencing token that grows when a slot changes
hands, and a cursor per person that no slot can come back behind.

Locks are always taken in the order person, pair, slot, project, so no two deeds wait for
each other in a circle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from django.db import connection, transaction
from django.db.models import Count, F, Min, Q
from django.db.models.functions import Greatest, Least, Now
from django.utils import timezone

from annotation.models import (
    Pair,
    Project,
    QueueCursor,
    Slot,
    SlotQuerySet,
    SlotState,
    Touch,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

# A person's page may extend its lease on its own for so many lease lengths; then the
# slot is another's, unless the person themself reloads the page.
EXTENSIONS: Final = 6

# How far the first slot for a person must have moved before their cursor is rewritten.
# Smaller writes more, larger reads more; benchmarks/claim.py shows both.
CURSOR_STRIDE: Final = 8

# A slot that is free but locked by another claim at this instant is tried again.
TRIES: Final = 6

Kind = Literal["all done", "all leased", "nothing for you", "paused"]


@dataclass(frozen=True)
class Claim:
    """A slot that is this person's until ``leased_until``; ``token`` proves it."""

    slot: Slot
    pair: Pair
    token: int
    leased_until: datetime


@dataclass(frozen=True)
class NothingToDo:
    """Why there is no pair for a person.

    ``all done``: no judgment is needed in the project. ``all leased``: what this person
    could judge is held by others; the first lease ends at ``next_free_at``. ``nothing
    for you``: judgments are needed, but this person has met all those pairs or wrote
    their samples. ``paused``: the project hands out nothing.
    """

    kind: Kind
    next_free_at: datetime | None = None


@dataclass(frozen=True)
class QueueState:
    """The queue of a project in numbers of slots, and when the next lease ends."""

    open: int
    leased: int
    expired: int
    done: int
    next_free_at: datetime | None

    @property
    def waiting(self) -> int:
        return self.open + self.leased + self.expired


class JudgingError(Exception):
    """What a person asked of the queue cannot be done; the text says why."""


class LeaseLost(JudgingError):
    """The slot is no longer, or never was, this person's."""

    def __init__(self, slot_id: int) -> None:
        self.slot_id = slot_id
        super().__init__(
            "This pair is no longer yours: it was given back or passed on."
        )


# The first slots a person may have, level by level from the highest priority, each
# level from the person's cursor on. "Theirs" is asked in scalar sub-queries on
# purpose: written as NOT EXISTS the planner may turn them into a join that reads every
# touch of the person before it finds the first slot.
_LEVELS: Final = """
WITH RECURSIVE here AS (
    SELECT id, lease_seconds, queue_tail, is_paused
    FROM annotation_project WHERE id = %(project)s
),
level AS (
    SELECT (
        SELECT s.priority FROM annotation_slot s
        WHERE s.project_id = %(project)s AND s.state IN ('open', 'leased')
        ORDER BY s.priority DESC LIMIT 1
    ) AS priority
    UNION ALL
    SELECT (
        SELECT s.priority FROM annotation_slot s
        WHERE s.project_id = %(project)s AND s.state IN ('open', 'leased')
          AND s.priority < level.priority
        ORDER BY s.priority DESC LIMIT 1
    )
    FROM level WHERE level.priority IS NOT NULL
),
start AS (
    SELECT level.priority, coalesce((
        SELECT c.place FROM annotation_queuecursor c
        WHERE c.project_id = %(project)s AND c.user_id = %(user)s
          AND c.priority = level.priority
    ), 0) AS place
    FROM level WHERE level.priority IS NOT NULL
)
"""

_THEIRS: Final = """
    (
        SELECT true FROM annotation_touch t
        WHERE t.pair_id = s.pair_id AND t.user_id = %(user)s
    ) IS NULL
    AND (
        SELECT sample.author_id FROM annotation_pair p
        JOIN annotation_turn turn ON turn.id = p.turn_id
        JOIN annotation_sample sample ON sample.id = turn.sample_id
        WHERE p.id = s.pair_id
    ) IS DISTINCT FROM %(user)s
"""

_FROM_CURSOR: Final = f"""
    FROM annotation_slot s
    WHERE s.project_id = %(project)s AND s.priority = start.priority
      AND s.place > start.place AND s.state IN ('open', 'leased')
      AND {_THEIRS}
"""

_FREE: Final = "(s.state = 'open' OR s.leased_until <= statement_timestamp())"

# The claim: one statement. ``water`` is, per level, the first slot the person could ever
# have, free or held by another. The cursor goes up to it and never past it, so a lease
# that ends, a skip or a claim that is rolled back needs no message to anyone's cursor.
# ``picked`` reads its levels in the order ``level`` made them and stops at the first
# hit, so LIMIT 1 is the highest priority. ``touched`` is empty when another tab met the
# pair at the same instant; then nothing is leased.
CLAIM: Final = f"""
{_LEVELS},
water AS MATERIALIZED (
    SELECT start.priority, start.place AS old_place, coalesce((
        SELECT s.place - 1 {_FROM_CURSOR}
        ORDER BY s.place LIMIT 1
    ), here.queue_tail) AS place
    FROM start, here
    WHERE NOT here.is_paused
),
picked AS (
    SELECT found.id, found.pair_id
    FROM water AS start CROSS JOIN LATERAL (
        SELECT s.id, s.pair_id {_FROM_CURSOR} AND {_FREE}
        ORDER BY s.place LIMIT 1
        FOR NO KEY UPDATE OF s SKIP LOCKED
    ) found
    LIMIT 1
),
touched AS (
    INSERT INTO annotation_touch (pair_id, user_id, at)
    SELECT pair_id, %(user)s, statement_timestamp() FROM picked
    ON CONFLICT DO NOTHING
    RETURNING pair_id
),
leased AS (
    UPDATE annotation_slot slot
    SET state = 'leased', holder_id = %(user)s, token = slot.token + 1,
        leased_at = statement_timestamp(),
        leased_until = statement_timestamp() + here.lease_seconds * interval '1 second'
    FROM picked, touched, here
    WHERE slot.id = picked.id AND touched.pair_id = picked.pair_id
    RETURNING slot.id
),
moved AS (
    INSERT INTO annotation_queuecursor AS c (project_id, user_id, priority, place)
    SELECT %(project)s, %(user)s, priority, place FROM water
    WHERE place >= old_place + %(stride)s
    ON CONFLICT (project_id, user_id, priority)
    DO UPDATE SET place = greatest(c.place, excluded.place)
)
SELECT id FROM leased
"""

# The person's newest lease, for as long again. It may have run out: while nobody else
# took the slot, the person goes on where they were.
RENEW: Final = """
UPDATE annotation_slot slot
SET leased_at = statement_timestamp(),
    leased_until = statement_timestamp() + project.lease_seconds * interval '1 second'
FROM annotation_project project
WHERE project.id = %(project)s AND NOT project.is_paused AND slot.id = (
    SELECT s.id FROM annotation_slot s
    WHERE s.holder_id = %(user)s AND s.project_id = %(project)s AND s.state = 'leased'
    ORDER BY s.leased_at DESC, s.id DESC LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
)
RETURNING slot.id
"""

EXPLAIN: Final = f"""
{_LEVELS}
SELECT
    here.is_paused,
    EXISTS (SELECT FROM start) AS is_wanted,
    EXISTS (
        SELECT FROM start CROSS JOIN LATERAL (
            SELECT s.id {_FROM_CURSOR} AND {_FREE} ORDER BY s.place LIMIT 1
        ) found
    ) AS is_free,
    (
        SELECT min(s.leased_until) FROM annotation_slot s
        WHERE s.project_id = %(project)s AND s.state = 'leased'
          AND s.leased_until > statement_timestamp() AND {_THEIRS}
    ) AS next_free_at
FROM here
"""


def claim_slot(
    *, project: Project, user: User, another: bool = False
) -> Claim | NothingToDo:
    """Hand ``user`` a pair to judge, or say why there is none.

    A person who holds a slot gets that one again, with a fresh lease and the same
    token: reloading or opening a second tab shows the same pair and loses nothing.
    With ``another`` they get one more. Two tabs never get the same pair as two slots.
    """
    place = {"project": project.pk, "user": user.pk}
    with transaction.atomic(), connection.cursor() as cursor:
        lock_person(project=project, user=user)
        if not another:
            cursor.execute(RENEW, place)
            if row := cursor.fetchone():
                return held_claim(row[0])
        for attempt in range(TRIES):
            cursor.execute(CLAIM, place | {"stride": CURSOR_STRIDE})
            if row := cursor.fetchone():
                return held_claim(row[0])
            cursor.execute(EXPLAIN, place)
            is_paused, is_wanted, is_free, next_free_at = cursor.fetchone() or (
                False,
                False,
                False,
                None,
            )
            if is_paused:
                return NothingToDo("paused")
            if not is_wanted:
                return NothingToDo("all done")
            if not is_free:
                return (
                    NothingToDo("all leased", next_free_at)
                    if next_free_at
                    else NothingToDo("nothing for you")
                )
            # The last free slots are in other claims' hands at this very moment:
            # either they become leases or, if that claim fails, they stay free.
            time.sleep(0.002 * 2**attempt)
        return NothingToDo("all leased", timezone.now())


def held_claim(slot_id: int) -> Claim:
    """Return the claim that stands for a leased slot, with what a page shows."""
    slot = Slot.objects.select_related("project", "pair__turn__sample").get(pk=slot_id)
    if slot.leased_until is None:
        raise LeaseLost(slot_id)
    return Claim(slot, slot.pair, slot.token, slot.leased_until)


def lock_person(*, project: Project, user: User) -> None:
    """Let one claim, release or undo of a person in a project run at a time.

    Without it two tabs could each find no lease and take one, and a release could set
    back a cursor that a claim is just moving on. Held until the transaction ends.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
            [f"annotation.queue {project.pk} {user.pk}"],
        )


def lock_held_slot(*, slot_id: int, token: int, user: User) -> Slot:
    """Lock the slot and return it; raises LeaseLost unless the lease is the user's."""
    slot = (
        Slot.objects.select_for_update(no_key=True, of=["self"])
        .select_related("project")
        .filter(pk=slot_id, state=SlotState.LEASED, holder=user, token=token)
        .first()
    )
    if slot is None:
        raise LeaseLost(slot_id)
    return slot


def reopen(slot: Slot) -> None:
    """Give a leased slot back to everybody; its token dies with the lease."""
    Slot.objects.filter(pk=slot.pk).update(
        state=SlotState.OPEN,
        holder=None,
        leased_at=None,
        leased_until=None,
        token=F("token") + 1,
    )


def release_slot(*, slot_id: int, token: int, user: User) -> None:
    """Give a slot back without a word; the same person may meet the pair again.

    Raises LeaseLost when the slot is not the user's.
    """
    with transaction.atomic():
        project = Project.objects.filter(slots=slot_id).first()
        if project is None:
            raise LeaseLost(slot_id)
        lock_person(project=project, user=user)
        slot = lock_held_slot(slot_id=slot_id, token=token, user=user)
        reopen(slot)
        Touch.objects.filter(pair=slot.pair_id, user=user).delete()
        # The touch let the person's own cursor pass this slot: set it back.
        QueueCursor.objects.filter(
            project=project, user=user, priority=slot.priority
        ).update(place=Least(F("place"), slot.place - 1))


def extend_lease(*, slot_id: int, token: int, user: User) -> datetime:
    """Prolong a lease that nobody else has taken; return when it ends now.

    A page may call this while it is open. It adds up to EXTENSIONS lease lengths after
    the claim or the last reload, so that a forgotten page does not keep a pair for
    ever. Raises LeaseLost when the slot is not the user's.
    """
    with transaction.atomic():
        slot = lock_held_slot(slot_id=slot_id, token=token, user=user)
        length = lease_length(slot.project)
        Slot.objects.filter(pk=slot.pk).update(
            leased_until=Greatest(
                F("leased_until"),
                Least(Now() + length, F("leased_at") + EXTENSIONS * length),
            )
        )
        return held_claim(slot.pk).leased_until


def lease_length(project: Project) -> timedelta:
    return timedelta(seconds=project.lease_seconds)


def lease_again(slot: Slot, *, user: User) -> None:
    """Lease a slot that was done to ``user`` once more, under a new token.

    It takes a new last place: other people's cursors have passed the old one, and must
    find the slot should this person give it back.
    """
    (place,) = new_places(project=slot.project, count=1)
    Slot.objects.filter(pk=slot.pk).update(
        state=SlotState.LEASED,
        judgment=None,
        place=place,
        token=F("token") + 1,
        holder=user,
        leased_at=Now(),
        leased_until=Now() + lease_length(slot.project),
    )


def close_slots(slots: SlotQuerySet) -> int:
    """Take the waiting ones among ``slots`` out of the queue; return how many.

    What their holders still post is kept as an extra.
    """
    return slots.waiting().update(
        state=SlotState.CLOSED,
        holder=None,
        leased_at=None,
        leased_until=None,
        token=F("token") + 1,
    )


def open_slots(*, project: Project, pairs: Sequence[int], priority: int = 0) -> int:
    """Bring each pair up to the project's overlap; return how many slots that made.

    Slots that were closed come back first, at new places (cursors have passed the old
    ones); then new ones are added. Slots of one pair are neighbours in the queue, so
    that pairs are finished one after the other.
    """
    ordinals: dict[int, int] = dict.fromkeys(pairs, 0)
    needed: dict[int, int] = dict.fromkeys(pairs, project.overlap)
    closed: list[Slot] = []
    for slot in (
        Slot.objects.select_for_update(no_key=True)
        .filter(pair__in=pairs)
        .order_by("pair", "ordinal")
    ):
        ordinals[slot.pair_id] = max(ordinals[slot.pair_id], slot.ordinal)
        if slot.state != SlotState.CLOSED:
            needed[slot.pair_id] -= 1
        elif slot.round == 1:
            closed.append(slot)
    back: list[Slot] = []
    for slot in closed:
        if needed[slot.pair_id] > 0:
            needed[slot.pair_id] -= 1
            slot.state = SlotState.OPEN
            back.append(slot)
    added = [
        Slot(
            project=project,
            pair_id=pair,
            ordinal=ordinals[pair] + number,
            priority=priority,
        )
        for pair in pairs
        for number in range(1, needed[pair] + 1)
    ]
    if back or added:
        places = new_places(project=project, count=len(back) + len(added))
        for slot, place in zip([*back, *added], places, strict=True):
            slot.place = place
        Slot.objects.bulk_update(back, ["state", "place"], batch_size=1000)
        Slot.objects.bulk_create(added, batch_size=5000)
    return len(back) + len(added)


def new_places(*, project: Project, count: int) -> range:
    """Return ``count`` new last places of the queue, in order.

    This locks the project's row until the transaction ends, which is the point: places
    become visible in the order they are given out, so no cursor can pass a place whose
    slot is not committed yet. Call it last, right before the slots are written.
    """
    Project.objects.filter(pk=project.pk).update(queue_tail=F("queue_tail") + count)
    tail = Project.objects.values_list("queue_tail", flat=True).get(pk=project.pk)
    return range(tail - count + 1, tail + 1)


def queue_state(project: Project) -> QueueState:
    """Count the slots of a project by state, in one pass."""
    is_live = Q(leased_until__gt=Now())
    counts = Slot.objects.filter(project=project).aggregate(
        open=Count("pk", filter=Q(state=SlotState.OPEN)),
        leased=Count("pk", filter=Q(state=SlotState.LEASED) & is_live),
        expired=Count("pk", filter=Q(state=SlotState.LEASED) & ~is_live),
        done=Count("pk", filter=Q(state=SlotState.DONE)),
        next_free_at=Min("leased_until", filter=is_live),
    )
    return QueueState(**counts)
