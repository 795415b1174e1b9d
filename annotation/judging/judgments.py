"""Judging: record, skip and undo a labeler's decision on a pair.

The deeds that hand out and take back slots live in :mod:`annotation.judging.queue`;
this module re-exports them, so that a page finds all deeds of a labeler in one place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from django.contrib.postgres.expressions import ArraySubquery
from django.db import transaction
from django.db.models import Exists, OuterRef, Subquery
from django.db.models.functions import JSONObject
from django.utils.translation import gettext as _

from annotation.access import require_role
from annotation.judging.calibration import reasons_from_sides, sides_swapped
from annotation.judging.judgment_checks import (
    UNIT_KEY,
    UNITS_LIMIT,
    InvalidJudgment,
    OrderNotConfirmed,
    check_seconds,
    reasons_of_units,
    steps_turned_round,
)
from annotation.judging.queue import (
    Ahead,
    Claim,
    JudgingError,
    Lease,
    LeaseLost,
    NoSuchSlot,
    NothingToDo,
    QueueState,
    claim_ahead,
    claim_slot,
    extend_lease,
    held_claim,
    lease_again,
    leave_slots,
    lock_held_slot,
    lock_person,
    lost,
    queue_state,
    release_slot,
    reopen,
    set_aside,
)
from annotation.judging.slots import NOT_HELD, add_slots
from annotation.models import (
    Adjudication,
    Judgment,
    JudgmentQuerySet,
    Pair,
    Project,
    Reason,
    Role,
    Skip,
    Slot,
    SlotState,
    Touch,
    Verdict,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "Ahead",
    "AlreadyJudged",
    "Claim",
    "InvalidJudgment",
    "JudgingError",
    "Lease",
    "LeaseLost",
    "NoSuchSlot",
    "NothingToDo",
    "NothingToUndo",
    "OrderNotConfirmed",
    "QueueState",
    "claim_ahead",
    "claim_slot",
    "extend_lease",
    "last_decisions",
    "leave_slots",
    "queue_state",
    "record_judgment",
    "release_slot",
    "set_aside",
    "skip_slot",
    "undo_judgment",
]

UNDO_DEPTH: Final = 10


class AlreadyJudged(JudgingError):
    """The person has judged this pair differently.

    ``judgment`` is the one that counts.
    """

    def __init__(self, judgment: Judgment) -> None:
        self.judgment = judgment
        super().__init__(
            _("You have judged this pair already: %(verdict)s. Undo it to change it.")
            % {"verdict": judgment.get_verdict_display().lower()}
        )


class NothingToUndo(JudgingError):
    """The person has no decision to undo, or the named one cannot be undone."""

    def __init__(self, why: str) -> None:
        super().__init__(why)


@dataclass(frozen=True)
class _Decision:
    verdict: Verdict
    reasons: list[str]
    units_that_differ: list[str]


@dataclass(frozen=True)
class _Vote:
    """A slot of a pair, and the verdict that fills it, if any."""

    state: str
    ordinal: int
    round: int
    priority: int
    verdict: int | None


def record_judgment(
    *,
    project: Project,
    slot_id: int,
    token: int,
    user: User,
    verdict: int,
    reasons: Iterable[str] = (),
    units_that_differ: Iterable[str] = (),
    seconds_spent: float = 0.0,
    order_confirmed: bool = False,
    guideline_version: int | None = None,
    proof: str = "",
) -> Judgment:
    """Record a person's verdict 0 or 1 on the pair of a slot they were handed.

    It counts while the slot is theirs, even if the lease has run out and nobody else
    took it, and while they hold another slot of the same pair. Otherwise it is kept as
    an extra that does not count (``is_extra``): tell the person so. Posting the same
    verdict again returns the existing judgment.

    ``guideline_version`` is the version the person had on screen; without it, or if it
    does not exist, the judgment gets the current one. ``proof`` is the ``lease_proof``
    of the slot when it was shown. It replaces the touch where the touch is gone because
    the pair had passed on and could be met again.

    A verdict 0 needs reasons or units that differ; units alone imply their reasons. A
    verdict 1 has neither, whatever the form contained. In calibration ``reasons`` refer
    to the sides as the person saw them; they are stored as referring to the label.

    Raises InvalidJudgment, OrderNotConfirmed, AlreadyJudged, LeaseLost when nothing
    shows that the slot was ever this person's, NoSuchSlot, and Forbidden or NotAMember
    for who has left the project, late or not.
    """
    record = partial(
        _record,
        project=project,
        user=user,
        verdict=verdict,
        reasons=tuple(reasons),
        units_that_differ=tuple(units_that_differ),
        seconds_spent=seconds_spent,
        order_confirmed=order_confirmed,
        guideline_version=guideline_version,
    )
    try:
        with transaction.atomic():
            require_role(project, user, Role.LABELER, deed="Judging")
            return record(slot_id=slot_id, token=token)
    except _NotHeld:
        # Try again under the person's lock, which comes before the pair's: otherwise a
        # concurrent claim of theirs could see the unseen touch but not yet this
        # judgment, and hand them the pair again.
        with transaction.atomic():
            require_role(project, user, Role.LABELER, deed="Judging")
            lock_person(project=project, user=user)
            slot = Slot.objects.get(project=project, pk=slot_id)
            if Slot.was_leased(proof, slot_id=slot_id, token=token, user_id=user.pk):
                Touch.objects.bulk_create(
                    [Touch(pair_id=slot.pair_id, user=user)], ignore_conflicts=True
                )
            for theirs in Slot.objects.leased().filter(pair=slot.pair_id, holder=user):
                slot_id, token = theirs.pk, theirs.token
            return record(slot_id=slot_id, token=token, is_late=True)


class _NotHeld(Exception):
    """The person does not hold the slot now, so their judgment is late or foreign."""


def _record(
    *,
    project: Project,
    slot_id: int,
    token: int,
    user: User,
    verdict: int,
    reasons: Collection[str],
    units_that_differ: Collection[str],
    seconds_spent: float,
    order_confirmed: bool,
    guideline_version: int | None,
    is_late: bool = False,
) -> Judgment:
    """Record a judgment, inside a transaction.

    Raises _NotHeld unless the person holds the slot or is locked (``is_late``).
    """
    pair = (
        Pair.objects.select_for_update(no_key=True, of=["self"])
        .select_related("project", "turn")
        .filter(project=project, slots=slot_id, touches__user=user)
        .first()
    )
    if pair is None:
        error = lost(project=project, slot_id=slot_id)
        if is_late or isinstance(error, NoSuchSlot):
            raise error
        raise _NotHeld
    swapped = sides_swapped(project=pair.project, pair=pair, user_id=user.pk)
    reasons = reasons_from_sides(reasons, swapped=swapped)
    decision = decide(pair, verdict, reasons, units_that_differ)
    check_seconds(seconds_spent)
    slot = _lock_slot_with_votes(slot_id, token, user)
    ids = {slot.same_lease, slot.before} - {None}
    known = Judgment.objects.in_bulk(ids) if ids else {}
    same_lease, before = known.get(slot.same_lease), known.get(slot.before)
    if same_lease is not None and same_lease.labeler_id != user.pk:
        raise LeaseLost(slot_id)
    if same_lease is not None and same_lease.verdict == decision.verdict:
        return same_lease
    if before is not None and before.verdict != Verdict.WITHDRAWN:
        if before.verdict == decision.verdict:
            return before
        raise AlreadyJudged(before)
    is_held = slot.state == SlotState.LEASED and slot.holder_id == user.pk
    if not is_held and not is_late:
        raise _NotHeld
    # A slot held by nobody or by another has a newer token than any this person had.
    newest = slot.token if is_held else slot.token - 1
    if not 1 <= token <= newest or (same_lease is not None and not is_held):
        raise LeaseLost(slot_id)
    if (
        decision.verdict == Verdict.CONSISTENT
        and pair.project.confirm_step_order
        and not order_confirmed
        and (steps := steps_turned_round(pair))
    ):
        raise OrderNotConfirmed(steps)
    # Versions are numbered from 1 without gaps.
    current, on_screen = pair.project.guideline_version, guideline_version or 0
    judgment = Judgment.objects.create(
        project_id=pair.project_id,
        pair=pair,
        slot=slot,
        # A tab may be older than the release or undo of this very slot and carry an
        # older token: its post counts for the present lease.
        token=slot.token if is_held else token,
        labeler=user,
        verdict=decision.verdict,
        reasons=decision.reasons,
        units_that_differ=decision.units_that_differ,
        order_confirmed=order_confirmed,
        sides_swapped=swapped,
        seconds_spent=seconds_spent,
        guideline_version=on_screen if 1 <= on_screen <= current else current,
        is_extra=not is_held,
        supersedes=before,
    )
    if is_held:
        Slot.objects.filter(pk=slot.pk).update(
            state=SlotState.DONE, judgment=judgment, **NOT_HELD
        )
        if not slot.is_settled:
            mine = _Vote(
                SlotState.DONE,
                slot.ordinal,
                slot.round,
                slot.priority,
                decision.verdict,
            )
            others = [_Vote(**other) for other in slot.others]
            _add_slots_when_split(pair, [mine, *others])
    return judgment


def skip_slot(
    *, project: Project, slot_id: int, token: int, user: User, reason: str
) -> Skip:
    """Return a slot unjudged with a reason; the person does not meet the pair again.

    Raises InvalidJudgment without a reason and LeaseLost when the slot is not theirs.
    """
    reason = reason.strip()
    if not 1 <= len(reason) <= 300:
        raise InvalidJudgment("reason", _("1 to 300 characters"), reason[:60])
    with transaction.atomic():
        require_role(project, user, Role.LABELER, deed="Judging")
        slot = lock_held_slot(project=project, slot_id=slot_id, token=token, user=user)
        reopen(slot)
        return Skip.objects.create(pair_id=slot.pair_id, user=user, reason=reason)


def last_decisions(
    user: User, project: Project, limit: int = UNDO_DEPTH
) -> JudgmentQuerySet:
    """Return the person's newest judgments that stand, newest first."""
    return (
        Judgment.objects.given_by(user, project)
        .select_related("pair__turn__sample")
        .order_by("-pk")[:limit]
    )


