"""The supply of slots: open them for new pairs, add some after a split, close them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.db import connection
from django.db.models import F

from annotation.models import (
    Pair,
    Project,
    Slot,
    SlotQuerySet,
    SlotState,
)

NOT_HELD: Final[dict[str, Any]] = {
    "holder": None,
    "leased_at": None,
    "leased_until": None,
    "is_ahead": False,
}


def close_slots(slots: SlotQuerySet) -> int:
    """Remove the waiting ones among ``slots`` from the queue; return how many.

    What their holders still post is kept as an extra. The caller is in a transaction.
    """
    waiting = slots.waiting().select_for_update(no_key=True, of=["self"]).order_by("pk")
    return Slot.objects.filter(pk__in=[slot.pk for slot in waiting]).update(
        state=SlotState.CLOSED, token=F("token") + 1, **NOT_HELD
    )


def open_slots(*, project: Project, pairs: Sequence[int], priority: int = 0) -> int:
    """Give each pair the project's overlap of slots; return how many were opened.

    Closed slots are reopened first, at new places (cursors have passed the old ones);
    then new ones are added. Slots of one pair are neighbours in the queue, so that
    pairs are finished one after the other.
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

    This locks the project's row until the transaction ends on purpose: places become
    visible in the order they are given out, so no cursor can pass a place whose slot is
    not committed yet. Call it last, right before the slots are written.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE annotation_project SET queue_tail = queue_tail + %s WHERE id = %s"
            " RETURNING queue_tail",
            [count, project.pk],
        )
        (tail,) = cursor.fetchone() or (0,)
    return range(tail - count + 1, tail + 1)


def add_slots(
    *, pair: Pair, count: int, ordinal: int, round: int, priority: int
) -> None:
    """Ask for ``count`` more judgments of a pair, at the end of the queue.

    One statement, because it is part of a decision. As in ``new_places``, the project's
    row stays locked from giving out the places until the slots are committed.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH tail AS (
                UPDATE annotation_project SET queue_tail = queue_tail + %(count)s
                WHERE id = %(project)s RETURNING queue_tail - %(count)s AS before
            )
            INSERT INTO annotation_slot
                (project_id, pair_id, ordinal, round, priority, place, state, token,
                 is_ahead)
            SELECT %(project)s, %(pair)s, %(ordinal)s - 1 + n, %(round)s, %(priority)s,
                before + n, 'open', 0, false
            FROM tail, generate_series(1, %(count)s) n
            """,
            {
                "project": pair.project_id,
                "pair": pair.pk,
                "count": count,
                "ordinal": ordinal,
                "round": round,
                "priority": priority,
            },
        )
