"""``responses.jsonl``: what a draw writes is what the web application reads."""

import json

import pytest

from records.reading import RecordError, read_lines
from records.responses import ProposalRequest, ProposedResponse, ResponseRow
from tests.old_run import OLD_RUN


def test_responses_of_an_earlier_version_come_out_as_they_went_in():
    path = OLD_RUN / "draw" / "outputs" / "responses.jsonl"
    responses = list(read_lines(path, ResponseRow.from_json))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [response.to_json() for response in responses] == rows


@pytest.mark.parametrize("more", [{}, {"kept": False}, {"kept": True, "rm_score": 0.0}])
def test_a_score_and_a_choice_are_written_only_where_they_were_made(more):
    response = ResponseRow("s1", 2, 0, "Sure.", role="initial", **more)
    obj = response.to_json()
    assert ResponseRow.from_json(json.loads(json.dumps(obj))) == response
    assert {"kept", "rm_score"} & obj.keys() == more.keys()
    assert response.goes_to_people is more.get("kept", True)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"role": "king"}, '`role`: expected current or initial, found "king"'),
        ({"role": None}, "`role`: expected a text, found null"),
        ({"turn": True}, "`turn`: expected a whole number, found true"),
        ({"index": -1}, "`index`: expected a whole number from 0 to 2147483647, "
         "found -1"),
        ({"text": 5}, "`text`: expected a text, found 5"),
        ({"rm_score": "high"}, '`rm_score`: expected a number, found "high"'),
        ({"rm_score": 10**400}, "`rm_score`: expected a finite number, found "
         "1000000000000000000000000000000000000000…"),
        ({"kept": "yes"}, '`kept`: expected true or false, found "yes"'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes, error):
    row = {"sample": "s1", "turn": 0, "index": 0, "role": "current", "text": "Sure."}
    with pytest.raises(RecordError) as caught:
        ResponseRow.from_json(row | changes)
    assert str(caught.value) == error


def test_a_proposal_goes_there_and_back():
    request = ProposalRequest({"id": "s1"}, {"seed": 3})
    assert (
        ProposalRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
    )
    response = ProposedResponse("Sure.", "", 0.25)
    assert ProposedResponse.from_json(response.to_json()) == response
    with pytest.raises(RecordError, match="answer: `text`: expected a text, found not"):
        ProposedResponse.from_json({})
