"""The rows of the trainer: runs, checkpoints, metrics, snapshots."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from annotation.models import Judgment, Project, Sample

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

USER = settings.AUTH_USER_MODEL


class RunKind(models.TextChoices):
    SFT = "sft", "Supervised fine-tuning"
    DRAW = "draw", "Draw responses"
    REWARD = "reward", "Reward model"
    POLICY = "policy", "Policy (RL)"
    EVALUATE = "evaluate", "Evaluate"


class RunState(models.TextChoices):
    QUEUED = "queued", "Queued"
    STARTING = "starting", "Starting"
    RUNNING = "running", "Running"
    STOPPING = "stopping", "Stopping"
    FINISHED = "finished", "Finished"
    FAILED = "failed", "Failed"
    STOPPED = "stopped", "Stopped"


ACTIVE_STATES = [RunState.STARTING, RunState.RUNNING, RunState.STOPPING]
FINAL_STATES = [RunState.FINISHED, RunState.FAILED, RunState.STOPPED]


class Snapshot(models.Model):
    """An immutable, content-hashed data set a run was trained on.

    The rows are written to ``data_dir/snapshots/<content_hash>/`` as the JSON lines the
    programs read; the link tables below say which rows of the database they were.
    """

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="snapshots"
    )
    content_hash = models.CharField(max_length=64)
    counts = models.JSONField(help_text="Rows per file: samples, turns, judgments, …")
    samples = models.ManyToManyField(Sample, related_name="snapshots")
    judgments = models.ManyToManyField(Judgment, related_name="snapshots")
    created_by = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "content_hash"], name="snapshot_content_once"
            ),
        ]

    def __str__(self) -> str:
        return f"snapshot {self.content_hash[:12]}"


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> RunQuerySet:
        """Return the runs of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))


class Run(models.Model):
    """One training-side job. This row is the truth; the Celery message is a hint."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="runs")
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    kind = models.CharField(max_length=8, choices=RunKind.choices)
    recipe = models.JSONField(help_text="The settings, as validated by the recipe.")
    snapshot = models.ForeignKey(Snapshot, null=True, on_delete=models.PROTECT)
    inputs = models.ManyToManyField(
        "Checkpoint",
        through="RunInput",
        related_name="used_by",
        help_text="The checkpoints this run starts from.",
    )
    state = models.CharField(
        max_length=8, choices=RunState.choices, default=RunState.QUEUED
    )
    stop_requested = models.BooleanField(default=False)
    worker = models.CharField(max_length=200, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    token = models.PositiveBigIntegerField(
        default=0, help_text="Fencing token: grows with every claim."
    )
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    step = models.PositiveIntegerField(default=0)
    steps_total = models.PositiveIntegerField(default=0)
    result = models.JSONField(default=dict, blank=True)
    error = models.TextField(blank=True)
    created_by = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=RunKind.values), name="run_kind_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=RunState.values), name="run_state_known"
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["starting", "running", "stopping"])
                | Q(leased_until__isnull=False),
                name="run_active_has_lease",
            ),
        ]
        indexes = [
            models.Index(fields=["state", "leased_until"], name="run_by_lease"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} run {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("training:run", args=[self.project.slug, self.pk])


class Checkpoint(models.Model):
    """What a run leaves: a model directory, its manifest, its lineage."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="checkpoints"
    )
    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="checkpoints")
    step = models.PositiveIntegerField()
    path = models.CharField(max_length=500, help_text="Relative to the data directory.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the manifest.")
    manifest = models.JSONField()
    is_final = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["run", "step"], name="checkpoint_step_once_per_run"
            ),
        ]

    def __str__(self) -> str:
        return f"checkpoint {self.step} of run {self.run_id}"

    def get_absolute_url(self) -> str:
        return reverse("training:checkpoint", args=[self.project.slug, self.pk])


class RunInput(models.Model):
    """A checkpoint a run starts from, and what for."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="run_inputs")
    checkpoint = models.ForeignKey(
        Checkpoint, on_delete=models.PROTECT, related_name="run_inputs"
    )
    role = models.CharField(
        max_length=8,
        choices=[
            ("policy", "Policy to start from or to use"),
            ("initial", "Initial policy, the reference"),
            ("reward", "Reward model"),
        ],
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "role"], name="runinput_role_once"),
        ]

    def __str__(self) -> str:
        return f"{self.role} of run {self.run_id}"


class Promotion(models.Model):
    """The newest row names the project's current policy."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="promotions"
    )
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT)
    promoted_by = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.checkpoint} promoted"


class Metric(models.Model):
    """One number of one run at one step."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    name = models.CharField(max_length=80)
    step = models.PositiveIntegerField()
    value = models.FloatField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "name", "step"], name="metric_once_per_step"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} = {self.value} at step {self.step}"


class RunSample(models.Model):
    """A sampled text a program showed while it ran, for the live page."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="shown_samples")
    step = models.PositiveIntegerField()
    prompt = models.TextField()
    text = models.TextField()
    label = models.TextField(blank=True)
    scores = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"sample at step {self.step} of run {self.run_id}"
