"""Rules: what each accepts, and what a rule that cannot be read is told."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actions import rules
from actions.rules import MATCHES, RuleError, parse_rule, rule_of


@pytest.mark.parametrize(
    ("rule", "answer", "right"),
    [
        ({"match": "exact", "answer": "Paris"}, " paris. ", True),
        ({"match": "exact", "answer": "Paris"}, "It is Paris", False),
        ({"match": "exact", "answer": ["Paris", "Lutetia"]}, "lutetia", True),
        ({"match": "exact", "answer": "Paris", "after": "It is"}, "It is Paris.", True),
        ({"match": "exact", "answer": "Paris", "after": "so:"}, "Paris", False),
        ({"match": "numeric", "answer": 42}, "First 7, then 42.", True),
        ({"match": "numeric", "answer": 42}, "42, or 43", False),
        ({"match": "numeric", "answer": 1200}, "1,200 dollars", True),
        ({"match": "numeric", "answer": -0.5}, "x = -.5", True),
        ({"match": "numeric", "answer": 3.14, "tolerance": 0.01}, "3.1415", True),
        ({"match": "numeric", "answer": 3.14}, "3.1415", False),
        ({"match": "numeric", "answer": 0.3}, "0.30000000000000004", True),
        ({"match": "numeric", "answer": 42}, "none", False),
        ({"match": "set", "answer": ["red", "Blue"]}, "Blue and red.", True),
        ({"match": "set", "answer": ["red", "blue"]}, "red, blue, green", False),
        ({"match": "set", "answer": ["red", "blue"]}, "red", False),
        ({"match": "regex", "answer": r"\b2[0-9]\b"}, "It is 23 degrees", True),
        ({"match": "regex", "answer": r"^\d+$"}, "It is 23", False),
    ],
)
def test_what_a_rule_accepts(rule, answer, right):
    assert parse_rule(rule).accepts(answer) is right


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (7, "the rule: expected an object, found 7"),
        ({"match": "fuzzy"}, "match: expected one of exact, numeric, set, regex"),
        ({"match": "numeric", "answer": "42"}, "answer: expected a number"),
        ({"match": "numeric", "answer": True}, "answer: expected a number"),
        (
            {"match": "numeric", "answer": 1, "tolerance": -1},
            "tolerance: expected zero",
        ),
        ({"match": "exact", "answer": ""}, "answer: expected texts that are not empty"),
        ({"match": "set", "answer": "red"}, "answer: expected a list of texts"),
        ({"match": "set", "answer": []}, "answer: expected a list of texts"),
        (
            {"match": "regex", "answer": "("},
            "answer: expected a pattern of RE2 (missing",
        ),
        ({"match": "regex", "answer": "a(?=b)"}, "a pattern of RE2 (invalid perl"),
        ({"match": "regex", "answer": r"(a)\1"}, "a pattern of RE2 (invalid escape"),
        ({"match": "regex", "answer": r"\pN{1000}"}, "a pattern of RE2 (pattern too"),
        ({"match": "regex", "answer": "\ud800"}, "a pattern of RE2 ("),
        ({"match": "regex", "answer": "a" * 201}, "a pattern of at most 200"),
        ({"match": "exact", "answer": "a", "tolerance": 1}, "tolerance: expected only"),
        ({"match": "exact", "answer": "a", "before": "b"}, "before: expected one of"),
    ],
)
def test_a_rule_that_cannot_be_read_says_where_and_why(rule, message):
    with pytest.raises(RuleError) as caught:
        parse_rule(rule)
    assert message in str(caught.value)


@pytest.mark.parametrize("meta", [None, {}, [], "rule", {"slots": 1}])
def test_meta_without_a_rule_has_none(meta):
    assert rule_of(meta) is None


ANSWERS = {
    "exact": "a b",
    "numeric": 3,
    "set": ["a", "b"],
    "regex": "a.b",
}


@pytest.mark.parametrize(
    "pattern",
    ["(a|a)*b", "(a+)+b", "(a|aa)+b", "((a*)*)*b", "(?:a?){60}a{60}b", "(.*)*(.*)*b"],
)
def test_no_pattern_takes_longer_than_its_text_is_long(pattern):
    rule = parse_rule({"match": "regex", "answer": pattern})
    start = time.process_time()
    assert not rule.accepts("a" * 2000)
    assert rule.accepts("a" * 1990 + "b")
    assert time.process_time() - start < 0.5


def test_a_pattern_is_refused_where_nothing_can_apply_it(monkeypatch):
    monkeypatch.setattr(rules, "_RE2", None)
    with pytest.raises(RuleError) as caught:
        parse_rule({"match": "regex", "answer": "a"})
    assert "the package google-re2 is not installed here" in str(caught.value)
    assert parse_rule({"match": "exact", "answer": "a"}).accepts("a")


def test_a_pattern_finds_nothing_in_half_a_character():
    rule = parse_rule({"match": "regex", "answer": "^a.b$"})
    assert rule.accepts("a\ud800b")


@given(match=st.sampled_from(MATCHES), answer=st.text(max_size=300))
def test_no_answer_makes_a_rule_raise(match, answer):
    rule = parse_rule({"match": match, "answer": ANSWERS[match]})
    assert rule.accepts(answer) in (True, False)
