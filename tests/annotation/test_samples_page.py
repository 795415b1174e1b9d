"""The curator's pages: find, look, approve, return, count, import, export."""

from __future__ import annotations

import io
import json

import pytest

from annotation.models import Sample
from annotation.views.samples import PAGE
from tests.cast import (
    make_judgment,
    make_pair,
    make_project,
    make_sample,
    make_user,
    sign_in,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(slug="cakes")


@pytest.fixture
def rita(client):
    return sign_in(client, make_user("rita"))


def upload(text: str | bytes, name: str = "file.jsonl") -> io.BytesIO:
    file = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    file.name = name
    return file


def test_lists_the_newest_first_and_pages_by_key(client, project, rita):
    for number in range(PAGE + 5):
        make_sample(project=project, external_id=f"s-{number:03}")
    page = client.get("/p/cakes/samples/").content.decode()
    assert "s-054" in page
    assert "s-004" not in page
    oldest = Sample.objects.get(external_id="s-005").pk
    assert f"?before={oldest}" in page
    older = client.get(f"/p/cakes/samples/?before={oldest}").content.decode()
    assert "s-004" in older
    assert "s-005" not in older


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=submitted", "b"),
        ("situation=noise", "c"),
        ("scenario=bread", "b"),
        ("split=held-out", "c"),
        ("text=rye", "b"),
        ("text=ID-C", "c"),
    ],
)
def test_filters_find_one(client, project, rita, query, found):
    make_sample(project=project, external_id="id-a", scenario="cakes")
    make_sample(
        project=project,
        external_id="id-b",
        scenario="bread",
        status="submitted",
        turns=(("user", "A Rye loaf.", "Yes."),),
    )
    make_sample(
        project=project, external_id="id-c", situation="noise", split="held-out"
    )
    page = client.get(f"/p/cakes/samples/?{query}").content.decode()
    assert [letter for letter in "abc" if f"id-{letter}<" in page] == [found]


@pytest.mark.parametrize(
    "query",
    [
        "before=x",
        "before=" + "9" * 40,
        "before=-1",
        "status=__class__",
        "situation=%00",
        "text=%00",
        "scenario=%00",
        "text=" + "x" * 999,
        "project__memberships__user__password=x",
        "format=exe",
    ],
)
def test_bad_filters_never_break_the_list(client, project, rita, query):
    make_sample(project=project)
    assert client.get(f"/p/cakes/samples/?{query}").status_code == 200
    assert client.get(f"/p/cakes/samples/export/?{query}").status_code in (200, 302)


def test_the_list_costs_the_same_whatever_its_length(
    client, project, rita, django_assert_max_num_queries
):
    for _ in range(30):
        make_sample(project=project)
    with django_assert_max_num_queries(6):
        client.get("/p/cakes/samples/")


def test_a_sample_shows_its_turns_references_and_counts(client, project, rita):
    sample = make_sample(project=project)
    sample.turns.get().references.create(position=0, text="Another wording of it.")
    pair = make_pair(turn=sample.turns.get())
    make_judgment(pair, make_user("lena"), 1)
    page = client.get(f"/p/cakes/samples/{sample.pk}/").content.decode()
    assert "Find a bakery." in page
    assert "Another wording of it." in page
    assert "1 pair, 1 judgment" in page


def test_a_sample_page_costs_the_same_whatever_its_length(
    client, project, rita, django_assert_max_num_queries
):
    sample = make_sample(
        project=project, turns=tuple(("user", f"{n}", "Yes.") for n in range(40))
    )
    with django_assert_max_num_queries(10):
        client.get(f"/p/cakes/samples/{sample.pk}/")


def test_approves_what_was_submitted(client, project, rita):
    sample = make_sample(project=project, status="submitted")
    response = client.post(f"/p/cakes/samples/{sample.pk}/approve/", follow=True)
    assert "is approved" in response.content.decode()
    sample.refresh_from_db()
    assert sample.status == "approved"


def test_approving_twice_says_why_not(client, project, rita):
    sample = make_sample(project=project)
    response = client.post(f"/p/cakes/samples/{sample.pk}/approve/")
    assert response.status_code == 422
    assert "only a submitted one" in response.content.decode()


def test_returns_with_a_comment_only(client, project, rita):
    sample = make_sample(project=project, status="submitted")
    address = f"/p/cakes/samples/{sample.pk}/return/"
    for comment in ("", "   ", "\0", "x" * 6000):
        assert client.post(address, {"comment": comment}).status_code == 422
    client.post(address, {"comment": "Say more."})
    sample.refresh_from_db()
    assert (sample.status, sample.return_comment) == ("returned", "Say more.")


def test_coverage_counts_by_scenario_and_situation(client, project, rita):
    for split in ("", "", "held-out"):
        make_sample(project=project, scenario="cakes", split=split)
    page = client.get("/p/cakes/samples/coverage/").content.decode()
    assert "<strong>2</strong>" in page
    assert "(1)" in page


