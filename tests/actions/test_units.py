"""Units: what is put side by side, and what is proposed to differ."""

from __future__ import annotations

import json

import pytest

from actions.grammar import parse
from actions.units import align_units, unit_pairs_of_text

STEPS = (
    "Check which cakes are free",
    "Compare the price with the budget",
    "Ask the user to confirm",
    "Place the order",
)


def respond(*steps, thinking="A new task.", name="Find cake", **parameters):
    call = json.dumps({"name": name, "parameters": parameters})
    plan = "".join(f"{n}. {step}\n" for n, step in enumerate(steps, 1))
    plan = f"Plan:\n{plan}" if plan else ""
    return parse(f"<<think>>{thinking}\n{plan}<<action>>{call}<</action>>")


def differing(label, sampled):
    return {u.key: u.reason for u in align_units(label, sampled) if u.differs}


def answers(label, sampled):
    return differing(parse(label), parse(sampled))


def test_keys_come_in_reading_order():
    keys = [u.key for u in align_units(respond("Look", size=8), respond("Look", day=1))]
    assert keys == [
        "thinking",
        "plan/1",
        "action/1/name",
        "action/1/parameters/size",
        "action/1/parameters/day",
    ]


def test_equal_responses_differ_nowhere():
    assert differing(respond(*STEPS, size=8), respond(*STEPS, size=8)) == {}


def test_swapped_steps_differ_in_step_order():
    swapped = (STEPS[0], STEPS[2], STEPS[1], STEPS[3])
    assert differing(respond(*STEPS), respond(*swapped)) == {
        "plan/2": "step order",
        "plan/3": "step order",
    }


@pytest.mark.parametrize("gone", range(4))
def test_missing_step_is_a_gap_and_the_others_keep_their_partners(gone):
    short = STEPS[:gone] + STEPS[gone + 1 :]
    pairs = align_units(respond(*STEPS), respond(*short))
    plan = [(u.label, u.sampled, u.reason) for u in pairs if u.kind == "plan step"]
    assert plan == [
        (step, None, "missing step") if n == gone else (step, step, None)
        for n, step in enumerate(STEPS)
    ]
    assert differing(respond(*short), respond(*STEPS)) == {
        f"plan/{gone + 1}": "extra step"
    }


def test_step_that_says_other_things_differs_in_content():
    other = (*STEPS[:3], "Feed the parrot")
    assert differing(respond(*STEPS), respond(*other)) == {"plan/4": "content"}


def test_parameters_are_compared_as_json_values():
    one = respond(size=8, price=1, day="Sat", gift=True, tags=["a"])
    same = respond(tags=["a"], gift=True, day="Sat", price=1.0, size=8)
    other = respond(tags=["b"], gift=1, day="sat", price=1.5, size="8")
    assert differing(one, same) == {}
    assert set(differing(one, other)) == {
        f"action/1/parameters/{key}" for key in ("size", "price", "day", "gift", "tags")
    }


def test_values_are_shown_as_text():
    pair = align_units(respond(size=8), respond(day="Sat"))[2:]
    assert [(u.label, u.sampled) for u in pair] == [("8", None), (None, "Sat")]


def test_action_on_one_side_only():
    assert differing(parse("Fine."), respond(size=8)) == {
        "action/1/name": "action name",
        "action/1/parameters/size": "parameter",
        "answer": "content",
    }


@pytest.mark.parametrize(
    ("label", "sampled", "differs"),
    [
        ("It costs 12 dollars.", "The price is 12 dollars.", False),
        ("It costs 12 dollars.", "It costs 13 dollars.", True),
        ("It costs 1,200 dollars.", "It costs 1200.00 dollars.", False),
        ("A cake for eight people.", "A cake for 8 people.", False),
        ("I book Anna a seat.", "I book Otto a seat.", True),
        ("Is monday fine?", "Is sunday fine?", True),
        ("Order A7 is sent.", "Order B7 is sent.", True),
        ("The cake is free on Saturday.", "The cake is not free on Saturday.", True),
        ("Shall I order the cake?", "I order the cake.", True),
        ("Which street should it go to?", "What street should it go to?", False),
        ("The cake is ordered.", "The weather stays fine all week.", True),
    ],
)
def test_answers_are_compared_by_words_and_numbers(label, sampled, differs):
    assert answers(label, sampled) == ({"answer": "content"} if differs else {})


def test_thinking_may_be_worded_freely():
    one = respond(thinking="This is a new task. The guideline says check first.")
    other = respond(thinking="The last plan does not match this request.")
    assert differing(one, other) == {}


def test_one_word_in_the_place_of_another_changes_the_thinking():
    one = respond(thinking="A new task. The long guideline starts with the street.")
    other = respond(thinking="A new task. The long guideline starts with the price.")
    assert differing(one, other) == {"thinking": "content"}


def test_thinking_of_an_observation_turn_is_the_use_of_its_result():
    label = parse("It costs 12.<</think>>Fine.", inside_thinking=True)
    sampled = parse("It costs 21.<</think>>Fine.", inside_thinking=True)
    (use, answer) = align_units(label, sampled)
    assert (use.kind, use.key, use.reason) == (
        "use of result",
        "result",
        "use of result",
    )
    assert not answer.differs


def test_text_that_does_not_parse_is_one_unit_that_differs():
    (unit,) = unit_pairs_of_text(parse("Fine."), "<<think>>")
    assert (unit.kind, unit.key, unit.differs) == ("format", "format", True)
    assert (unit.label, unit.sampled) == ("Fine.", "<<think>>")


def test_text_that_parses_is_aligned():
    (unit,) = unit_pairs_of_text(parse("Fine."), "Fine.")
    assert unit.key == "answer"
