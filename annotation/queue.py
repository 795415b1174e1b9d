"""The queue: which pair a person is shown next, and how a slot is held and given back.

docs/queue.md tells the design in words. In short: one row per needed judgment (``Slot``),
a unique ``Touch`` per pair and person, a fencing token that grows when a slot changes
hands, and a cursor per person that no slot can come back behind.

Locks are always taken in the order person, pair, slot, project, and several slots in the
order of their keys, so no two deeds wait for each other in a circle.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from django.db import connection, transaction
from django.db.models import Case, Count, F, Min, Q, When
from django.db.models.functions import Greatest, Least, Now
from django.utils import timezone
from django.utils.translation import gettext as _

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

# How long a pair fetched ahead of its showing is kept, unless the page asks for longer.
AHEAD: Final = timedelta(seconds=90)

# A page that is left gives its pair back after so long: time enough for a reload, which
# leaves too, to find the same pair again.
GRACE: Final = timedelta(seconds=10)

# How far the first slot for a person must have moved before their cursor is rewritten.
# Smaller writes more, larger reads more; benchmarks/claim.py shows both.
CURSOR_STRIDE: Final = 8

# A slot that is free but locked by another claim at this instant is tried again.
TRIES: Final = 6

NOT_HELD: Final[dict[str, Any]] = {
    "holder": None,
    "leased_at": None,
    "leased_until": None,
    "is_ahead": False,
}

Kind = Literal["all done", "all leased", "nothing for you", "paused"]


@dataclass(frozen=True)
class Claim:
    """A slot that is this person's until ``leased_until``; ``token`` proves it."""

    slot: Slot
    pair: Pair
    token: int
    leased_until: datetime


@dataclass(frozen=True)
class Ahead:
    """What comes after the pair on screen, whose lease began ``since`` and is whole."""

    since: datetime
    found: Claim | NothingToDo


