"""The checkpoints that a new run starts from: current, initial, newest."""

from __future__ import annotations

from django.db.models import Exists, OuterRef, QuerySet

from annotation.models import Judgment, Project
from training.models import (
    Checkpoint,
    InputRole,
    Promotion,
    RunInput,
    RunKind,
)
from training.runs.input_rules import INPUTS


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
    """Return the usual inputs of a new run of this kind."""
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
    that started from such a policy counts too.
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
