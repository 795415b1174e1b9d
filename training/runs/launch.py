"""Start runs: check recipe and inputs, freeze the data, queue the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext

from annotation.models import Project
from records.checkpoints import CheckpointError
from records.recipes import RecipeError, new_recipe, recipe_to_json
from training.access import require_trainer
from training.models import (
    ENSEMBLE,
    JUDGES,
    LEARNS_FROM_JUDGMENTS,
    LEAVES_A_POLICY,
    Checkpoint,
    InputRole,
    Run,
    RunInput,
    RunKind,
    RunNote,
    RunState,
)
from training.runs.bases import BaseRefusedError, base_name, own_checkpoint
from training.runs.hints import send_hint_on_commit
from training.runs.input_rules import INPUTS
from training.runs.placement import announced_queues
from training.runs.starting_points import default_inputs
from training.storage import store
from training.storage.snapshots import NothingToTrainOnError, build_snapshot

if TYPE_CHECKING:
    from django.contrib.auth.models import User


TWICE = timedelta(minutes=1)
"""Within this a form that is sent again asks for the same run."""


class LaunchRefusedError(Exception):
    """A run cannot start; ``problems`` maps a field to what is wrong with it.

    The field is a setting of the recipe, a role of ``inputs``, or ``""``.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__(
            "; ".join(
                f"{name}: {why}" if name else why for name, why in problems.items()
            )
        )


def start_run(
    *,
    project: Project,
    kind: str,
    recipe: Mapping[str, object],
    inputs: Mapping[str, Checkpoint],
    user: User | None,
    draw_next: bool = False,
    queue: str = "",
    shares_device: bool = False,
    attach: Callable[[Run], None] | None = None,
    ask: UUID | None = None,
    by_itself: bool = False,
) -> Run:
    """Queue a run: check recipe and inputs, freeze the data, notify the workers.

    Settings missing in ``recipe`` keep their defaults. ``draw_next``: draw responses of
    the finished model for people to judge. ``queue`` names the workers that it waits
    for; it has their GPU alone unless it ``shares_device``. Raises LaunchRefusedError.

    The snapshot is built before the rows of the run, in its own transaction: it reads
    all tables as of one moment and is kept when the rest fails. ``attach`` is called in
    the transaction that creates the run, which its errors undo. ``ask`` is the number
    of the submitted form: sent twice within a minute it makes one run. ``by_itself``:
    the product starts the run now, on behalf of the person who asked for it earlier and
    may have lost the role since.
    """
    asks = None if by_itself else user
    with transaction.atomic():  # checked before freezing data, and again at the end
        require_trainer(project, asks, deed="Starting a run")
    if kind not in INPUTS:
        raise LaunchRefusedError(
            {"": gettext("There is no such kind of run: %(kind)r.") % {"kind": kind}}
        )
    problems: dict[str, str] = {}
    settings: dict[str, object] = {}
    try:
        settings = recipe_to_json(new_recipe(kind, recipe))
    except RecipeError as error:
        problems[error.field] = gettext("Expected %(expected)s, found %(found)s.") % {
            "expected": error.expected,
            "found": error.found,
        }
    if base := str(settings.get("base") or ""):
        start = own_checkpoint(project, base)
        if start is not None:  # an input like any other, with its lineage
            settings["base"], inputs = "", {InputRole.POLICY: start, **inputs}
        else:
            try:
                settings["base"] = base_name(base)
            except BaseRefusedError as error:
                problems["base"] = str(error)
    problems |= _problems_with_inputs(project, kind, inputs)
    if (
        settings.get("consistency_source") == "reward model"
        or settings.get("keep") == "accepted"
    ) and InputRole.REWARD.value not in inputs:
        problems[InputRole.REWARD] = gettext(
            "This run needs one. Train a reward model first."
        )
    if queue and queue not in {each.name for each in announced_queues()}:
        problems["queue"] = no_such_queue(queue)
    if problems:
        raise LaunchRefusedError(problems)

    how = {
        "draw_next": draw_next and kind in LEAVES_A_POLICY,
        "queue": queue,
        "shares_device": shares_device,
    }
    if ask and (run := _asked_before(ask, project, kind, settings, inputs, how)):
        return run
    try:
        snapshot = build_snapshot(
            project=project,
            user=user,
            with_judgments=kind in LEARNS_FROM_JUDGMENTS
            or bool(settings.get("judged_answers")),
        )
        if store.is_set():
            store.put_snapshot(snapshot)
    except (NothingToTrainOnError, store.StoreError) as error:
        raise LaunchRefusedError({"": str(error)}) from error
    except OSError as error:
        why = gettext("Its data could not be written: %(error)s") % {"error": error}
        raise LaunchRefusedError({"": why}) from error
    with transaction.atomic():
        require_trainer(project, asks, deed="Starting a run")
        if ask:  # of two concurrent posts the second finds the first's run
            Project.objects.select_for_update(no_key=True).get(pk=project.pk)
            if run := _asked_before(ask, project, kind, settings, inputs, how):
                return run
        if ask is None or Run.objects.filter(uuid=ask).exists():
            ask = uuid4()  # no form, or an earlier one with other settings
        run = Run.objects.create(
            uuid=ask,
            project=project,
            kind=kind,
            recipe=settings,
            snapshot=snapshot,
            created_by=user,
            **how,
        )
        RunInput.objects.bulk_create(
            RunInput(run=run, checkpoint=checkpoint, role=role)
            for role, checkpoint in inputs.items()
        )
        _refuse_removed(inputs)
        if attach is not None:
            attach(run)
        send_hint_on_commit(run.pk)
    return run


