"""What in a sample acts by itself, and who may put it there."""

from __future__ import annotations

import pytest

from annotation.authoring.effective_fields import acting_parts, without_acting

RULE = {"match": "numeric", "answer": 42}
PROPOSAL = {"checkpoint": 7, "digest": "d" * 64, "text": "Which cake?"}


def turn(**more):
    return {"input": {"kind": "user", "text": "A cake?"}, "response": "Which?"} | more


def document(**meta):
    return {
        "id": "one",
        "turns": [turn(facts={"truth": 1}), turn(proposal=PROPOSAL)],
        "meta": meta,
    }


def places(parts) -> list[str]:
    return [part.place for part in parts]


def test_names_every_field_that_acts_and_no_other():
    found = acting_parts(document(rule=RULE, task="other", note="mine"))
    assert places(found) == [
        "meta.rule",
        "meta.task",
        "turns[0].facts",
        "turns[1].proposal",
    ]
    assert found[0].value == '{"match": "numeric", "answer": 42}'


def test_a_task_that_is_only_a_name_does_not_act():
    assert not acting_parts({"turns": [], "meta": {"task": "booking"}})
    kept, left_out = without_acting({"turns": [], "meta": {"task": "booking"}})
    assert (kept["meta"], left_out) == ({"task": "booking"}, [])


def test_a_rule_that_cannot_be_applied_is_shown_as_wrong():
    (part,) = acting_parts({"turns": [], "meta": {"rule": {"match": "luck"}}})
    assert part.is_wrong
    assert "match: expected one of" in part.what


@pytest.mark.parametrize("meta", [None, [], "rule"])
def test_a_document_of_another_shape_is_no_error(meta):
    assert acting_parts({"meta": meta, "turns": "none"}) == []
    assert without_acting({"meta": meta, "turns": []})[1] == []


def test_a_writer_keeps_all_but_what_acts():
    kept, left_out = without_acting(document(rule=RULE, note="mine"))
    assert left_out == ["meta.rule", "turns[0].facts", "turns[1].proposal"]
    assert kept == {
        "id": "one",
        "turns": [turn(), turn()],
        "meta": {"note": "mine"},
    }


def test_what_the_sample_has_already_stays():
    known = document(rule=RULE)
    assert without_acting(known, known=known) == (known, [])


def test_what_the_sample_has_stays_only_as_it_is():
    known = document(rule=RULE)
    other = document(rule=RULE | {"answer": 41})
    other["turns"][0]["response"] = "Another."
    kept, left_out = without_acting(other, known=known)
    assert left_out == ["meta.rule", "turns[0].facts"]
    assert kept["turns"][1]["proposal"] == PROPOSAL


def test_proposals_that_a_page_put_in_stay():
    _kept, left_out = without_acting(document(), keeps_proposals=True)
    assert left_out == ["turns[0].facts"]
