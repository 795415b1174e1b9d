"""Pairs and what happens to them: slots, touches, judgments.

The queue is described in docs/queue.md. These tables hold it up: a unique key or a check
stands behind every promise, so that a mistake in ``judging`` fails instead of counting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.postgres.expressions import ArraySubquery
from django.core.signing import BadSignature, Signer
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import (
    Case,
    Count,
    Exists,
    F,
    OuterRef,
    Q,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce, JSONObject
from django.db.models.lookups import IsNull
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from annotation.models.projects import USER, Membership, Project, Role
from annotation.models.responses import SampledResponse
from annotation.models.samples import Turn

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


class SlotState(models.TextChoices):
    OPEN = "open", _("Open")
    LEASED = "leased", _("Leased")
    DONE = "done", _("Done")
    CLOSED = "closed", _("Closed: no longer needed")


# Written out, not an enum expression: claim_slot's SQL repeats it word for word, which
# is what lets Postgres use the partial index.
WAITING_STATES = ["open", "leased"]

_LEASES = Signer(salt="annotation.lease")


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
        """Return the pairs that people judge, derived ones left out."""
        return self.filter(source=PairSource.PEOPLE)

    def by_rule(self) -> PairQuerySet:
        """Return the pairs that a rule settled: no person is asked."""
        return self.exclude(source=PairSource.PEOPLE)

    def _with_votes(self) -> PairQuerySet:
        """Annotate ``_lean`` and ``_is_complete``, what an outcome is made of.

        ``_lean`` is ones minus zeros over the counted judgments, null when there are
        none. A pair is complete when every slot is done; a slot that disagreement added
        (round 2 and up) and that was closed again does not hold it up.
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

        The source is ``adjudication`` (a curator's word, which wins), ``people`` (the
        strict majority once every slot is done), or, derived and never mixed with
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
        """Return the pairs for people that no slot was made for, or that lost theirs.

        The latter are pairs of a sample that was returned and is approved again.
        """
        slots = Slot.objects.filter(pair=OuterRef("pk"))
        return self.from_people().filter(
            ~Exists(slots) | Exists(slots.filter(state=SlotState.CLOSED, round=1)),
            adjudication__isnull=True,
        )

    def disputed(self, slots: SlotQuerySet | None = None) -> PairQuerySet:
        """Return the pairs whose judgments stay split: a curator's to settle.

        All of ``slots`` are read, once: name those of one project or pair where others
        do not matter. (Asked pair by pair it takes twice as long.)
        """
        split = (Slot.objects.all() if slots is None else slots).of_split_pairs()
        return self.from_people().filter(pk__in=split, adjudication__isnull=True)

    def skipped_by_all(self) -> PairQuerySet:
        """Return the pairs that wait though every labeler who could judge has met them.

        Somebody has skipped each, or they are split and more people were asked for than
        there are. Nobody holds them now: a curator's to settle.
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
        # Named by a union: as "skipped or split" it would be asked of every pair.
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
        """Leave out the pairs of samples that ``user`` wrote."""
        # A scalar sub-query: as a join Postgres may read all turns for each pair.
        author = Turn.objects.filter(pk=OuterRef("turn")).order_by()
        known = Coalesce(
            Subquery(author.values("sample__author")),
            Value(0),
            output_field=models.IntegerField(),
        )
        return self.alias(_author=known).exclude(Q(_author=user.pk or 0))


class Pair(models.Model):
    """A label response and a sampled response of one turn.

    ``label_text`` and ``sampled_text`` are copies: what a person judged stays what it
    was when the sample is edited later. Equal pairs (same turn, same two texts) are
    one row, whatever produced them; ``PairOrigin`` says which answers they were.
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
    """Which sampled response a pair was made from."""

    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="origins")
    sampled_response = models.OneToOneField(
        SampledResponse, on_delete=models.CASCADE, related_name="origin"
    )

    def __str__(self) -> str:
        return f"pair {self.pair_id} from answer {self.sampled_response_id}"


