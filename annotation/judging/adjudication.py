"""Adjudication: a curator settles a pair that the labelers could not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.db import transaction
from django.shortcuts import get_object_or_404

from annotation.access import Forbidden, require_role
from annotation.judging.queue import JudgingError
from annotation.judging.slots import close_slots
from annotation.models import (
    Adjudication,
    Pair,
    PairSource,
    Project,
    Role,
    Slot,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User
from annotation.judging.judgments import decide


class AlreadySettled(JudgingError):
    """The pair has an outcome already: from a curator or the labelers' majority."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        super().__init__(f"Pair {pair.pk} is settled already.")


def adjudicate(
    *,
    project: Project,
    pair: Pair,
    curator: User,
    verdict: int,
    reasons: Iterable[str] = (),
    units_that_differ: Iterable[str] = (),
    comment: str = "",
) -> Adjudication:
    """Settle a pair that stayed split to the end or that all labelers skipped.

    Its waiting slots are closed; a judgment still in progress is kept as an extra.
    Raises Forbidden without the role curator or for one's own sample, InvalidJudgment,
    and AlreadySettled.
    """
    with transaction.atomic():
        require_role(project, curator, Role.CURATOR, deed="Settling a pair")
        pair = get_object_or_404(
            Pair.objects.select_for_update(no_key=True, of=["self"]).select_related(
                "turn__sample"
            ),
            project=project,
            pk=pair.pk,
        )
        if pair.turn.sample.author_id == curator.pk:
            raise Forbidden("Nobody judges a sample they wrote.")
        decision = decide(pair, verdict, reasons, units_that_differ)
        if (
            pair.source != PairSource.PEOPLE
            or Pair.objects.settled().filter(pk=pair.pk).exists()
        ):
            raise AlreadySettled(pair)
        close_slots(Slot.objects.filter(pair=pair))
        return Adjudication.objects.create(
            pair=pair,
            curator=curator,
            verdict=decision.verdict,
            reasons=decision.reasons,
            units_that_differ=decision.units_that_differ,
            comment=comment.strip(),
        )
