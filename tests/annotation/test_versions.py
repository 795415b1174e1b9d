"""Every change of a sample's content is kept: what it said, who changed it, why."""

import pytest

from annotation.authoring.export import sample_to_json
from annotation.authoring.import_files import import_file
from annotation.authoring.sample_rows import save_sample
from annotation.authoring.versions import compare_documents
from annotation.models import Sample, SampleVersion
from tests.cast import make_project, make_user

pytestmark = pytest.mark.django_db


def document(response="Yes.", **fields):
    turn = {"input": {"kind": "user", "text": "A cake?"}, "response": response}
    return {"id": "one", "turns": [turn]} | fields


@pytest.fixture
def sample():
    return save_sample(
        project=make_project(), document=document(), author=make_user("lena")
    )


def change(sample, response, name="rita", why=""):
    return save_sample(
        project=sample.project,
        document=document(response),
        author=make_user(name),
        sample=sample,
        why=why,
    )


def test_a_sample_that_never_changed_has_no_version(sample):
    assert not SampleVersion.objects.exists()


def test_an_import_writes_no_version():
    lines = ['{"id": "a", "turns": [{"input": {"kind": "user", "text": "A"}, ']
    import_file(
        project=make_project(),
        format="concord",
        lines=[lines[0] + '"response": "B"}]}'],
    )
    assert Sample.objects.count() == 1
    assert not SampleVersion.objects.exists()


def test_the_first_change_keeps_what_stood_there_before_as_version_one(sample):
    before = sample_to_json(sample)
    change(sample, "No.", why="It is closed.")
    first, second = sample.versions.all()
    assert (first.number, first.editor, first.document) == (1, sample.author, before)
    assert first.created_at == sample.created_at
    assert (second.number, second.editor.username, second.why) == (
        2,
        "rita",
        "It is closed.",
    )
    assert second.document["turns"][0]["response"] == "No."


def test_the_author_stays_whoever_changes_it(sample):
    assert change(sample, "No.").author == make_user("lena")


def test_versions_are_numbered_one_after_the_other(sample):
    for response in ("A.", "B.", "C."):
        change(sample, response)
    assert [v.number for v in sample.versions.all()] == [1, 2, 3, 4]


def test_saving_the_same_again_is_no_version(sample):
    change(sample, "Yes.")
    assert not SampleVersion.objects.exists()


def test_a_change_that_fails_leaves_no_version(sample):
    from records.sample_format import SampleError

    with pytest.raises(SampleError):
        change(sample, "<<think>>never closed")
    assert not SampleVersion.objects.exists()


def test_a_turn_put_in_between_shifts_no_other():
    turns = [
        {"input": {"kind": "user", "text": text}, "response": "Yes."} for text in "abc"
    ]
    old = {"id": "one", "turns": [turns[0], turns[2]]}
    found = compare_documents(old, old | {"turns": turns, "scenario": "cakes"})
    assert [change.title for change in found] == [
        "Scenario",
        "Turn 2, input",
        "Turn 2, response",
    ]


def test_a_changed_context_is_compared_line_by_line():
    context = {"scope": "global", "title": "Shop", "guideline": "Ask.", "actions": []}
    old = {"contexts": [context]}
    new = {"contexts": [context | {"guideline": "Ask first."}]}
    (change,) = compare_documents(old, new)
    assert change.title == "Thinking context 1"
    assert [p.text for p in change.pieces if p.change == "ins"] == [" first"]
