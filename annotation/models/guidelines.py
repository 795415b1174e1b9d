"""The guideline that people judge by: versions, examples, and who has read which."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from annotation.models.pairs import Pair, Verdict
from annotation.models.projects import USER, Project


class GuidelineVersion(models.Model):
    """A published text of a project's guideline; the newest is ``Project.guideline``."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="guidelines", db_index=False
    )
    version = models.PositiveIntegerField()
    text = models.TextField(blank=True, help_text="Markdown.")
    change = models.CharField(
        max_length=300, blank=True, help_text="What is new, in a sentence."
    )
    asks_to_reread = models.BooleanField(
        default=True, help_text="Labelers confirm that they have read it."
    )
    author = models.ForeignKey(
        USER, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["version"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "version"], name="guidelineversion_once"
            ),
        ]

    def __str__(self) -> str:
        return f"guideline {self.version} of {self.project_id}"


class GuidelineReading(models.Model):
    """A person has confirmed that they read a version."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="readings", db_index=False
    )
    user = models.ForeignKey(USER, on_delete=models.CASCADE, related_name="readings")
    version = models.PositiveIntegerField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "user", "version"], name="guidelinereading_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} read guideline {self.version} of {self.project_id}"


class GuidelineExample(models.Model):
    """A pair pinned to the guideline: what a good or a bad one looks like, and why."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="examples", db_index=False
    )
    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="examples")
    verdict = models.PositiveSmallIntegerField(choices=Verdict.choices[:2])
    note = models.TextField(blank=True)
    position = models.PositiveSmallIntegerField(default=0)
    pinned_by = models.ForeignKey(USER, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["position", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "pair"], name="guidelineexample_pair_once"
            ),
            models.CheckConstraint(
                condition=Q(verdict__in=[0, 1]), name="guidelineexample_verdict_known"
            ),
        ]

    def __str__(self) -> str:
        return f"example {self.pair_id} of {self.project_id}"
