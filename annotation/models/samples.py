"""Samples: contexts, turns, label and reference responses, and drafts of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Count, Exists, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models.projects import USER, Membership, Project, Role

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


class Scope(models.TextChoices):
    GLOBAL = "global", _("Global")
    LOCAL = "local", _("Local")


class Situation(models.TextChoices):
    NORMAL = "normal", _("Normal")
    EXCEPTION = "exception", _("Action-call exception")
    INTERRUPTION = "interruption", _("User interrupts the task")
    NOISE = "noise", _("User noise")
    NESTED = "nested", _("Nested task")
    REFUSAL = "refusal", _("Refusal")


class SampleStatus(models.TextChoices):
    DRAFT = "draft", _("Draft")
    SUBMITTED = "submitted", _("Submitted")
    APPROVED = "approved", _("Approved")
    RETURNED = "returned", _("Returned")
    RETIRED = "retired", _("Retired")


class InputKind(models.TextChoices):
    USER = "user", _("User prompt")
    OBSERVATION = "observation", _("Observation")


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

    def that_nobody_can_revise(self) -> SampleQuerySet:
        """Return returned samples that were imported, or whose author has left."""
        author = Membership.objects.filter(
            project=OuterRef("project"),
            user=OuterRef("author"),
            user__is_active=True,
            role__in=[Role.LABELER, Role.CURATOR, Role.ADMIN],
        )
        return self.filter(~Exists(author), status=SampleStatus.RETURNED)

    def approved(self) -> SampleQuerySet:
        """Return the samples training may learn from."""
        return self.filter(status=SampleStatus.APPROVED)

    def with_open_comments(self) -> SampleQuerySet:
        """Annotate ``open_comments``, the number of unresolved comments."""
        comments = (
            Comment.objects.filter(sample=OuterRef("pk"), resolved_at__isnull=True)
            .order_by()
            .values("sample")
            .annotate(n=Count("pk"))
            .values("n")
        )
        return self.annotate(open_comments=Coalesce(Subquery(comments), Value(0)))


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
        help_text="Empty for training; 'held-out…' keeps a sample out of training.",
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
    proposal = models.JSONField(
        null=True,
        blank=True,
        help_text=(
            "When a policy proposed the response: its checkpoint, digest and the text "
            "as proposed, before the person edited it. Else null."
        ),
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
    """Another wording of a label response: a consistent pair that needs no judgment."""

    turn = models.ForeignKey(Turn, on_delete=models.CASCADE, related_name="references")
    author = models.ForeignKey(USER, null=True, blank=True, on_delete=models.PROTECT)
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
        return f"reference {self.position} of turn {self.turn_id}"


class SampleVersion(models.Model):
    """A sample after a change: its content, the editor and the reason."""

    sample = models.ForeignKey(
        Sample, on_delete=models.CASCADE, related_name="versions", db_index=False
    )
    number = models.PositiveIntegerField(help_text="1 for the first.")
    document = models.JSONField(help_text="Concord JSONL.")
    editor = models.ForeignKey(
        USER, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    why = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(
                fields=["sample", "number"], name="sampleversion_number_once"
            ),
            models.CheckConstraint(
                condition=Q(number__gte=1), name="sampleversion_counts_from_one"
            ),
        ]

    def __str__(self) -> str:
        return f"version {self.number} of sample {self.sample_id}"


class Comment(models.Model):
    """A curator's comment on a place of a sample; open until someone resolves it."""

    sample = models.ForeignKey(
        Sample, on_delete=models.CASCADE, related_name="comments"
    )
    author = models.ForeignKey(USER, on_delete=models.PROTECT, related_name="comments")
    position = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="The turn, from 0; null for the whole sample."
    )
    anchor = models.CharField(
        max_length=200,
        blank=True,
        help_text="The place in the turn: 'input', 'block/2', 'plan/3', …; or all of it.",
    )
    quote = models.CharField(
        max_length=300, blank=True, help_text="What stood there when it was written."
    )
    text = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolved_by = models.ForeignKey(
        USER, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(condition=~Q(text=""), name="comment_has_text"),
            models.CheckConstraint(
                condition=Q(resolved_at__isnull=True, resolved_by__isnull=True)
                | Q(resolved_at__isnull=False, resolved_by__isnull=False),
                name="comment_resolved_by_someone",
            ),
        ]

    def __str__(self) -> str:
        return f"comment {self.pk} on sample {self.sample_id}"


class Draft(models.Model):
    """A person's unfinished sample, kept on the server until it is submitted."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="drafts", db_index=False
    )
    author = models.ForeignKey(USER, on_delete=models.CASCADE, related_name="drafts")
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
        indexes = [
            models.Index(
                fields=["project", "author", "-updated_at"], name="draft_by_author"
            ),
        ]

    def __str__(self) -> str:
        return f"draft {self.pk} of {self.author_id}"
