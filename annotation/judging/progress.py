"""A person's own figures: pace, dwell time, and agreement with the others.

Agreement is leave-one-out: with the curator's verdict, or with the majority of the
other judgments. Only final pairs count; before that, the figure would be a hint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from django.db.models import Count, F, Q
from django.utils import timezone

from annotation.judging.calibration import Arrangement, arrangements
from annotation.judging.session import midnight_of
from annotation.models import (
    Judgment,
    JudgmentQuerySet,
    Project,
    Reason,
    Verdict,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.utils.functional import _StrPromise

# The verdict of a slot or a curator: labeler, verdict, reasons; see ``with_votes``.
_Vote = dict[str, Any]

DAYS: Final = 30
# Above this number the oldest of the 30 days are left out, to keep the page fast.
ROWS: Final = 5000
# This many of the newest are compared with the others' verdicts; each costs a look-up
# of its pair.
COMPARED: Final = 60


@dataclass(frozen=True)
class Spell:
    """The judgments of a period that begins at ``start``.

    ``quick`` counts those below the project's minimum dwell time. ``median`` is in
    seconds.
    """

    start: date
    count: int
    quick: int
    median: float | None


@dataclass(frozen=True)
class Agreement:
    """Of ``count`` judgments on final pairs, ``agreed`` equal the others' verdict."""

    count: int
    agreed: int

    @property
    def percent(self) -> int | None:
        return percent(self.agreed, self.count)


@dataclass(frozen=True)
class ReasonSeen:
    """How often the person saw a reason for a difference that the others saw.

    Of ``count`` final pairs with this reason, the person judged ``seen`` as 0.
    """

    label: str | _StrPromise
    count: int
    seen: int

    @property
    def percent(self) -> int | None:
        return percent(self.seen, self.count)


@dataclass(frozen=True)
class Progress:
    whole: Spell
    weeks: tuple[Spell, ...]
    agreement: Agreement
    reasons: tuple[ReasonSeen, ...]
    arrangements: tuple[Arrangement, ...]


@dataclass(frozen=True)
class _Row:
    at: datetime
    verdict: int
    seconds: float
    sides_swapped: bool | None


@dataclass(frozen=True)
class _Compared:
    """A judgment, and the others' verdict and reasons; None without a verdict."""

    verdict: int
    sides_swapped: bool | None
    others: int | None
    reasons: frozenset[str]

    @property
    def is_agreed(self) -> bool:
        return self.verdict == self.others


def percent(part: int, whole: int) -> int | None:
    return round(100 * part / whole) if whole else None


def totals_of(*, project: Project, user: User) -> dict[str, int]:
    """Count the person's judgments that stand: ``total``, ``today`` and what kind."""
    mine = Judgment.objects.given_by(user, project)
    return mine.aggregate(
        total=Count("pk"),
        today=Count("pk", filter=Q(created_at__gte=midnight_of(timezone.now()))),
        consistent=Count("pk", filter=Q(verdict=Verdict.CONSISTENT)),
        extras=Count("pk", filter=Q(is_extra=True)),
    )


def progress_of(*, project: Project, user: User) -> Progress:
    """Return the person's figures of the last 30 days, whole and by week.

    Two queries.
    """
    since = midnight_of(timezone.now()) - timedelta(days=DAYS - 1)
    mine = (
        Judgment.objects.given_by(user, project)
        .filter(created_at__gte=since)
        .order_by("-created_at")
    )
    rows = _rows(mine)
    compared = _compared(mine)
    weeks: dict[date, list[_Row]] = {}
    for row in rows:
        day = timezone.localtime(row.at).date()
        weeks.setdefault(day - timedelta(days=day.weekday()), []).append(row)
    final = [one for one in compared if one.others is not None]
    return Progress(
        whole=_spell(timezone.localtime(since).date(), rows, project),
        weeks=tuple(
            _spell(start, weeks[start], project)
            for start in sorted(weeks, reverse=True)
        ),
        agreement=Agreement(len(final), sum(one.is_agreed for one in final)),
        reasons=_reasons_seen(final),
        arrangements=arrangements(
            judgments=[(row.sides_swapped, row.verdict) for row in rows],
            compared=[(one.sides_swapped, one.is_agreed) for one in final],
        ),
    )


def _rows(mine: JudgmentQuerySet) -> list[_Row]:
    values = mine.values_list("created_at", "verdict", "seconds_spent", "sides_swapped")
    return [_Row(*each) for each in values[:ROWS]]


def _compared(mine: JudgmentQuerySet) -> list[_Compared]:
    """Return the newest judgments that count, each with the others' verdict."""
    rows = mine.filter(is_extra=False).with_votes()
    values = rows.values_list(
        "labeler", "verdict", "sides_swapped", F("votes"), F("word")
    )
    return [
        _Compared(verdict, swapped, *_without(labeler, votes, word))
        for labeler, verdict, swapped, votes, word in values[:COMPARED]
    ]


def final_verdict(judgment: Judgment) -> int | None:
    """Return the outcome of the judgment's pair if others took part in it.

    An outcome from one's own judgment alone would always agree with it. The judgment
    must come from ``with_votes``.
    """
    votes: Sequence[_Vote] = judgment.votes  # type: ignore[attr-defined]
    word: _Vote | None = judgment.word  # type: ignore[attr-defined]
    if word is not None:
        return int(word["verdict"])
    if all(vote["labeler"] == judgment.labeler_id for vote in votes):
        return None
    return _majority(votes)


def _majority(votes: Sequence[_Vote]) -> int | None:
    """Return the strict majority; None while a vote is missing, or at a tie."""
    verdicts = [vote["verdict"] for vote in votes]
    if None in verdicts or 2 * sum(verdicts) == len(verdicts):
        return None
    return int(2 * sum(verdicts) > len(verdicts))


def _without(
    labeler: int, votes: Sequence[_Vote], word: _Vote | None
) -> tuple[int | None, frozenset[str]]:
    """Return the verdict and reasons of the others on a pair (leave-one-out).

    There is none while a judgment is missing, when all tie (the pair is in dispute),
    and when the others tie: then the judgment left out decided.
    """
    if word is not None and word["labeler"] != labeler:
        return word["verdict"], frozenset(word["reasons"])
    others = [vote for vote in votes if vote["labeler"] != labeler]
    verdict = None if _majority(votes) is None else _majority(others)
    reasons = [reason for vote in others for reason in vote["reasons"] or ()]
    return verdict, frozenset(reasons if verdict == Verdict.INCONSISTENT else ())


def _spell(start: date, rows: Iterable[_Row], project: Project) -> Spell:
    rows = list(rows)
    # A page without scripts sends 0: the time was not measured.
    timed = [row.seconds for row in rows if row.seconds > 0]
    return Spell(
        start=start,
        count=len(rows),
        quick=sum(seconds < project.minimum_dwell_seconds for seconds in timed),
        median=median(timed) if timed else None,
    )


def _reasons_seen(final: Iterable[_Compared]) -> tuple[ReasonSeen, ...]:
    """Count per reason how often the person saw a difference that the others saw.

    The reasons are the curator's, else those of the other people who judged 0.
    """
    counts: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for one in final:
        if one.others == Verdict.INCONSISTENT:
            counts.update(one.reasons)
            if one.is_agreed:
                seen.update(one.reasons)
    return tuple(
        ReasonSeen(reason.label, counts[reason], seen[reason])
        for reason in Reason
        if counts[reason]
    )
