"""Iterations: the cycle draw → judge → reward → policy → evaluate → compare → promote.

An iteration consists of rows only: its current step, and the run that works for it.
This module holds people's deeds; ``advance`` moves an iteration on automatically,
``status`` reads its state.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext as _

from records.recipes import RecipeError, new_recipe, recipe_to_json
from training.access import require_trainer
from training.iterations.advance import put_pairs_first, stop_because
from training.iterations.status import against, step_index
from training.models import (
    RUN_STEPS,
    STEP_ORDER,
    Iteration,
    IterationChange,
    IterationState,
    IterationStep,
    StepName,
    StepState,
)
from training.runs.control import RunStateError, resume_run, stop_run
from training.runs.starting_points import current_policy
from training.wording.words import words

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from annotation.models import Project

# The later steps evaluate and promote the policy of this step.
NEVER_SKIPPED = (StepName.POLICY,)
DEED = "Running an iteration"


class IterationRefusedError(Exception):
    """The iteration does not allow the deed; ``problems`` names fields if possible."""

    def __init__(
        self, message: str, problems: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.problems = problems or {}
        super().__init__(message)


class ReasonNeededError(IterationRefusedError):
    """The deed needs a reason, because something speaks against it."""


# Starting and ending


def start_iteration(
    *,
    project: Project,
    user: User | None,
    recipes: Mapping[str, Mapping[str, object]] | None = None,
    wanted_judgments: int = 300,
    wanted_settled: int = 90,
    margin: float = 0.03,
    automatic: tuple[str, ...] = ("draw", "reward", "policy", "evaluate", "compare"),
) -> Iteration:
    """Begin the next iteration of a project; `advance` takes its first step.

    ``recipes`` holds, per step with a run, settings other than the defaults. Raises
    IterationRefusedError when an iteration is open, there is no policy, or a setting is
    wrong.
    """
    checked = _checked_recipes(recipes or {})
    try:
        with transaction.atomic():
            require_trainer(project, user, deed=DEED)
            if current_policy(project) is None:
                raise IterationRefusedError(
                    _(
                        "The project has no policy yet. Run supervised fine-tuning first."
                    )
                )
            newest = Iteration.objects.filter(project=project).aggregate(
                newest=Max("number")
            )["newest"]
            iteration = Iteration.objects.create(
                project=project,
                number=(newest or 0) + 1,
                recipes=checked,
                wanted_judgments=wanted_judgments,
                wanted_settled=wanted_settled,
                margin=margin,
                created_by=user,
            )
            IterationStep.objects.bulk_create(
                IterationStep(
                    iteration=iteration,
                    name=name,
                    is_automatic=name in automatic or name == StepName.JUDGE,
                )
                for name in STEP_ORDER
            )
    except IntegrityError as error:
        raise IterationRefusedError(
            _("An iteration of this project is open already.")
        ) from error
    return iteration


def _checked_recipes(
    recipes: Mapping[str, Mapping[str, object]],
) -> dict[str, dict[str, object]]:
    checked: dict[str, dict[str, object]] = {}
    problems: dict[str, dict[str, str]] = {}
    for name in RUN_STEPS:
        try:
            checked[name] = _checked_recipe(name, recipes.get(name, {}))
        except IterationRefusedError as error:
            problems |= {name: dict(error.problems[name])}
    if problems:
        raise IterationRefusedError(_("A setting is not right."), problems)
    return checked


def _checked_recipe(name: str, settings: Mapping[str, object]) -> dict[str, object]:
    try:
        return recipe_to_json(new_recipe(name, settings))
    except RecipeError as error:
        why = _("Expected %(expected)s, found %(found)s.") % {
            "expected": error.expected,
            "found": error.found,
        }
        raise IterationRefusedError(
            _("A setting is not right."), {name: {error.field: why}}
        ) from error


def change_iteration(
    *,
    project: Project,
    iteration: Iteration,
    user: User | None,
    wanted_judgments: int,
    wanted_settled: int,
    margin: float,
    automatic: tuple[str, ...],
    newest_seen: int | None = None,
) -> None:
    """Change what an open iteration waits for and which steps are automatic.

    The change and its author are recorded. ``newest_seen`` is the :func:`newest_change`
    that the page showed; raises IterationRefusedError when another change came after
    it.
    """
    with transaction.atomic():
        iteration = _locked(project, iteration, user)
        _must_be_open(iteration)
        _must_be_newest(iteration, "", newest_seen)
        values = {
            "wanted_judgments": wanted_judgments,
            "wanted_settled": wanted_settled,
            "margin": margin,
        }
        before: dict[str, object] = {n: getattr(iteration, n) for n in values}
        for name, value in values.items():
            setattr(iteration, name, value)
        iteration.save(update_fields=list(values))
        steps = sorted(
            iteration.steps.exclude(name=StepName.JUDGE),
            key=lambda s: step_index(s.name),
        )
        before["automatic"] = [step.name for step in steps if step.is_automatic]
        for step in steps:
            step.is_automatic = step.name in automatic
            step.save(update_fields=["is_automatic"])
        after = {**values, "automatic": [s.name for s in steps if s.is_automatic]}
        _keep_change(iteration, "", user, before, after)


def change_recipe(
    *,
    project: Project,
    iteration: Iteration,
    name: str,
    user: User | None,
    recipe: Mapping[str, object],
    newest_seen: int | None = None,
) -> IterationChange | None:
    """Change the recipe of a step that has not begun; return None when nothing is new.

    The change and its author are recorded. Raises IterationRefusedError for a step that
    has begun or was passed, for an invalid setting, and when another change came after
    ``newest_seen``.
    """
    with transaction.atomic():
        iteration = _locked(project, iteration, user)
        _must_be_open(iteration)
        if name not in changeable_recipes(iteration):
            raise IterationRefusedError(
                _("This step has begun: its recipe is that of its run.")
            )
        _must_be_newest(iteration, name, newest_seen)
        before = iteration.recipes.get(name, {})
        after = _checked_recipe(name, recipe)
        iteration.recipes = {**iteration.recipes, name: after}
        iteration.save(update_fields=["recipes"])
        return _keep_change(iteration, name, user, before, after)


def changeable_recipes(iteration: Iteration) -> list[str]:
    """Return the steps with a recipe that have not begun; none after its end."""
    if not iteration.is_open:
        return []
    not_begun = (StepState.WAITING, StepState.ASKING)
    steps = {step.name: step for step in iteration.steps.all()}
    return [
        name
        for name in RUN_STEPS
        if step_index(name) >= step_index(iteration.step)
        and steps[name].state in not_begun
    ]


def newest_change(iteration: Iteration, step: str) -> int:
    """Return the number of the last change to a step's recipe, or to the settings."""
    newest = iteration.changes.filter(step=step).order_by("-pk").first()
    return 0 if newest is None else newest.pk


