"""What holds for any text: parse or fail cleanly, round trip, and never slow.

The megabyte texts are the adversaries of the parser; each would take minutes or a stack
overflow if anything were quadratic or recursive (see benchmarks/parse.py for times).
"""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actions.calculate import CalculationError, calculate
from actions.executor import clean_observation
from actions.format_check import check_text
from actions.grammar import (
    ActionCall,
    FormatError,
    Observation,
    Response,
    Text,
    join_episode,
    parse,
    render,
    split_episode,
)
from actions.json_values import JSONError, json_equal, load_json
from actions.plans import Plan, align_plans, extract_plan
from actions.tags import TAGS, find_tag
from actions.units import align_units, unit_pairs_of_text
from benchmarks.parse import ADVERSARIES

fragments = st.lists(
    st.sampled_from(
        [
            *TAGS,
            '{"name": "A", "parameters": {"x": 1}}',
            '{"name": "A"}',
            "Plan:\n1. look\n2. tell\n",
            "\n",
            "<",
            "<<",
            "ok",
            "\ud800",
            "\0",
        ]
    )
    | st.text(max_size=5),
    max_size=14,
).map("".join)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner)
    ),
    max_leaves=6,
)
plain = st.text(st.characters(codec="utf-8"), max_size=12).filter(
    lambda text: find_tag(text) is None and "<" not in text
)
answers = plain.filter(lambda text: bool(text.strip()))
calls = st.builds(
    ActionCall.make,
    plain.filter(lambda text: bool(text.strip())),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), values),
)


@st.composite
def responses(draw):
    if draw(st.booleans()):
        return Response((), draw(answers), opens=False, closes=False)
    opens = draw(st.booleans())
    nodes = []
    for _ in range(draw(st.integers(0, 3))):
        text = draw(plain)
        nodes += [Text(text)] if text else []
        nodes += [draw(calls), Observation(draw(plain))]
    text = draw(plain)
    nodes += [Text(text)] if text else []
    if draw(st.booleans()):
        nodes.append(draw(calls))
        return Response(tuple(nodes), "", opens=opens, closes=False)
    return Response(tuple(nodes), draw(answers), opens=opens, closes=True)


def result_of(work, error, *arguments, **options):
    """Return what ``work`` returns or the one kind of error it may raise."""
    try:
        return work(*arguments, **options)
    except error as raised:
        return raised


@given(fragments | st.text(), st.booleans())
def test_any_text_parses_or_fails_cleanly(text, inside):
    result = result_of(parse, FormatError, text, inside_thinking=inside)
    if isinstance(result, FormatError):
        assert 0 <= result.position <= len(text)
        assert result.expected
        assert result.found
        assert str(result).encode()
        return
    assert render(result) == text
    episode = split_episode(text, inside_thinking=inside)
    assert join_episode(episode) == text
    for turn, part in enumerate(episode.responses):
        assert check_text(part, inside or turn > 0) is None


@given(responses())
def test_any_response_is_read_back_as_it_was(response):
    inside = not response.opens and (response.closes or bool(response.thinking))
    assert parse(render(response), inside_thinking=inside) == response


@given(responses(), responses())
def test_any_two_responses_align(one, other):
    units = align_units(one, other)
    assert len({unit.key for unit in units}) == len(units)
    assert all((unit.reason is None) != unit.differs for unit in units)
    assert not any(unit.differs for unit in align_units(one, one))


@given(responses(), fragments, st.booleans())
def test_any_sampled_text_gives_units(label, text, inside):
    assert isinstance(unit_pairs_of_text(label, text, inside_thinking=inside), tuple)


@given(st.text())
def test_any_json_text_is_read_or_refused(text):
    result = result_of(load_json, JSONError, text)
    if isinstance(result, JSONError):
        assert 0 <= result.position <= len(text)
    else:
        assert json_equal(result, json.loads(text))


@given(values)
def test_any_json_value_is_read_back(value):
    assert json_equal(load_json(json.dumps(value, ensure_ascii=False)), value)


words = st.sampled_from(["ask", "user", "pay", "cake", "find", "order", "the"])
steps = st.lists(st.lists(words, min_size=1).map(" ".join), max_size=6).map(tuple)


@given(steps, steps)
def test_every_step_is_matched_missing_or_extra_once(a, b):
    alignment = align_plans(Plan(a), Plan(b))
    left = [match.a for match in alignment.matched] + list(alignment.missing)
    right = [match.b for match in alignment.matched] + list(alignment.extra)
    assert sorted(left) == list(range(len(a)))
    assert sorted(right) == list(range(len(b)))
    assert align_plans(Plan(a), Plan(a)).inversions == ()


@given(st.text(alphabet="0123456789.+-*/%() ,[]eroundmaxsqtlg", max_size=60))
def test_any_expression_is_calculated_or_refused(expression):
    assert str(result_of(calculate, CalculationError, expression))


@given(fragments)
def test_any_observation_text_fits_into_a_response(text):
    clean = clean_observation(text, 1000)
    call = ActionCall.make("A", {})
    response = Response((call, Observation(clean)), "answer", opens=True, closes=True)
    assert parse(render(response)) == response


@pytest.mark.parametrize("name", ADVERSARIES)
def test_megabyte_is_read_or_refused(name):
    text = ADVERSARIES[name]()
    assert len(text) >= 2**20
    for inside in (False, True):
        try:
            response = parse(text, inside_thinking=inside)
        except FormatError:
            continue
        assert render(response) == text
        align_units(response, response)


@pytest.mark.slow
def test_megabyte_plans_align():
    plan = extract_plan(
        "Plan:\n" + "".join(f"{n % 9}. a{n} b\n" for n in range(90_000))
    )
    turned = Plan(tuple(reversed(plan.steps)))
    assert len(align_plans(plan, turned).matched) == 90_000


def test_work_grows_with_the_text_and_not_with_its_square():
    """Count the interpreter's steps, which unlike time are the same on every machine."""

    def steps_for(count):
        text = (
            "<<think>>"
            + (
                '<<action>>{"name": "A", "parameters": {}}<</action>>'
                "<<observation>>o<</observation>>Plan:\n1. a\n"
            )
            * count
            + "<</think>>x"
        )
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            lines += 1
            return trace

        sys.settrace(trace)
        try:
            parse(text)
        finally:
            sys.settrace(None)
        return lines

    assert steps_for(200) < 11 * steps_for(20)
