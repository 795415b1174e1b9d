"""The oracle: accepts every wording of the label, rejects everything else, never fails."""

import json
import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actions.demo import DIFFICULTIES, generate
from actions.demo.derive import KINDS, applicable_kinds, corrupted
from actions.demo.facts import FactsError, parse_facts, render
from actions.demo.oracle import ERROR_KINDS, OracleVerdict, judge
from actions.grammar import FormatError, parse
from actions.units import unit_pairs_of_text

TURNS = [
    turn
    for split in ("", "held-out-unseen")
    for sample in generate(seed=7, count=60, split=split)
    for turn in sample["turns"]
]
PLAN_TURN = {
    "input": {"kind": "user", "text": "I need a green coat, please."},
    "response": (
        "<<think>>This is a new task. The guideline starts with the price.\n"
        "Plan:\n1. Get the price\n2. Check the color\n3. Ask for the size\n"
        "4. Buy the item\n"
        '<<action>>{"name": "Get price", "parameters": {"item": "coat"}}<</action>>'
    ),
    "facts": {
        "scenario": "shopping",
        "inside": False,
        "thinking": [["new/price", {}]],
        "plan": ["price", "color", "size", "buy"],
        "action": {"name": "Get price", "parameters": {"item": "coat"}},
        "answer": [],
        "openings": {},
    },
}
QUESTION_TURN = {
    "input": {"kind": "observation", "text": "46 dollars"},
    "response": (
        "The price is 46 dollars. Step 2: Ask for the size.<</think>>"
        "Which size would you like?"
    ),
    "facts": {
        "scenario": "shopping",
        "inside": True,
        "thinking": [["got/price", {"looked": 46}], ["step/size", {"n": 2}]],
        "plan": [],
        "action": None,
        "answer": [["ask/size", {}]],
    },
}

turns = st.sampled_from(TURNS)
randoms = st.integers(0, 2**32).map(random.Random)


def test_accepts_every_label_and_reference():
    for difficulty in DIFFICULTIES.values():
        for sample in generate(seed=2, count=150, difficulty=difficulty):
            for turn in sample["turns"]:
                for text in (turn["response"], *turn["references"]):
                    verdict = judge(turn, text)
                    assert verdict.consistent
                    assert all(verdict.units.values())
                    assert verdict.errors == ()


@given(turns, randoms)
def test_accepts_every_mixture_of_wordings(turn, rng):
    text = render(parse_facts(turn["facts"]), rng.choice)
    assert judge(turn, text).consistent


@given(turns, randoms, st.sampled_from(KINDS))
def test_rejects_every_corruption_by_name(turn, rng, kind):
    if kind not in applicable_kinds(turn):
        return
    text, differs = corrupted(turn, rng, kind)
    verdict = judge(turn, text)
    assert not verdict.consistent
    assert differs == verdict.units_that_differ != ()
    assert kind in verdict.errors or kind == "several"


@given(turns, turns)
def test_accepts_the_label_of_another_turn_only_where_it_says_the_same(turn, other):
    def without_openings(facts):
        return {k: v for k, v in facts.items() if k not in ("openings", "scenario")}

    same = without_openings(turn["facts"]) == without_openings(other["facts"])
    if judge(turn, other["response"]).consistent:
        assert same
    elif same:
        assert turn["facts"]["scenario"] != other["facts"]["scenario"]


@given(turns, st.text() | st.text(alphabet='<>/think\nPlan:1. {}"a', max_size=60))
def test_any_text_gets_a_verdict(turn, text):
    verdict = judge(turn, text)
    assert not verdict.consistent
    assert set(verdict.errors) <= set(ERROR_KINDS)


@given(turns, st.data())
def test_a_damaged_label_is_never_consistent(turn, data):
    """Drop, double or change one character: not white space, not a step's number.

    Steps count by the order of their lines, as everywhere in ``actions.plans``.
    """
    label = turn["response"]
    numbers = {match.start(1) for match in re.finditer(r"\n(\d)\. ", label)}
    at = data.draw(
        st.integers(0, len(label) - 1).filter(
            lambda i: not label[i].isspace() and i not in numbers
        )
    )
    insert = data.draw(st.sampled_from(["", label[at] * 2, "x", "7"]))
    damaged = label[:at] + insert + label[at + 1 :]
    if damaged != label:
        assert not judge(turn, damaged).consistent


@given(turns, randoms, st.data())
def test_unit_keys_are_those_of_the_alignment(turn, rng, data):
    kind = data.draw(st.sampled_from(applicable_kinds(turn)))
    text, _ = corrupted(turn, rng, kind)
    inside = turn["input"]["kind"] == "observation"
    label = parse(turn["response"], inside_thinking=inside)
    pairs = unit_pairs_of_text(label, text, inside_thinking=inside)
    assert list(judge(turn, text).units) == [pair.key for pair in pairs]


@given(turns, turns)
def test_verdict_units_and_errors_agree(turn, other):
    verdict = judge(turn, other["response"])
    assert verdict.consistent == all(verdict.units.values()) == (verdict.errors == ())


