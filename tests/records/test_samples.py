"""Samples: the strict reader of imports and the reader of a run's files see the same."""

import json

import pytest

from actions.demo import generate
from records.reading import RecordError, read_lines
from records.sample_format import check_sample
from records.samples import Context, Sample, Turn
from tests.old_run import OLD_RUN

TURN = {"input": {"kind": "user", "text": "A cake?"}, "response": "Sure."}
ROW = {"id": "s1", "turns": [TURN]}


def test_samples_of_an_earlier_version_come_out_as_they_went_in():
    for path in OLD_RUN.glob("*/data/train.jsonl"):
        samples = list(read_lines(path, Sample.from_json))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [sample.to_json() for sample in samples] == rows


def test_both_readers_make_the_same_of_a_sample():
    for document in generate(seed=3, count=6):
        checked = check_sample(json.loads(json.dumps(document)))
        assert Sample.from_json(checked.to_json()) == checked
        assert Sample.from_json(checked.to_json()).content_hash == checked.content_hash


def test_what_a_file_leaves_out_has_its_default():
    sample = Sample.from_json({**ROW, "from": "a newer version", "contexts": [{}]})
    assert sample.turns == (Turn("user", "A cake?", "Sure."),)
    assert sample.contexts == (Context("global", ""),)
    assert (sample.status, sample.split, sample.task) == (None, "", "action")
    assert sample.to_json()["status"] == "submitted"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"id": 3}, "`id`: expected a text, found 3"),
        ({"turns": []}, "`turns`: expected at least one turn, found a list of 0"),
        ({"turns": [[]]}, "turns[0]: expected a JSON object, found a list of 0"),
        ({"turns": [TURN, {**TURN, "response": None}]},
         "turns[1]: `response`: expected a text, found null"),
        ({"turns": [{**TURN, "input": {"kind": "system", "text": ""}}]},
         'turns[0].input: `kind`: expected user or observation, found "system"'),
        ({"turns": [{**TURN, "references": "Yes."}]},
         'turns[0]: `references`: expected a list of texts, found "Yes."'),
        ({"contexts": {}}, "`contexts`: expected a list, found an object of 0 keys"),
        ({"contexts": [{"guideline": 1}]},
         "contexts[0]: `guideline`: expected a text, found 1"),
        ({"meta": []}, "`meta`: expected a JSON object, found a list of 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes, error):
    with pytest.raises(RecordError) as caught:
        Sample.from_json(ROW | changes)
    assert str(caught.value) == error
