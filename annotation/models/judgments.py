"""People's verdicts on pairs: judgments and adjudications."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.postgres.expressions import ArraySubquery
from django.db import models
from django.db.models import (
    Exists,
    F,
    OuterRef,
    Q,
    Subquery,
)
from django.db.models.functions import JSONObject

from annotation.models.pairs import Pair, Reason, Verdict
from annotation.models.projects import USER, Project
from annotation.models.slots import (
    Slot,
    SlotState,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


class JudgmentQuerySet(models.QuerySet["Judgment"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> JudgmentQuerySet:
        """Return the judgments of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def current(self) -> JudgmentQuerySet:
        """Return the rows that no later row supersedes and nobody withdrew."""
        # Only a person's own later row supersedes. Repeating that here lets Postgres
        # use the small index judgment_superseding instead of the large one on
        # ``supersedes``.
        later = Judgment.objects.filter(
            labeler=OuterRef("labeler"),
            supersedes=OuterRef("pk"),
            supersedes__isnull=False,
        )
        return self.filter(~Exists(later)).exclude(verdict=Verdict.WITHDRAWN)

    def given_by(
        self, user: AbstractBaseUser | AnonymousUser, project: Project
    ) -> JudgmentQuerySet:
        """Return a person's current judgments in a project."""
        # The later rows of one person are few: Postgres reads them once as a list,
        # where ``current`` asks row by row.
        later = Judgment.objects.filter(labeler=user.pk, supersedes__isnull=False)
        return (
            self.filter(labeler=user.pk, project=project)
            .exclude(pk__in=later.order_by().values("supersedes"))
            .exclude(verdict=Verdict.WITHDRAWN)
        )

    def counted(self) -> JudgmentQuerySet:
        """Return the judgments that fill a slot (late extras and old ones left out)."""
        return self.filter(fills__isnull=False)

    def with_outcome(self) -> JudgmentQuerySet:
        """Annotate ``outcome``, that of the pair, or null."""
        pairs = Pair.objects.with_outcome().filter(pk=OuterRef("pair"))
        outcomes = pairs.values(pair_outcome=F("outcome"))
        return self.annotate(outcome=Subquery(outcomes[:1]))

    def with_votes(self) -> JudgmentQuerySet:
        """Annotate the verdicts on the judgment's pair, for ``progress`` to compare.

        ``votes`` are its slots except those closed again: labeler, verdict and reasons,
        null without a judgment. ``word`` is a curator's verdict, or null.
        """
        slots = Slot.objects.filter(pair=OuterRef("pair")).exclude(
            state=SlotState.CLOSED, round__gt=1
        )
        vote = JSONObject(
            labeler="judgment__labeler",
            verdict="judgment__verdict",
            reasons="judgment__reasons",
        )
        words = Adjudication.objects.filter(pair=OuterRef("pair"))
        word = JSONObject(labeler="curator", verdict="verdict", reasons="reasons")
        return self.annotate(
            votes=ArraySubquery(slots.values(vote=vote)),
            word=Subquery(words.values(word=word)[:1]),
        )


class Judgment(models.Model):
    """One person's 0/1 for one pair. Append-only: a changed verdict is a new row."""

    project = models.ForeignKey(
        Project,
        on_delete=models.PROTECT,
        related_name="judgments",
        db_index=False,  # judgment_by_time begins with it
        help_text="The pair's, so that a project's judgments are found without their pairs.",
    )
    pair = models.ForeignKey(
        Pair,
        on_delete=models.PROTECT,
        related_name="judgments",
    )
    slot = models.ForeignKey(Slot, on_delete=models.PROTECT, related_name="judgments")
    token = models.PositiveBigIntegerField(
        help_text="The lease it was given under: one judgment per lease."
    )
    labeler = models.ForeignKey(
        USER,
        on_delete=models.PROTECT,
        related_name="judgments",
        db_index=False,  # judgment_by_labeler begins with it
    )
    verdict = models.PositiveSmallIntegerField(choices=Verdict.choices)
    reasons = models.JSONField(default=list, blank=True)
    units_that_differ = models.JSONField(
        default=list, blank=True, help_text="Keys of actions.units.UnitPair."
    )
    order_confirmed = models.BooleanField(default=False)
    sides_swapped = models.BooleanField(
        null=True,
        help_text="In calibration: was the label on the right? Null outside of it.",
    )
    seconds_spent = models.FloatField(default=0)
    guideline_version = models.PositiveIntegerField(default=1)
    is_extra = models.BooleanField(
        default=False,
        help_text="Came after its slot was given to another; not counted.",
    )
    supersedes = models.OneToOneField(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="superseded_by",
    )
    withdrawn_because = models.CharField(max_length=300, blank=True)
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
            models.UniqueConstraint(
                fields=["slot", "token"],
                condition=~Q(verdict=2),
                name="judgment_once_per_lease",
            ),
            models.CheckConstraint(
                condition=Q(verdict__in=Verdict.values), name="judgment_verdict_known"
            ),
            models.CheckConstraint(
                condition=Q(verdict=2, supersedes__isnull=False)
                & ~Q(withdrawn_because="")
                | ~Q(verdict=2) & Q(withdrawn_because=""),
                name="judgment_withdrawn_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(verdict=0) | Q(reasons=[], units_that_differ=[]),
                name="judgment_reasons_only_against",
            ),
            models.CheckConstraint(
                condition=Q(seconds_spent__gte=0), name="judgment_seconds_not_negative"
            ),
        ]
        indexes = [
            models.Index(
                fields=["labeler", "project", "-id"], name="judgment_by_labeler"
            ),
            # People's figures are read from these two indexes without touching the
            # table.
            models.Index(
                fields=["labeler", "project", "created_at"],
                include=[
                    "id",
                    "pair",
                    "verdict",
                    "seconds_spent",
                    "is_extra",
                    "sides_swapped",
                    "guideline_version",
                ],
                name="judgment_by_labeler_time",
            ),
            models.Index(
                fields=["project", "created_at"],
                include=["verdict", "seconds_spent", "is_extra"],
                name="judgment_by_time",
            ),
            models.Index(
                fields=["labeler", "supersedes"],
                condition=Q(supersedes__isnull=False),
                name="judgment_superseding",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.labeler_id}: {self.get_verdict_display()} for {self.pair_id}"

    @property
    def reason_labels(self) -> list[str]:
        """Return the labels of the reasons; an unknown one unchanged."""
        known = {reason.value: str(reason.label) for reason in Reason}
        return [known.get(reason, reason) for reason in self.reasons]


class Adjudication(models.Model):
    """A curator's final verdict on a pair that the labelers did not settle."""

    pair = models.OneToOneField(
        Pair, on_delete=models.PROTECT, related_name="adjudication"
    )
    curator = models.ForeignKey(
        USER, on_delete=models.PROTECT, related_name="adjudications"
    )
    verdict = models.PositiveSmallIntegerField(choices=Verdict.choices[:2])
    reasons = models.JSONField(default=list, blank=True)
    units_that_differ = models.JSONField(default=list, blank=True)
    comment = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(verdict__in=[0, 1]), name="adjudication_verdict_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pair_id}: {self.get_verdict_display()}"
