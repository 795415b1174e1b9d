"""The rows people work on: projects, contexts, samples, turns, pairs, slots, judgments."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.urls import reverse
from django.utils import timezone

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


def text_hash(text: str) -> str:
    """Return the SHA-256 of ``text`` as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


class Role(models.TextChoices):
    LABELER = "labeler", "Labeler"
    CURATOR = "curator", "Curator"
    TRAINER = "trainer", "Trainer"
    ADMIN = "admin", "Admin"


class Scope(models.TextChoices):
    GLOBAL = "global", "Global"
    LOCAL = "local", "Local"


class Situation(models.TextChoices):
    NORMAL = "normal", "Normal"
    EXCEPTION = "exception", "Action-call exception"
    INTERRUPTION = "interruption", "User interrupts the task"
    NOISE = "noise", "User noise"
    NESTED = "nested", "Nested task"
    REFUSAL = "refusal", "Refusal"


class SampleStatus(models.TextChoices):
    DRAFT = "draft", "Draft"
    SUBMITTED = "submitted", "Submitted"
    APPROVED = "approved", "Approved"
    RETURNED = "returned", "Returned"
    RETIRED = "retired", "Retired"


class InputKind(models.TextChoices):
    USER = "user", "User prompt"
    OBSERVATION = "observation", "Observation"


class Reason(models.TextChoices):
    """Why a pair is not consistent, in the order of their digit keys."""

    CONTENT = "content", "Content"
    LOGIC = "logic", "Logic"
    STEP_ORDER = "step order", "Step order"
    ACTION_NAME = "action name", "Action name"
    PARAMETER = "parameter", "Parameter"
    USE_OF_RESULT = "use of result", "Use of result"
    MISSING_STEP = "missing step", "Missing step"
    EXTRA_STEP = "extra step", "Extra step"
    UNSAFE = "unsafe", "Unsafe"


class Verdict(models.IntegerChoices):
    INCONSISTENT = 0, "Not consistent"
    CONSISTENT = 1, "Consistent"
    WITHDRAWN = 2, "Withdrawn"


class SlotState(models.TextChoices):
    OPEN = "open", "Open"
    LEASED = "leased", "Leased"
    DONE = "done", "Done"


USER = settings.AUTH_USER_MODEL


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> ProjectQuerySet:
        """Return the projects ``user`` is a member of; a superuser sees all."""
        if getattr(user, "is_superuser", False):
            return self
        return self.filter(
            Exists(Membership.objects.filter(project=OuterRef("pk"), user_id=user.pk))
        )


class Project(models.Model):
    name = models.CharField(max_length=120, unique=True)
    slug = models.SlugField(max_length=60, unique=True)
    overlap = models.PositiveSmallIntegerField(
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(9)],
        help_text="Judgments each pair gets at first.",
    )
    overlap_limit = models.PositiveSmallIntegerField(
        default=3,
        validators=[MinValueValidator(1), MaxValueValidator(9)],
        help_text="Judgments a pair may get when the first ones disagree.",
    )
    lease_seconds = models.PositiveIntegerField(default=600)
    is_paused = models.BooleanField(default=False)
    confirm_step_order = models.BooleanField(
        default=True,
        help_text="Ask once when 'consistent' is chosen though the step order differs.",
    )
    guideline = models.TextField(blank=True)
    guideline_version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(overlap__gte=1, overlap_limit__gte=F("overlap")),
                name="project_overlap_within_limit",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("annotation:project", args=[self.slug])

    def roles_of(self, user: AbstractBaseUser | AnonymousUser) -> set[str]:
        """Return the roles ``user`` has here; a superuser has all (one query)."""
        if getattr(user, "is_superuser", False):
            return set(Role.values)
        return set(
            Membership.objects.filter(project=self, user_id=user.pk).values_list(
                "role", flat=True
            )
        )


