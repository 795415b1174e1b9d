"""The rows of the trainer: runs, checkpoints, metrics, snapshots."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models import Draft, Judgment, Project, Sample

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

USER = settings.AUTH_USER_MODEL


class RunKind(models.TextChoices):
    SFT = "sft", _("Supervised fine-tuning")
    DRAW = "draw", _("Draw responses")
    REWARD = "reward", _("Reward model")
    POLICY = "policy", _("Policy (RL)")
    PREFERENCE = "preference", _("Preference (DPO, KTO)")
    EVALUATE = "evaluate", _("Evaluate")


# What people call the runs of a kind: ``Policy 12``.
SHORT = {
    RunKind.SFT: _("SFT"),
    RunKind.DRAW: _("Draw"),
    RunKind.REWARD: _("Reward"),
    RunKind.POLICY: _("Policy"),
    RunKind.PREFERENCE: _("Preference"),
    RunKind.EVALUATE: _("Evaluate"),
}


# The kinds whose model answers: its answers can be drawn as soon as it is there.
LEAVES_A_POLICY = (RunKind.SFT, RunKind.POLICY, RunKind.PREFERENCE)
# The kinds that learn from judgments.
LEARNS_FROM_JUDGMENTS = (RunKind.REWARD, RunKind.PREFERENCE)


def run_name(run: Run) -> str:
    """Return what people call a run: ``Policy 12``."""
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


class SnapshotQuerySet(models.QuerySet["Snapshot"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> SnapshotQuerySet:
        """Return the snapshots of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))


