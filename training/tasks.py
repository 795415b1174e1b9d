"""Celery tasks. A message is a hint; the run's row decides what is done.

Tasks acknowledge early: a broker that redelivers an hour-long message would otherwise
start it twice.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery import shared_task
from celery.signals import celeryd_after_setup, worker_ready, worker_shutting_down
from django.conf import settings

from training.iterations.advance import advance_all
from training.models import Run, RunState
from training.policies.proposals import answer_proposal
from training.policies.retention import remove_where_automatic
from training.runs import claim, supervise
from training.runs.hints import broker_queue, send_hint
from training.runs.launch import start_asked_draws
from training.runs.placement import keep_announcing, this_place
from training.storage import store

logger = logging.getLogger(__name__)

hands = threading.BoundedSemaphore(settings.RUNS_AT_ONCE)


@shared_task(name="training.tasks.run_hint", acks_late=False, ignore_result=True)  # type: ignore[untyped-decorator]
def run_hint(run_id: int) -> None:
    """Claim the run, if it still waits, and supervise it to its end.

    A busy worker drops the hint: the run waits in its row, and a worker that finishes a
    run asks for the one that has waited longest.
    """
    if not hands.acquire(blocking=False):
        return
    try:
        outcome = supervise.supervise(run_id)
    finally:
        hands.release()
    if outcome is None:
        return
    start_asked_draws()
    advance_all()
    remove_where_automatic()
    _put_what_is_missing()
    waiting = Run.objects.filter(this_place().takes(), state=RunState.QUEUED)
    if outcome is supervise.Outcome.LEFT_FOR_LATER:
        waiting = waiting.exclude(pk=run_id)  # the reconciler retries it
    oldest = waiting.order_by("created_at", "pk").first()
    if oldest is not None:
        send_hint(oldest.pk)


def _put_what_is_missing() -> None:
    for problem in store.put_what_is_missing():
        logger.warning("Tried again later: %s", problem)


@shared_task(name="training.tasks.reconcile", acks_late=False, ignore_result=True)  # type: ignore[untyped-decorator]
def reconcile() -> None:
    """Reconcile runs and what depends on them; runs every 15 seconds."""
    claim.reconcile()
    start_asked_draws()
    advance_all()
    _put_what_is_missing()


@shared_task(name="training.tasks.propose", acks_late=False, ignore_result=True)  # type: ignore[untyped-decorator]
def propose(proposal_id: int) -> None:
    """See :func:`training.policies.proposals.answer_proposal`."""
    answer_proposal(proposal_id)


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def hear_of_own_queue(instance: Any, **_: object) -> None:
    """Listen to hints for runs that wish for this worker's queue, beside ``-Q``."""
    if this_place().queue:
        queues = instance.app.amqp.queues
        # With its name alone the queue would get another exchange than the senders use.
        queues.select_add(queues.new_missing(broker_queue(this_place().queue)))


@worker_ready.connect  # type: ignore[untyped-decorator]
def announce_place(**_: object) -> None:
    """Announce to the pages, from now on, which queue this worker serves."""
    place = this_place()
    if place.queue:
        threading.Thread(
            target=keep_announcing,
            args=(place, supervise.SHUTDOWN),
            name="announcing",
            daemon=True,
        ).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def hand_runs_back(**_: object) -> None:
    """Let every supervision of this worker stop its program and queue its run again."""
    supervise.SHUTDOWN.set()
