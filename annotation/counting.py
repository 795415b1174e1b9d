"""Counts for pages; no page reads rows in proportion to all that people have done.

A total is counted up to a useful limit and shown as "500+" beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from django.db.models import F
from django.db.models.lookups import IsNull
from django.utils.formats import number_format

from annotation.models import (
    Adjudication,
    Judgment,
    Pair,
    Project,
    Slot,
)

if TYPE_CHECKING:
    from django.db.models import QuerySet

MOST: Final = 500


@dataclass(frozen=True)
class Count:
    """A number of rows, counted up to a limit: "17", or "500+" where there are more."""

    value: int
    is_more: bool = False

    def __str__(self) -> str:
        text = number_format(self.value, force_grouping=True)
        return f"{text}+" if self.is_more else text


def count_up_to(rows: QuerySet[Any, Any], most: int = MOST) -> Count:
    """Count ``rows``, but no further than ``most``."""
    count = rows[: most + 1].count()
    return Count(min(count, most), count > most)


def judgments_that_count(project: Project) -> Count:
    """Count the judgments that fill a slot, up to the display limit."""
    mine = Judgment.objects.current().filter(project=project, is_extra=False)
    return count_up_to(mine.order_by("created_at"))


def judgments_wanted(project: Project) -> Count:
    """Count the judgments that are still missing."""
    slots = Slot.objects.waiting().filter(project=project)
    return count_up_to(slots.order_by("priority", "place"))


def pairs_settled_by_rule(project: Project) -> Count:
    """Count the pairs whose outcome a rule gave, without a person."""
    return count_up_to(Pair.objects.filter(project=project).by_rule().order_by("pk"))


def has_outcome(project: Project) -> bool:
    """Whether any pair of the project has an outcome.

    The search starts at the newest judgment, so it does not read pairs that have no
    judgment yet, however many there are.
    """
    if Pair.objects.filter(project=project).by_rule().exists():
        return True
    if Adjudication.objects.filter(pair__project=project).exists():
        return True
    judged = Judgment.objects.filter(project=project).with_outcome()
    known = judged.filter(IsNull(F("outcome"), False))
    return bool(known.order_by("-created_at")[:1])