def undo_judgment(
    *, project: Project, user: User, judgment_id: int | None = None
) -> Claim:
    """Undo one of the person's last ten decisions and hand the pair back to them.

    Without ``judgment_id`` it is the newest one that counts. A superseding row marks
    the judgment as withdrawn, and the slot is leased to the same person under a new
    token. A slot that only the disagreement had added and that nobody has taken is
    closed again. Raises NothingToUndo when there is no such decision, or it is not
    among the last ten, came late and never counted, or was settled by a curator.
    """
    with transaction.atomic():
        require_role(project, user, Role.LABELER, deed="Judging")
        lock_person(project=project, user=user)
        recent = list(last_decisions(user, project))
        if judgment_id is None:
            recent = [judgment for judgment in recent if not judgment.is_extra]
        else:
            recent = [judgment for judgment in recent if judgment.pk == judgment_id]
        if not recent:
            raise NothingToUndo(
                _("There is nothing to undo among your last %(count)s decisions.")
                % {"count": UNDO_DEPTH}
            )
        judgment = recent[0]
        if judgment.is_extra:
            raise NothingToUndo(_("This judgment came late and does not count."))
        pair = Pair.objects.select_for_update(no_key=True).get(pk=judgment.pair_id)
        if Adjudication.objects.filter(pair=pair).exists():
            raise NothingToUndo(_("A curator has settled this pair."))
        slot = (
            Slot.objects.select_for_update(no_key=True, of=["self"])
            .select_related("project")
            .get(judgment=judgment)
        )
        Judgment.objects.create(
            project_id=pair.project_id,
            pair=pair,
            slot=slot,
            token=slot.token,
            labeler=user,
            verdict=Verdict.WITHDRAWN,
            guideline_version=project.guideline_version,
            supersedes=judgment,
            withdrawn_because="undone by the labeler",
        )
        pair.slots.filter(state=SlotState.OPEN, round__gt=1).exclude(pk=slot.pk).update(
            state=SlotState.CLOSED
        )
        lease_again(slot, user=user)
        return held_claim(slot.pk)


