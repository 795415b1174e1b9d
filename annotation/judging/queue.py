"""The queue: which pair a person sees next, and how a slot is held and returned.

docs/queue.md explains the design. In short: one row per needed judgment (``Slot``), a
unique ``Touch`` per pair and person, a fencing token that grows when a slot changes
hands, and a cursor per person that no slot can come back behind. Locks are always taken
in the order membership, person, pair, slot, project, and several slots in the order of
their keys, so no two deeds wait for each other in a circle.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from django.db import connection, transaction
from django.db.models import Case, Count, F, Min, Q, When
from django.db.models.functions import Greatest, Least, Now
from django.http import Http404
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.access import require_role
from annotation.judging.queue_sql import AHEAD, CLAIM, EXPLAIN, RENEW, TURN_OVER
from annotation.judging.slots import NOT_HELD, new_places
from annotation.models import (
    Pair,
    Project,
    QueueCursor,
    Role,
    Slot,
    SlotState,
    Touch,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

# A page may extend its lease by this many lease lengths; then the slot is free for
# others, unless the person reloads the page.
EXTENSIONS: Final = 6

# A page that is left returns its pair after this time. A reload also leaves the page;
# this is long enough for it to find the same pair again.
GRACE: Final = timedelta(seconds=10)

# The cursor is rewritten when the first slot for a person has moved by this much.
# Smaller values write more, larger ones read more; benchmarks/claim.py shows both.
CURSOR_STRIDE: Final = 8

# Try again when a free slot is locked by another claim at this moment.
TRIES: Final = 6


Kind = Literal["no pairs", "all done", "all leased", "nothing for you", "paused"]


@dataclass(frozen=True)
class Claim:
    """A slot that is this person's until ``leased_until``; ``token`` proves it."""

    slot: Slot
    pair: Pair
    token: int
    leased_until: datetime


@dataclass(frozen=True)
class Ahead:
    """The claim after the pair on screen, whose renewed lease began at ``since``."""

    since: datetime
    claim: Claim | NothingToDo


@dataclass(frozen=True)
class Lease:
    """A lease as a page knows it.

    ``since`` is the ``leased_at`` that the page was sent.
    """

    slot_id: int
    token: int
    since: datetime


@dataclass(frozen=True)
class NothingToDo:
    """Why there is no pair for a person.

    ``no pairs``: the project never had one. ``all done``: it needs no judgment. ``all
    leased``: others hold what this person could judge; the first lease ends at
    ``next_free_at``. ``nothing for you``: judgments are needed, but this person has met
    all those pairs or wrote their samples. ``paused``: the project hands out nothing.
    """

    kind: Kind
    next_free_at: datetime | None = None


@dataclass(frozen=True)
class QueueState:
    """The number of slots of a project by state, and when the next lease ends."""

    open: int
    leased: int
    expired: int
    done: int
    next_free_at: datetime | None

    @property
    def waiting(self) -> int:
        return self.open + self.leased + self.expired


class JudgingError(Exception):
    """A deed on the queue is refused; the message says why."""


class NoSuchSlot(Http404):
    """The project has no such slot; another project may have one with this number."""


class LeaseLost(JudgingError):
    """The slot is no longer this person's, or never was."""

    def __init__(self, slot_id: int) -> None:
        self.slot_id = slot_id
        super().__init__(
            _("This pair is no longer yours: it was given back or passed on.")
        )


def claim_slot(
    *, project: Project, user: User, another: bool = False
) -> Claim | NothingToDo:
    """Hand ``user`` a pair to judge, or return why there is none.

    A person who holds a slot gets it again with a fresh lease and the same token:
    reloading or opening a second tab shows the same pair and loses nothing. With
    ``another`` they get one more slot. Two tabs never get the same pair as two slots.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        require_role(project, user, Role.LABELER, deed="Judging")
        lock_person(project=project, user=user)
        if not another:
            cursor.execute(RENEW, {"project": project.pk, "user": user.pk})
            if row := cursor.fetchone():
                return held_claim(row[0])
        return _claim(project, user, ahead=False)


def claim_ahead(*, project: Project, user: User, shown: int, token: int) -> Ahead:
    """Lease the pair after the one on screen, for a short time.

    ``shown`` and ``token`` name the lease of the pair on screen, which is renewed in
    full. A person has at most one slot ahead; asking again returns the same one. Raises
    LeaseLost when the pair on screen is no longer the person's.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        require_role(project, user, Role.LABELER, deed="Judging")
        lock_person(project=project, user=user)
        place = {"project": project.pk, "user": user.pk}
        cursor.execute(TURN_OVER, place | {"shown": shown, "token": token})
        if (row := cursor.fetchone()) is None:
            raise lost(project=project, slot_id=shown)
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
                is_begun = Pair.objects.filter(project=project).exists()
                return NothingToDo("all done" if is_begun else "no pairs")
            if not is_free:
                return (
                    NothingToDo("all leased", next_free_at)
                    if next_free_at
                    else NothingToDo("nothing for you")
                )
            # Other claims hold the last free slots at this moment: either they become
            # leases or, if that claim fails, they stay free.
            time.sleep(0.002 * 2**attempt)
    return NothingToDo("all leased", timezone.now())