def _must_be_newest(iteration: Iteration, step: str, newest_seen: int | None) -> None:
    """Refuse to overwrite what somebody else, or another tab, has changed meanwhile."""
    if newest_seen is None or newest_seen >= newest_change(iteration, step):
        return
    later = iteration.changes.filter(step=step, pk__gt=newest_seen).select_related(
        "user"
    )
    settings = dict.fromkeys(name for each in later for name in each.values)
    raise IterationRefusedError(
        _(
            "%(user)s has changed this meanwhile: %(settings)s. What you typed is"
            " still here; save it again to replace that change."
        )
        % {
            "user": later[0].user or _("Somebody"),
            "settings": ", ".join(words(name) for name in settings),
        }
    )


def _keep_change(
    iteration: Iteration,
    step: str,
    user: User | None,
    before: Mapping[str, object],
    after: Mapping[str, object],
) -> IterationChange | None:
    changed = {
        name: [before.get(name), value]
        for name, value in after.items()
        if before.get(name) != value
    }
    if not changed:
        return None
    return IterationChange.objects.create(
        iteration=iteration, step=step, values=changed, user=user
    )


def pause_iteration(
    *, project: Project, iteration: Iteration, user: User | None
) -> None:
    """Start no more steps; a run under way continues."""
    with transaction.atomic():
        iteration = _locked(project, iteration, user)
        _must_be_open(iteration)
        iteration.state = IterationState.PAUSED
        iteration.save(update_fields=["state"])


def stop_iteration(
    *, project: Project, iteration: Iteration, user: User | None, reason: str
) -> None:
    """End an iteration before its last step; its run is asked to stop."""
    if not reason.strip():
        raise ReasonNeededError(_("Say why the iteration is stopped."))
    with transaction.atomic():
        iteration = _locked(project, iteration, user)
        _must_be_open(iteration)
        step = iteration.steps.select_related("run").get(name=iteration.step)
        stop_because(iteration, reason.strip())
    if step.state == StepState.WORKING and step.run and not step.run.is_final:
        with suppress(RunStateError):  # it has just ended
            stop_run(project=project, run=step.run, user=user)


def resume_iteration(
    *, project: Project, iteration: Iteration, user: User | None, reason: str = ""
) -> None:
    """Continue a paused or stopped iteration.

    After an alarm a reason is required, which is recorded.
    """
    try:
        with transaction.atomic():
            iteration = _locked(project, iteration, user)
            if iteration.state not in (IterationState.PAUSED, IterationState.STOPPED):
                raise IterationRefusedError(_("This iteration is not paused."))
            if iteration.is_alarm:
                if not reason.strip():
                    raise ReasonNeededError(
                        _("Say why it goes on in spite of the alarm.")
                    )
                step = iteration.steps.get(name=iteration.step)
                step.is_alarm_accepted = True
                step.reason, step.approved_by = reason.strip(), user
                step.save()
            iteration.state = IterationState.GOING
            iteration.stopped_because, iteration.is_alarm = "", False
            iteration.ended_at = None
            iteration.save()
            if iteration.steps.get(name=StepName.JUDGE).state == StepState.WORKING:
                put_pairs_first(iteration)  # another may have had precedence
    except IntegrityError as error:
        raise IterationRefusedError(
            _("Another iteration of this project is open.")
        ) from error