@dataclass(frozen=True)
class Lease:
    """A lease as a page knows it; ``since`` is the slot's ``leased_at`` it was told."""

    slot_id: int
    token: int
    since: datetime


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
            _("This pair is no longer yours: it was given back or passed on.")
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
# pair at the same instant; then nothing is leased. ``ahead`` is a lease for a pair that
# is not on a screen yet: short, and the touch says that the person has not seen it.
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
    INSERT INTO annotation_touch (pair_id, user_id, at, is_seen)
    SELECT pair_id, %(user)s, statement_timestamp(), NOT %(ahead)s FROM picked
    ON CONFLICT DO NOTHING
    RETURNING pair_id
),
leased AS (
    UPDATE annotation_slot slot
    SET state = 'leased', holder_id = %(user)s, token = slot.token + 1,
        is_ahead = %(ahead)s, leased_at = statement_timestamp(),
        leased_until = statement_timestamp() + least(
            here.lease_seconds * interval '1 second',
            CASE WHEN %(ahead)s THEN interval '{AHEAD.seconds} seconds' END
        )
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

# Pairs that were leased to the person, never seen or left again, and lost: they may meet
# them after all. The touch goes, and the cursors go back to before the pair's slots.
_FORGOTTEN: Final = """
forgotten AS (
    DELETE FROM annotation_touch t USING annotation_pair p
    WHERE t.user_id = %(user)s AND NOT t.is_seen
      AND p.id = t.pair_id AND p.project_id = %(project)s
      AND NOT EXISTS (
          SELECT FROM annotation_slot s
          WHERE s.pair_id = t.pair_id AND s.state = 'leased' AND s.holder_id = %(user)s
      )
      AND NOT EXISTS (
          SELECT FROM annotation_judgment j
          WHERE j.pair_id = t.pair_id AND j.labeler_id = %(user)s
      )
      AND NOT EXISTS (
          SELECT FROM annotation_skip k
          WHERE k.pair_id = t.pair_id AND k.user_id = %(user)s
      )
    RETURNING t.pair_id
),
set_back AS (
    UPDATE annotation_queuecursor c SET place = least(c.place, back.place)
    FROM (
        SELECT s.priority, min(s.place) - 1 AS place
        FROM annotation_slot s JOIN forgotten USING (pair_id)
        WHERE s.state IN ('open', 'leased')
        GROUP BY s.priority
    ) back
    WHERE c.project_id = %(project)s AND c.user_id = %(user)s
      AND c.priority = back.priority
)
"""

# The person's newest lease, for as long again, the one on screen before one fetched
# ahead. It may have run out: while nobody else took the slot, the person goes on where
# they were. It waits for a deed that is writing the slot, or a reload in that instant
# would show another pair.
RENEW: Final = f"""
WITH {_FORGOTTEN},
renewed AS (
    UPDATE annotation_slot slot
    SET is_ahead = false, leased_at = statement_timestamp(),
        leased_until =
            statement_timestamp() + project.lease_seconds * interval '1 second'
    FROM annotation_project project
    WHERE project.id = %(project)s AND NOT project.is_paused AND slot.id = (
        SELECT s.id FROM annotation_slot s
        WHERE s.holder_id = %(user)s AND s.project_id = %(project)s
          AND s.state = 'leased'
        ORDER BY s.is_ahead, s.leased_at DESC, s.id DESC LIMIT 1
        FOR NO KEY UPDATE
    )
    RETURNING slot.id, slot.pair_id
),
seen AS (
    UPDATE annotation_touch t SET is_seen = true FROM renewed
    WHERE t.pair_id = renewed.pair_id AND t.user_id = %(user)s AND NOT t.is_seen
)
SELECT id FROM renewed
"""

# A page says which pair it shows and wants the one after it. The shown one gets a whole
# lease, if it is still the person's. Next is what they hold besides (after an undo, the
# pair that was on screen before), else what they already have ahead. ``held`` locks all
# that is written here, in the order of the keys, as everything that locks several does.
TURN_OVER: Final = f"""
WITH {_FORGOTTEN},
here AS (
    SELECT id, is_paused, lease_seconds * interval '1 second' AS whole,
        least(
            lease_seconds * interval '1 second', interval '{AHEAD.seconds} seconds'
        ) AS short
    FROM annotation_project WHERE id = %(project)s
),
held AS MATERIALIZED (
    SELECT s.id, s.token, s.is_ahead, s.leased_at
    FROM annotation_slot s
    WHERE s.holder_id = %(user)s AND s.project_id = %(project)s AND s.state = 'leased'
      AND (s.id = %(shown)s OR s.is_ahead OR s.id = (
          SELECT newest.id FROM annotation_slot newest
          WHERE newest.holder_id = %(user)s AND newest.project_id = %(project)s
            AND newest.state = 'leased' AND newest.id <> %(shown)s
          ORDER BY newest.is_ahead, newest.leased_at DESC, newest.id DESC LIMIT 1
      ))
    ORDER BY s.id
    FOR NO KEY UPDATE OF s
),
shown AS (
    UPDATE annotation_slot slot
    SET is_ahead = false,
        leased_at = CASE
            WHEN held.is_ahead THEN statement_timestamp() ELSE held.leased_at END,
        leased_until = greatest(slot.leased_until, statement_timestamp() + here.whole)
    FROM here, held
    WHERE slot.id = held.id AND held.id = %(shown)s AND held.token = %(token)s
    RETURNING slot.pair_id, slot.leased_at
),
seen AS (
    UPDATE annotation_touch t SET is_seen = true FROM shown
    WHERE t.pair_id = shown.pair_id AND t.user_id = %(user)s AND NOT t.is_seen
),
picked AS (
    SELECT held.id FROM held, here
    WHERE held.id <> %(shown)s AND NOT here.is_paused
    ORDER BY held.is_ahead, held.leased_at DESC, held.id DESC LIMIT 1
),
next AS (
    UPDATE annotation_slot slot
    SET is_ahead = (slot.id = picked.id),
        leased_at = CASE
            WHEN slot.id = picked.id THEN statement_timestamp() ELSE slot.leased_at END,
        leased_until = CASE
            WHEN slot.id = picked.id
            THEN greatest(slot.leased_until, statement_timestamp() + here.short)
            ELSE slot.leased_until END
    FROM held, picked, here, shown
    WHERE slot.id = held.id AND held.id <> %(shown)s
    RETURNING slot.id, slot.id = picked.id AS is_picked
)
SELECT shown.leased_at, next.id FROM shown LEFT JOIN next ON next.is_picked
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
    with transaction.atomic(), connection.cursor() as cursor:
        lock_person(project=project, user=user)
        if not another:
            cursor.execute(RENEW, {"project": project.pk, "user": user.pk})
            if row := cursor.fetchone():
                return held_claim(row[0])
        return _claim(project, user, ahead=False)


def claim_ahead(*, project: Project, user: User, shown: int, token: int) -> Ahead:
    """Lease the pair after the one on screen, for a short time.

    ``shown`` and ``token`` name the lease of the pair on screen; it becomes a whole one.
    A person has at most one slot ahead: who asks again gets it again. Raises LeaseLost
    when the pair on screen is not the person's any more.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        lock_person(project=project, user=user)
        place = {"project": project.pk, "user": user.pk}
        cursor.execute(TURN_OVER, place | {"shown": shown, "token": token})
        if (row := cursor.fetchone()) is None:
            raise LeaseLost(shown)
        since, following = row
        if following is not None:
            return Ahead(since, held_claim(following))
        return Ahead(since, _claim(project, user, ahead=True))


def _claim(project: Project, user: User, *, ahead: bool) -> Claim | NothingToDo:
    """Run the claim; the caller holds the person's lock."""
    place = {"project": project.pk, "user": user.pk}
    with connection.cursor() as cursor:
        for attempt in range(TRIES):
            cursor.execute(CLAIM, place | {"stride": CURSOR_STRIDE, "ahead": ahead})
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
        state=SlotState.OPEN, token=F("token") + 1, **NOT_HELD
    )