def held_claim(slot_id: int) -> Claim:
    """Return the claim for a leased slot, with what a page shows."""
    slot = Slot.objects.select_related("project", "pair__turn__sample").get(pk=slot_id)
    if slot.leased_until is None:
        raise LeaseLost(slot_id)
    return Claim(slot, slot.pair, slot.token, slot.leased_until)


def lock_person(*, project: Project, user: User) -> None:
    """Serialize the claims, releases and undos of a person in a project.

    Without it two tabs could each find no lease and take one, and a release could set
    back a cursor that a claim is moving forward. Held until the transaction ends.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
            [f"annotation.judging.queue {project.pk} {user.pk}"],
        )


def lock_held_slot(*, project: Project, slot_id: int, token: int, user: User) -> Slot:
    """Lock and return the slot; raise LeaseLost unless the lease is the user's.

    Raises NoSuchSlot for a slot of another project.
    """
    slot = (
        Slot.objects.select_for_update(no_key=True, of=["self"])
        .select_related("project")
        .filter(
            project=project,
            pk=slot_id,
            state=SlotState.LEASED,
            holder=user,
            token=token,
        )
        .first()
    )
    if slot is None:
        raise lost(project=project, slot_id=slot_id)
    return slot


def lost(*, project: Project, slot_id: int) -> LeaseLost | NoSuchSlot:
    """Return the error for a slot that is not the person's, or not the project's."""
    if Slot.objects.filter(project=project, pk=slot_id).exists():
        return LeaseLost(slot_id)
    return NoSuchSlot(f"{project} has no slot {slot_id}.")


def reopen(slot: Slot) -> None:
    """Return a leased slot to everybody; its token ends with the lease."""
    Slot.objects.filter(pk=slot.pk).update(
        state=SlotState.OPEN, token=F("token") + 1, **NOT_HELD
    )


def release_slot(*, project: Project, slot_id: int, token: int, user: User) -> None:
    """Return a slot without a reason; the same person may meet the pair again.

    Raises LeaseLost when the slot is not the user's.
    """
    with transaction.atomic():
        require_role(project, user, Role.LABELER, deed="Judging")
        unmeet(_give_back(project, slot_id, token, user), user)


def leave_slots(*, project: Project, user: User, leases: Iterable[Lease]) -> int:
    """End the leases of a page that is left; return how many ended.

    A pair fetched ahead is free at once, the one on screen after GRACE, so that a
    reload finds it again. Either way the person may meet the pair again, whoever takes
    it meanwhile. A lease that another tab or a reload has renewed since has a different
    ``since`` and stays.
    """
    count = 0
    for lease in leases:
        with transaction.atomic():
            require_role(project, user, Role.LABELER, deed="Judging")
            is_left = Slot.objects.filter(
                project=project,
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
            count += is_left
    return count


def set_aside(*, project: Project, slot_id: int, token: int, user: User) -> None:
    """Move a pair to the back of the queue, for the same person or another.

    All its open slots move, or the person would be handed the next one at once. The
    pair waits behind every priority. Raises LeaseLost when the slot is not the user's.
    """
    with transaction.atomic():
        require_role(project, user, Role.LABELER, deed="Judging")
        slot = _give_back(project, slot_id, token, user)
        waiting = list(
            Slot.objects.select_for_update(no_key=True, skip_locked=True)
            .filter(pair=slot.pair_id, state=SlotState.OPEN)
            .order_by("pk")
        )
        places = new_places(project=slot.project, count=len(waiting))
        for one, place in zip(waiting, places, strict=True):
            one.place, one.priority = place, 0
        Slot.objects.bulk_update(waiting, ["place", "priority"])
        unmeet(slot, user)


def _give_back(project: Project, slot_id: int, token: int, user: User) -> Slot:
    """Reopen a slot for its holder, and keep the person locked."""
    lock_person(project=project, user=user)
    slot = lock_held_slot(project=project, slot_id=slot_id, token=token, user=user)
    reopen(slot)
    return slot


def unmeet(slot: Slot, user: User) -> None:
    """Let a person meet the slot's pair again; the caller holds the person's lock.

    The touch let their cursors pass all slots of the pair, also those that other people
    hold: if one of these is returned, this person may get it.
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


def extend_lease(*, project: Project, slot_id: int, token: int, user: User) -> datetime:
    """Extend a lease that nobody else has taken; return its new end.

    A page calls this while it is open. It adds up to EXTENSIONS lease lengths after the
    claim or the last reload, so that a forgotten page does not keep a pair for ever. A
    lease ahead stays short. Raises LeaseLost when the slot is not the user's.
    """
    with transaction.atomic():
        require_role(project, user, Role.LABELER, deed="Judging")
        slot = lock_held_slot(project=project, slot_id=slot_id, token=token, user=user)
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
    """Lease a finished slot to ``user`` once more, under a new token.

    It gets a new last place: other people's cursors have passed the old one, and must
    find the slot if this person returns it.
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
