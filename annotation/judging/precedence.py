"""Move pairs that somebody waits for to the front of the queue."""

from __future__ import annotations

from typing import Final

from django.db import transaction
from django.db.models import Q

from annotation.judging.slots import new_places
from annotation.models import PairQuerySet, Project, Slot

# Above new pairs, pairs tied once, and accepted answers; a later tie among these still
# stands higher.
FIRST: Final = 7


def put_first(*, project: Project, pairs: PairQuerySet) -> int:
    """Hand out ``pairs`` before all others; return how many of their slots moved.

    Pairs that were moved to the front before, and are not among them, go to the end of
    the queue, since their older places would come first. Every moved slot gets a new
    last place, because people's cursors may have passed its old one. Repeating the call
    moves nothing. A pair that somebody puts aside afterwards stays aside.
    """
    these = Q(pair__in=pairs.values("pk"))
    with transaction.atomic():
        moving = (
            Slot.objects.waiting()
            .filter(these & Q(priority__lt=FIRST) | ~these & Q(priority__gte=FIRST))
            .filter(project=project)
            .select_for_update(no_key=True, of=["self"])
            .order_by("pk")
        )
        slots = sorted(moving, key=lambda slot: (-slot.priority, slot.place))
        if not slots:
            return 0
        places = new_places(project=project, count=len(slots))
        rising = 0
        for slot, place in zip(slots, places, strict=True):
            rising += slot.priority < FIRST
            slot.priority = FIRST if slot.priority < FIRST else 0
            slot.place = place
        Slot.objects.bulk_update(slots, ["priority", "place"], batch_size=1000)
    return rising
