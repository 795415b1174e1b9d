"""Plans: where one is found, and how the steps of two relate."""

from __future__ import annotations

import pytest

from actions.plans import Plan, align_plans, extract_plan, find_plan

CAKE = (
    "Check which chocolate cakes are free on Saturday",
    "Compare the price with the budget",
    "Ask the user to confirm cake and address",
    "Place the order and tell the result",
)
OTHER_CAKE = (
    "See which chocolate cakes are available on Saturday",
    "Check that the price is within the budget",
    "Have the user confirm the cake and the address",
    "Order it and report back",
)


def pairs(a, b):
    return [(m.a, m.b) for m in align_plans(Plan(a), Plan(b)).matched]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Plan:\n1. a\n2. b", ("a", "b")),
        ("So.\n  plan: \n 1) a b \n 2)  c\n\n3. d", ("a b", "c")),
        ("Plan:\nnone\nPlan:\n1. a", ("a",)),
        ("Plan:\r\n1. a\r\n2. b\r\n", ("a", "b")),
        ("Plan:\n7. a\n3. b", ("a", "b")),
        ("Plan:\n\n1. a", None),
        ("1. a\n2. b", None),
        ("My plan:\n1. a", None),
        ("Plan: 1. a", None),
        ("", None),
    ],
)
def test_plan_is_a_line_and_numbered_lines_after_it(text, steps):
    plan = extract_plan(text)
    assert (plan.steps if plan else None) == steps


def test_plan_is_found_with_its_place():
    text = "So.\nPlan:\n1. a\n2. b\nThen."
    span = find_plan(text)
    assert text[span.start : span.end] == "Plan:\n1. a\n2. b"


def test_reworded_steps_match():
    assert pairs(CAKE, OTHER_CAKE) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_swapped_steps_are_an_inversion():
    swapped = (OTHER_CAKE[0], OTHER_CAKE[2], OTHER_CAKE[1], OTHER_CAKE[3])
    alignment = align_plans(Plan(CAKE), Plan(swapped))
    assert [(m.a, m.b) for m in alignment.matched] == [(0, 0), (1, 2), (2, 1), (3, 3)]
    assert alignment.inversions == (((1, 2), (2, 1)),)
    assert (alignment.missing, alignment.extra) == ((), ())


@pytest.mark.parametrize("gone", range(4))
def test_missing_and_extra_steps_are_found(gone):
    short = OTHER_CAKE[:gone] + OTHER_CAKE[gone + 1 :]
    alignment = align_plans(Plan(CAKE), Plan(short))
    assert (alignment.missing, alignment.extra) == ((gone,), ())
    turned = align_plans(Plan(short), Plan(CAKE))
    assert (turned.missing, turned.extra) == ((), (gone,))


def test_step_without_common_words_is_matched_only_by_its_place():
    match = align_plans(Plan(("Find a shop", "Pay")), Plan(("Find the shop", "Wave")))
    assert [(m.a, m.b, m.score) for m in match.matched] == [(0, 0, 1.0), (1, 1, 0.0)]


def test_equal_steps_are_never_inverted():
    steps = ("Ask the user", "Ask the user", "Pay", "Ask the user")
    assert align_plans(Plan(steps), Plan(steps)).inversions == ()


def test_words_only_these_two_steps_share_decide():
    a = ("Get the price of the cake", "Get the time of the cake")
    b = ("Get the time of the cake", "Get the price of the cake")
    assert pairs(a, b) == [(0, 1), (1, 0)]


def test_empty_plans_align():
    alignment = align_plans(Plan(()), Plan(("a",)))
    assert (alignment.matched, alignment.extra) == ((), (0,))


def test_large_plans_find_their_steps_too():
    a = tuple(f"Visit house {n} in the town" for n in range(300))
    b = (*a[:100], *a[101:200], a[100], *a[200:], "Rest")
    alignment = align_plans(Plan(a), Plan(b))
    assert len(alignment.matched) == 300
    assert alignment.extra == (300,)
    assert alignment.inversions == (((100, 199), (101, 100)),)
