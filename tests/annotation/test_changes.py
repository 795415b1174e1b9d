"""What changed between two texts, in one flow."""

import pytest

from annotation.text.changes import CUT, LINES, changes
from annotation.text.word_diff import Piece


def sides(pieces):
    before = "".join(piece.text for piece in pieces if piece.change != "ins")
    after = "".join(piece.text for piece in pieces if piece.change != "del")
    return before, after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("", "new"),
        ("old", ""),
        ("Check the price.\nThen order.", "Check the price first.\nThen order.\n"),
        ("a\nb\nc\n", "a\nc\nd"),
        ("x " * 5000, "x " * 4000 + "y"),
        ("line\n" * (LINES + 1), "line\n"),
        ("全部检查价格。", "先检查价格。"),
    ],
)
def test_both_texts_stand_in_it_whole(before, after):
    assert sides(changes(before, after)) == (before, after)


def test_words_are_marked_inside_a_line():
    assert changes("Ask for the price today.", "Ask for the weight today.") == (
        Piece("Ask for the "),
        Piece("price", "del"),
        Piece("weight", "ins"),
        Piece(" today."),
    )


def test_a_line_that_says_something_else_is_marked_whole():
    assert [p.change for p in changes("Once upon a time.", "2 + 2 = 4")] == [
        "del",
        "ins",
    ]


def test_context_leaves_out_what_is_far_from_a_change():
    before = "".join(f"line {n}\n" for n in range(40))
    after = before.replace("line 20\n", "line twenty\n")
    text = "".join(piece.text for piece in changes(before, after, context=2))
    assert text.startswith(CUT)
    assert "line 18\n" in text
    assert "line 17\n" not in text
    assert "line 22\n" in text
    assert text.endswith(CUT)


def test_neighbouring_changed_words_are_one_change():
    assert changes(
        "One cake for the two of us.", "One cake for all four people of us."
    ) == (
        Piece("One cake for "),
        Piece("the two", "del"),
        Piece("all four people", "ins"),
        Piece(" of us."),
    )
