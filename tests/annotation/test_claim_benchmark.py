"""The benchmark of the claim fits the tables as they are."""

import pytest

from benchmarks import claim

pytestmark = pytest.mark.django_db


def test_fills_a_queue_and_counts_the_pages_of_a_claim():
    project = claim.fill(40)
    (user,) = claim.make_people(1)
    pages, _milliseconds, has_found = claim.explain(project, user)
    assert has_found
    assert 0 < pages < 200
