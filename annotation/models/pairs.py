"""Pairs: what is judged, and by which slots and outcomes.

docs/queue.md explains the queue. A unique key or a check stands behind every promise of
these tables, so that a mistake in the deeds of ``judging`` fails instead of counting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.db.models import (
    Case,
    Exists,
    F,
    OuterRef,
    Q,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce
from django.db.models.lookups import IsNull
from django.utils.translation import gettext_lazy as _

from annotation.models.projects import Membership, Project, Role
from annotation.models.responses import SampledResponse
from annotation.models.samples import Turn
from annotation.models.slots import (
    WAITING_STATES,
    Skip,
    Slot,
    SlotQuerySet,
    SlotState,
    Touch,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser


class Reason(models.TextChoices):
    """Why a pair is not consistent, in the order of their digit keys."""

    CONTENT = "content", _("Content")
    LOGIC = "logic", _("Logic")
    STEP_ORDER = "step order", _("Step order")
    ACTION_NAME = "action name", _("Action name")
    PARAMETER = "parameter", _("Parameter")
    USE_OF_RESULT = "use of result", _("Use of result")
    MISSING_STEP = "missing step", _("Missing step")
    EXTRA_STEP = "extra step", _("Extra step")
    UNSAFE = "unsafe", _("Unsafe")


class Verdict(models.IntegerChoices):
    INCONSISTENT = 0, _("Not consistent")
    CONSISTENT = 1, _("Consistent")
    WITHDRAWN = 2, _("Withdrawn")


class PairSource(models.TextChoices):
    PEOPLE = "people", _("Judged by people")
    IDENTICAL = "identical", _("Derived: byte-identical to the label response")
    RULE = "rule", _("Derived: equal in normal form to the label or a reference")
    FORMAT = "format", _("Derived: breaks the response grammar")


CONSISTENT_BY_RULE = [PairSource.IDENTICAL, PairSource.RULE]


class PairQuerySet(models.QuerySet["Pair"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> PairQuerySet:
        """Return the pairs of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def from_people(self) -> PairQuerySet:
        """Return the pairs that people judge, without derived ones."""
        return self.filter(source=PairSource.PEOPLE)

    def by_rule(self) -> PairQuerySet:
        """Return the pairs that a rule settled, without a person."""
        return self.exclude(source=PairSource.PEOPLE)

    def _with_votes(self) -> PairQuerySet:
        """Annotate ``_lean`` and ``_is_complete``, from which an outcome follows.

        ``_lean`` is ones minus zeros over the counted judgments, null when there are
        none. A pair is complete when every slot is done; a slot that a disagreement
        added (round 2 and up) and that was closed again does not count.
        """
        slots = Slot.objects.filter(pair=OuterRef("pk")).order_by()
        leans = Case(
            When(judgment__verdict=Verdict.CONSISTENT, then=Value(1)),
            default=Value(-1),
        )
        return self.annotate(
            _lean=Subquery(
                slots.filter(state=SlotState.DONE)
                .values("pair")
                .annotate(lean=Sum(leans))
                .values("lean")
            ),
            _is_complete=~Exists(
                slots.exclude(state=SlotState.DONE).exclude(
                    state=SlotState.CLOSED, round__gt=1
                )
            ),
        )

    def with_outcome(self) -> PairQuerySet:
        """Annotate ``outcome`` (0, 1 or null) and ``outcome_source`` (text or null).

        The source is ``adjudication`` (a curator's verdict, which wins), ``people``
        (the strict majority once every slot is done), or, derived and kept apart from
        these, ``identical`` and ``rule`` (1) and ``format`` (0).
        """
        people = Q(source=PairSource.PEOPLE, _is_complete=True)
        return self._with_votes().annotate(
            outcome=Case(
                When(adjudication__isnull=False, then=F("adjudication__verdict")),
                When(source__in=CONSISTENT_BY_RULE, then=Value(1)),
                When(source=PairSource.FORMAT, then=Value(0)),
                When(people & Q(_lean__gt=0), then=Value(1)),
                When(people & Q(_lean__lt=0), then=Value(0)),
                output_field=models.PositiveSmallIntegerField(null=True),
            ),
            outcome_source=Case(
                When(adjudication__isnull=False, then=Value("adjudication")),
                When(~Q(source=PairSource.PEOPLE), then=F("source")),
                When(people & ~Q(_lean=0) & Q(_lean__isnull=False), then=F("source")),
                output_field=models.CharField(null=True),
            ),
        )

    def settled(self) -> PairQuerySet:
        """Return the pairs with an outcome, annotated with it."""
        return self.with_outcome().filter(IsNull(F("outcome"), False))

    def unsettled(self) -> PairQuerySet:
        """Return the pairs without an outcome."""
        return self.with_outcome().filter(IsNull(F("outcome"), True))

    def awaiting_judgment(self) -> PairQuerySet:
        """Return the pairs with a slot that nobody has filled yet."""
        return self.filter(
            Exists(Slot.objects.filter(pair=OuterRef("pk"), state__in=WAITING_STATES))
        )

    def wanting_slots(self) -> PairQuerySet:
        """Return the pairs for people that have no slots, or lost them.

        Slots are lost when a sample is returned; they are missing when it is approved
        again.
        """
        slots = Slot.objects.filter(pair=OuterRef("pk"))
        return self.from_people().filter(
            ~Exists(slots) | Exists(slots.filter(state=SlotState.CLOSED, round=1)),
            adjudication__isnull=True,
        )

    def disputed(self, slots: SlotQuerySet | None = None) -> PairQuerySet:
        """Return the pairs whose judgments stay split, for a curator to settle.

        All of ``slots`` are read, once: pass those of one project or pair where others
        do not matter. (Asking pair by pair takes twice as long.)
        """
        split = (Slot.objects.all() if slots is None else slots).of_split_pairs()
        return self.from_people().filter(pk__in=split, adjudication__isnull=True)

    def skipped_by_all(self) -> PairQuerySet:
        """Return the waiting pairs that every labeler who could judge has met.

        Each was skipped by somebody, or is split and asks for more people than there
        are. Nobody holds them now, so a curator has to settle them.
        """
        touches = Touch.objects.filter(
            pair=OuterRef(OuterRef("pk")), user=OuterRef("user")
        )
        others = (
            Membership.objects.filter(project=OuterRef("project"), role=Role.LABELER)
            .exclude(user=Coalesce(OuterRef("turn__sample__author"), Value(0)))
            .filter(~Exists(touches))
        )
        slots = Slot.objects.filter(pair=OuterRef("pk"))
        # As a union: "skipped or split" in one condition would be evaluated for every
        # pair.
        split = Slot.objects.waiting().filter(round__gt=1)
        met = Skip.objects.order_by().values("pair").union(split.values("pair"))
        return self.from_people().filter(
            Exists(slots.filter(state=SlotState.OPEN)),
            ~Exists(slots.filter(state=SlotState.LEASED)),
            ~Exists(others),
            pk__in=met,
            adjudication__isnull=True,
        )

    def not_written_by(self, user: AbstractBaseUser | AnonymousUser) -> PairQuerySet:
        """Exclude the pairs of samples that ``user`` wrote."""
        # A scalar sub-query: for a join Postgres may read all turns for each pair.
        author = Turn.objects.filter(pk=OuterRef("turn")).order_by()
        known = Coalesce(
            Subquery(author.values("sample__author")),
            Value(0),
            output_field=models.IntegerField(),
        )
        return self.alias(_author=known).exclude(Q(_author=user.pk or 0))


class Pair(models.Model):
    """A label response and a sampled response of one turn.

    ``label_text`` and ``sampled_text`` are copies: the judged texts stay the same when
    the sample is edited later. Equal pairs (same turn, same two texts) are one row,
    whatever produced them; ``PairOrigin`` names the responses.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="pairs")
    turn = models.ForeignKey(
        Turn,
        on_delete=models.PROTECT,
        related_name="pairs",
        db_index=False,  # the unique key begins with it
    )
    label_text = models.TextField()
    sampled_text = models.TextField()
    content_hash = models.CharField(
        max_length=64, editable=False, help_text="See pairing.pair_hash."
    )
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
        indexes = [
            models.Index(
                fields=["project", "id"],
                condition=~Q(source="people"),
                name="pair_by_rule",
            ),
        ]

    def __str__(self) -> str:
        return f"pair {self.pk}"


class PairOrigin(models.Model):
    """The sampled response that a pair was made from."""

    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="origins")
    sampled_response = models.OneToOneField(
        SampledResponse, on_delete=models.CASCADE, related_name="origin"
    )

    def __str__(self) -> str:
        return f"pair {self.pair_id} from answer {self.sampled_response_id}"
