"""The Write pages: drafts on the server, errors at their place, nothing lost."""

from __future__ import annotations

import pytest

from annotation.models import Draft, Sample, SampleStatus, ThinkingContext
from annotation.samples import return_sample
from tests.cast import LABEL, make_project, make_sample, make_user, sign_in

pytestmark = pytest.mark.django_db

ACTIONS = '[{"name": "Find shops", "description": "Finds.", "parameters": {"kind": {"type": "string", "description": "What."}}}]'


@pytest.fixture
def project():
    return make_project(slug="cakes")


@pytest.fixture
def lena(client):
    return sign_in(client, make_user("lena"))


@pytest.fixture
def address(client, project, lena) -> str:
    return client.post("/p/cakes/write/new/")["Location"]


def form(**changes) -> dict:
    return {
        "version": "0",
        "scenario": "cakes",
        "situation": "normal",
        "turn_kind": ["user"],
        "turn_text": ["A cake, please."],
        "turn_response": ["<<think>>Hm.<</think>>Which one?"],
    } | changes


def test_a_new_draft_starts_with_one_turn(client, address):
    page = client.get(address).content.decode()
    assert page.count('name="turn_response"') == 1
    assert "The response is empty." in page


def test_saving_keeps_what_was_typed_and_counts_the_version(client, address):
    response = client.post(f"{address}save/", form())
    page = response.content.decode()
    draft = Draft.objects.get()
    assert draft.content["turns"][0]["input"]["text"] == "A cake, please."
    assert draft.version == 1
    assert 'id="version" value="1"' in page
    assert 'id="check-1"' in page


def test_a_format_error_names_its_place(client, address):
    broken = "<<think>>One line.\n<<action>>{oops<</action>>"
    page = client.post(f"{address}save/", form(turn_response=[broken])).content.decode()
    assert "Response, line 2, column 1" in page
    assert "expected JSON" in page
    assert Draft.objects.get().content["turns"][0]["response"] == broken


def test_line_ends_of_browsers_become_plain(client, address):
    client.post(f"{address}save/", form(turn_text=["one\r\ntwo"]))
    assert Draft.objects.get().content["turns"][0]["input"]["text"] == "one\ntwo"


def test_an_observation_needs_a_call_before_it(client, address):
    two = form(
        turn_kind=["user", "observation"],
        turn_text=["Hello.", "ok"],
        turn_response=["Hi.", "Fine.<</think>>Done."],
    )
    assert (
        "the turn before does not"
        in client.post(f"{address}save/", two).content.decode()
    )
    two["version"] = "1"
    two["turn_response"] = [LABEL, "Fine.<</think>>Done."]
    page = client.post(f"{address}save/", two).content.decode()
    assert "the turn before" not in page


def test_unknown_actions_and_parameters_are_hinted(client, address):
    fields = form(
        turn_response=[LABEL],
        new_scope=["global"],
        new_title=["Shops"],
        new_background=[""],
        new_guideline=[""],
        new_actions=[ACTIONS.replace("kind", "sort")],
    )
    page = client.post(f"{address}save/", fields).content.decode()
    assert "Find shops: " in page
    fields |= {
        "version": "1",
        "new_actions": [ACTIONS.replace("Find shops", "Look up")],
    }
    assert (
        "No action is named “Find shops”"
        in client.post(f"{address}save/", fields).content.decode()
    )


def test_a_stale_save_is_a_conflict_and_loses_nothing(client, address):
    client.post(f"{address}save/", form(turn_text=["Mine, from the first tab."]))
    response = client.post(
        f"{address}save/", form(turn_text=["Mine, from the second."])
    )
    page = response.content.decode()
    assert "saved in another tab" in page
    assert (
        Draft.objects.get().content["turns"][0]["input"]["text"].endswith("first tab.")
    )
    # Without JavaScript the page comes back with what was typed, and a way to keep it.
    response = client.post(address, form(turn_text=["Mine, from the second."]))
    page = response.content.decode()
    assert response.status_code == 409
    assert "Mine, from the second." in page
    assert 'name="other_version" value="1"' in page
    kept = form(do="keep", other_version="1", turn_text=["Mine, from the second."])
    client.post(address, kept)
    assert Draft.objects.get().content["turns"][0]["input"]["text"].endswith("second.")


def test_buttons_add_move_and_remove_turns(client, address):
    client.post(address, form(do="add-observation"))
    draft = Draft.objects.get()
    assert [turn["input"]["kind"] for turn in draft.content["turns"]] == [
        "user",
        "observation",
    ]
    two = form(
        version="1",
        turn_kind=["user", "user"],
        turn_text=["a", "b"],
        turn_response=["A", "B"],
    )
    client.post(address, two | {"do": "raise-turn:2"})
    draft.refresh_from_db()
    assert [turn["response"] for turn in draft.content["turns"]] == ["B", "A"]
    client.post(address, two | {"version": "2", "do": "remove-turn:1"})
    draft.refresh_from_db()
    assert [turn["response"] for turn in draft.content["turns"]] == ["B"]


