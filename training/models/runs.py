"""Runs, the events they wrote, and the devices they run on."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models import USER, Project
from training.models.snapshots import Snapshot

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


class RunKind(models.TextChoices):
    SFT = "sft", _("Supervised fine-tuning")
    DRAW = "draw", _("Draw responses")
    REWARD = "reward", _("Reward model")
    POLICY = "policy", _("Policy (RL)")
    PREFERENCE = "preference", _("Preference (DPO, KTO)")
    EVALUATE = "evaluate", _("Evaluate")


# Short names of the kinds: ``Policy 12``.
SHORT = {
    RunKind.SFT: _("SFT"),
    RunKind.DRAW: _("Draw"),
    RunKind.REWARD: _("Reward"),
    RunKind.POLICY: _("Policy"),
    RunKind.PREFERENCE: _("Preference"),
    RunKind.EVALUATE: _("Evaluate"),
}


# Kinds whose model generates responses, which can be drawn as soon as it is there.
LEAVES_A_POLICY = (RunKind.SFT, RunKind.POLICY, RunKind.PREFERENCE)
# Kinds that learn from judgments.
LEARNS_FROM_JUDGMENTS = (RunKind.REWARD, RunKind.PREFERENCE)


def run_name(run: Run) -> str:
    """Return the short name of a run: ``Policy 12``."""
    return f"{SHORT[RunKind(run.kind)]} {run.pk}"


class RunState(models.TextChoices):
    QUEUED = "queued", _("Queued")
    STARTING = "starting", _("Starting")
    RUNNING = "running", _("Running")
    STOPPING = "stopping", _("Stopping")
    FINISHED = "finished", _("Finished")
    FAILED = "failed", _("Failed")
    STOPPED = "stopped", _("Stopped")


ACTIVE_STATES = [RunState.STARTING, RunState.RUNNING, RunState.STOPPING]
FINAL_STATES = [RunState.FINISHED, RunState.FAILED, RunState.STOPPED]


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> RunQuerySet:
        """Return the runs of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def active(self) -> RunQuerySet:
        """Return the runs that a worker holds."""
        return self.filter(state__in=ACTIVE_STATES)

    def for_list(self) -> RunQuerySet:
        """Return the runs with the data of a list line, in one query."""
        return self.select_related("project", "created_by", "snapshot")


class Run(models.Model):
    """One training-side job. This row is the truth; the Celery message is a hint.

    States move by locked or conditional updates in :mod:`training.runs.launch`,
    :mod:`training.runs.claim` and :mod:`training.runs.supervise` only::

        queued → starting → running → finished
           │         │         │    → failed
           │         └────┬────┘    → stopped
           │              └→ stopping → stopped
           └→ stopped       (lease expired, worker shut down → queued again)
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="runs")
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    kind = models.CharField(max_length=16, choices=RunKind.choices)
    recipe = models.JSONField(help_text="The settings, as validated by the recipe.")
    snapshot = models.ForeignKey(Snapshot, null=True, on_delete=models.PROTECT)
    inputs = models.ManyToManyField(
        "training.Checkpoint",
        through="training.RunInput",
        related_name="used_by",
        help_text="The checkpoints this run starts from.",
    )
    state = models.CharField(
        max_length=8, choices=RunState.choices, default=RunState.QUEUED
    )
    draw_next = models.BooleanField(
        default=False,
        help_text="When it has finished, draw answers of its model for people to judge.",
    )
    stop_requested = models.BooleanField(default=False)
    queue = models.CharField(
        max_length=60,
        blank=True,
        help_text="The workers it waits for, by their queue; empty for any.",
    )
    shares_device = models.BooleanField(
        default=False, help_text="May run beside others on one GPU that say so too."
    )
    device = models.CharField(
        max_length=200,
        blank=True,
        help_text="The GPU it was claimed for, host and device; see training.runs.placement.",
    )
    worker = models.CharField(max_length=200, blank=True)
    home = models.CharField(
        max_length=32,
        blank=True,
        help_text="The data directory its files lie in, where there is a store.",
    )
    outputs_stored_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When what it has left in outputs/, if anything, was in the store.",
    )
    leased_until = models.DateTimeField(null=True, blank=True)
    token = models.PositiveBigIntegerField(
        default=0, help_text="Fencing token: grows with every claim."
    )
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(
        default=0, help_text="Since the last attempt that left a new checkpoint."
    )
    claimed_at_step = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="The step of its newest checkpoint when it was claimed.",
    )
    step = models.PositiveIntegerField(default=0)
    steps_total = models.PositiveIntegerField(default=0)
    hinted_at = models.DateTimeField(
        null=True, blank=True, help_text="When the broker was last told of this run."
    )
    events_offset = models.PositiveBigIntegerField(
        default=0, help_text="Bytes of events.jsonl that are in the database."
    )
    program_state = models.CharField(
        max_length=8,
        blank=True,
        choices=[
            ("finished", "Finished"),
            ("stopped", "Stopped"),
            ("failed", "Failed"),
            ("killed", "Killed"),
        ],
        help_text="What the program's result line said; the run may still have to "
        "receive its outputs.",
    )
    log_tail = models.TextField(blank=True, help_text="The end of log.txt.")
    hardware = models.JSONField(
        default=dict,
        blank=True,
        help_text="What its program runs on and takes of it; see training.runs.hardware.",
    )
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
            models.UniqueConstraint(
                fields=["device"],
                condition=Q(
                    state__in=["starting", "running", "stopping"], shares_device=False
                )
                & ~Q(device=""),
                name="run_alone_on_its_device",
            ),
        ]
        indexes = [
            models.Index(fields=["state", "leased_until"], name="run_by_lease"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} run {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("training:run", args=[self.project.slug, self.pk])

    @property
    def directory(self) -> Path:
        """The run directory, the seam to the program (docs/run-directory.md)."""
        return Path(settings.DATA_DIR) / "runs" / str(self.pk)

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


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
        indexes = [models.Index(fields=["run", "step"], name="metric_by_step")]

    def __str__(self) -> str:
        return f"{self.name} = {self.value} at step {self.step}"


class RunSample(models.Model):
    """A sampled text that a program showed during its run, for the live page."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="shown_samples")
    event_offset = models.PositiveBigIntegerField(
        help_text="Where in events.jsonl the program said so."
    )
    step = models.PositiveIntegerField()
    prompt = models.TextField()
    text = models.TextField()
    label = models.TextField(blank=True)
    scores = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["run", "event_offset"], name="runsample_once_per_event"
            ),
        ]

    def __str__(self) -> str:
        return f"sample at step {self.step} of run {self.run_id}"


class RunNote(models.Model):
    """An event of a run in a sentence, from its program or its supervisor."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="notes")
    level = models.CharField(
        max_length=7,
        choices=[("info", "Info"), ("warning", "Warning"), ("error", "Error")],
        default="info",
    )
    message = models.TextField()
    event_offset = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="Null when the supervisor said it."
    )
    at = models.DateTimeField()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["run", "event_offset"], name="runnote_once_per_event"
            ),
        ]

    def __str__(self) -> str:
        return self.message


class Device(models.Model):
    """A worker's place for programs, as announced (:mod:`training.runs.placement`)."""

    host = models.CharField(max_length=130)
    queue = models.CharField(max_length=60)
    device = models.CharField(
        max_length=20, blank=True, help_text="cuda:1, cpu, or empty for all it has."
    )
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["queue", "host"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "queue", "device"], name="device_announced_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.queue} on {self.host}"
