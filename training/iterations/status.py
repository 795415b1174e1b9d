"""The state of an iteration: results, people's verdicts, and objections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Prefetch

from training.iterations.metrics import (
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
from training.models import (
    STEP_ORDER,
    Checkpoint,
    InputRole,
    Iteration,
    IterationStep,
    StepName,
    StepState,
)
from training.runs.starting_points import default_inputs

if TYPE_CHECKING:
    from training.models import Run

STEPS = Prefetch("steps", IterationStep.objects.select_related("run"))


def judged_so_far(iteration: Iteration) -> JudgeProgress:
    """Return the progress of judging the responses that the iteration drew."""
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


def is_unchanged(iteration: Iteration) -> bool:
    """Whether the policy run ended with its start: its step 0 was best."""
    run = run_of(iteration, StepName.POLICY)
    return run is not None and run.is_final and run.result.get("chosen_step") == 0


def comparison_of(iteration: Iteration) -> Comparison | None:
    """Return the comparison on held-out samples, from the evaluation or the run."""
    run = run_of(iteration, StepName.EVALUATE)
    margin = iteration.margin
    compared = comparison(run.result, margin=margin) if run is not None else None
    if compared is not None:
        return compared
    made_by = run_of(iteration, StepName.POLICY)
    return own_comparison(made_by, margin=margin) if made_by is not None else None


def fresh_of(iteration: Iteration) -> list[Fresh]:
    """Return the figures of people and reward model on the draw, per policy."""
    run = run_of(iteration, StepName.DRAW)
    return [] if run is None else fresh_figures([run])[run.pk]


def fresh_alarm(iteration: Iteration) -> str:
    """Return why people and reward model disagree on fresh responses, or nothing.

    Compares the policies whose responses this iteration drew, and the current one with
    that of the previous iteration.
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
    """Return the bounds of the gate that the iteration's reward model misses."""
    recipe = iteration.recipes.get(StepName.POLICY, {})
    if recipe.get("consistency_source") in ("oracle", "alignment"):
        return []
    return gate_of(reward_model_of(iteration), recipe)


def against(iteration: Iteration, step: IterationStep) -> list[str]:
    """Return what speaks against a step, in sentences; a person may overrule it."""
    if step.name == StepName.POLICY:
        return gate_misses_of(iteration)
    if step.name == StepName.COMPARE:
        return speaks_against(comparison_of(iteration))
    if step.name == StepName.PROMOTE and not was_accepted(iteration):
        return speaks_against(comparison_of(iteration))
    return []


def was_accepted(iteration: Iteration) -> bool:
    """Whether a person has accepted the comparison in spite of its result."""
    step = step_of(iteration, StepName.COMPARE)
    return step.state == StepState.DONE and bool(step.reason)


def what_speaks_against(iteration: Iteration) -> list[str]:
    """Return what speaks against the current step of the iteration."""
    return against(iteration, step_of(iteration, iteration.step))


def step_of(iteration: Iteration, name: str) -> IterationStep:
    """Return a step; with ``STEPS`` prefetched its run costs no query."""
    for step in iteration.steps.all():
        if step.name == name:
            return step
    raise LookupError(name)


def run_of(iteration: Iteration, name: str) -> Run | None:
    step = step_of(iteration, name)
    return step.run


def _final_of(run: Run) -> Checkpoint | None:
    return (
        run.checkpoints.filter(is_final=True)
        .select_related("run", "project")
        .order_by("-pk")
        .first()
    )


def step_index(name: str) -> int:
    return STEP_ORDER.index(name)