def _lock_slot_with_votes(slot_id: int, token: int, user: User) -> Any:
    """Lock a slot and read in one query all that a decision on its pair depends on.

    The caller has locked the pair, so none of this changes until the commit:
    ``same_lease``, the judgment given under this very lease; ``before``, the user's
    last one on the pair, withdrawn or not; ``others``, the other slots of the pair as
    fields of ``_Vote``; and whether a curator has settled it.
    """
    same_lease = Judgment.objects.filter(slot=OuterRef("pk"), token=token)
    before = Judgment.objects.filter(
        pair=OuterRef("pair"), labeler=user, superseded_by__isnull=True
    )
    others = Slot.objects.filter(pair=OuterRef("pair")).exclude(pk=OuterRef("pk"))
    vote = JSONObject(
        state="state",
        ordinal="ordinal",
        round="round",
        priority="priority",
        verdict="judgment__verdict",
    )
    return (
        Slot.objects.select_for_update(no_key=True, of=["self"])
        .annotate(
            same_lease=Subquery(
                same_lease.exclude(verdict=Verdict.WITHDRAWN).values("pk")[:1]
            ),
            before=Subquery(before.values("pk")[:1]),
            others=ArraySubquery(others.values(vote=vote)),
            is_settled=Exists(Adjudication.objects.filter(pair=OuterRef("pair"))),
        )
        .get(pk=slot_id)
    )


