"""Where an iteration stands: what it made, what people say of it, what speaks against it."""

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


def is_unchanged(iteration: Iteration) -> bool:
    """Tell whether the policy run ended with what it started from: its step 0 was best."""
    run = run_of(iteration, StepName.POLICY)
    return run is not None and run.is_final and run.result.get("chosen_step") == 0


def comparison_of(iteration: Iteration) -> Comparison | None:
    """Return old and new policy on held-out samples: the evaluation, else the run's own."""
    run = run_of(iteration, StepName.EVALUATE)
    margin = iteration.margin
    compared = comparison(run.result, margin=margin) if run is not None else None
    if compared is not None:
        return compared
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
    """Tell whether a person has accepted the comparison in spite of what it says."""
    step = step_of(iteration, StepName.COMPARE)
    return step.state == StepState.DONE and bool(step.reason)


def what_speaks_against(iteration: Iteration) -> list[str]:
    """Return what speaks against the step that the iteration is at."""
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