def test_export_then_import_is_the_identity(client, project, rita):
    sample = make_sample(project=project)
    exported = b"".join(client.get("/p/cakes/samples/export/").streaming_content)
    other = make_project(slug="bread")
    response = client.post(
        "/p/bread/samples/import/", {"file": upload(exported), "format": "concord"}
    )
    assert "1 new, 0 unchanged, 0 refused" in response.content.decode()
    again = b"".join(client.get("/p/bread/samples/export/").streaming_content)
    assert again == exported
    assert other.samples.get().external_id == sample.external_id


def test_import_keeps_good_lines_and_reports_bad_ones(client, project, rita):
    good = {
        "id": "good",
        "turns": [{"input": {"kind": "user", "text": "A."}, "response": "B."}],
    }
    text = (
        json.dumps(good) + "\n{broken\n" + json.dumps(good | {"id": "bad", "turns": []})
    )
    response = client.post(
        "/p/cakes/samples/import/", {"file": upload(text), "format": "concord"}
    )
    page = response.content.decode()
    assert "1 new, 0 unchanged, 2 refused" in page
    assert "at least one turn" in page
    assert project.samples.get().external_id == "good"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"format": "concord"},
        {"file": "no file", "format": "concord"},
        {"file": b"x", "format": "xml"},
        {"file": b"", "format": "concord"},
        {"file": b"x", "tools": b"\xff\xfe", "format": "openai-chat"},
        {"file": b"x", "tools": b"{", "format": "openai-chat"},
        {"file": b"x", "tools": b"3", "format": "openai-chat"},
    ],
)
def test_bad_uploads_get_a_message(client, project, rita, fields):
    sent = {
        name: upload(value) if isinstance(value, bytes) else value
        for name, value in fields.items()
    }
    response = client.post("/p/cakes/samples/import/", sent)
    assert response.status_code == 422
    assert "errorlist" in response.content.decode()


@pytest.mark.parametrize(
    ("name", "status"), [("sam", 404), ("lena", 403), ("tara", 200), ("ada", 200)]
)
def test_who_may_read_the_list(client, project, name, status):
    sample = make_sample(project=project)
    sign_in(client, make_user(name))
    for address in ("", "coverage/", "export/", f"{sample.pk}/"):
        assert client.get(f"/p/cakes/samples/{address}").status_code == status, address


@pytest.mark.parametrize(
    ("name", "status"), [("sam", 404), ("lena", 403), ("tara", 403)]
)
def test_who_may_not_change_samples(client, project, name, status):
    sample = make_sample(project=project, status="submitted")
    sign_in(client, make_user(name))
    for deed in (f"{sample.pk}/approve/", f"{sample.pk}/return/", "import/"):
        assert client.post(f"/p/cakes/samples/{deed}").status_code == status, deed
    sample.refresh_from_db()
    assert sample.status == "submitted"


def test_an_author_sees_their_own_sample_without_counts(client, project):
    lena = sign_in(client, make_user("lena"))
    own = make_sample(project=project, author=lena)
    page = client.get(f"/p/cakes/samples/{own.pk}/")
    assert page.status_code == 200
    assert "Judgments" not in page.content.decode()


def test_a_sample_of_another_project_is_not_here(client, project, rita):
    sample = make_sample(project=make_project(slug="bread"))
    assert client.get(f"/p/cakes/samples/{sample.pk}/").status_code == 404
    assert client.get(f"/p/cakes/samples/{10**30}/").status_code == 404


def test_import_tells_equal_refusals_once(client, project, rita):
    text = '{"id": "a", "turns": null}\n' * 1_200
    response = client.post(
        "/p/cakes/samples/import/", {"file": upload(text), "format": "concord"}
    )
    page = response.content.decode()
    assert "0 new, 0 unchanged, 1\u202f200 refused" in page
    assert "1, 2, 3, 4, 5 and 1\u202f195 more" in page
    assert page.count("expected a list, found null") == 1


def test_import_names_a_file_of_another_kind_once(client, project, rita):
    for data, found in {
        "role,text\n" * 2_000: "a table with commas (CSV)",
        "x\0" * 40_000: "UTF-16 text",
    }.items():
        response = client.post(
            "/p/cakes/samples/import/", {"file": upload(data), "format": "concord"}
        )
        page = response.content.decode()
        assert page.count("found " + found) == 1
        assert "the whole file" in page


def test_tools_of_a_huge_file_are_refused_unread(client, project, rita):
    fields = {"file": upload("x"), "tools": upload(" " * 5 * 2**20)}
    response = client.post(
        "/p/cakes/samples/import/", fields | {"format": "openai-chat"}
    )
    assert response.status_code == 422
    assert "tools: expected at most 4194304 bytes" in response.content.decode()