class Membership(models.Model):
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey(
        USER, on_delete=models.CASCADE, related_name="memberships"
    )
    role = models.CharField(max_length=10, choices=Role.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "user", "role"], name="membership_role_once"
            ),
            models.CheckConstraint(
                condition=Q(role__in=Role.values), name="membership_role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.project}"


class ThinkingContext(models.Model):
    """Background, guideline and action definitions; equal content is stored once."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="contexts"
    )
    scope = models.CharField(max_length=6, choices=Scope.choices)
    title = models.CharField(max_length=200)
    background = models.TextField(blank=True)
    guideline = models.TextField(blank=True)
    actions = models.JSONField(default=list, blank=True)
    content_hash = models.CharField(max_length=64, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "content_hash"], name="context_content_once"
            ),
            models.CheckConstraint(
                condition=Q(scope__in=Scope.values), name="context_scope_known"
            ),
        ]

    def __str__(self) -> str:
        return self.title


class SampleQuerySet(models.QuerySet["Sample"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> SampleQuerySet:
        """Return the samples of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def approved(self) -> SampleQuerySet:
        """Return the samples training may learn from."""
        return self.filter(status=SampleStatus.APPROVED)


class Sample(models.Model):
    """One authored action task: contexts and the whole conversation."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="samples"
    )
    external_id = models.CharField(max_length=200)
    author = models.ForeignKey(
        USER,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="samples",
    )
    contexts = models.ManyToManyField(ThinkingContext, through="SampleContext")
    scenario = models.CharField(max_length=80, blank=True)
    situation = models.CharField(
        max_length=12, choices=Situation.choices, default=Situation.NORMAL
    )
    status = models.CharField(
        max_length=9, choices=SampleStatus.choices, default=SampleStatus.DRAFT
    )
    split = models.CharField(
        max_length=20,
        blank=True,
        help_text="'held-out' keeps a sample out of training and judging.",
    )
    return_comment = models.TextField(blank=True)
    meta = models.JSONField(default=dict, blank=True)
    content_hash = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = SampleQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        indexes = [
            models.Index(fields=["project", "status", "id"], name="sample_by_status"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "external_id"], name="sample_external_id_once"
            ),
            models.CheckConstraint(
                condition=Q(status__in=SampleStatus.values), name="sample_status_known"
            ),
            models.CheckConstraint(
                condition=Q(situation__in=Situation.values),
                name="sample_situation_known",
            ),
        ]

    def __str__(self) -> str:
        return self.external_id

    def get_absolute_url(self) -> str:
        return reverse("annotation:sample", args=[self.project.slug, self.pk])


class SampleContext(models.Model):
    sample = models.ForeignKey(Sample, on_delete=models.CASCADE)
    context = models.ForeignKey(ThinkingContext, on_delete=models.PROTECT)
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(
                fields=["sample", "position"], name="samplecontext_position_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.position}: {self.context}"


class Turn(models.Model):
    """One input (a user prompt or an observation) and the label response to it."""

    sample = models.ForeignKey(Sample, on_delete=models.CASCADE, related_name="turns")
    position = models.PositiveSmallIntegerField(help_text="0 for the first turn.")
    input_kind = models.CharField(max_length=11, choices=InputKind.choices)
    input_text = models.TextField(blank=True)
    response = models.TextField(
        blank=True, help_text="The label response, in the response grammar."
    )
    facts = models.JSONField(
        null=True, blank=True, help_text="What the demo's oracle judges by; else null."
    )

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(
                fields=["sample", "position"], name="turn_position_once"
            ),
            models.CheckConstraint(
                condition=Q(input_kind__in=InputKind.values),
                name="turn_input_kind_known",
            ),
        ]

    def __str__(self) -> str:
        return f"turn {self.position + 1} of sample {self.sample_id}"


class ReferenceResponse(models.Model):
    """Another wording of a label response: a consistent pair nobody has to judge."""

    turn = models.ForeignKey(Turn, on_delete=models.CASCADE, related_name="references")
    author = models.ForeignKey(
        USER, null=True, blank=True, on_delete=models.PROTECT
    )
    position = models.PositiveSmallIntegerField()
    text = models.TextField()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(
                fields=["turn", "position"], name="reference_position_once"
            ),
        ]

    def __str__(self) -> str:
        return f"reference {self.position} of {self.turn}"


class Producer(models.Model):
    """What sampled a response: one run's use of one checkpoint with one setting.

    ``run_id`` and ``checkpoint_id`` are the primary keys of ``training.Run`` and
    ``training.Checkpoint``; they are no foreign keys because the arrow of imports
    points from ``training`` to here.
    """

    run_id = models.BigIntegerField(db_index=True)
    checkpoint_id = models.BigIntegerField(db_index=True)
    checkpoint_digest = models.CharField(max_length=64)
    step = models.PositiveIntegerField()
    policy_role = models.CharField(
        max_length=8, choices=[("current", "Current policy"), ("initial", "Initial")]
    )
    settings = models.JSONField(default=dict)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run_id", "checkpoint_id"],
                name="producer_checkpoint_once_per_run",
            ),
        ]

    def __str__(self) -> str:
        return f"run {self.run_id}, checkpoint {self.checkpoint_id}, step {self.step}"


class SampledResponse(models.Model):
    turn = models.ForeignKey(
        Turn, on_delete=models.CASCADE, related_name="sampled_responses"
    )
    producer = models.ForeignKey(
        Producer, on_delete=models.CASCADE, related_name="responses"
    )
    index = models.PositiveSmallIntegerField(
        help_text="0 to G-1 among this producer's answers to the turn."
    )
    text = models.TextField()
    observation = models.TextField(
        blank=True, help_text="What the action called returned, if one was called."
    )
    observation_source = models.CharField(
        max_length=9,
        blank=True,
        choices=[("recorded", "Recorded"), ("simulator", "Simulator")],
    )
    format_error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["turn", "producer", "index"], name="sampledresponse_index_once"
            ),
        ]

    def __str__(self) -> str:
        return f"answer {self.index} of {self.producer} to {self.turn}"


class PairSource(models.TextChoices):
    PEOPLE = "people", "Judged by people"
    IDENTICAL = "identical", "Derived: byte-identical to the label response"


class PairQuerySet(models.QuerySet["Pair"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> PairQuerySet:
        """Return the pairs of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))