def release_slot(*, slot_id: int, token: int, user: User) -> None:
    """Give a slot back without a word; the same person may meet the pair again.

    Raises LeaseLost when the slot is not the user's.
    """
    with transaction.atomic():
        _unmeet(_give_back(slot_id, token, user), user)


def leave_slots(*, user: User, leases: Iterable[Lease]) -> int:
    """Let go of what a page held when it is left; return how many leases that ended.

    A pair that was ahead is free at once, the one on screen after GRACE, so that a
    reload finds it again. Either way the person may meet the pair again, whoever takes
    it meanwhile. A lease that another tab or a reload has taken up since then is theirs:
    ``since`` differs, and it stays.
    """
    left = 0
    for lease in leases:
        with transaction.atomic():
            is_left = Slot.objects.filter(
                pk=lease.slot_id,
                state=SlotState.LEASED,
                holder=user,
                token=lease.token,
                leased_at=lease.since,
            ).update(
                leased_until=Least(
                    F("leased_until"),
                    Case(When(is_ahead=True, then=Now()), default=Now() + GRACE),
                )
            )
            if is_left:
                Touch.objects.filter(user=user, pair__slots=lease.slot_id).update(
                    is_seen=False
                )
            left += is_left
    return left


def set_aside(*, slot_id: int, token: int, user: User) -> None:
    """Put a pair at the back of the queue, for the same person or another to meet later.

    All its open slots go there, or the person would be handed the next one at once. The
    pair waits behind every priority. Raises LeaseLost when the slot is not the user's.
    """
    with transaction.atomic():
        slot = _give_back(slot_id, token, user)
        waiting = list(
            Slot.objects.select_for_update(no_key=True, skip_locked=True)
            .filter(pair=slot.pair_id, state=SlotState.OPEN)
            .order_by("pk")
        )
        places = new_places(project=slot.project, count=len(waiting))
        for one, place in zip(waiting, places, strict=True):
            one.place, one.priority = place, 0
        Slot.objects.bulk_update(waiting, ["place", "priority"])
        _unmeet(slot, user)


