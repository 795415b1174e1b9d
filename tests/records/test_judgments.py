"""``judgments.jsonl``: what is written is what is read, and what is wrong has a place."""

import dataclasses
import json

import pytest

from records.judgments import JudgedPair, Producer
from records.reading import RecordError, read_lines
from tests.old_run import OLD_RUN

JUDGED = {"label": "Yes.", "sampled": "No.", "consistent": False}


def test_pairs_of_an_earlier_version_come_out_as_they_went_in():
    for path in OLD_RUN.glob("*/data/judgments.jsonl"):
        pairs = list(read_lines(path, JudgedPair.from_json))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [pair.to_json() for pair in pairs] == rows
        assert len(pairs) > 20


def test_every_field_comes_back():
    pair = JudgedPair(
        label="Yes.",
        sampled="No.",
        consistent=False,
        sample="s1",
        turn=2,
        input_kind="observation",
        differs=("answer",),
        source="demo",
        split="held-out",
        facts={"a": [1]},
        producer=Producer(3, 7, 200),
        pair=2**40,
        judgment=4,
        judgments=(4, 5),
    )
    assert JudgedPair.from_json(json.loads(json.dumps(pair.to_json()))) == pair
    assert set(pair.to_json()) == {each.name for each in dataclasses.fields(pair)}
    assert pair.is_held_out


def test_a_file_by_hand_needs_the_texts_and_the_outcome_only():
    pair = JudgedPair.from_json({**JUDGED, "consistent": 1, "mood": "unknown to us"})
    assert pair == JudgedPair("Yes.", "No.", True)
    assert (pair.source, pair.split, pair.differs) == ("people", "train", ())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"label": None}, "`label`: expected a text, found null"),
        ({"sampled": 3}, "`sampled`: expected a text, found 3"),
        ({"consistent": "no"}, '`consistent`: expected true or false, found "no"'),
        ({"consistent": 2}, "`consistent`: expected true or false, found 2"),
        ({"turn": "1"}, '`turn`: expected a whole number, found "1"'),
        ({"turn": -1}, "`turn`: expected a whole number from 0 to 9223372036854775807, "
         "found -1"),
        ({"differs": "answer"}, '`differs`: expected a list of texts, found "answer"'),
        ({"judgments": [True]},
         "`judgments`: expected a list of whole numbers, found a list of 1"),
        ({"producer": {"run": "x"}},
         'producer: `run`: expected a whole number, found "x"'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes, error):
    with pytest.raises(RecordError) as caught:
        JudgedPair.from_json(JUDGED | changes)
    assert str(caught.value) == error


def test_a_missing_outcome_is_named_with_its_line(tmp_path):
    path = tmp_path / "judgments.jsonl"
    path.write_text(json.dumps(JUDGED) + "\n\n" + '{"label": "a", "sampled": "b"}\n')
    with pytest.raises(RecordError) as caught:
        list(read_lines(path, JudgedPair.from_json))
    assert str(caught.value) == (
        "judgments.jsonl, line 3: `consistent`: expected true or false, found nothing"
    )
