"""The rows of the judging queue: slots, who has met a pair, cursors, skips."""

from __future__ import annotations

from django.core.signing import BadSignature, Signer
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import (
    Count,
    F,
    Q,
    Sum,
)
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from annotation.models.projects import USER, Project


class SlotState(models.TextChoices):
    OPEN = "open", _("Open")
    LEASED = "leased", _("Leased")
    DONE = "done", _("Done")
    CLOSED = "closed", _("Closed: no longer needed")


# Literal text instead of an enum expression: claim_slot's SQL repeats it word for word,
# which lets Postgres use the partial index.
WAITING_STATES = ["open", "leased"]


_LEASES = Signer(salt="annotation.lease")


class SlotQuerySet(models.QuerySet["Slot"]):
    def waiting(self) -> SlotQuerySet:
        """Return the slots that nobody has filled yet, leased or not."""
        return self.filter(state__in=WAITING_STATES)

    def leased(self) -> SlotQuerySet:
        """Return the slots somebody holds, whether or not the lease has run out."""
        return self.filter(state=SlotState.LEASED)

    def of_split_pairs(self) -> models.QuerySet[Slot, int]:
        """Return the keys of the pairs whose judgments are complete and tie.

        A slot that a disagreement added (round 2 and up) and that was closed again does
        not count.
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
    """One needed judgment of one pair: the narrow row that the queue hands out.

    Only :func:`annotation.judging.judgments.claim_slot` claims it.
    """

    project = models.ForeignKey(
        Project,
        on_delete=models.CASCADE,
        related_name="slots",
        db_index=False,  # slot_place_once begins with it
    )
    pair = models.ForeignKey(
        "annotation.Pair",
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
        db_index=False,  # slot_by_holder indexes the few held ones
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
        "annotation.Judgment",
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
            # A constraint and the queue's index in one: the claim walks it.
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
        """Return a signature for the page: its holder leased the slot by its token."""
        assert self.holder_id is not None
        return _LEASES.signature(f"{self.pk} {self.token} {self.holder_id}")

    @staticmethod
    def was_leased(proof: str, *, slot_id: int, token: int, user_id: int) -> bool:
        """Whether ``proof`` is the ``lease_proof`` of such a lease.

        The rows do not show it once the slot has passed on and the touch is gone.
        """
        try:
            _LEASES.unsign(f"{slot_id} {token} {user_id}:{proof}")
        except BadSignature:
            return False
        return True


class Touch(models.Model):
    """A person has met a pair, so no claim shows it to them again."""

    pk = models.CompositePrimaryKey("pair_id", "user_id")
    pair = models.ForeignKey(
        "annotation.Pair",
        on_delete=models.CASCADE,
        related_name="touches",
        db_index=False,
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
    ever (done, closed, met, or their own sample). docs/queue.md proves it.
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


class Skip(models.Model):
    """A person returned a slot without judging; a reason is required."""

    pair = models.ForeignKey(
        "annotation.Pair", on_delete=models.CASCADE, related_name="skips"
    )
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
