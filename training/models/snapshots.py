"""The data that a run was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models

from annotation.models import USER, Judgment, Project, Sample

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


class SnapshotQuerySet(models.QuerySet["Snapshot"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> SnapshotQuerySet:
        """Return the snapshots of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))


class Snapshot(models.Model):
    """An immutable, content-hashed data set that a run was trained on.

    The rows are written to ``DATA_DIR/snapshots/<content_hash>/`` as the JSON lines
    that programs read; the link tables below name the rows of the database they came
    from. Only :func:`training.storage.snapshots.build_snapshot` makes one.
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
