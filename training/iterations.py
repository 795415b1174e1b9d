"""Iterations: the cycle draw → judge → reward → policy → evaluate → compare → promote.

An iteration is rows only: what it is at, which run works for it. :func:`advance` looks
at those rows and at the runs, pairs and figures as they are, and does what is next. It
is called every 15 seconds, when a run ends, and by the buttons of the page; several
callers at once do it once, and one that dies in the middle leaves what the next finds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from django.db import IntegrityError, transaction
from django.db.models import Max, Prefetch
from django.utils import timezone
from django.utils.translation import gettext as _

from training.cycle import (
    Comparison,
    Fresh,
    JudgeProgress,
    comparison,
    fresh_figures,
    gate_of,
    hacking,
    judge_progress,
    own_comparison,
    speaks_against,
)
from training.engine.recipes import RecipeError, recipe_from_json, recipe_to_json
from training.launching import (
    LaunchRefusedError,
    RunStateError,
    current_policy,
    default_inputs,
    resume_run,
    start_run,
    stop_run,
)
from training.models import (
    RUN_STEPS,
    STEP_ORDER,
    Checkpoint,
    InputRole,
    Iteration,
    IterationChange,
    IterationState,
    IterationStep,
    RunState,
    StepName,
    StepState,
)
from training.promoting import PromotionRefusedError, promote
from training.wording import words

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from annotation.models import Project
    from training.models import Run

logger = logging.getLogger(__name__)
STEPS = Prefetch("steps", IterationStep.objects.select_related("run"))
# Without one there is nothing that the later steps could be about.
NEVER_SKIPPED = (StepName.POLICY,)


class IterationRefusedError(Exception):
    """This cannot be done with the iteration; ``problems`` names fields where it can."""

    def __init__(
        self, message: str, problems: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.problems = problems or {}
        super().__init__(message)


class ReasonNeededError(IterationRefusedError):
    """It can be done in spite of what speaks against it, with a reason."""


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
    """Begin the next iteration of a project; its first step is taken by `advance`.

    ``recipes`` has, per step with a run, settings other than the defaults. Raises
    IterationRefusedError when one is open, no policy is there, or a setting is wrong.
    """
    if current_policy(project) is None:
        raise IterationRefusedError(
            _("The project has no policy yet. Run supervised fine-tuning first.")
        )
    checked = _checked_recipes(recipes or {})
    try:
        with transaction.atomic():
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
        return recipe_to_json(recipe_from_json(name, settings))
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
    iteration: Iteration,
    user: User | None,
    wanted_judgments: int,
    wanted_settled: int,
    margin: float,
    automatic: tuple[str, ...],
    seen: int | None = None,
) -> None:
    """Change what an open iteration waits for and which steps ask nobody.

    Who changed what is kept. ``seen`` is the :func:`newest_change` that was looked at;
    IterationRefusedError is raised where another came meanwhile.
    """
    with transaction.atomic():
        iteration = _locked(iteration)
        _must_be_open(iteration)
        _must_be_newest(iteration, "", seen)
        wanted = {
            "wanted_judgments": wanted_judgments,
            "wanted_settled": wanted_settled,
            "margin": margin,
        }
        before: dict[str, object] = {n: getattr(iteration, n) for n in wanted}
        for name, value in wanted.items():
            setattr(iteration, name, value)
        iteration.save(update_fields=list(wanted))
        steps = sorted(
            iteration.steps.exclude(name=StepName.JUDGE), key=lambda s: _place(s.name)
        )
        before["automatic"] = [step.name for step in steps if step.is_automatic]
        for step in steps:
            step.is_automatic = step.name in automatic
            step.save(update_fields=["is_automatic"])
        after = {**wanted, "automatic": [s.name for s in steps if s.is_automatic]}
        _keep_change(iteration, "", user, before, after)


def change_recipe(
    *,
    iteration: Iteration,
    name: str,
    user: User | None,
    recipe: Mapping[str, object],
    seen: int | None = None,
) -> IterationChange | None:
    """Change the recipe of a step that has not begun; None when nothing is new.

    Who changed what is kept. Raises IterationRefusedError for a step that has begun, or
    that was passed, for a setting that is not right, and where another change came
    after the one that was ``seen``.
    """
    with transaction.atomic():
        iteration = _locked(iteration)
        _must_be_open(iteration)
        if name not in changeable_recipes(iteration):
            raise IterationRefusedError(
                _("This step has begun: its recipe is that of its run.")
            )
        _must_be_newest(iteration, name, seen)
        before = iteration.recipes.get(name, {})
        after = _checked_recipe(name, recipe)
        iteration.recipes = {**iteration.recipes, name: after}
        iteration.save(update_fields=["recipes"])
        return _keep_change(iteration, name, user, before, after)


def changeable_recipes(iteration: Iteration) -> list[str]:
    """Return the steps with a recipe that have not begun; none once it has ended."""
    if not iteration.is_open:
        return []
    not_begun = (StepState.WAITING, StepState.ASKING)
    steps = {step.name: step for step in iteration.steps.all()}
    return [
        name
        for name in RUN_STEPS
        if _place(name) >= _place(iteration.step) and steps[name].state in not_begun
    ]


def newest_change(iteration: Iteration, step: str) -> int:
    """Return the number of the last change of a step's recipe, or of the settings."""
    newest = iteration.changes.filter(step=step).order_by("-pk").first()
    return 0 if newest is None else newest.pk


