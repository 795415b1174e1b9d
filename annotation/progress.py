"""A person's own figures: pace, dwell, and agreement with what pairs came out as.

Agreement is told of final pairs only, and only where somebody else had a say in the
outcome; before that it would be a hint, and on one's own word alone it would say nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Final

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import OuterRef, Subquery
from django.utils import timezone

from annotation.models import (
    Adjudication,
    Judgment,
    Project,
    Reason,
    Verdict,
)
from annotation.sessions import midnight_of

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.utils.functional import _StrPromise

DAYS: Final = 30
# Above this the oldest of the 30 days are left out rather than the page made slow.
ROWS: Final = 5000


@dataclass(frozen=True)
class Spell:
    """The judgments of a time: from ``start`` on.

    ``quick`` took less than the project's minimum dwell; ``final`` are those whose pair
    is final, of which ``agreed`` equal the outcome. ``median`` is in seconds.
    """

    start: date
    count: int
    quick: int
    median: float | None
    final: int
    agreed: int

    @property
    def percent(self) -> int | None:
        return percent(self.agreed, self.final)


@dataclass(frozen=True)
class ReasonSeen:
    """Of ``count`` final pairs that differ for a reason, so many the person saw as 0."""

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
    reasons: tuple[ReasonSeen, ...]


@dataclass(frozen=True)
class _Row:
    at: datetime
    verdict: int
    seconds: float
    final: int | None
    reasons: frozenset[str]


def percent(part: int, whole: int) -> int | None:
    return round(100 * part / whole) if whole else None


def progress_of(*, project: Project, user: User) -> Progress:
    """Return the person's figures of the last 30 days, whole and by week: one query."""
    now = timezone.now()
    since = midnight_of(now) - timedelta(days=DAYS - 1)
    rows = _rows(project, user, since)
    weeks: dict[date, list[_Row]] = {}
    for row in rows:
        day = timezone.localtime(row.at).date()
        weeks.setdefault(day - timedelta(days=day.weekday()), []).append(row)
    return Progress(
        whole=_spell(timezone.localtime(since).date(), rows, project),
        weeks=tuple(
            _spell(start, weeks[start], project)
            for start in sorted(weeks, reverse=True)
        ),
        reasons=_reasons_seen(rows),
    )


def _rows(project: Project, user: User, since: datetime) -> list[_Row]:
    mine = Judgment.objects.current().filter(
        labeler=user, pair__project=project, created_at__gte=since
    )
    theirs = (
        Judgment.objects.counted()
        .filter(pair=OuterRef("pair"), verdict=Verdict.INCONSISTENT)
        .exclude(labeler=user)
        .order_by()
    )
    curators = Adjudication.objects.filter(pair=OuterRef("pair"))
    found = (
        mine.with_final_verdict()
        .order_by("-created_at")
        .values_list(
            "created_at",
            "verdict",
            "seconds_spent",
            "is_extra",
            "final_verdict",
            Subquery(curators.values("reasons")[:1]),
            ArraySubquery(theirs.values("reasons")),
        )[:ROWS]
    )
    return [
        _Row(
            at=at,
            verdict=verdict,
            seconds=seconds,
            final=None if is_extra else final,
            reasons=frozenset(
                word or [reason for reasons in others for reason in reasons]
            ),
        )
        for at, verdict, seconds, is_extra, final, word, others in found
    ]


def _spell(start: date, rows: Iterable[_Row], project: Project) -> Spell:
    rows = list(rows)
    # 0 is what a page without scripts sends: no time was taken.
    timed = [row.seconds for row in rows if row.seconds > 0]
    final = [row for row in rows if row.final is not None]
    return Spell(
        start=start,
        count=len(rows),
        quick=sum(seconds < project.minimum_dwell_seconds for seconds in timed),
        median=median(timed) if timed else None,
        final=len(final),
        agreed=sum(row.verdict == row.final for row in final),
    )


def _reasons_seen(rows: Iterable[_Row]) -> tuple[ReasonSeen, ...]:
    """Tell per reason how often the person saw what the final answer says is there.

    The reasons are the curator's, else those of the other people who judged 0.
    """
    counts: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for row in rows:
        if row.final == Verdict.INCONSISTENT:
            counts.update(row.reasons)
            if row.verdict == Verdict.INCONSISTENT:
                seen.update(row.reasons)
    return tuple(
        ReasonSeen(reason.label, counts[reason], seen[reason])
        for reason in Reason
        if counts[reason]
    )