def test_submitting_makes_a_sample_for_the_curators(client, project, lena, address):
    old = ThinkingContext.objects.create(
        project=project, scope="global", title="Old", content_hash="0" * 64
    )
    fields = form(
        do="submit",
        context=[str(old.pk)],
        new_scope=["local"],
        new_title=["Shops"],
        new_background=["b"],
        new_guideline=["g"],
        new_actions=[ACTIONS],
    )
    response = client.post(address, fields, follow=True)
    assert "Submitted" in response.content.decode()
    sample = Sample.objects.get()
    assert (sample.status, sample.author, sample.scenario) == (
        "submitted",
        lena,
        "cakes",
    )
    titles = [link.context.title for link in sample.samplecontext_set.all()]
    assert titles == ["Old", "Shops"]
    assert not Draft.objects.exists()


def test_submitting_a_broken_draft_says_what_and_where(client, address):
    response = client.post(address, form(do="submit", turn_response=["<<think>>Open"]))
    page = response.content.decode()
    assert response.status_code == 422
    assert "turns[0].response" in page
    assert "&lt;&lt;think&gt;&gt;Open" in page
    assert not Sample.objects.exists()
    assert Draft.objects.exists()


def test_a_returned_sample_is_revised_and_keeps_its_references(client, project, lena):
    sample = make_sample(
        project=project, author=lena, turns=(("user", "A.", "B."), ("user", "C.", "D."))
    )
    for turn in sample.turns.all():
        turn.references.create(position=0, text="Another wording.")
    return_sample(sample=sample, user=make_user("rita"), comment="Say more.")
    page = client.get("/p/cakes/write/").content.decode()
    assert "Say more." in page
    address = client.post(f"/p/cakes/write/revise/{sample.pk}/")["Location"]
    assert client.post(f"/p/cakes/write/revise/{sample.pk}/")["Location"] == address
    fields = form(
        do="submit",
        turn_kind=["user", "user"],
        turn_text=["A.", "C."],
        turn_response=["B, and more.", "D."],
    )
    client.post(address, fields)
    sample.refresh_from_db()
    assert sample.status == SampleStatus.SUBMITTED
    first, second = sample.turns.order_by("position")
    assert first.response == "B, and more."
    # The wording stays and is held against the new text; the person decides.
    assert [r.text for r in first.references.all()] == ["Another wording."]
    assert [r.text for r in second.references.all()] == ["Another wording."]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "x"},
        {"version": "9" * 30},
        {"turn_kind": ["alien"], "turn_text": ["\0"], "turn_response": ["\0"]},
        {"turn_kind": [], "turn_text": ["a"] * 500, "turn_response": []},
        {"context": ["x", "9" * 40, "-1", "\0", "1"]},
        {"situation": "weird\0", "scenario": "x" * 5000},
        {"new_title": ["a"], "new_actions": ["{" * 5000]},
        {"new_title": ["a"], "new_actions": ["[1, null]"]},
        {"new_actions": ['[{"name": "a\\u0000"}]']},
        {"do": "remove-turn:999999999999999999999"},
        {"do": "remove-turn:0"},
        {"do": "raise-turn:-1"},
        {"do": "remove-context:1"},
        {"do": "explode"},
        {"do": "submit", "turn_kind": [], "turn_text": [], "turn_response": []},
        {"do": "submit", "situation": "weird"},
        {"do": "submit", "scenario": "two\nlines"},
        {"do": "submit", "new_title": [""], "new_actions": ["nonsense"]},
        {"turn_response": ["\ud800".encode("utf-8", "surrogatepass")]},
    ],
)
def test_bad_input_never_breaks_the_pages(client, address, changes):
    for place in (f"{address}save/", address):
        version = Draft.objects.get().version
        response = client.post(place, form(version=str(version)) | changes)
        assert response.status_code in (200, 302, 409, 422)
        assert client.get(address).status_code == 200
    assert not Sample.objects.exists()


def test_only_the_author_opens_a_draft(client, address):
    sign_in(client, make_user("luis"))
    assert client.get(address).status_code == 404
    assert client.post(f"{address}save/", form()).status_code == 404
    assert client.post(f"{address}delete/").status_code == 404


def test_delete_takes_the_draft_away(client, address):
    client.post(f"{address}delete/")
    assert not Draft.objects.exists()


@pytest.mark.parametrize(
    ("name", "status"), [("sam", 404), ("tara", 403), ("rita", 200)]
)
def test_who_may_write(client, project, name, status):
    sign_in(client, make_user(name))
    assert client.get("/p/cakes/write/").status_code == status


def test_a_stranger_cannot_make_or_revise(client, project, lena):
    sample = make_sample(project=project, author=lena)
    return_sample(sample=sample, user=make_user("rita"), comment="No.")
    sign_in(client, make_user("luis"))
    assert client.post(f"/p/cakes/write/revise/{sample.pk}/").status_code == 404
    sign_in(client, make_user("sam"))
    assert client.post("/p/cakes/write/new/").status_code == 404
