"""Derived partners: right verdicts, balanced orders, every kind where it has a place."""

import json
import random
from collections import Counter

import pytest

from actions.demo import DIFFICULTIES, generate
from actions.demo.derive import (
    KINDS,
    NotApplicable,
    applicable_kinds,
    balanced_quad,
    corrupted,
    reworded,
)
from actions.demo.facts import steps_by_wording
from actions.demo.oracle import judge
from actions.demo.orders import is_reserved
from actions.grammar import parse

SAMPLES = list(generate(seed=5, count=90)) + list(
    generate(seed=5, count=60, difficulty=DIFFICULTIES["hard"])
)
TURNS = [turn for sample in SAMPLES for turn in sample["turns"]]
PLAN_TURNS = [turn for turn in TURNS if turn["facts"]["plan"]]


def plan_of(turn, text):
    inside = turn["input"]["kind"] == "observation"
    known = steps_by_wording(turn["facts"]["scenario"])
    return tuple(known[step] for step in parse(text, inside_thinking=inside).plan.steps)


def test_another_wording_is_another_text_and_consistent():
    rng = random.Random(1)
    for turn in TURNS:
        text = reworded(turn, rng)
        assert text != turn["response"]
        assert judge(turn, text).consistent


def test_parameters_keep_the_order_of_labels_whatever_order_facts_are_stored_in():
    rng = random.Random(1)
    for turn in TURNS:
        if turn["facts"]["action"]:
            inside = turn["input"]["kind"] == "observation"
            stored = {"facts": json.loads(json.dumps(turn["facts"], sort_keys=True))}
            label, other = (
                parse(text, inside_thinking=inside).actions[0]
                for text in (turn["response"], reworded(stored, rng))
            )
            assert label.source == other.source


def test_every_kind_of_error_has_turns_and_is_an_error():
    rng = random.Random(2)
    made = Counter()
    for turn in TURNS:
        for kind in applicable_kinds(turn):
            text, differs = corrupted(turn, rng, kind)
            verdict = judge(turn, text)
            assert not verdict.consistent
            assert differs == verdict.units_that_differ
            made[kind] += 1
    assert set(made) == set(KINDS)
    assert min(made.values()) >= len(SAMPLES)


def test_several_errors_differ_in_several_units():
    rng = random.Random(3)
    for turn in TURNS[:200]:
        assert len(corrupted(turn, rng, "several")[1]) > 1


def test_one_wrong_parameter_leaves_the_rest_consistent():
    rng = random.Random(4)
    for turn in TURNS:
        if "parameter" in applicable_kinds(turn):
            _, differs = corrupted(turn, rng, "parameter")
            assert len(differs) == 1
            assert differs[0].startswith("action/1/parameters/")


def test_wording_does_not_give_errors_away():
    """Half of the corrupted texts use nothing but canonical wordings, as labels do."""
    rng = random.Random(5)
    canonical = 0
    for turn in PLAN_TURNS:
        text, _ = (
            corrupted(turn, rng, "parameter")
            if turn["facts"]["action"]
            else (corrupted(turn, rng, "question"))
        )
        canonical += text.split("Plan:")[0] == turn["response"].split("Plan:")[0]
    assert 0.4 < canonical / len(PLAN_TURNS) < 0.9


@pytest.mark.parametrize("order", ["seen", "unseen"])
def test_a_quad_is_balanced(order):
    rng = random.Random(6)
    for turn in PLAN_TURNS:
        quad = balanced_quad(turn, rng, order)
        assert len({quad.a, quad.a2, quad.b, quad.b2}) == 4
        assert judge(turn, quad.a).consistent
        assert judge(turn, quad.a2).consistent
        for text in (quad.b, quad.b2):
            verdict = judge(turn, text)
            assert "plan order" in verdict.errors
            assert verdict.units_that_differ == quad.differs


@pytest.mark.parametrize("order", ["seen", "unseen"])
def test_the_second_plan_of_a_quad_has_two_steps_swapped_into_the_order_asked_for(
    order,
):
    rng = random.Random(7)
    for turn in PLAN_TURNS:
        quad = balanced_quad(turn, rng, order)
        ours, theirs = plan_of(turn, quad.a), plan_of(turn, quad.b)
        assert sum(x != y for x, y in zip(ours, theirs, strict=True)) == 2
        assert sorted(ours) == sorted(theirs)
        assert theirs[-1] == ours[-1]
        assert is_reserved(turn["facts"]["scenario"], theirs) == (order == "unseen")


def test_what_follows_in_a_quad_fits_its_own_plan():
    """The thought names the plan's first step and the action or question opens it."""
    rng = random.Random(8)
    openings = {}  # how the labels of all turns open each step, by scenario
    for turn in PLAN_TURNS:
        facts = turn["facts"]
        first = (facts["scenario"], facts["plan"][0])
        name = facts["action"]["name"] if facts["action"] else None
        openings.setdefault(first, name)
        assert openings[first] == name
    moved = 0
    for turn in PLAN_TURNS:
        quad = balanced_quad(turn, rng)
        inside = turn["input"]["kind"] == "observation"
        first = plan_of(turn, quad.b)[0]
        for text in (quad.b, quad.b2):
            response = parse(text, inside_thinking=inside)
            name = response.actions[0].name if response.actions else None
            assert name == openings[turn["facts"]["scenario"], first]
        if first != turn["facts"]["plan"][0]:
            moved += 1
            key = "result" if inside else "thinking"
            assert key in quad.differs
    assert moved > len(PLAN_TURNS) / 3


def test_the_pairs_of_a_quad_look_alike_on_both_sides():
    """Neither side of a quad is worded in a way that tells a from b."""
    rng = random.Random(9)
    starts = Counter()
    for turn in PLAN_TURNS * 3:
        quad = balanced_quad(turn, rng)
        for side, text in (("a", quad.a), ("b", quad.b)):
            starts[side] += text.startswith("<<think>>This is a new task.")
    assert abs(starts["a"] - starts["b"]) < 0.2 * (starts["a"] + starts["b"])


def test_turns_without_a_plan_have_no_quad():
    turn = next(turn for turn in TURNS if not turn["facts"]["plan"])
    with pytest.raises(NotApplicable, match=r"^the turn has no plan$"):
        balanced_quad(turn, random.Random(1))


def test_a_kind_without_a_place_is_refused():
    turn = next(turn for turn in TURNS if not turn["facts"]["plan"])
    with pytest.raises(NotApplicable, match="no place for 'plan order'"):
        corrupted(turn, random.Random(1), "plan order")


def test_unknown_kinds_and_orders_are_refused():
    with pytest.raises(ValueError, match=r"^kind: expected one of"):
        corrupted(TURNS[0], random.Random(1), "typo")
    with pytest.raises(ValueError, match=r"^order: expected 'seen' or 'unseen'"):
        balanced_quad(PLAN_TURNS[0], random.Random(1), "other")


def test_the_same_seed_derives_the_same():
    def derive():
        rng = random.Random(11)
        return [
            (reworded(turn, rng), corrupted(turn, rng, "several"))
            for turn in TURNS[:50]
        ]

    assert derive() == derive()