def _asked_before(
    ask: UUID,
    project: Project,
    kind: str,
    settings: Mapping[str, object],
    inputs: Mapping[str, Checkpoint],
    how: Mapping[str, object],
) -> Run | None:
    """Return the run that the same form has just started."""
    same = Run.objects.filter(project=project, kind=kind, recipe=settings, **how)
    run = same.filter(uuid=ask, created_at__gt=timezone.now() - TWICE).first()
    if run is None:
        return None
    of_run = dict(run.run_inputs.values_list("role", "checkpoint_id"))
    return run if of_run == {r: each.pk for r, each in inputs.items()} else None


def _refuse_removed(inputs: Mapping[str, Checkpoint]) -> None:
    """Check the inputs again, now that rows which name them hold locks.

    Retention may have removed their files between the first check and the lock.
    """
    removed = Checkpoint.objects.filter(
        pk__in=[checkpoint.pk for checkpoint in inputs.values()],
        files_removed_at__isnull=False,
    ).values_list("pk", flat=True)
    problems = {
        role: gettext("Its files were removed to free space.")
        for role, checkpoint in inputs.items()
        if checkpoint.pk in removed
    }
    if problems:
        raise LaunchRefusedError(problems)


def start_asked_draws() -> list[Run]:
    """Start the draws that finished runs asked for; return them.

    A conditional update clears the flag first, so that two callers never start the same
    draw twice. A note on the run that asked reports a draw that cannot start.
    """
    draws: list[Run] = []
    runs = Run.objects.filter(draw_next=True, state=RunState.FINISHED)
    for run in runs.select_related("project", "created_by"):
        if not runs.filter(pk=run.pk).update(draw_next=False):
            continue
        final = run.checkpoints.filter(is_final=True).order_by("-pk").first()
        inputs = default_inputs(run.project, RunKind.DRAW)
        if final is not None:
            inputs[InputRole.POLICY] = final
            if inputs.get(InputRole.INITIAL) == final:
                del inputs[InputRole.INITIAL]  # the same model need not answer twice
        try:
            draw = start_run(
                project=run.project,
                kind=RunKind.DRAW,
                recipe={},
                inputs=inputs,
                user=run.created_by,
                by_itself=True,
            )
        except LaunchRefusedError as error:
            add_note(run, f"The draw it asked for did not start: {error}", "warning")
        else:
            add_note(run, f"Started run {draw.pk} to draw its answers.")
            draws.append(draw)
    return draws


def _problems_with_inputs(
    project: Project, kind: str, inputs: Mapping[str, Checkpoint]
) -> dict[str, str]:
    problems: dict[str, str] = {}
    taken = {takes.role.value: takes for takes in INPUTS[kind]}
    for role in inputs:
        if role not in taken:
            problems[role] = gettext("A %(kind)s run takes no such checkpoint.") % {
                "kind": kind
            }
    for role, takes in taken.items():
        checkpoint = inputs.get(role)
        if checkpoint is None:
            if takes.required:
                problems[role] = gettext(
                    "This run needs one. Run supervised fine-tuning first."
                )
            continue
        if checkpoint.project_id != project.pk:
            problems[role] = gettext("This checkpoint belongs to another project.")
        elif (checkpoint.run.kind == RunKind.REWARD) != (role in JUDGES):
            kind_label = checkpoint.run.get_kind_display()
            problems[role] = gettext(
                "Checkpoints of a run “%(kind)s” do not fit here."
            ) % {"kind": kind_label}
        elif role in ENSEMBLE and checkpoint.judges == "preference":
            problems[role] = gettext(
                "This is a preference model, which scores an answer by itself. "
                "Here one is needed that judges consistency with a label."
            )
        elif role == InputRole.PREFERENCE and checkpoint.judges == "consistency":
            problems[role] = gettext(
                "This model judges consistency with a label. Here a preference model "
                "is needed, which scores an answer by itself."
            )
        else:
            try:
                store.check(checkpoint)
            except CheckpointError as error:
                problems[role] = gettext("It is not intact on disk: %(why)s.") % {
                    "why": error.why
                }
    return problems | _problems_with_ensemble(inputs)


def _problems_with_ensemble(inputs: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Return why several reward models cannot judge together."""
    problems: dict[str, str] = {}
    chosen: dict[Checkpoint, str] = {}
    for role in ENSEMBLE:
        checkpoint = inputs.get(role)
        if checkpoint is None:
            continue
        if role != InputRole.REWARD and InputRole.REWARD not in inputs:
            problems[role] = gettext("Choose the first reward model before another.")
        elif checkpoint in chosen:
            problems[role] = gettext(
                "This is the %(role)s already: models that judge together must differ."
            ) % {"role": chosen[checkpoint]}
        else:
            chosen[checkpoint] = str(role.label).lower()
    return problems


def device_wish(queue: str, shares_device: bool) -> str:
    return f"{queue or 'any worker'}{', sharing its GPU' if shares_device else ''}"


def no_such_queue(queue: str) -> str:
    return gettext("No worker has announced a queue “%(name)s”.") % {"name": queue}


def add_note(run: Run, message: str, level: str = "info") -> None:
    RunNote.objects.create(run=run, message=message, level=level, at=timezone.now())
