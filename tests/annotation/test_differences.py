"""A pair as rows: what is beside what, what is marked, and what never breaks."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actions.tags import TAGS
from annotation.judging.pair_view import view_of_pair
from annotation.text.word_diff import WORDS, compare_words


def plan(*steps: str, call: str = '{"name": "Go", "parameters": {}}') -> str:
    lines = "\n".join(f"{n}. {step}" for n, step in enumerate(steps, start=1))
    return f"<<think>>Well.\nPlan:\n{lines}\n<<action>>{call}<</action>>"


def rows_of(label: str, sampled: str, inside: bool = False):
    return {
        row.row: row
        for row in view_of_pair(label, sampled, inside_thinking=inside).rows
    }


def text(passage) -> str:
    return "".join(piece.text for piece in passage.pieces)


def test_swapped_steps_cross_and_each_names_its_partner():
    view = view_of_pair(
        plan("Check the price", "Ask for the address"),
        plan("Ask for the address", "Check the price"),
        inside_thinking=False,
    )
    row = next(row for row in view.rows if row.row == "plan")
    assert [line.kind for line in row.connectors] == ["x", "x"]
    assert [step.sampled.means for step in row.steps] == [2, 1]
    assert view.order_differs
    assert "step order" in view.proposed_reasons


def test_a_missing_step_leaves_a_gap_and_a_dashed_line():
    row = rows_of(
        plan("Check the price", "Ask for the address", "Place the order"),
        plan("Check the price", "Place the order"),
    )["plan"]
    assert [step.sampled is None for step in row.steps] == [False, True, False]
    assert [line.kind for line in row.connectors].count("lone") == 1
    assert row.description == "label step 2 has no partner"
    # The rail's height follows the rows, so a connector ends at its step.
    assert row.height == 30


def test_same_order_says_so():
    row = rows_of(plan("Check the price"), plan("See the price"))["plan"]
    assert row.description == "the steps stand in the same order"


def test_parameters_stand_beside_each_other():
    row = rows_of(
        plan("Go", call='{"name": "Order", "parameters": {"a": 8, "b": "x"}}'),
        plan("Go", call='{"name": "Order", "parameters": {"a": "8", "c": 1}}'),
    )["action"]
    shown = {p.name: (p.label, p.sampled, p.unit.differs) for p in row.parameters}
    assert shown == {
        "a": ("8", '"8"', True),
        "b": ("x", None, True),
        "c": (None, "1", True),
    }
    assert row.mid == "3 values differ"


def test_another_action_is_named():
    row = rows_of(plan("Go"), plan("Go", call='{"name": "Stop", "parameters": {}}'))[
        "action"
    ]
    assert (row.label, row.sampled, row.mid) == ("Go", "Stop", "other action")


def test_words_that_only_one_side_has_are_marked():
    left, right, share = compare_words(
        "Order a red cake today.", "Order a blue cake today."
    )
    assert [(p.text, p.change) for p in left.pieces if p.change] == [("red", "del")]
    assert [(p.text, p.change) for p in right.pieces if p.change] == [("blue", "ins")]
    assert share > 0.7


def test_texts_with_little_in_common_are_not_coloured():
    left, right, _ = compare_words(
        "One thing here.", "Quite another matter altogether!"
    )
    assert not any(piece.change for piece in (*left.pieces, *right.pieces))


def test_texts_over_the_limit_are_shown_whole_and_unmarked():
    long = "word " * (WORDS + 1)
    left, right, _ = compare_words(long, long + "more")
    assert text(left) == long
    assert text(right) == long + "more"
    assert len(left.pieces) == 1


@example("a b", "a c \n")
@given(st.text(), st.text())
def test_comparing_loses_no_character(label, sampled):
    left, right, _ = compare_words(label, sampled)
    assert text(left) == label
    assert text(right) == sampled


responses = st.lists(
    st.sampled_from(
        [
            *TAGS,
            "Plan:\n1. A\n2. B\n",
            "text ",
            '{"name": "A", "parameters": {"items": 1}}',
        ]
    )
    | st.text(max_size=8),
    max_size=12,
).map("".join)


@given(responses, responses, st.booleans())
def test_any_two_texts_give_a_view_whose_units_are_distinct(label, sampled, inside):
    view = view_of_pair(label, sampled, inside_thinking=inside)
    keys = [unit.key for unit in view.units]
    assert len(keys) == len(set(keys))
    assert view.rows or not (label.strip() and sampled.strip())


@pytest.mark.parametrize(
    "sampled",
    [
        "<<think>>" + "a b " * 25_000 + "<</think>>x",
        "<<think>>" + "Plan:\n1. a\n" * 9_000 + "<</think>>x",
        plan(*["Do the same"] * 3000),
        "<<think>>" * 11_000,
    ],
)
def test_100_kb_takes_well_under_a_second(sampled):
    start = time.process_time()
    view = view_of_pair(plan("Check the price"), sampled, inside_thinking=False)
    assert time.process_time() - start < 1
    assert len(view.units) <= 120


def test_what_is_cut_is_shown_whole_below():
    view = view_of_pair(
        plan("a"), plan(*[f"Do {n}" for n in range(300)]), inside_thinking=False
    )
    assert view.is_cut
    assert "300. Do 299" in view.rows[-1].sampled[0].text