def _add_slots_when_split(pair: Pair, votes: list[_Vote]) -> None:
    """Ask more people when every slot is done and the judgments are a tie.

    Slots are added in twos, so that the number stays even: a third judgment alone
    always makes a majority, however hard the pair is. A pair that was split is
    therefore settled by a lead of two, or stays disputed at the project's limit, and a
    curator settles it. (With an odd limit the last person decides.)

    The caller has locked the pair: of two judgments that fill its last two slots, the
    later one sees both.
    """
    ordinal = 1 + max(vote.ordinal for vote in votes)
    was_split = any(vote.round > 1 for vote in votes)
    votes = [vote for vote in votes if vote.state != SlotState.CLOSED]
    verdicts = [vote.verdict for vote in votes if vote.verdict is not None]
    lead = abs(2 * sum(verdicts) - len(verdicts))
    missing = min(2 - len(votes) % 2, pair.project.overlap_limit - len(votes))
    if len(verdicts) < len(votes) or missing < 1:
        return
    if lead > 0 and not (was_split and lead < 2):
        return
    add_slots(
        pair=pair,
        count=missing,
        ordinal=ordinal,
        round=1 + max(vote.round for vote in votes),
        priority=min(9, 1 + max(vote.priority for vote in votes)),
    )


def decide(
    pair: Pair, verdict: int, reasons: Iterable[str], units_that_differ: Iterable[str]
) -> _Decision:
    """Check a person's choice and add the reasons that the units imply."""
    if verdict not in (Verdict.INCONSISTENT, Verdict.CONSISTENT):
        raise InvalidJudgment("verdict", _("0 or 1"), verdict)
    if verdict == Verdict.CONSISTENT:
        return _Decision(Verdict.CONSISTENT, [], [])
    reasons, units_that_differ = (
        list(dict.fromkeys(reasons)),
        list(dict.fromkeys(units_that_differ)),
    )
    for reason in reasons:
        if reason not in Reason.values:
            expected = _("among %(values)s") % {"values": ", ".join(Reason.values)}
            raise InvalidJudgment("reasons", expected, reason)
    if len(units_that_differ) > UNITS_LIMIT:
        expected = _("at most %(count)s units") % {"count": UNITS_LIMIT}
        raise InvalidJudgment("units", expected, len(units_that_differ))
    for unit in units_that_differ:
        if not UNIT_KEY.fullmatch(unit):
            expected = _("a unit such as 'plan/2' or 'answer'")
            raise InvalidJudgment("units", expected, unit)
    if not reasons and not units_that_differ:
        raise InvalidJudgment(
            "reasons", _("a reason or a unit that differs"), _("none")
        )
    return _Decision(
        Verdict.INCONSISTENT,
        reasons or reasons_of_units(pair, units_that_differ),
        units_that_differ,
    )
