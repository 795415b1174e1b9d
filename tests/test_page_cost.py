"""No page reads what grows with all pairs: 100,000 of them, every page, every role."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from django.conf import settings
from django.db import connection

from benchmarks import many, page_cost
from benchmarks.page_cost import LIMIT, Cost

PAIRS = 100_000

# Pages that need the outcome of many pairs, which is worked out pair by pair: they wait
# for a pair's standing as an indexed column. Take a page out as soon as it is cheap.
WAITING = {
    "annotation:disputes": "finds the split pairs by one pass over a project's slots",
    "training:iterations": "takes the outcomes of every answer of the draws it lists",
    "training:iterations-series": "takes the same outcomes as the list",
    "training:iteration": "counts the outcomes of its draw's pairs",
    "training:iteration-live": "counts them again while it is judged",
}

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


@pytest.fixture(scope="module")
def costs(django_db_setup, django_db_blocker) -> list[Cost]:
    """Visit every page beside committed, vacuumed data; then take the data away."""
    # The admin's own templates use variables that are not there.
    undefined = settings.TEMPLATES[0]["OPTIONS"]["string_if_invalid"]
    with django_db_blocker.unblock(), patch.object(undefined, "fail", False):
        assert connection.settings_dict["NAME"].startswith("test_")
        try:
            data = many.fill(PAIRS)
            visits = [
                page_cost.visit(page, timed=False) for page in page_cost.pages_of(data)
            ]
        finally:
            many.clear()
    return [cost for cost in visits if cost is not None]


def told(costs: list[Cost]) -> str:
    return "\n".join(
        f"{cost.page}: {cost.buffers:,} buffers, reads all of {set(cost.scanned)}\n"
        f"    most by: {cost.worst.text[:400]}"
        for cost in costs
    )


def test_no_page_costs_more_than_the_limit_or_reads_a_growing_table_whole(costs):
    dear = [
        cost for cost in costs if not cost.is_within and cost.page.name not in WAITING
    ]
    assert not dear, f"over {LIMIT:,} buffers or scanning:\n{told(dear)}"


def test_a_page_that_waits_for_the_standing_is_dear_still(costs):
    dear = {cost.page.name for cost in costs if not cost.is_within}
    assert dear >= WAITING.keys(), f"now cheap: {sorted(WAITING.keys() - dear)}"


def test_every_page_was_shown_to_somebody(costs):
    shown = {cost.page.name for cost in costs if cost.status in (200, 302)}
    assert {cost.page.name for cost in costs} == shown
    assert {"annotation:work", "training:run-new", "annotation:judge-task"} <= shown
    assert "admin:annotation_judgment_changelist" in shown