class Pair(models.Model):
    """A label response and a sampled response of one turn.

    ``label_text`` and ``sampled_text`` are copies: what a person judged stays what it
    was when the sample is edited later. Equal pairs (same turn, same two texts) are
    one row, whatever produced them; ``PairOrigin`` says which answers they were.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="pairs")
    turn = models.ForeignKey(Turn, on_delete=models.PROTECT, related_name="pairs")
    label_text = models.TextField()
    sampled_text = models.TextField()
    content_hash = models.CharField(max_length=64, editable=False)
    source = models.CharField(
        max_length=9, choices=PairSource.choices, default=PairSource.PEOPLE
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PairQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["turn", "content_hash"], name="pair_content_once"
            ),
            models.CheckConstraint(
                condition=Q(source__in=PairSource.values), name="pair_source_known"
            ),
        ]

    def __str__(self) -> str:
        return f"pair {self.pk}"


class PairOrigin(models.Model):
    """Which sampled response a pair was made from."""

    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="origins")
    sampled_response = models.OneToOneField(
        SampledResponse, on_delete=models.CASCADE, related_name="origin"
    )

    def __str__(self) -> str:
        return f"{self.pair} from {self.sampled_response}"


class Slot(models.Model):
    """One needed judgment of one pair: the narrow row the queue hands out.

    Claimed only by :func:`annotation.judging.claim_slot`.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="slots")
    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="slots")
    ordinal = models.PositiveSmallIntegerField(help_text="1 to k.")
    round = models.PositiveSmallIntegerField(
        default=1, help_text="2 and up for slots added on disagreement."
    )
    priority = models.IntegerField(default=0, help_text="Higher first.")
    state = models.CharField(
        max_length=6, choices=SlotState.choices, default=SlotState.OPEN
    )
    holder = models.ForeignKey(
        USER, null=True, blank=True, on_delete=models.SET_NULL
    )
    leased_until = models.DateTimeField(null=True, blank=True)
    token = models.PositiveBigIntegerField(
        default=0, help_text="Fencing token: grows with every claim."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["pair", "ordinal"], name="slot_ordinal_once"
            ),
            models.CheckConstraint(
                condition=Q(state__in=SlotState.values), name="slot_state_known"
            ),
            models.CheckConstraint(
                condition=~Q(state="leased")
                | Q(holder__isnull=False, leased_until__isnull=False),
                name="slot_lease_has_holder",
            ),
        ]
        indexes = [
            models.Index(
                "project",
                F("priority").desc(),
                "id",
                name="slot_open_in_order",
                condition=Q(state="open"),
            ),
            models.Index(
                "project",
                "leased_until",
                name="slot_leased_by_expiry",
                condition=Q(state="leased"),
            ),
        ]

    def __str__(self) -> str:
        return f"slot {self.ordinal} of {self.pair_id}"