class SlotQuerySet(models.QuerySet["Slot"]):
    def waiting(self) -> SlotQuerySet:
        """Return the slots that nobody has filled yet, leased or not."""
        return self.filter(state__in=WAITING_STATES)

    def leased(self) -> SlotQuerySet:
        """Return the slots somebody holds, whether or not the lease has run out."""
        return self.filter(state=SlotState.LEASED)

    def of_split_pairs(self) -> models.QuerySet[Slot, int]:
        """Return the pairs whose judgments are all there and tie, as their keys.

        A slot that disagreement added (round 2 and up) and that was closed again does
        not hold a pair up.
        """
        return (
            self.exclude(state=SlotState.CLOSED, round__gt=1)
            .order_by()
            .values("pair")
            .annotate(
                _all=Count("pk"),
                _done=Count("judgment"),
                _ones=Sum("judgment__verdict"),
            )
            .filter(_all=F("_done"), _done=2 * F("_ones"))
            .values_list("pair", flat=True)
        )


class Slot(models.Model):
    """One needed judgment of one pair: the narrow row the queue hands out.

    Claimed only by :func:`annotation.judging.judgments.claim_slot`.
    """

    project = models.ForeignKey(
        Project,
        on_delete=models.CASCADE,
        related_name="slots",
        db_index=False,  # slot_place_once begins with it
    )
    pair = models.ForeignKey(
        Pair,
        on_delete=models.CASCADE,
        related_name="slots",
        db_index=False,  # slot_ordinal_once begins with it
    )
    ordinal = models.PositiveSmallIntegerField(help_text="1 to k.")
    round = models.PositiveSmallIntegerField(
        default=1, help_text="2 and up for slots added on disagreement."
    )
    priority = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(9)],
        help_text="0 to 9, higher first. Each level in use costs a claim one probe.",
    )
    place = models.PositiveBigIntegerField(
        help_text="Order within the priority; from Project.queue_tail."
    )
    state = models.CharField(
        max_length=6, choices=SlotState.choices, default=SlotState.OPEN
    )
    holder = models.ForeignKey(
        USER,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="held_slots",
        db_index=False,  # slot_by_holder, for the few that are held
    )
    leased_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    token = models.PositiveBigIntegerField(
        default=0, help_text="Fencing token: grows when the slot changes hands."
    )
    is_ahead = models.BooleanField(
        default=False,
        help_text="Leased ahead of its showing, for a short time, by a page's prefetch.",
    )
    judgment = models.OneToOneField(
        "Judgment",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="fills",
        help_text="The one judgment that counts for this slot.",
    )

    objects = SlotQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["pair", "ordinal"], name="slot_ordinal_once"
            ),
            # A promise and the queue's index in one: the claim walks it.
            models.UniqueConstraint(
                fields=["project", "priority", "place"],
                condition=Q(state__in=WAITING_STATES),
                name="slot_place_once",
            ),
            models.CheckConstraint(
                condition=Q(state__in=SlotState.values), name="slot_state_known"
            ),
            models.CheckConstraint(
                condition=Q(
                    state="leased",
                    holder__isnull=False,
                    leased_at__isnull=False,
                    leased_until__isnull=False,
                )
                | (
                    ~Q(state="leased")
                    & Q(
                        holder__isnull=True,
                        leased_at__isnull=True,
                        leased_until__isnull=True,
                    )
                ),
                name="slot_leased_means_held",
            ),
            models.CheckConstraint(
                condition=Q(state="done", judgment__isnull=False)
                | (~Q(state="done") & Q(judgment__isnull=True)),
                name="slot_done_means_judged",
            ),
            models.CheckConstraint(
                condition=Q(priority__lte=9), name="slot_priority_in_range"
            ),
            models.CheckConstraint(
                condition=Q(is_ahead=False) | Q(state="leased"),
                name="slot_ahead_means_leased",
            ),
        ]
        indexes = [
            models.Index(
                fields=["holder", "project"],
                name="slot_by_holder",
                condition=Q(state="leased"),
            ),
            models.Index(
                fields=["pair"],
                name="slot_waiting_split",
                condition=Q(state__in=WAITING_STATES, round__gt=1),
            ),
            models.Index(
                fields=["project", "leased_until"],
                name="slot_by_expiry",
                condition=Q(state="leased"),
            ),
        ]

    def __str__(self) -> str:
        return f"slot {self.ordinal} of pair {self.pair_id}"

    @property
    def lease_proof(self) -> str:
        """A signature for the page: the slot was leased to its holder by its token."""
        assert self.holder_id is not None
        return _LEASES.signature(f"{self.pk} {self.token} {self.holder_id}")

    @staticmethod
    def was_leased(proof: str, *, slot_id: int, token: int, user_id: int) -> bool:
        """Say whether ``proof`` is the ``lease_proof`` of such a lease.

        The rows tell no more once the slot has passed on and the touch is gone.
        """
        try:
            _LEASES.unsign(f"{slot_id} {token} {user_id}:{proof}")
        except BadSignature:
            return False
        return True


