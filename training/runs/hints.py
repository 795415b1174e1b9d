"""Hints to the broker that a run waits. A lost hint costs seconds, never a run."""

from __future__ import annotations

import logging
from functools import partial

from celery import current_app
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from training.models import Run, RunState

logger = logging.getLogger(__name__)


def send_hint(run_id: int) -> None:
    """Ask a worker to claim the run; the reconciler repeats a lost hint."""
    waiting = Run.objects.filter(pk=run_id, state=RunState.QUEUED)
    waiting.update(hinted_at=timezone.now())
    wish = waiting.values_list("queue", flat=True).first() or ""
    try:
        current_app.send_task(
            "training.tasks.run_hint",
            args=[run_id],
            queue=broker_queue(wish),
            retry=False,
        )
    except (OperationalError, OSError):
        logger.warning("The broker did not take the hint for run %s.", run_id)


def broker_queue(wish: str) -> str:
    """Return the broker's queue for runs with this wish."""
    return f"runs.{wish}" if wish else "runs"


def send_hint_on_commit(run_id: int) -> None:
    """Send the hint after the commit, when workers can see the row."""
    transaction.on_commit(partial(send_hint, run_id))
