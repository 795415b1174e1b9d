"""Two responses of one normal form differ in spelling only."""

from __future__ import annotations

import time

import pytest

from actions.grammar import parse, render
from actions.normal_form import same_in_normal_form
from actions.words import with_plain_numbers

CALL = '<<action>>{"name": "Buy", "parameters": {"what": "cake", "n": 2}}<</action>>'
LABEL = (
    "<<think>>They want two cakes for 1,200.\nPlan:\n1. Find a shop.\n2. Buy.\nNow.\n"
    f"{CALL}"
)


def same(one: str, other: str, *, inside_thinking: bool = False) -> bool:
    return same_in_normal_form(
        parse(one, inside_thinking=inside_thinking),
        parse(other, inside_thinking=inside_thinking),
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (CALL, CALL + " \n"),
        ("\nNow.", "\n\nNow. "),
        ("two cakes", "2 cakes"),
        ("1,200", "1200"),
        ("1,200", "1200.00"),
        ('"n": 2', '"n": 2.0'),
        ('"n": 2', '"n":2e0'),
        ('"what": "cake", "n": 2', '"n": 2, "what": "cake"'),
        ('"cake"', '"\\u0063ake"'),
        ("1. Find a shop.\n2. Buy.", "  1)  Find a shop.\n  2)  Buy."),
    ],
)
def test_spelling_makes_no_difference(old, new):
    other = LABEL.replace(old, new)
    assert other != LABEL
    assert same(LABEL, other)
    assert render(parse(other)) == other


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1,200", "1,201"),
        ("They", "they"),
        ('"cake"', '"cake "'),
        ('"n": 2', '"n": "2"'),
        ('"n": 2', '"n": true'),
        (', "n": 2', ""),
        ('"Buy"', '"buy"'),
        ("1. Find a shop.\n2. Buy.", "1. Buy.\n2. Find a shop."),
        ("1. Find a shop.\n2. Buy.", "1. Find a shop. 2. Buy."),
        ("\nNow.", ""),
        (CALL, "<</think>>Done."),
    ],
)
def test_what_is_said_makes_a_difference(old, new):
    other = LABEL.replace(old, new)
    assert other != LABEL
    assert not same(LABEL, other)


def test_an_answer_may_be_wrapped_otherwise():
    assert same("Yes.\nTwo cakes.", "Yes.  2 cakes.\n")
    assert same("so<</think>>Hi.", "so\n<</think>> Hi.", inside_thinking=True)
    assert not same("Yes. Two cakes.", "Yes. Two cakes!")


@pytest.mark.parametrize("text", ["1.10", "2024-01-02", "12:30", "HAT-001", "1,20"])
def test_a_number_that_may_be_another_thing_is_left_as_it_is(text):
    assert with_plain_numbers(text) == text


def test_takes_linear_time():
    text = "<<think>>" + "Plan:\n1. Buy 1,200.\n\n" * 20_000 + CALL
    response = parse(text)
    begin = time.process_time()
    assert same_in_normal_form(response, response)
    assert time.process_time() - begin < 5
