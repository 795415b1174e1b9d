"""Starting, stopping, resuming runs; which checkpoints they start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from annotation.models import Judgment, Project
from records.manifests import NotWholeError
from records.recipes import RecipeError, recipe_from_json, recipe_to_json
from training.access import require_trainer
from training.models import (
    ENSEMBLE,
    JUDGES,
    LEARNS_FROM_JUDGMENTS,
    LEAVES_A_POLICY,
    Checkpoint,
    InputRole,
    Promotion,
    Run,
    RunInput,
    RunKind,
    RunNote,
    RunState,
)
from training.runs.bases import BaseRefusedError, base_name, own_checkpoint
from training.runs.hints import send_hint_on_commit
from training.runs.placement import announced_queues
from training.storage import store
from training.storage.snapshots import NothingToTrainOnError, build_snapshot

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.utils.functional import _StrPromise


TWICE = timedelta(minutes=1)
"""Within this a form that is sent again asks for the same run."""


@dataclass(frozen=True)
class Takes:
    """Which checkpoints a kind of run starts from; required or not."""

    role: InputRole
    required: bool
    help: _StrPromise


INPUTS: dict[str, tuple[Takes, ...]] = {
    RunKind.SFT: (
        Takes(
            InputRole.POLICY, False, _("Go on from this one instead of from scratch.")
        ),
    ),
    RunKind.DRAW: (
        Takes(InputRole.POLICY, True, _("The policy whose answers people will judge.")),
        Takes(InputRole.INITIAL, False, _("Also answers, for comparison.")),
        Takes(
            InputRole.REWARD,
            False,
            _("Scores the answers, to be compared with what people say of them."),
        ),
    ),
    RunKind.REWARD: (
        Takes(InputRole.POLICY, True, _("The language model that learns to judge.")),
    ),
    RunKind.POLICY: (
        Takes(InputRole.POLICY, True, _("The policy to improve.")),
        Takes(
            InputRole.INITIAL,
            False,
            _("The reference of the KL term; without one, the policy as it starts."),
        ),
        Takes(
            InputRole.REWARD,
            False,
            _(
                "Scores the answers; needed where the consistency source is the reward "
                "model."
            ),
        ),
        Takes(
            InputRole.REWARD_2,
            False,
            _("Judges beside the first: the lowest score of all counts."),
        ),
        Takes(InputRole.REWARD_3, False, _("Judges beside the first two.")),
        Takes(
            InputRole.PREFERENCE,
            False,
            _(
                "Scores answers of tasks that are neither action nor reasoning tasks; "
                "a reward run that judges “preference” makes one."
            ),
        ),
    ),
    RunKind.PREFERENCE: (
        Takes(
            InputRole.POLICY,
            True,
            _("The policy to improve; also what it is held to."),
        ),
    ),
    RunKind.EVALUATE: (
        Takes(InputRole.POLICY, True, _("The policy to measure.")),
        Takes(InputRole.INITIAL, False, _("Measured beside it.")),
        Takes(InputRole.REWARD, False, _("Scores consistency besides the oracle.")),
    ),
}


class LaunchRefusedError(Exception):
    """A run cannot start as asked; ``problems`` maps a field to what is wrong with it.

    The field is a setting of the recipe, a role of ``inputs``, or ``""``.
    """

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__(
            "; ".join(
                f"{name}: {why}" if name else why for name, why in problems.items()
            )
        )


class RunStateError(Exception):
    """The run is not in a state in which this can be done."""


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
    """Queue a run: check recipe and inputs, freeze the data, tell the workers.

    Settings left out of ``recipe`` keep their defaults. ``draw_next`` has answers of
    the finished model drawn for people to judge. ``queue`` names the workers it waits
    for; on their GPU it is alone unless it ``shares_device``. Raises LaunchRefusedError.
    The snapshot is built before the rows of the run, in a transaction of its own: it
    reads all tables as of one moment and is kept when the rest fails. ``attach`` is
    called in the transaction that makes the run; what it raises undoes that. ``ask`` is
    the number of the form that asks: sent twice within a minute it is one run.
    ``by_itself``: the product starts it now, in the name of who asked for it earlier and
    may have lost the role since.
    """
    asks = None if by_itself else user
    with transaction.atomic():  # before data are frozen, and once more at the end
        require_trainer(project, asks, deed="Starting a run")
    if kind not in INPUTS:
        raise LaunchRefusedError(
            {"": gettext("There is no such kind of run: %(kind)r.") % {"kind": kind}}
        )
    problems: dict[str, str] = {}
    settings: dict[str, object] = {}
    try:
        settings = recipe_to_json(recipe_from_json(kind, recipe))
    except RecipeError as error:
        problems[error.field] = gettext("Expected %(expected)s, found %(found)s.") % {
            "expected": error.expected,
            "found": error.found,
        }
    if base := str(settings.get("base") or ""):
        own = own_checkpoint(project, base)
        if own is not None:  # an input like any other, with its lineage
            settings["base"], inputs = "", {InputRole.POLICY: own, **inputs}
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
        problems["queue"] = _no_such_queue(queue)
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
        if ask:  # of two that ask at once the second finds the run of the first
            Project.objects.select_for_update(no_key=True).get(pk=project.pk)
            if run := _asked_before(ask, project, kind, settings, inputs, how):
                return run
        if ask is None or Run.objects.filter(uuid=ask).exists():
            ask = uuid4()  # nobody's form, or one sent before with other settings
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
    """Return the run that the same form has just asked for."""
    same = Run.objects.filter(project=project, kind=kind, recipe=settings, **how)
    run = same.filter(uuid=ask, created_at__gt=timezone.now() - TWICE).first()
    if run is None:
        return None
    of_run = dict(run.run_inputs.values_list("role", "checkpoint_id"))
    return run if of_run == {r: each.pk for r, each in inputs.items()} else None


def _refuse_removed(inputs: Mapping[str, Checkpoint]) -> None:
    """Look once more, now that the rows that name the inputs hold a lock on them.

    Between the first look and the lock, retention may have removed their files.
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

    The flag is taken down first, by one conditional update, so that two callers never
    start the same draw twice. A draw that cannot start is told on the run that asked.
    """
    draws: list[Run] = []
    asked = Run.objects.filter(draw_next=True, state=RunState.FINISHED)
    for run in asked.select_related("project", "created_by"):
        if not asked.filter(pk=run.pk).update(draw_next=False):
            continue
        final = run.checkpoints.filter(is_final=True).order_by("-pk").first()
        inputs = default_inputs(run.project, RunKind.DRAW)
        if final is not None:
            inputs[InputRole.POLICY] = final
            if inputs.get(InputRole.INITIAL) == final:
                del inputs[InputRole.INITIAL]  # one model need not answer twice
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
            _note(run, f"The draw it asked for did not start: {error}", "warning")
        else:
            _note(run, f"Started run {draw.pk} to draw its answers.")
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
            found = checkpoint.run.get_kind_display()
            problems[role] = gettext(
                "Not what this takes: it comes from a run “%(kind)s”."
            ) % {"kind": found}
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
            except NotWholeError as error:
                problems[role] = gettext("It is not whole on disk: %(why)s.") % {
                    "why": error.why
                }
    return problems | _problems_with_ensemble(inputs)


def _problems_with_ensemble(inputs: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Return what keeps several reward models from judging together."""
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


