"""Advance an iteration automatically, as far as no person is needed.

:func:`advance` reads the iteration's rows and the current runs, pairs and figures, and
does the next step. It runs every 15 seconds, when a run ends, and from the buttons of
the page. Several concurrent callers do a step once, and one that dies in the middle
leaves a state from which the next continues.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.judging.precedence import put_first
from records.recipes import brought_up_to_date
from training.iterations.metrics import gate_of, pairs_of, speaks_against
from training.iterations.promotion import PromotionRefusedError, promote
from training.iterations.status import (
    STEPS,
    against,
    candidate_of,
    comparison_of,
    fresh_alarm,
    is_unchanged,
    judged_so_far,
    reward_model_of,
    run_of,
    step_index,
    step_of,
    was_accepted,
)
from training.models import (
    RUN_STEPS,
    STEP_ORDER,
    Checkpoint,
    InputRole,
    Iteration,
    IterationState,
    IterationStep,
    RunState,
    StepName,
    StepState,
)
from training.runs.launch import LaunchRefusedError, start_run
from training.runs.starting_points import default_inputs

if TYPE_CHECKING:
    from training.models import Run

logger = logging.getLogger(__name__)

NEEDS_A_NEW_POLICY = (StepName.EVALUATE, StepName.COMPARE, StepName.PROMOTE)


def advance_all() -> None:
    """Advance every iteration that is under way."""
    going = Iteration.objects.filter(state=IterationState.GOING)
    for pk in list(going.values_list("pk", flat=True)):
        try:
            advance(iteration_id=pk)
        except Exception:
            # An iteration that fails must not stop the others.
            logger.exception("Iteration %s could not be looked at.", pk)


def advance(*, iteration_id: int) -> None:
    """Do the next step as long as there is one; repeating the call changes nothing.

    The row is locked while it is read, and a caller that finds it locked leaves,
    because the other does the same. A run is started outside that lock, since freezing
    its data takes long, and attached in the transaction that creates it: of two callers
    only one creates a run.
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
            step = step_of(iteration, iteration.step)
            action = _look(iteration, step)
        if action == "rest":
            return
        if action == "start" and not _start_run_of(iteration, step):
            return


def _look(iteration: Iteration, step: IterationStep) -> str:
    """Advance one step; return "again", "start" (its run) or "rest"."""
    if step.state in (StepState.DONE, StepState.SKIPPED):
        return _next(iteration, step)
    if step.state == StepState.WORKING:
        return _look_at_work(iteration, step)
    if step.state != StepState.WAITING:
        return "rest"
    if step.name == StepName.JUDGE:
        put_pairs_first(iteration)
        step.state, step.started_at = StepState.WORKING, timezone.now()
        step.save()
        return "again"
    if step.name in NEEDS_A_NEW_POLICY and is_unchanged(iteration):
        return _pass_over(step)
    if not step.is_approved and (not step.is_automatic or against(iteration, step)):
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
    place = step_index(step.name) + 1
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
            stop_because(iteration, alarm, is_alarm=True)
            return "rest"
        return _finish(step)
    run = step.run
    assert run is not None
    alarm = str(run.result.get("alarm") or "")
    if run.state == RunState.STOPPED and alarm:
        if not step.is_alarm_accepted:
            stop_because(iteration, alarm, is_alarm=True)
            return "rest"
        return _finish(step)  # its best checkpoint is the final one
    if run.state == RunState.FINISHED:
        return _finish(step)
    if run.is_final:
        return _fail(step, run.error or _("The run was stopped."))
    return "rest"


def put_pairs_first(iteration: Iteration) -> None:
    """Have people judge the pairs of the iteration's draw before all others."""
    draw = run_of(iteration, StepName.DRAW)
    if draw is not None:
        project = iteration.project
        put_first(project=project, pairs=pairs_of(project, draw))


def _finish(step: IterationStep) -> str:
    step.state, step.ended_at, step.problem = StepState.DONE, timezone.now(), ""
    step.save()
    return "again"


def _pass_over(step: IterationStep) -> str:
    step.state, step.ended_at, step.problem = StepState.SKIPPED, timezone.now(), ""
    step.reason = _(
        "Nothing better was found: the policy run ended with the policy it started from, "
        "which stays."
    )
    step.save()
    return "again"


def _fail(step: IterationStep, problem: str) -> str:
    step.state, step.ended_at = StepState.FAILED, timezone.now()
    step.problem = problem
    step.save()
    return "rest"


def stop_because(iteration: Iteration, reason: str, *, is_alarm: bool = False) -> None:
    iteration.state, iteration.ended_at = IterationState.STOPPED, timezone.now()
    iteration.stopped_because, iteration.is_alarm = reason, is_alarm
    iteration.save()


class _OvertakenError(Exception):
    """Somebody else has advanced the iteration meanwhile."""


def _start_run_of(iteration: Iteration, step: IterationStep) -> bool:
    """Start the run of a step and attach it.

    False when another caller did, or when the start failed.
    """
    # An iteration may have begun before a setting was retired.
    recipe, _ = brought_up_to_date(step.name, iteration.recipes.get(step.name, {}))
    inputs = default_inputs(iteration.project, step.name)
    if step.name == StepName.DRAW and "seed" in recipe:
        recipe["seed"] = (
            int(str(recipe["seed"])) + iteration.number - 1
        )  # fresh answers
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
        # The recipe changed meanwhile: the next caller starts the run with the new one.
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
            by_itself=True,
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
    """Return the new policy, the policy it started from, and its reward model."""
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
    """Promote the new policy; return the refusal, or nothing."""
    checkpoint = candidate_of(iteration)
    if checkpoint is None:
        return _("The policy run left no final checkpoint.")
    try:
        promote(
            project=iteration.project,
            checkpoint=checkpoint,
            user=step.approved_by or iteration.created_by,
            reason=step.reason or _promotion_reason(iteration),
            # The verdict of its own comparison, or a person overruling it, has let the
            # policy reach this step.
            against=speaks_against(comparison_of(iteration)),
            force=True,
            by_itself=True,
        )
    except PromotionRefusedError as error:
        return str(error)
    return ""


def _promotion_reason(iteration: Iteration) -> str:
    """Say in a sentence why to promote: a person's reason, or the gain."""
    number = _("Iteration %(number)d.") % {"number": iteration.number}
    if was_accepted(iteration):
        return f"{number} {step_of(iteration, StepName.COMPARE).reason}"
    compared = comparison_of(iteration)
    if compared is None or compared.gain_interval is None:
        return number
    low, high = compared.gain_interval
    gain = _("Gain %(gain)+.3f (%(low)+.3f to %(high)+.3f) on %(n)d samples.") % {
        "gain": compared.gain,
        "low": low,
        "high": high,
        "n": compared.samples,
    }
    return f"{number} {gain}"