def _give_back(slot_id: int, token: int, user: User) -> Slot:
    """Reopen a slot at its holder's wish, and keep the person locked."""
    project = Project.objects.filter(slots=slot_id).first()
    if project is None:
        raise LeaseLost(slot_id)
    lock_person(project=project, user=user)
    slot = lock_held_slot(slot_id=slot_id, token=token, user=user)
    reopen(slot)
    return slot


def _unmeet(slot: Slot, user: User) -> None:
    """Let a person meet the slot's pair again; the caller holds the person's lock.

    The touch let their cursors pass all slots of the pair, also those that other people
    hold: should one be given back, this person may have it.
    """
    Touch.objects.filter(pair=slot.pair_id, user=user).delete()
    for level, first in (
        Slot.objects.waiting()
        .filter(pair=slot.pair_id)
        .order_by()
        .values_list("priority")
        .annotate(first=Min("place"))
    ):
        QueueCursor.objects.filter(
            project=slot.project_id, user=user, priority=level
        ).update(place=Least(F("place"), first - 1))


def extend_lease(*, slot_id: int, token: int, user: User) -> datetime:
    """Prolong a lease that nobody else has taken; return when it ends now.

    A page may call this while it is open. It adds up to EXTENSIONS lease lengths after
    the claim or the last reload, so that a forgotten page does not keep a pair for
    ever. A lease ahead stays a short one. Raises LeaseLost when the slot is not the
    user's.
    """
    with transaction.atomic():
        slot = lock_held_slot(slot_id=slot_id, token=token, user=user)
        length = lease_length(slot.project, ahead=slot.is_ahead)
        Slot.objects.filter(pk=slot.pk).update(
            leased_until=Greatest(
                F("leased_until"),
                Least(Now() + length, F("leased_at") + EXTENSIONS * length),
            )
        )
        return held_claim(slot.pk).leased_until


def lease_length(project: Project, *, ahead: bool = False) -> timedelta:
    whole = timedelta(seconds=project.lease_seconds)
    return min(whole, AHEAD) if ahead else whole


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
        is_ahead=False,
        leased_at=Now(),
        leased_until=Now() + lease_length(slot.project),
    )


def close_slots(slots: SlotQuerySet) -> int:
    """Take the waiting ones among ``slots`` out of the queue; return how many.

    What their holders still post is kept as an extra. The caller is in a transaction.
    """
    waiting = slots.waiting().select_for_update(no_key=True, of=["self"]).order_by("pk")
    return Slot.objects.filter(pk__in=[slot.pk for slot in waiting]).update(
        state=SlotState.CLOSED, token=F("token") + 1, **NOT_HELD
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
    locked = (
        Slot.objects.select_for_update(no_key=True)
        .filter(pair__in=pairs)
        .order_by("pk")
    )
    for slot in sorted(locked, key=lambda slot: (slot.pair_id, slot.ordinal)):
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
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE annotation_project SET queue_tail = queue_tail + %s WHERE id = %s"
            " RETURNING queue_tail",
            [count, project.pk],
        )
        (tail,) = cursor.fetchone() or (0,)
    return range(tail - count + 1, tail + 1)


def add_slot(*, pair: Pair, ordinal: int, round: int, priority: int) -> None:
    """Ask for one more judgment of a pair, at the end of the queue.

    One statement, for it is part of a decision; as in ``new_places``, the project's row
    stays locked from giving out the place until the slot is committed.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH tail AS (
                UPDATE annotation_project SET queue_tail = queue_tail + 1
                WHERE id = %(project)s RETURNING queue_tail
            )
            INSERT INTO annotation_slot
                (project_id, pair_id, ordinal, round, priority, place, state, token,
                 is_ahead)
            SELECT %(project)s, %(pair)s, %(ordinal)s, %(round)s, %(priority)s,
                queue_tail, 'open', 0, false
            FROM tail
            """,
            {
                "project": pair.project_id,
                "pair": pair.pk,
                "ordinal": ordinal,
                "round": round,
                "priority": priority,
            },
        )


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