def stop_run(*, project: Project, run: Run, user: User | None) -> Run:
    """Ask a run to write a checkpoint and end; a queued one ends at once.

    Asking twice changes nothing. Raises RunStateError when it has ended already.
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
        _note(run, f"{user or 'Somebody'} asked the run to stop.")
    return run


def resume_run(*, project: Project, run: Run, user: User | None) -> Run:
    """Queue a stopped or failed run again; it goes on from its last whole checkpoint.

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
            # A program that finished only has its outputs received again.
            run.program_state, run.result = "", {}
        run.save()
        _note(run, f"{user or 'Somebody'} resumed the run.")
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

    A worker that claims it at the same time locks the same row: it gets the run as it
    was, and this raises RunStateError; or it comes later and looks at the new wish.
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
            raise LaunchRefusedError({"queue": _no_such_queue(queue)})
        before, run.queue = run.queue, queue
        shared, run.shares_device = run.shares_device, shares_device
        if (before, shared) == (queue, shares_device):
            return run
        run.save(update_fields=["queue", "shares_device"])
        told = f"{user or 'Somebody'} changed what the run waits for: "
        told += f"{_wish(before, shared)} → {_wish(queue, shares_device)}."
        _note(run, told)
        send_hint_on_commit(run.pk)
    return run