def _must_be_newest(iteration: Iteration, step: str, seen: int | None) -> None:
    """Refuse to write over what somebody else, or another tab, has changed meanwhile."""
    if seen is None or seen >= newest_change(iteration, step):
        return
    later = iteration.changes.filter(step=step, pk__gt=seen).select_related("user")
    settings = dict.fromkeys(name for each in later for name in each.values)
    raise IterationRefusedError(
        _(
            "%(user)s has changed this meanwhile: %(settings)s. What you typed is still "
            "here; save it again to have it in place of that."
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


def pause_iteration(*, iteration: Iteration) -> None:
    """Start nothing more; a run under way goes on."""
    with transaction.atomic():
        iteration = _locked(iteration)
        _must_be_open(iteration)
        iteration.state = IterationState.PAUSED
        iteration.save(update_fields=["state"])


def stop_iteration(*, iteration: Iteration, user: User | None, reason: str) -> None:
    """End an iteration before its last step; its run is asked to stop."""
    if not reason.strip():
        raise ReasonNeededError(_("Say why the iteration is stopped."))
    with transaction.atomic():
        iteration = _locked(iteration)
        _must_be_open(iteration)
        step = iteration.steps.select_related("run").get(name=iteration.step)
        _stop(iteration, reason.strip())
    if step.state == StepState.WORKING and step.run and not step.run.is_final:
        with suppress(RunStateError):  # it has just ended
            stop_run(run=step.run, user=user)


def resume_iteration(
    *, iteration: Iteration, user: User | None, reason: str = ""
) -> None:
    """Go on with a paused or stopped iteration.

    In spite of an alarm only with a reason, which is kept.
    """
    try:
        with transaction.atomic():
            iteration = _locked(iteration)
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
    except IntegrityError as error:
        raise IterationRefusedError(
            _("Another iteration of this project is open.")
        ) from error


# Steps, by a person


def approve_step(
    *, iteration: Iteration, name: str, user: User | None, reason: str = ""
) -> None:
    """Let the step begin, or pass, that asks a person.

    With a reason where something speaks against it: a gate that was missed, a truth
    that is worse or was not measured.
    """
    with transaction.atomic():
        iteration, step = _current(iteration, name)
        if step.state != StepState.ASKING:
            raise IterationRefusedError(_("This step asks nothing now."))
        if _against(iteration, step) and not reason.strip():
            raise ReasonNeededError(
                _("Something speaks against it. To go on all the same, say why.")
            )
        step.state, step.is_approved = StepState.WAITING, True
        step.approved_by, step.reason = user, reason.strip()
        step.save()


def skip_step(
    *, iteration: Iteration, name: str, user: User | None, reason: str
) -> None:
    """Go on without a step; a run of it must have ended. The reason is kept."""
    if not reason.strip():
        raise ReasonNeededError(_("Say why the step is skipped."))
    with transaction.atomic():
        iteration, step = _current(iteration, name)
        if name in NEVER_SKIPPED:
            raise IterationRefusedError(
                _("Without a new policy nothing is left to do: stop the iteration.")
            )
        _must_be_still(step)
        step.state, step.reason = StepState.SKIPPED, reason.strip()
        step.approved_by, step.ended_at = user, timezone.now()
        step.save()


def retry_step(*, iteration: Iteration, name: str, user: User | None) -> None:
    """Try a failed step again: its run goes on from its last checkpoint."""
    with transaction.atomic():
        iteration, step = _current(iteration, name)
        if step.state != StepState.FAILED:
            raise IterationRefusedError(_("This step has not failed."))
        step.problem = ""
        if step.run is not None and step.run.state in ("failed", "stopped"):
            try:
                resume_run(run=step.run, user=user)
            except RunStateError as error:
                raise IterationRefusedError(str(error)) from error
            step.state = StepState.WORKING
        else:
            step.state, step.is_approved = StepState.WAITING, True
        step.ended_at = None
        step.save()


def go_back(*, iteration: Iteration, name: str, user: User | None) -> None:
    """Do a step again, and all after it; what their runs left stays."""
    with transaction.atomic():
        iteration = _locked(iteration)
        _must_be_open(iteration)
        steps = {s.name: s for s in iteration.steps.select_related("run")}
        if name not in steps or _place(name) > _place(iteration.step):
            raise IterationRefusedError(_("The iteration has not come to this step."))
        for step in steps.values():
            if _place(step.name) >= _place(name):
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


# Going on by itself


def advance_all() -> None:
    """Do what is next in every iteration that is under way."""
    going = Iteration.objects.filter(state=IterationState.GOING)
    for pk in list(going.values_list("pk", flat=True)):
        try:
            advance(iteration_id=pk)
        except Exception:
            # One that cannot go on must not keep the others from it.
            logger.exception("Iteration %s could not be looked at.", pk)


def advance(*, iteration_id: int) -> None:
    """Do what is next, as long as something is; doing it again changes nothing.

    The row is locked while it is looked at, and who finds it locked leaves: the other
    does the same. A run is started outside that lock, since freezing its data takes
    long, and attached in the transaction that makes it: of two only one run is made.
    """
    for _turn in range(3 * len(STEP_ORDER)):
        with transaction.atomic():
            iteration = (
                Iteration.objects.select_for_update(skip_locked=True, of=("self",))
                .select_related("project", "created_by")
                .prefetch_related(STEPS)
                .filter(pk=iteration_id, state=IterationState.GOING)
                .first()
            )
            if iteration is None:
                return
            step = _step(iteration, iteration.step)
            found = _look(iteration, step)
        if found == "rest":
            return
        if found == "start" and not _start_run_of(iteration, step):
            return


def _look(iteration: Iteration, step: IterationStep) -> str:
    """Move one step on; return "again", "start" (its run) or "rest"."""
    if step.state in (StepState.DONE, StepState.SKIPPED):
        return _next(iteration, step)
    if step.state == StepState.WORKING:
        return _look_at_work(iteration, step)
    if step.state != StepState.WAITING:
        return "rest"
    if step.name == StepName.JUDGE:
        step.state, step.started_at = StepState.WORKING, timezone.now()
        step.save()
        return "again"
    if not step.is_approved and (not step.is_automatic or _against(iteration, step)):
        step.state = StepState.ASKING
        step.save()
        return "rest"
    if step.name in RUN_STEPS:
        return "start"
    step.started_at = step.started_at or timezone.now()
    if step.name == StepName.PROMOTE:
        problem = _promote(iteration, step)
        if problem:
            return _fail(step, problem)
    return _finish(step)


def _next(iteration: Iteration, step: IterationStep) -> str:
    place = _place(step.name) + 1
    if place == len(STEP_ORDER):
        iteration.state, iteration.ended_at = IterationState.DONE, timezone.now()
        iteration.save()
        return "rest"
    iteration.step = STEP_ORDER[place]
    iteration.save(update_fields=["step"])
    return "again"


def _look_at_work(iteration: Iteration, step: IterationStep) -> str:
    if step.name == StepName.JUDGE:
        progress = judged_so_far(iteration)
        if not progress.is_enough(iteration):
            return "rest"
        alarm = "" if step.is_alarm_accepted else fresh_alarm(iteration)
        if alarm:
            _stop(iteration, alarm, is_alarm=True)
            return "rest"
        return _finish(step)
    run = step.run
    assert run is not None
    alarm = str(run.result.get("alarm") or "")
    if run.state == RunState.STOPPED and alarm:
        if not step.is_alarm_accepted:
            _stop(iteration, alarm, is_alarm=True)
            return "rest"
        return _finish(step)  # the best checkpoint it found is final
    if run.state == RunState.FINISHED:
        return _finish(step)
    if run.is_final:
        return _fail(step, run.error or _("The run was stopped."))
    return "rest"


def _finish(step: IterationStep) -> str:
    step.state, step.ended_at, step.problem = StepState.DONE, timezone.now(), ""
    step.save()
    return "again"


def _fail(step: IterationStep, problem: str) -> str:
    step.state, step.ended_at = StepState.FAILED, timezone.now()
    step.problem = problem
    step.save()
    return "rest"


def _stop(iteration: Iteration, reason: str, *, is_alarm: bool = False) -> None:
    iteration.state, iteration.ended_at = IterationState.STOPPED, timezone.now()
    iteration.stopped_because, iteration.is_alarm = reason, is_alarm
    iteration.save()


class _OvertakenError(Exception):
    """Somebody else has moved the iteration on meanwhile."""


def _start_run_of(iteration: Iteration, step: IterationStep) -> bool:
    """Start the run of a step and attach it; False when another caller did, or it failed."""
    recipe = dict(iteration.recipes.get(step.name, {}))
    inputs = default_inputs(iteration.project, step.name)
    if step.name == StepName.DRAW and "seed" in recipe:
        recipe["seed"] = int(recipe["seed"]) + iteration.number - 1  # fresh answers
    if step.name == StepName.POLICY:
        if step.reason and gate_of(reward_model_of(iteration), recipe):
            recipe["gate_override"] = step.reason
        reward = reward_model_of(iteration)
        if reward is not None:
            inputs[InputRole.REWARD] = reward
    if step.name == StepName.EVALUATE:
        inputs |= _to_evaluate(iteration)

    settings = iteration.recipes.get(step.name)

    def attach(run: Run) -> None:
        held = Iteration.objects.select_for_update().get(pk=iteration.pk)
        moved = IterationStep.objects.filter(
            pk=step.pk, state=StepState.WAITING, iteration__step=step.name
        )
        # A recipe changed meanwhile: the next caller starts the run with the new one.
        is_same = held.recipes.get(step.name) == settings
        is_going = held.state == IterationState.GOING
        if not (is_same and is_going) or not moved.update(
            state=StepState.WORKING, run=run, started_at=timezone.now(), problem=""
        ):
            raise _OvertakenError

    try:
        start_run(
            project=iteration.project,
            kind=step.name,
            recipe=recipe,
            inputs=inputs,
            user=iteration.created_by,
            attach=attach,
        )
    except _OvertakenError:
        return False
    except (LaunchRefusedError, OSError) as error:  # OSError: a full disk, say
        IterationStep.objects.filter(pk=step.pk, state=StepState.WAITING).update(
            state=StepState.FAILED, problem=str(error), ended_at=timezone.now()
        )
        return False
    return True


def _to_evaluate(iteration: Iteration) -> dict[str, Checkpoint]:
    """Return the new policy, the one it started from, and the model that rewarded it."""
    inputs: dict[str, Checkpoint] = {}
    new = candidate_of(iteration)
    run = run_of(iteration, StepName.POLICY)
    if new is None or run is None:
        return inputs
    inputs[InputRole.POLICY] = new
    for each in run.run_inputs.select_related("checkpoint__run"):
        if each.role == InputRole.POLICY:
            inputs[InputRole.INITIAL] = each.checkpoint
        elif each.role == InputRole.REWARD:
            inputs[InputRole.REWARD] = each.checkpoint
    return inputs


def _promote(iteration: Iteration, step: IterationStep) -> str:
    """Promote the new policy; return what is wrong, or nothing."""
    checkpoint = candidate_of(iteration)
    if checkpoint is None:
        return _("The policy run left no final checkpoint.")
    try:
        promote(
            checkpoint=checkpoint,
            user=step.approved_by or iteration.created_by,
            reason=step.reason or _promotion_reason(iteration),
            # The verdict of its own comparison, or a person in spite of it, has let the
            # policy come this far.
            against=speaks_against(comparison_of(iteration)),
            force=True,
        )
    except PromotionRefusedError as error:
        return str(error)
    return ""


def _promotion_reason(iteration: Iteration) -> str:
    """Say in a sentence what the promotion rests on: a person's word, or the gain."""
    number = _("Iteration %(number)d.") % {"number": iteration.number}
    if _was_accepted(iteration):
        return f"{number} {_step(iteration, StepName.COMPARE).reason}"
    found = comparison_of(iteration)
    if found is None or found.gain_interval is None:
        return number
    low, high = found.gain_interval
    gain = _("Gain %(gain)+.3f (%(low)+.3f to %(high)+.3f) on %(n)d samples.") % {
        "gain": found.gain,
        "low": low,
        "high": high,
        "n": found.samples,
    }
    return f"{number} {gain}"


# What an iteration knows of itself


def judged_so_far(iteration: Iteration) -> JudgeProgress:
    """Return how far people are with the answers that the iteration drew."""
    return judge_progress(iteration.project, run_of(iteration, StepName.DRAW))


def reward_model_of(iteration: Iteration) -> Checkpoint | None:
    """Return the reward model of the iteration; if it trained none, the newest."""
    run = run_of(iteration, StepName.REWARD)
    if run is None:
        return default_inputs(iteration.project, StepName.POLICY).get(InputRole.REWARD)
    return _final_of(run)


def candidate_of(iteration: Iteration) -> Checkpoint | None:
    """Return the policy that the iteration made."""
    run = run_of(iteration, StepName.POLICY)
    return None if run is None else _final_of(run)


def comparison_of(iteration: Iteration) -> Comparison | None:
    """Return old and new policy on held-out samples: the evaluation, else the run's own."""
    run = run_of(iteration, StepName.EVALUATE)
    margin = iteration.margin
    found = comparison(run.result, margin=margin) if run is not None else None
    if found is not None:
        return found
    made_by = run_of(iteration, StepName.POLICY)
    return own_comparison(made_by, margin=margin) if made_by is not None else None


def fresh_of(iteration: Iteration) -> list[Fresh]:
    """Return what people and reward model say of the answers it drew, per policy."""
    run = run_of(iteration, StepName.DRAW)
    return [] if run is None else fresh_figures([run])[run.pk]


def fresh_alarm(iteration: Iteration) -> str:
    """Return why people and reward model part on fresh answers, or nothing.

    Compared are the policies whose answers this iteration drew, and the current one
    with that of the iteration before.
    """
    now = fresh_of(iteration)
    before = (
        Iteration.objects.filter(project=iteration.project, number__lt=iteration.number)
        .order_by("-number")
        .first()
    )
    earlier = [f for f in fresh_of(before) if f.role == "current"] if before else []
    current = next((f for f in now if f.role == "current"), None)
    if current is None:
        return ""
    for other in [*(f for f in now if f.role == "initial"), *earlier]:
        reason = hacking(other, current)
        if reason:
            return reason
    return ""


def gate_misses_of(iteration: Iteration) -> list[str]:
    """Return what keeps the iteration's reward model from its gate."""
    recipe = iteration.recipes.get(StepName.POLICY, {})
    if recipe.get("consistency_source") == "oracle":
        return []
    return gate_of(reward_model_of(iteration), recipe)


def _against(iteration: Iteration, step: IterationStep) -> list[str]:
    """Return what speaks against a step, in sentences; a person may overrule it."""
    if step.name == StepName.POLICY:
        return gate_misses_of(iteration)
    if step.name == StepName.COMPARE:
        return speaks_against(comparison_of(iteration))
    if step.name == StepName.PROMOTE and not _was_accepted(iteration):
        return speaks_against(comparison_of(iteration))
    return []


def _was_accepted(iteration: Iteration) -> bool:
    """Tell whether a person has accepted the comparison in spite of what it says."""
    step = _step(iteration, StepName.COMPARE)
    return step.state == StepState.DONE and bool(step.reason)


def what_speaks_against(iteration: Iteration) -> list[str]:
    """Return what speaks against the step that the iteration is at."""
    return _against(iteration, _step(iteration, iteration.step))


def _step(iteration: Iteration, name: str) -> IterationStep:
    """Return a step; with ``STEPS`` prefetched its run costs no query."""
    for step in iteration.steps.all():
        if step.name == name:
            return step
    raise LookupError(name)


def run_of(iteration: Iteration, name: str) -> Run | None:
    step = _step(iteration, name)
    return step.run


def _final_of(run: Run) -> Checkpoint | None:
    return (
        run.checkpoints.filter(is_final=True)
        .select_related("run", "project")
        .order_by("-pk")
        .first()
    )


def _place(name: str) -> int:
    return STEP_ORDER.index(name)


def _locked(iteration: Iteration) -> Iteration:
    return (
        Iteration.objects.select_for_update(of=("self",))
        .select_related("project")
        .get(pk=iteration.pk)
    )


def _current(iteration: Iteration, name: str) -> tuple[Iteration, IterationStep]:
    """Lock an open iteration; return it with the step of that name, its present one."""
    iteration = _locked(iteration)
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