class Touch(models.Model):
    """A person has met a pair, and no claim shows it to them again."""

    pk = models.CompositePrimaryKey("pair_id", "user_id")
    pair = models.ForeignKey(
        Pair, on_delete=models.CASCADE, related_name="touches", db_index=False
    )
    user = models.ForeignKey(
        USER, on_delete=models.CASCADE, related_name="touches", db_index=False
    )
    at = models.DateTimeField(default=timezone.now)
    is_seen = models.BooleanField(
        default=True,
        db_default=True,
        help_text=(
            "False while the pair is only fetched ahead, and once its page was left; "
            "then the person may meet it again if it passes on."
        ),
    )

    class Meta:
        indexes = [
            models.Index(
                fields=["user"],
                name="touch_unseen_by_user",
                condition=Q(is_seen=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} met pair {self.pair_id}"


class QueueCursor(models.Model):
    """How far one person has come in one priority of a project's queue.

    A cache, safe to delete: no slot at or before ``place`` is for this person, now or
    ever (done, closed, met, or their own sample). docs/queue.md says why that holds.
    """

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="cursors", db_index=False
    )
    user = models.ForeignKey(USER, on_delete=models.CASCADE, related_name="cursors")
    priority = models.PositiveSmallIntegerField()
    place = models.PositiveBigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "user", "priority"], name="queuecursor_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} at {self.place} of priority {self.priority}"


class JudgmentQuerySet(models.QuerySet["Judgment"]):
    def visible_to(self, user: AbstractBaseUser | AnonymousUser) -> JudgmentQuerySet:
        """Return the judgments of the projects ``user`` is a member of."""
        return self.filter(project__in=Project.objects.visible_to(user))

    def current(self) -> JudgmentQuerySet:
        """Return the rows no later row supersedes and nobody withdrew."""
        # Only a person's own later row supersedes; saying so gives Postgres the small
        # index judgment_superseding, where it would read the large one by ``supersedes``.
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
        # The later rows of one person are few: as a list Postgres reads them once, where
        # ``current`` asks row by row.
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
        """Annotate ``outcome``, the pair's, or null."""
        pairs = Pair.objects.with_outcome().filter(pk=OuterRef("pair"))
        found = pairs.values(found=F("outcome"))
        return self.annotate(outcome=Subquery(found[:1]))

    def with_votes(self) -> JudgmentQuerySet:
        """Annotate what is said of the judgment's pair, for ``progress`` to weigh.

        ``votes`` are its slots, but for those closed again: labeler, verdict and
        reasons, null where nobody has judged. ``word`` is a curator's, or null.
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
    """One person's 0/1 for one pair. Append-only: a change of mind is a new row."""

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
            # Their figures are read from these two without touching the table.
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
        """The reasons in words; one no longer known as it is."""
        known = {reason.value: str(reason.label) for reason in Reason}
        return [known.get(reason, reason) for reason in self.reasons]


class Skip(models.Model):
    """A person gave a slot back without judging; a reason is required."""

    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="skips")
    user = models.ForeignKey(USER, on_delete=models.PROTECT, related_name="skips")
    reason = models.CharField(max_length=300)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.CheckConstraint(condition=~Q(reason=""), name="skip_has_reason"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} skipped {self.pair_id}: {self.reason}"


class Adjudication(models.Model):
    """A curator's final word on a pair that the labelers did not settle."""

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