class Snapshot(models.Model):
    """An immutable, content-hashed data set a run was trained on.

    The rows are written to ``DATA_DIR/snapshots/<content_hash>/`` as the JSON lines the
    programs read; the link tables below say which rows of the database they were.
    Made only by :func:`training.snapshots.build_snapshot`.
    """

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="snapshots"
    )
    content_hash = models.CharField(max_length=64)
    counts = models.JSONField(
        help_text="train, held_out, turns, judgments, judgments_held_out, …"
    )
    files = models.JSONField(
        default=dict, help_text="Per file name: sha256, rows and bytes."
    )
    samples = models.ManyToManyField(Sample, related_name="snapshots")
    judgments = models.ManyToManyField(Judgment, related_name="snapshots")
    created_by = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = SnapshotQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "content_hash"], name="snapshot_content_once"
            ),
        ]

    def __str__(self) -> str:
        return f"snapshot {self.content_hash[:12]}"

    @property
    def directory(self) -> Path:
        """The directory that holds ``train.jsonl``, ``held_out.jsonl``, …"""
        return Path(settings.DATA_DIR) / "snapshots" / self.content_hash


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> RunQuerySet:
        """Return the runs of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def active(self) -> RunQuerySet:
        """Return the runs a worker says it holds."""
        return self.filter(state__in=ACTIVE_STATES)

    def for_list(self) -> RunQuerySet:
        """Return the runs with what a line of the list shows, in one query."""
        return self.select_related("project", "created_by", "snapshot")


class Run(models.Model):
    """One training-side job. This row is the truth; the Celery message is a hint.

    States move by locked or conditional updates in :mod:`training.launching` and
    :mod:`training.supervising` only::

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
    inputs: models.ManyToManyField[Checkpoint, RunInput] = models.ManyToManyField(
        "Checkpoint",
        through="RunInput",
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
        help_text="The GPU it was claimed for, host and device; see training.devices.",
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
    attempts = models.PositiveSmallIntegerField(default=0)
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
        ],
        help_text="What the program's result line said; the run may still have to "
        "receive its outputs.",
    )
    log_tail = models.TextField(blank=True, help_text="The end of log.txt.")
    hardware = models.JSONField(
        default=dict,
        blank=True,
        help_text="What its program runs on and takes of it; see training.hardware.",
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


class Device(models.Model):
    """Where a worker runs programs, as it announced it (:mod:`training.devices`)."""

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


class CheckpointQuerySet(models.QuerySet["Checkpoint"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> CheckpointQuerySet:
        """Return the checkpoints of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def policies(self) -> CheckpointQuerySet:
        """Return the checkpoints that answer: of SFT, policy and preference runs."""
        return self.filter(run__kind__in=LEAVES_A_POLICY)

    def reward_models(self) -> CheckpointQuerySet:
        """Return the checkpoints that judge: consistency, or preference."""
        return self.filter(run__kind=RunKind.REWARD)

    def consistency_models(self) -> CheckpointQuerySet:
        """Return the reward models that compare an answer with its label."""
        return self.reward_models().filter(
            ~Q(run__recipe__judges="preference") | Q(run__recipe__judges__isnull=True)
        )

    def preference_models(self) -> CheckpointQuerySet:
        """Return the reward models that score an answer by itself."""
        return self.reward_models().filter(run__recipe__judges="preference")

    def final(self) -> CheckpointQuerySet:
        """Return the checkpoints runs ended with, by their programs' word.

        A policy run that stopped itself has one too.
        """
        return self.filter(is_final=True)

    def for_list(self) -> CheckpointQuerySet:
        """Return the checkpoints with what a line of the list shows, in one query."""
        return self.select_related("project", "run", "run__snapshot").defer("manifest")


class Checkpoint(models.Model):
    """What a run leaves: a model directory, its manifest, its lineage."""

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
    def directory(self) -> Path:
        """The model directory with its ``manifest.json``."""
        return Path(settings.DATA_DIR) / self.path


class Retention(models.Model):
    """Which checkpoints of a project keep their files (:mod:`training.retention`)."""

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


# The roles of the reward models that judge consistency, together if there are several.
ENSEMBLE = (InputRole.REWARD, InputRole.REWARD_2, InputRole.REWARD_3)
JUDGES = (*ENSEMBLE, InputRole.PREFERENCE)


class RunInput(models.Model):
    """A checkpoint a run starts from, and what for."""

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
    """The newest row names the project's current policy.

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
    """A sampled text a program showed while it ran, for the live page."""

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


class RunNote(models.Model):
    """What happened to a run, in a sentence: said by its program or its supervisor."""

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


class StepName(models.TextChoices):
    """The steps of an iteration, in their order."""

    DRAW = "draw", _("Draw")
    JUDGE = "judge", _("Judge")
    REWARD = "reward", _("Reward model")
    POLICY = "policy", _("Policy")
    EVALUATE = "evaluate", _("Evaluate")
    COMPARE = "compare", _("Compare")
    PROMOTE = "promote", _("Promote")


STEP_ORDER: list[str] = [*StepName.values]
# Those whose work a run does; its kind has the step's name.
RUN_STEPS: list[str] = ["draw", "reward", "policy", "evaluate"]


class StepState(models.TextChoices):
    WAITING = "waiting", _("Waiting")
    ASKING = "asking", _("Asks a person")
    WORKING = "working", _("Under way")
    DONE = "done", _("Done")
    SKIPPED = "skipped", _("Skipped")
    FAILED = "failed", _("Failed")


class IterationState(models.TextChoices):
    GOING = "going", _("Under way")
    PAUSED = "paused", _("Paused")
    STOPPED = "stopped", _("Stopped")
    DONE = "done", _("Done")


class IterationQuerySet(models.QuerySet["Iteration"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> IterationQuerySet:
        """Return the iterations of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def open(self) -> IterationQuerySet:
        """Return those that have not ended: at most one of each project."""
        return self.filter(state__in=["going", "paused"])


class Iteration(models.Model):
    """One turn of the cycle: draw, judge, reward, policy, evaluate, compare, promote.

    Moved by the deeds of :mod:`training.iterations` only.
    """

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="iterations"
    )
    number = models.PositiveIntegerField(help_text="Counted from 1 in the project.")
    state = models.CharField(
        max_length=7, choices=IterationState.choices, default=IterationState.GOING
    )
    step = models.CharField(
        max_length=8,
        choices=StepName.choices,
        default=StepName.DRAW,
        help_text="The step it is at.",
    )
    recipes = models.JSONField(help_text="Per step with a run, the settings it gets.")
    wanted_judgments = models.PositiveIntegerField(
        help_text="So many judgments of the drawn answers are enough."
    )
    wanted_settled = models.PositiveSmallIntegerField(
        help_text="Or so many percent of the drawn pairs with an outcome."
    )
    margin = models.FloatField(
        default=0.03,
        validators=[MinValueValidator(0), MaxValueValidator(1)],
        help_text="A loss in held-out truth up to this counts as none.",
    )
    stopped_because = models.TextField(blank=True)
    is_alarm = models.BooleanField(
        default=False, help_text="Stopped because score and truth parted."
    )
    created_by = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = IterationQuerySet.as_manager()

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "number"], name="iteration_number_once"
            ),
            models.UniqueConstraint(
                fields=["project"],
                condition=Q(state__in=["going", "paused"]),
                name="iteration_one_open_per_project",
            ),
            models.CheckConstraint(
                condition=Q(state__in=IterationState.values),
                name="iteration_state_known",
            ),
            models.CheckConstraint(
                condition=Q(step__in=StepName.values), name="iteration_step_known"
            ),
            models.CheckConstraint(
                condition=Q(state="stopped") & ~Q(stopped_because="")
                | ~Q(state="stopped") & Q(stopped_because="", is_alarm=False),
                name="iteration_stopped_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["going", "paused"], ended_at__isnull=True)
                | Q(state__in=["stopped", "done"], ended_at__isnull=False),
                name="iteration_ended_has_time",
            ),
            models.CheckConstraint(
                condition=Q(wanted_settled__lte=100),
                name="iteration_wanted_settled_is_a_share",
            ),
            models.CheckConstraint(
                condition=Q(margin__gte=0, margin__lte=1),
                name="iteration_margin_is_a_share",
            ),
        ]

    def __str__(self) -> str:
        return f"iteration {self.number}"

    def get_absolute_url(self) -> str:
        return reverse("training:iteration", args=[self.project.slug, self.number])

    @property
    def is_open(self) -> bool:
        return self.state in (IterationState.GOING, IterationState.PAUSED)


class IterationStep(models.Model):
    """One step of one iteration, and the run that does its work."""

    iteration = models.ForeignKey(
        Iteration, on_delete=models.CASCADE, related_name="steps"
    )
    name = models.CharField(max_length=8, choices=StepName.choices)
    state = models.CharField(
        max_length=7, choices=StepState.choices, default=StepState.WAITING
    )
    is_automatic = models.BooleanField(
        default=False, help_text="It begins, or passes, without asking a person."
    )
    run = models.ForeignKey(
        Run, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    earlier_runs = models.JSONField(
        default=list, blank=True, help_text="Runs of this step that were done again."
    )
    approved_by = models.ForeignKey(
        USER, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    is_approved = models.BooleanField(default=False)
    is_alarm_accepted = models.BooleanField(default=False)
    reason = models.TextField(
        blank=True, help_text="Why it was skipped, or approved in spite of something."
    )
    problem = models.TextField(blank=True, help_text="Why it failed.")
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["iteration", "name"], name="iterationstep_name_once"
            ),
            models.CheckConstraint(
                condition=Q(name__in=StepName.values), name="iterationstep_name_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=StepState.values),
                name="iterationstep_state_known",
            ),
            models.CheckConstraint(
                condition=~Q(state="skipped") | ~Q(reason=""),
                name="iterationstep_skipped_has_reason",
            ),
            models.CheckConstraint(
                condition=~Q(state="working", name__in=RUN_STEPS)
                | Q(run__isnull=False),
                name="iterationstep_work_has_run",
            ),
        ]

    def __str__(self) -> str:
        return f"step {self.name} of {self.iteration_id}"


class IterationChange(models.Model):
    """Somebody changed what an open iteration waits for, or the recipe of a step."""

    iteration = models.ForeignKey(
        Iteration, on_delete=models.CASCADE, related_name="changes"
    )
    step = models.CharField(
        max_length=8,
        choices=StepName.choices,
        blank=True,
        help_text="Whose recipe it was; empty for the iteration's own settings.",
    )
    values = models.JSONField(help_text="Per setting, what it was and what it became.")
    user = models.ForeignKey(USER, null=True, on_delete=models.PROTECT)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(step__in=["", *StepName.values]),
                name="iterationchange_step_known",
            ),
        ]

    def __str__(self) -> str:
        return f"change {self.pk} of {self.iteration_id}"
