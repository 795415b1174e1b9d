"""Totals are counted as far as they say something."""

from __future__ import annotations

import pytest

from annotation.counting import (
    count_up_to,
    has_outcome,
    judgments_that_count,
    judgments_wanted,
    pairs_settled_by_rule,
)
from annotation.judging.adjudication import adjudicate
from annotation.judging.judgments import undo_judgment
from annotation.models import Pair
from tests.cast import make_judgment, make_pair, make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project()


def test_a_count_stops_at_its_limit_and_says_so(project):
    for _ in range(3):
        make_pair(project=project)
    pairs = Pair.objects.order_by("pk")
    assert [str(count_up_to(pairs, most)) for most in (2, 3, 4)] == ["2+", "3", "3"]
    assert str(count_up_to(pairs.none(), 2)) == "0"


def test_counts_what_there_is_to_learn_from(project):
    make_pair(project=project, source="rule")
    make_pair(project=make_project(), source="identical")
    pair = make_pair(project=project, slots=3)
    lena = make_user("lena")
    make_judgment(pair, lena, 1)
    make_judgment(pair, make_user("luis"), 0)
    undo_judgment(project=project, user=lena)
    assert str(judgments_that_count(project)) == "1"
    assert str(judgments_wanted(project)) == "2"
    assert str(pairs_settled_by_rule(project)) == "1"


@pytest.mark.parametrize("source", ["identical", "rule", "format"])
def test_a_pair_that_a_rule_settled_is_an_outcome(project, source):
    assert not has_outcome(project)
    make_pair(project=project, source=source)
    assert has_outcome(project)
    assert not has_outcome(make_project())


def test_a_pair_that_people_settled_is_an_outcome(project):
    pair = make_pair(project=project)
    make_judgment(pair, make_user("lena"), 1)
    assert not has_outcome(project)
    make_judgment(pair, make_user("luis"), 1)
    assert has_outcome(project)


def test_a_pair_that_only_a_curator_settled_is_an_outcome(project):
    pair = make_pair(project=project)
    adjudicate(project=project, pair=pair, curator=make_user("rita"), verdict=1)
    assert has_outcome(project)
