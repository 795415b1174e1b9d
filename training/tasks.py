"""Celery tasks. A message is a hint; the row of the run decides what is done.

Tasks acknowledge early: a broker that redelivers an hour-long message would otherwise
start it twice.
"""

from __future__ import annotations

from celery import shared_task
from celery.signals import worker_shutting_down

from training import supervising
from training.hints import send_hint


@shared_task(name="training.tasks.run_hint", acks_late=False, ignore_result=True)  # type: ignore[untyped-decorator]
def run_hint(run_id: int) -> None:
    """Claim the run, if it still waits, and see it to its end."""
    if supervising.supervise(run_id) is supervising.Outcome.QUEUED_AGAIN:
        send_hint(run_id)


@shared_task(name="training.tasks.reconcile", acks_late=False, ignore_result=True)  # type: ignore[untyped-decorator]
def reconcile() -> None:
    """See :func:`training.supervising.reconcile`; runs every 15 seconds."""
    supervising.reconcile()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def hand_runs_back(**_: object) -> None:
    """Let every supervision of this worker stop its program and queue its run again."""
    supervising.SHUTDOWN.set()