def test_swapped_steps_are_an_error_of_order():
    text = PLAN_TURN["response"].replace("Check the color", "?")
    text = text.replace("Ask for the size", "Check the color")
    text = text.replace("?", "Ask for the size")
    verdict = judge(PLAN_TURN, text)
    assert verdict.errors == ("plan order",)
    assert verdict.units_that_differ == ("plan/2", "plan/3")


def test_each_kind_of_plan_error_is_named():
    def errors(old, new):
        return judge(PLAN_TURN, PLAN_TURN["response"].replace(old, new)).errors

    assert errors("2. Check the color\n3.", "2.") == ("missing step",)
    assert errors("4.", "4. Find the shelf\n5.") == ("extra step",)
    assert errors("Check the color", "Find the shelf") == ("changed step",)
    assert errors("Check the color", "Sing a song") == ("changed step",)


def test_a_wrong_value_marks_its_parameter_only():
    verdict = judge(PLAN_TURN, PLAN_TURN["response"].replace('"coat"', '"hat"'))
    assert verdict.units_that_differ == ("action/1/parameters/item",)
    assert verdict.errors == ("parameter",)


def test_a_number_as_text_is_another_value():
    turn = json.loads(json.dumps(PLAN_TURN))
    turn["facts"]["action"]["parameters"] = {"item": 5}
    text = PLAN_TURN["response"].replace('"coat"', "5")
    assert judge(turn, text).consistent
    assert judge(turn, text.replace("5}", '"5"}')).errors == ("parameter",)


def test_a_wrong_use_of_the_result_and_a_wrong_question_are_told_apart():
    label = QUESTION_TURN["response"]
    assert judge(QUESTION_TURN, label.replace("46", "64")).errors == ("use of result",)
    assert judge(QUESTION_TURN, label.replace("Which size", "Which color")).errors == (
        "question",
    )


def test_an_answer_in_place_of_an_action_differs_in_both():
    text = PLAN_TURN["response"].partition("\n<<action>>")[0] + "<</think>>Hello"
    verdict = judge(PLAN_TURN, text)
    assert verdict.units_that_differ == (
        "action/1/name",
        "action/1/parameters/item",
        "answer",
    )


def test_a_second_action_after_an_observation_differs():
    call = '<<action>>{"name": "Buy item", "parameters": {}}<</action>>'
    text = PLAN_TURN["response"] + "<<observation>>46<</observation>>" + call
    assert judge(PLAN_TURN, text).errors == ("action name",)


def test_white_space_between_words_does_not_count():
    text = QUESTION_TURN["response"].replace(". Step", ".\n  Step")
    assert judge(QUESTION_TURN, text).consistent


def test_a_text_that_breaks_the_grammar_has_one_unit():
    assert judge(PLAN_TURN, "<<think>>no end") == OracleVerdict(
        False, {"format": False}, ("format",)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scenario": "sailing"},
            "facts.scenario: expected a demo scenario, found 'sailing'",
        ),
        (
            {"plan": ["fly"]},
            "facts.plan[0]: expected a step of the scenario, found 'fly'",
        ),
        (
            {"thinking": [["got/price", {}]]},
            "facts.thinking[0]: expected the slot looked, found {}",
        ),
        ({"answer": 3}, "facts.answer: expected a list, found 3"),
        (
            {"action": {"name": "Get price", "parameters": {"item": None}}},
            "facts.action.parameters.item: expected a text or a whole number, found None",
        ),
    ],
)
def test_facts_of_another_form_are_refused_by_place(change, message):
    turn = {"facts": PLAN_TURN["facts"] | change}
    with pytest.raises(FactsError) as caught:
        judge(turn, "")
    assert str(caught.value) == message


def test_a_turn_without_facts_is_refused():
    with pytest.raises(FactsError, match=r"^facts: expected an object, found None$"):
        judge({"response": "x"}, "x")


HUGE = {
    "one word": "a" * 10**6,
    "words": "<<think>>" + "x " * 500_000 + "<</think>>y",
    "a label said often": PLAN_TURN["response"] * 5000,
    "a plan without end": "<<think>>Plan:\n"
    + "".join(f"{n}. Get the price\n" for n in range(1, 50_000))
    + "<</think>>y",
    "brackets": '<<think>><<action>>{"name": ' + "[" * 10**6,
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE)
def test_a_megabyte_is_judged_within_seconds(text):
    started = time.process_time()
    assert not judge(PLAN_TURN, text).consistent
    assert time.process_time() - started < 4


def test_two_thousand_judgments_take_less_than_a_second():
    texts = [turn["references"][0] for turn in TURNS]
    started = time.process_time()
    for number in range(2000):
        judge(TURNS[number % len(TURNS)], texts[number % len(TURNS)])
    # About 0.08 s on an idle core.
    assert time.process_time() - started < 1


def test_labels_are_responses():
    for turn in TURNS:
        try:
            parse(
                turn["response"],
                inside_thinking=turn["input"]["kind"] == "observation",
            )
        except FormatError as error:  # pragma: no cover
            pytest.fail(f"{error} in {turn['response']}")
