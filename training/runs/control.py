"""Stop, resume and move a run that has been started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext

from annotation.models import Project
from training.access import require_trainer
from training.models import (
    Run,
    RunState,
)
from training.runs.hints import send_hint_on_commit
from training.runs.launch import (
    LaunchRefusedError,
    add_note,
    device_wish,
    no_such_queue,
)
from training.runs.placement import announced_queues

if TYPE_CHECKING:
    from django.contrib.auth.models import User


class RunStateError(Exception):
    """The state of the run does not allow this."""


def stop_run(*, project: Project, run: Run, user: User | None) -> Run:
    """Ask a run to write a checkpoint and end; a queued one ends at once.

    Asking twice changes nothing. Raises RunStateError when it has ended.
    """
    with transaction.atomic():
        require_trainer(project, user, deed="Stopping a run")
        run = _locked(project, run)
        if run.is_final:
            raise RunStateError(
                gettext("%(run)s has ended already: %(state)s.")
                % {"run": run, "state": run.get_state_display()}
            )
        if run.stop_requested:
            return run
        run.stop_requested = True
        if run.state == RunState.QUEUED:
            run.state, run.ended_at = RunState.STOPPED, timezone.now()
        else:
            run.state = RunState.STOPPING
        run.save(update_fields=["stop_requested", "state", "ended_at"])
        add_note(run, f"{user or 'Somebody'} asked the run to stop.")
    return run


def resume_run(*, project: Project, run: Run, user: User | None) -> Run:
    """Queue a stopped or failed run again, from its last complete checkpoint.

    Raises RunStateError when the run is not stopped or failed.
    """
    with transaction.atomic():
        require_trainer(project, user, deed="Resuming a run")
        run = _locked(project, run)
        if run.state not in (RunState.STOPPED, RunState.FAILED):
            state = run.get_state_display().lower()
            raise RunStateError(
                gettext(
                    "Only a stopped or failed run can be resumed; this one is %(state)s."
                )
                % {"state": state}
            )
        run.state = RunState.QUEUED
        run.stop_requested = False
        run.attempts = 0
        run.error = ""
        run.ended_at = None
        if run.program_state != "finished":
            # If the program finished, only its outputs are received again.
            run.program_state, run.result = "", {}
        run.save()
        add_note(run, f"{user or 'Somebody'} resumed the run.")
        send_hint_on_commit(run.pk)
    return run


def change_place(
    *,
    project: Project,
    run: Run,
    user: User | None,
    queue: str,
    shares_device: bool,
) -> Run:
    """Change which workers a queued run waits for, and whether it shares their GPU.

    A worker that claims it at the same time locks the same row. Either it gets the run
    unchanged and this raises RunStateError, or it comes later and reads the new wish.
    Raises LaunchRefusedError for a queue that no worker has announced.
    """
    with transaction.atomic():
        require_trainer(project, user, deed="Changing where a run runs")
        run = _locked(project, run)
        if run.state != RunState.QUEUED:
            raise RunStateError(
                gettext(
                    "Where it runs can be changed only while it is queued; this one is "
                    "%(state)s."
                )
                % {"state": run.get_state_display().lower()}
            )
        known = {"", run.queue, *(each.name for each in announced_queues())}
        if queue not in known:
            raise LaunchRefusedError({"queue": no_such_queue(queue)})
        before, run.queue = run.queue, queue
        shared, run.shares_device = run.shares_device, shares_device
        if (before, shared) == (queue, shares_device):
            return run
        run.save(update_fields=["queue", "shares_device"])
        message = f"{user or 'Somebody'} changed what the run waits for: "
        message += (
            f"{device_wish(before, shared)} → {device_wish(queue, shares_device)}."
        )
        add_note(run, message)
        send_hint_on_commit(run.pk)
    return run


def _locked(project: Project, run: Run) -> Run:
    """Lock the project's run and return its current state."""
    return get_object_or_404(
        Run.objects.select_for_update(), project=project, pk=run.pk
    )
