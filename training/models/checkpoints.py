"""Checkpoints: results of runs, inputs of runs, and the current policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models import USER, Draft, Project
from training.models.runs import LEAVES_A_POLICY, Run, RunKind

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


class CheckpointQuerySet(models.QuerySet["Checkpoint"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> CheckpointQuerySet:
        """Return the checkpoints of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def policies(self) -> CheckpointQuerySet:
        """Return the checkpoints that respond: of SFT, policy and preference runs."""
        return self.filter(run__kind__in=LEAVES_A_POLICY)

    def reward_models(self) -> CheckpointQuerySet:
        """Return the checkpoints that judge, by consistency or by preference."""
        return self.filter(run__kind=RunKind.REWARD)

    def consistency_models(self) -> CheckpointQuerySet:
        """Return the reward models that compare a response with its label."""
        return self.reward_models().filter(
            ~Q(run__recipe__judges="preference") | Q(run__recipe__judges__isnull=True)
        )

    def preference_models(self) -> CheckpointQuerySet:
        """Return the reward models that score a response by itself."""
        return self.reward_models().filter(run__recipe__judges="preference")

    def final(self) -> CheckpointQuerySet:
        """Return the checkpoints that programs marked as their last.

        A policy run that stopped itself has one too.
        """
        return self.filter(is_final=True)

    def for_list(self) -> CheckpointQuerySet:
        """Return the checkpoints with the data of a list line, in one query."""
        return self.select_related("project", "run", "run__snapshot").defer("manifest")


class Checkpoint(models.Model):
    """The result of a run: a model directory, its manifest, its lineage."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="checkpoints"
    )
    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="checkpoints")
    step = models.PositiveIntegerField()
    path = models.CharField(max_length=500, help_text="Relative to the data directory.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the manifest.")
    seen = models.JSONField(
        null=True,
        blank=True,
        help_text="Size and time of each file when it was hashed; see manifests.",
    )
    manifest = models.JSONField()
    is_final = models.BooleanField(default=False)
    files_removed_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When its files were removed to free space; the row stays.",
    )
    stored_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When its files were put into the object store.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = CheckpointQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["run", "path"], name="checkpoint_path_once_per_run"
            ),
        ]

    def __str__(self) -> str:
        return f"checkpoint {self.step} of run {self.run_id}"

    def get_absolute_url(self) -> str:
        return reverse("training:checkpoint", args=[self.project.slug, self.pk])

    @property
    def judges(self) -> str:
        """What a reward model judges, "consistency" or "preference"; else empty."""
        if self.run.kind != RunKind.REWARD:
            return ""
        return str(self.run.recipe.get("judges", "consistency"))

    @property
    def is_unchanged(self) -> bool:
        """Whether it is the policy its run started from, unimproved."""
        return self.step == 0 and self.run.kind in (RunKind.POLICY, RunKind.PREFERENCE)

    @property
    def directory(self) -> Path:
        """The model directory with its ``manifest.json``."""
        return Path(settings.DATA_DIR) / self.path


class Retention(models.Model):
    """Which checkpoints of a project keep files: :mod:`training.policies.retention`."""

    project = models.OneToOneField(
        Project, on_delete=models.CASCADE, related_name="retention"
    )
    keep_last = models.PositiveSmallIntegerField(
        default=3, help_text="The newest of each run."
    )
    keep_best = models.PositiveSmallIntegerField(
        default=1, help_text="The best of each run by held-out figure."
    )
    is_automatic = models.BooleanField(
        default=False, help_text="Remove the others' files whenever a run ends."
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(keep_last__gte=1), name="retention_keeps_one_to_resume"
            ),
        ]

    def __str__(self) -> str:
        return f"retention of {self.project}"


class InputRole(models.TextChoices):
    POLICY = "policy", _("Policy")
    INITIAL = "initial", _("Initial policy")
    REWARD = "reward", _("Reward model")
    REWARD_2 = "reward-2", _("Second reward model")
    REWARD_3 = "reward-3", _("Third reward model")
    PREFERENCE = "preference", _("Preference model")


# Roles of the reward models that judge consistency, as an ensemble if several.
ENSEMBLE = (InputRole.REWARD, InputRole.REWARD_2, InputRole.REWARD_3)
JUDGES = (*ENSEMBLE, InputRole.PREFERENCE)


class RunInput(models.Model):
    """A checkpoint that a run starts from, and its role."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="run_inputs")
    checkpoint = models.ForeignKey(
        Checkpoint, on_delete=models.PROTECT, related_name="run_inputs"
    )
    role = models.CharField(max_length=10, choices=InputRole.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "role"], name="runinput_role_once"),
            models.CheckConstraint(
                condition=Q(role__in=InputRole.values), name="runinput_role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role} of run {self.run_id}"


class Promotion(models.Model):
    """A promotion; the newest row names the project's current policy.

    The newest row whose checkpoint came from an SFT run names the initial policy.
    """

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="promotions"
    )
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT)
    promoted_by = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    reason = models.TextField(blank=True)
    is_forced = models.BooleanField(
        default=False,
        help_text="Promoted although it was worse than the policy before it on held-out "
        "truth, or not known to be as good.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(is_forced=False) | ~Q(reason=""),
                name="promotion_forced_has_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"checkpoint {self.checkpoint_id} promoted"


class ProposalState(models.TextChoices):
    ASKED = "asked", _("Asked")
    READY = "ready", _("Ready")
    FAILED = "failed", _("Failed")


class Proposal(models.Model):
    """A response that a person asked a policy to write into their draft."""

    draft = models.ForeignKey(Draft, on_delete=models.CASCADE, related_name="proposals")
    turn = models.PositiveSmallIntegerField(help_text="Counted from 0.")
    asked_by = models.ForeignKey(USER, on_delete=models.CASCADE, related_name="+")
    checkpoint = models.ForeignKey(
        "Checkpoint", on_delete=models.CASCADE, related_name="proposals"
    )
    document = models.JSONField(
        help_text="Concord JSONL up to the turn, its input last; no response yet."
    )
    state = models.CharField(
        max_length=6, choices=ProposalState.choices, default=ProposalState.ASKED
    )
    text = models.TextField(blank=True)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=ProposalState.values),
                name="proposal_state_known",
            ),
        ]

    def __str__(self) -> str:
        return f"proposal {self.pk} for turn {self.turn + 1} of draft {self.draft_id}"
