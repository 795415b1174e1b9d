"""Counting for pages: no page reads what grows with everything people have done.

A total is counted as far as it says something, and shown as "500+" beyond that.
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
    """A number of rows as far as it was counted: "17", or "500+" where there are more."""

    value: int
    is_more: bool = False

    def __str__(self) -> str:
        text = number_format(self.value, force_grouping=True)
        return f"{text}+" if self.is_more else text


def count_up_to(rows: QuerySet[Any, Any], most: int = MOST) -> Count:
    """Count ``rows`` as far as ``most``."""
    count = rows[: most + 1].count()
    return Count(min(count, most), count > most)


def judgments_that_count(project: Project) -> Count:
    """Count the judgments that fill a slot, as far as they say something."""
    mine = Judgment.objects.current().filter(project=project, is_extra=False)
    return count_up_to(mine.order_by("created_at"))


def judgments_wanted(project: Project) -> Count:
    """Count the judgments that people still have to give."""
    slots = Slot.objects.waiting().filter(project=project)
    return count_up_to(slots.order_by("priority", "place"))


def pairs_settled_by_rule(project: Project) -> Count:
    """Count the pairs whose outcome no person had to give."""
    return count_up_to(Pair.objects.filter(project=project).by_rule().order_by("pk"))


def has_outcome(project: Project) -> bool:
    """Say whether any pair of the project has an outcome.

    Looked for from the newest judgment back, so that pairs that nobody has judged yet,
    however many there are, are not read.
    """
    if Pair.objects.filter(project=project).by_rule().exists():
        return True
    if Adjudication.objects.filter(pair__project=project).exists():
        return True
    judged = Judgment.objects.filter(project=project).with_outcome()
    known = judged.filter(IsNull(F("outcome"), False))
    return bool(known.order_by("-created_at")[:1])
