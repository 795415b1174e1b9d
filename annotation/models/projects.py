"""Projects and the people in them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

USER = settings.AUTH_USER_MODEL


def text_hash(text: str) -> str:
    """Return the SHA-256 of ``text`` as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


class Role(models.TextChoices):
    LABELER = "labeler", _("Labeler")
    CURATOR = "curator", _("Curator")
    TRAINER = "trainer", _("Trainer")
    ADMIN = "admin", _("Admin")


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> ProjectQuerySet:
        """Return the projects ``user`` is a member of; a superuser sees all."""
        if getattr(user, "is_superuser", False):
            return self.all()
        if user.pk is None:
            return self.none()
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
        default=4,
        validators=[MinValueValidator(1), MaxValueValidator(9)],
        help_text=(
            "Judgments a pair may get when the first ones disagree. Even, it lets people "
            "stay split, and a curator settles the pair; odd, the last one decides."
        ),
    )
    lease_seconds = models.PositiveIntegerField(
        default=600,
        validators=[MinValueValidator(1)],
        help_text="How long a pair stays with the person who was shown it.",
    )
    is_paused = models.BooleanField(
        default=False, help_text="A paused project hands out no pairs."
    )
    confirm_step_order = models.BooleanField(
        default=True,
        help_text="Ask once when 'consistent' is chosen though the step order differs.",
    )
    daily_goal = models.PositiveSmallIntegerField(
        default=60, help_text="Judgments a labeler aims at in a day; 0 shows no goal."
    )
    break_after_minutes = models.PositiveSmallIntegerField(
        default=50,
        help_text="After so many minutes of judging a pause is suggested; 0 never.",
    )
    minimum_dwell_seconds = models.FloatField(
        default=2.0,
        validators=[MinValueValidator(0)],
        help_text="Quicker judgments are told apart in the figures, never refused.",
    )
    calibration_percent = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(100)],
        help_text=(
            "Share of pairs shown without saying which side is the label, half of them "
            "with the sides swapped, to measure whether the side sways the judgment."
        ),
    )
    reveal_after = models.BooleanField(
        default=False,
        help_text="Show what an answer came from once it has been judged.",
    )
    guideline = models.TextField(
        blank=True,
        editable=False,
        help_text="Markdown; the newest GuidelineVersion's text.",
    )
    guideline_version = models.PositiveIntegerField(default=1, editable=False)
    queue_tail = models.PositiveBigIntegerField(
        default=0,
        editable=False,
        help_text="The last place given out in the queue (see docs/queue.md).",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(overlap__gte=1, overlap_limit__gte=F("overlap")),
                name="project_overlap_within_limit",
                violation_error_message="The limit is at least the overlap.",
            ),
            models.CheckConstraint(
                condition=Q(lease_seconds__gte=1), name="project_lease_has_length"
            ),
            models.CheckConstraint(
                condition=Q(calibration_percent__lte=100),
                name="project_calibration_is_a_share",
            ),
            models.CheckConstraint(
                condition=Q(minimum_dwell_seconds__gte=0),
                name="project_dwell_not_negative",
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
        if user.pk is None:
            return set()
        return set(
            Membership.objects.filter(project=self, user_id=user.pk).values_list(
                "role", flat=True
            )
        )


class Membership(models.Model):
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey(USER, on_delete=models.CASCADE, related_name="memberships")
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