# Steps, by a person


def approve_step(
    *,
    project: Project,
    iteration: Iteration,
    name: str,
    user: User | None,
    reason: str = "",
) -> None:
    """Let a step begin, or pass, that waits for a person.

    A reason is required where something speaks against it: a missed gate, or a truth
    that is worse or was not measured.
    """
    with transaction.atomic():
        iteration, step = _current(project, iteration, name, user)
        if step.state != StepState.ASKING:
            raise IterationRefusedError(_("This step asks nothing now."))
        if against(iteration, step) and not reason.strip():
            raise ReasonNeededError(
                _("There are objections. To continue all the same, say why.")
            )
        step.state, step.is_approved = StepState.WAITING, True
        step.approved_by, step.reason = user, reason.strip()
        step.save()


def skip_step(
    *,
    project: Project,
    iteration: Iteration,
    name: str,
    user: User | None,
    reason: str,
) -> None:
    """Skip a step whose run, if any, has ended; record the reason."""
    if not reason.strip():
        raise ReasonNeededError(_("Say why the step is skipped."))
    with transaction.atomic():
        iteration, step = _current(project, iteration, name, user)
        if name in NEVER_SKIPPED:
            raise IterationRefusedError(
                _("Without a new policy nothing is left to do: stop the iteration.")
            )
        _must_be_still(step)
        step.state, step.reason = StepState.SKIPPED, reason.strip()
        step.approved_by, step.ended_at = user, timezone.now()
        step.save()


def retry_step(
    *, project: Project, iteration: Iteration, name: str, user: User | None
) -> None:
    """Retry a failed step: its run continues from its last checkpoint."""
    with transaction.atomic():
        iteration, step = _current(project, iteration, name, user)
        if step.state != StepState.FAILED:
            raise IterationRefusedError(_("This step has not failed."))
        step.problem = ""
        if step.run is not None and step.run.state in ("failed", "stopped"):
            try:
                resume_run(project=project, run=step.run, user=user)
            except RunStateError as error:
                raise IterationRefusedError(str(error)) from error
            step.state = StepState.WORKING
        else:
            step.state, step.is_approved = StepState.WAITING, True
        step.ended_at = None
        step.save()


def go_back(
    *, project: Project, iteration: Iteration, name: str, user: User | None
) -> None:
    """Repeat a step and all after it; the results of their old runs stay."""
    with transaction.atomic():
        iteration = _locked(project, iteration, user)
        _must_be_open(iteration)
        steps = {s.name: s for s in iteration.steps.select_related("run")}
        if name not in steps or step_index(name) > step_index(iteration.step):
            raise IterationRefusedError(_("The iteration has not come to this step."))
        for step in steps.values():
            if step_index(step.name) >= step_index(name):
                _must_be_still(step)
                _reset(step)
        again = steps[name]
        again.is_approved, again.approved_by = True, user
        again.save()
        iteration.step = name
        iteration.save(update_fields=["step"])


def _reset(step: IterationStep) -> None:
    if step.run_id:
        step.earlier_runs = [*step.earlier_runs, step.run_id]
    step.state, step.run = StepState.WAITING, None
    step.is_approved = step.is_alarm_accepted = False
    step.approved_by, step.reason, step.problem = None, "", ""
    step.started_at = step.ended_at = None
    step.save()


def _locked(project: Project, iteration: Iteration, user: User | None) -> Iteration:
    """Require the role, lock the project's iteration and return its current state."""
    require_trainer(project, user, deed=DEED)
    rows = Iteration.objects.select_for_update(of=("self",)).select_related("project")
    return get_object_or_404(rows, project=project, pk=iteration.pk)


def _current(
    project: Project, iteration: Iteration, name: str, user: User | None
) -> tuple[Iteration, IterationStep]:
    """Lock an open iteration; return it with its current step.

    That step must have the name ``name``.
    """
    iteration = _locked(project, iteration, user)
    _must_be_open(iteration)
    if iteration.step != name:
        raise IterationRefusedError(_("The iteration is not at this step any more."))
    return iteration, iteration.steps.select_related("run").get(name=name)


def _must_be_open(iteration: Iteration) -> None:
    if not iteration.is_open:
        raise IterationRefusedError(_("This iteration has ended."))


def _must_be_still(step: IterationStep) -> None:
    if step.run is not None and not step.run.is_final:
        raise IterationRefusedError(
            _("Run %(pk)d of this step has not ended: stop it first.")
            % {"pk": step.run.pk}
        )