def _locked(project: Project, run: Run) -> Run:
    """Lock the project's run and return it as it is now."""
    return get_object_or_404(
        Run.objects.select_for_update(), project=project, pk=run.pk
    )


def _wish(queue: str, shares_device: bool) -> str:
    return f"{queue or 'any worker'}{', sharing its GPU' if shares_device else ''}"


def _no_such_queue(queue: str) -> str:
    return gettext("No worker has announced a queue “%(name)s”.") % {"name": queue}


def _note(run: Run, message: str, level: str = "info") -> None:
    RunNote.objects.create(run=run, message=message, level=level, at=timezone.now())


def current_policy(project: Project) -> Checkpoint | None:
    """Return the checkpoint the newest promotion names, if any."""
    newest = (
        Promotion.objects.filter(project=project)
        .select_related("checkpoint__run")
        .order_by("-pk")
        .first()
    )
    return newest.checkpoint if newest else None


def initial_policy(project: Project) -> Checkpoint | None:
    """Return the newest promoted checkpoint of an SFT run, if any."""
    newest = (
        Promotion.objects.filter(project=project, checkpoint__run__kind=RunKind.SFT)
        .select_related("checkpoint__run")
        .order_by("-pk")
        .first()
    )
    return newest.checkpoint if newest else None


def newest_policy(project: Project) -> Checkpoint | None:
    """Return the final checkpoint of the newest policy, promoted or not, if any."""
    return (
        Checkpoint.objects.filter(project=project, files_removed_at__isnull=True)
        .policies()
        .final()
        .select_related("run")
        .order_by("-pk")
        .first()
    )


def newest_reward_model(project: Project) -> Checkpoint | None:
    """Return the final checkpoint of the newest reward run for consistency, if any."""
    every = Checkpoint.objects.filter(project=project).consistency_models()
    return every.final().select_related("run").order_by("-pk").first()


def newest_preference_model(project: Project) -> Checkpoint | None:
    """Return the final checkpoint of the newest reward run for preference, if any."""
    every = Checkpoint.objects.filter(project=project).preference_models()
    return every.final().select_related("run").order_by("-pk").first()


def default_inputs(project: Project, kind: str) -> dict[str, Checkpoint]:
    """Return the checkpoints a new run of this kind would sensibly start from."""
    initial = initial_policy(project)
    policy = initial if kind == RunKind.REWARD else current_policy(project)
    known = {
        InputRole.POLICY: None if kind == RunKind.SFT else policy,
        InputRole.INITIAL: initial,
        InputRole.REWARD: newest_reward_model(project),
        InputRole.PREFERENCE: newest_preference_model(project),
    }
    return {
        takes.role.value: checkpoint
        for takes in INPUTS[kind]
        if (checkpoint := known.get(takes.role)) is not None
    }


def policies_that_learned_from(judgment: Judgment) -> QuerySet[Checkpoint]:
    """Return the policies that learned from a judgment, by a reward model or directly.

    The paths: judgment → snapshot → reward run → its checkpoints → policy run → its
    checkpoints; and judgment → snapshot → preference run → its checkpoints. A policy
    that started from such a policy counts as well.
    """
    taught = Checkpoint.objects.filter(run__snapshot__judgments=judgment)
    learned = set(taught.policies().values_list("pk", flat=True))
    newest = learned | set(taught.reward_models().values_list("pk", flat=True))
    while newest:
        children = set(
            Checkpoint.objects.filter(
                Exists(
                    RunInput.objects.filter(
                        run=OuterRef("run"), checkpoint_id__in=newest
                    ).exclude(role=InputRole.INITIAL)
                )
            )
            .policies()
            .values_list("pk", flat=True)
        )
        newest = children - learned
        learned |= children
    return Checkpoint.objects.filter(pk__in=learned).for_list()
