"""Who holds a run: claim its row, and release it when its worker has vanished.

The row in Postgres is the truth. A fencing token decides who holds a run: each claim
raises it, and every later write of a supervisor requires it.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from training.models import ACTIVE_STATES, Checkpoint, Run, RunNote, RunState
from training.runs.hints import send_hint
from training.runs.ingest import register_found
from training.runs.placement import Place, this_place

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Times in seconds.

    A ``beat`` renews the lease; ``grace`` lies between SIGTERM and SIGKILL. A
    checkpoint being written at the end of the grace gets up to ``save`` more, as long
    as it grows, with pauses of at most ``pause``. A program that writes no event for
    ``silence`` is ended.
    """

    poll: float = 0.5
    lease: float = 30.0
    beat: float = 2.0
    grace: float = 15.0
    pause: float = 10.0
    save: float = 600.0
    silence: float = field(default_factory=lambda: 60.0 * settings.RUN_SILENCE)
    hint_again: float = 30.0
    lock_wait: float = 10.0


def this_worker() -> str:
    """Return the name of this worker for a run's page: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def claim_run(
    run_id: int,
    *,
    worker: str = "",
    timing: Timing | None = None,
    place: Place | None = None,
) -> Run | None:
    """Claim a queued run, or one whose lease has expired; None if there is none.

    Also None when the run wishes for another queue than this worker's, or when its GPU
    is taken. The row is locked while it is read; of two workers one gets None at once.
    """
    timing = timing or Timing()
    place = place or this_place()
    with transaction.atomic():
        claimable = _claimable().filter(place.takes(), pk=run_id)
        run = claimable.select_for_update(skip_locked=True).first()
        if run is None:
            return None
        if run.state != RunState.QUEUED and not _give_back(run):
            return None
        if not place.has_room_for(run):
            return None
        Run.objects.filter(pk=run.pk).update(
            state=RunState.STARTING,
            token=F("token") + 1,
            attempts=F("attempts") + 1,
            claimed_at_step=newest_step(run),
            worker=(worker or this_worker())[:200],
            device=place.gpu,
            leased_until=Now() + timedelta(seconds=timing.lease),
            heartbeat_at=Now(),
            started_at=run.started_at or Now(),
        )
        return Run.objects.select_related("project", "snapshot").get(pk=run.pk)


def _claimable() -> QuerySet[Run]:
    return Run.objects.filter(
        Q(state=RunState.QUEUED) | Q(state__in=ACTIVE_STATES, leased_until__lt=Now())
    )


def _give_back(run: Run) -> bool:
    """End a locked, active run whose supervisor has vanished; True if queued again."""
    worker = run.worker or "its worker"
    try:
        register_found(run)
    except OSError as error:  # must not block this run and others
        logger.warning("Run %s: nothing registered: %s", run.pk, error)
    if run.stop_requested:
        _end(run, RunState.STOPPED, f"{worker} vanished while the run was stopping.")
        return False
    run.attempts = attempts_in_vain(run)
    if run.attempts >= settings.RUN_ATTEMPTS:
        _end(
            run,
            RunState.FAILED,
            f"Its worker was lost at step {run.step} ({worker} gave no sign of life); "
            f"{attempts_made(run)} made. {what_is_kept(run)}",
        )
        return False
    run.state, run.leased_until, run.hinted_at = RunState.QUEUED, None, None
    run.save(update_fields=["state", "leased_until", "hinted_at", "attempts"])
    note_once(
        run, "warning", f"{worker} gave no sign of life: the run is queued again."
    )
    return True


def _end(run: Run, state: RunState, why: str) -> None:
    run.state, run.leased_until, run.ended_at = state, None, timezone.now()
    run.error = why if state == RunState.FAILED else ""
    run.save(update_fields=["state", "leased_until", "ended_at", "error"])
    note_once(run, "error" if state == RunState.FAILED else "info", why)


def newest_step(run: Run) -> int | None:
    """Return the step of the run's newest checkpoint, or None."""
    steps = Checkpoint.objects.filter(run=run).order_by("-step")
    return steps.values_list("step", flat=True).first()


def attempts_in_vain(run: Run) -> int:
    """Return the number of attempts since the last that left a new checkpoint.

    That attempt counts as the first: a run that makes progress is not given up.
    """
    newest = newest_step(run)
    has_new = newest is not None and newest > (
        -1 if run.claimed_at_step is None else run.claimed_at_step
    )
    return min(run.attempts, 1) if has_new else run.attempts


def attempts_made(run: Run) -> str:
    return "1 attempt was" if run.attempts == 1 else f"{run.attempts} attempts were"


def what_is_kept(run: Run) -> str:
    step = newest_step(run)
    if step is None:
        return "It had no checkpoint yet."
    return f"Its last checkpoint is step {step}: resume to go on from there."


def note_once(run: Run, level: str, message: str) -> None:
    newest = RunNote.objects.filter(run=run).order_by("-pk").first()
    if newest is not None and newest.message == message:
        return  # do not repeat the same note
    RunNote.objects.create(run=run, level=level, message=message, at=timezone.now())


def reconcile(*, timing: Timing | None = None) -> list[int]:
    """Release the runs of vanished workers and send hints for those that wait too long.

    Returns the runs it sent hints for. Several concurrent calls do no harm.
    """
    timing = timing or Timing()
    lost = Run.objects.active().filter(leased_until__lt=Now())
    for pk in list(lost.values_list("pk", flat=True)):
        with transaction.atomic():
            run = lost.select_for_update(skip_locked=True).filter(pk=pk).first()
            if run is not None:
                _give_back(run)
    hinted: list[int] = []
    waiting = Run.objects.filter(state=RunState.QUEUED).filter(
        Q(hinted_at__isnull=True)
        | Q(hinted_at__lt=Now() - timedelta(seconds=timing.hint_again))
    )
    for pk in list(waiting.order_by("pk").values_list("pk", flat=True)[:100]):
        send_hint(pk)
        hinted.append(pk)
    return hinted