class Touch(models.Model):
    """A person has met a pair, and will not meet it again by a claim."""

    pk = models.CompositePrimaryKey("pair_id", "user_id")
    pair = models.ForeignKey(Pair, on_delete=models.CASCADE)
    user = models.ForeignKey(USER, on_delete=models.CASCADE)
    at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.user_id} met {self.pair_id}"


class JudgmentQuerySet(models.QuerySet["Judgment"]):
    def current(self) -> JudgmentQuerySet:
        """Return the rows no later row supersedes and nobody withdrew."""
        return self.filter(superseded_by__isnull=True).exclude(
            verdict=Verdict.WITHDRAWN
        )

    def counted(self) -> JudgmentQuerySet:
        """Return the current judgments that fill a slot (late extras left out)."""
        return self.current().filter(is_extra=False)


class Judgment(models.Model):
    """One person's 0/1 for one pair. Append-only: a change of mind is a new row."""

    pair = models.ForeignKey(Pair, on_delete=models.PROTECT, related_name="judgments")
    slot = models.ForeignKey(
        Slot, null=True, on_delete=models.PROTECT, related_name="judgments"
    )
    labeler = models.ForeignKey(
        USER, on_delete=models.PROTECT, related_name="judgments"
    )
    verdict = models.PositiveSmallIntegerField(choices=Verdict.choices)
    reasons = models.JSONField(default=list)
    units_that_differ = models.JSONField(
        default=list, help_text="Keys of actions.units.UnitPair."
    )
    order_confirmed = models.BooleanField(default=False)
    seconds_spent = models.FloatField(default=0)
    guideline_version = models.PositiveIntegerField(default=1)
    is_extra = models.BooleanField(
        default=False, help_text="Came after its lease was given to another."
    )
    supersedes = models.OneToOneField(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="superseded_by",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = JudgmentQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["pair", "labeler"],
                condition=Q(supersedes__isnull=True),
                name="judgment_once_per_labeler",
                violation_error_message="You have judged this pair already.",
            ),
            models.CheckConstraint(
                condition=Q(verdict__in=Verdict.values), name="judgment_verdict_known"
            ),
        ]
        indexes = [models.Index(fields=["labeler", "-id"], name="judgment_by_labeler")]

    def __str__(self) -> str:
        return f"{self.labeler_id}: {self.get_verdict_display()} for {self.pair_id}"


class Skip(models.Model):
    """A person gave a slot back without judging; a reason is required."""

    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="skips")
    user = models.ForeignKey(USER, on_delete=models.PROTECT)
    reason = models.CharField(max_length=300)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(reason=""), name="skip_has_reason"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} skipped {self.pair_id}: {self.reason}"


class Adjudication(models.Model):
    """A curator's final word on a pair whose judgments stay split."""

    pair = models.OneToOneField(
        Pair, on_delete=models.PROTECT, related_name="adjudication"
    )
    curator = models.ForeignKey(USER, on_delete=models.PROTECT)
    verdict = models.PositiveSmallIntegerField(choices=Verdict.choices[:2])
    units_that_differ = models.JSONField(default=list)
    comment = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.pair_id}: {self.get_verdict_display()}"


class Draft(models.Model):
    """What a person is writing, kept on the server until it becomes a sample."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    author = models.ForeignKey(USER, on_delete=models.CASCADE)
    sample = models.ForeignKey(
        Sample, null=True, blank=True, on_delete=models.CASCADE, related_name="drafts"
    )
    content = models.JSONField(
        default=dict, help_text="A Concord JSONL sample, not yet valid."
    )
    version = models.PositiveIntegerField(
        default=0, help_text="Grows with every save; a stale save is refused."
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-updated_at"]

    def __str__(self) -> str:
        return f"draft {self.pk} of {self.author_id}"
