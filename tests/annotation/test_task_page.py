"""The page of a whole task: every turn in order, each judged by itself."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation.models import GuidelineVersion, Judgment, Project, Slot
from tests.annotation.test_claim_task import ANSWER, make_task
from tests.annotation.test_judge_page import SWAPPED, Fields
from tests.cast import SAMPLED, make_pair, make_project, make_user, sign_in

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


@pytest.fixture
def project() -> Project:
    return make_project(slug="cakes")


@pytest.fixture
def lena(client):
    return sign_in(client, make_user("lena"))


def forms_of(page: str) -> list[dict[str, list[str]]]:
    """Return what each turn's form sends."""
    forms = re.findall(r'<form class="stage".*?</form>', page, re.DOTALL)
    return [Fields(form).sent for form in forms]


def show(client) -> str:
    response = client.get("/p/cakes/judge/task/", follow=True)
    assert response.status_code == 200
    return response.content.decode()


def test_shows_all_turns_in_order_with_a_form_each(client, project, lena):
    make_task(project)
    page = show(client)
    places = [page.index(text) for text in ("A cake, please.", "When is", "And if I")]
    assert places == sorted(places)
    assert len(forms_of(page)) == 3
    assert Slot.objects.filter(holder=lena).count() == 3


def test_reloading_shows_the_same_task(client, project, lena):
    make_task(project)
    make_task(project)
    response = client.get("/p/cakes/judge/task/")
    assert response.status_code == 302
    address = response["Location"]
    first, second = (client.get(address).content.decode() for _ in range(2))
    assert [form["slot"] for form in forms_of(first)] == [
        form["slot"] for form in forms_of(second)
    ]
    assert Slot.objects.leased().count() == 3


def test_each_turn_posts_its_own_judgment(client, project, lena):
    make_task(project)
    one, two, three = forms_of(show(client))
    response = client.post(
        "/p/cakes/judge/task/", {**one, "verdict": "0"}, headers=HTMX
    )
    page = response.content.decode()
    assert "<html" not in page
    assert page.count("task-turn") >= 1
    assert 'data-state="judged"' in page
    judgment = Judgment.objects.get()
    assert (judgment.verdict, judgment.units_that_differ) == (
        0,
        ["action/1/parameters/kind"],
    )
    response = client.post("/p/cakes/judge/task/", {**three, "verdict": "1"})
    assert response.status_code == 303
    assert response["Location"].endswith("#turn-3")
    assert Judgment.objects.counted().count() == 2
    assert len(forms_of(client.get(response["Location"]).content.decode())) == 1
    assert two["slot"] != three["slot"]


def test_the_same_post_twice_counts_once(client, project, lena):
    make_task(project)
    form = forms_of(show(client))[0]
    for _ in range(2):
        client.post("/p/cakes/judge/task/", {**form, "verdict": "1"}, headers=HTMX)
    assert Judgment.objects.count() == 1


def test_undo_brings_the_turn_back(client, project, lena):
    make_task(project)
    form = forms_of(show(client))[1]
    client.post("/p/cakes/judge/task/", {**form, "verdict": "1"})
    judgment = Judgment.objects.get()
    sent = {"answer": form["answer"], "judgment": judgment.pk}
    page = client.post("/p/cakes/judge/task/undo/", sent, headers=HTMX).content.decode()
    assert 'id="turn-2"' in page
    (back,) = forms_of(page)
    assert back["slot"] == form["slot"]
    assert back["token"] != form["token"]
    assert not Judgment.objects.current().exists()


def test_asks_once_when_the_step_order_differs(client, project, lena):
    make_task(project, answers=(SWAPPED, ANSWER, ANSWER))
    form = forms_of(show(client))[0] | {"verdict": "1"}
    response = client.post("/p/cakes/judge/task/", form, headers=HTMX)
    assert response.status_code == 422
    assert "order_confirmed" in Fields(response.content.decode()).offered
    assert not Judgment.objects.exists()
    client.post("/p/cakes/judge/task/", form | {"order_confirmed": "1"}, headers=HTMX)
    assert Judgment.objects.get().order_confirmed


def test_what_was_filled_in_comes_back_with_the_reason(client, project, lena):
    make_task(project)
    form = forms_of(show(client))[0] | {"verdict": "0", "units": ["plan/2", "plan/0"]}
    for headers in (HTMX, {}):
        response = client.post("/p/cakes/judge/task/", form, headers=headers)
        page = response.content.decode()
        assert response.status_code == 422
        assert "expected a unit such as" in page
        assert forms_of(page)[0]["units"] == ["plan/2"]
        assert forms_of(page)[0]["verdict"] == ["0"]
    assert not Judgment.objects.exists()


def test_turns_that_are_not_yours_say_why_and_have_no_form(client, project, lena):
    make_task(
        project, answers=(SAMPLED, ANSWER.replace("{}", "3"), "<<think>>broken {}")
    )
    page = show(client)
    assert len(forms_of(page)) == 1
    assert "Equal to the label response, letter by letter" in page
    assert "Breaks the response grammar" in page
    assert page.count('type="checkbox" name="units"') == len(
        Fields(re.search('<form class="stage".*?</form>', page, re.DOTALL)[0]).offered[
            "units"
        ]
    )


def test_is_blind(client, project, lena):
    make_task(project, answers=(SAMPLED, ANSWER, None))
    page = show(client).casefold()
    assert "florist" in page
    for word in ("policy", "checkpoint", "producer", "score", "/runs/"):
        assert word not in page


def test_stamps_the_guideline_that_was_on_screen(client, project, lena):
    make_task(project)
    sent = forms_of(show(client))[0]
    Project.objects.update(guideline="Order counts.", guideline_version=2)
    client.post("/p/cakes/judge/task/", sent | {"verdict": "1"}, headers=HTMX)
    assert Judgment.objects.get().guideline_version == 1


def test_asks_to_read_a_new_guideline_first(client, project, lena):
    make_task(project)
    GuidelineVersion.objects.create(project=project, version=2, text="Order counts.")
    Project.objects.update(guideline="Order counts.", guideline_version=2)
    response = client.get("/p/cakes/judge/task/", follow=True)
    assert "Order counts." in response.content.decode()
    assert not Slot.objects.leased().exists()


def test_nothing_to_do_is_told_by_the_judge_page(client, project, lena):
    response = client.get("/p/cakes/judge/task/", follow=True)
    assert "No pair yet" in response.content.decode()


def test_a_pair_that_no_answer_is_known_for_is_judged_by_itself(client, project, lena):
    pair = make_pair(project=project)
    response = client.get("/p/cakes/judge/task/", follow=True)
    assert f'data-pair="{pair.pk}"' in response.content.decode()
    assert response.request["PATH_INFO"] == "/p/cakes/judge/"


@pytest.mark.parametrize("answer", ["x", "-1", "0", "9" * 40, "\0", "١"])
def test_a_key_that_is_none_shows_the_next_task(client, project, lena, answer):
    make_task(project)
    response = client.get("/p/cakes/judge/task/", {"answer": answer}, follow=True)
    assert response.status_code == 200
    assert len(forms_of(response.content.decode())) == 3


def test_bad_posts_are_no_error_of_ours(client, project, lena):
    make_task(project)
    form = forms_of(show(client))[0]
    for changes in (
        {"slot": "x"},
        {"slot": "999999"},
        {"token": "0"},
        {"answer": "x"},
        {"answer": "999999"},
        {"verdict": "2"},
        {"verdict": ""},
    ):
        for headers in (HTMX, {}):
            response = client.post(
                "/p/cakes/judge/task/",
                {**form, "verdict": "1", **changes},
                headers=headers,
            )
            assert response.status_code in (200, 204, 303, 404, 422)
    for sent in ({}, {"judgment": "x", "answer": "x"}, {"judgment": "999999"}):
        response = client.post("/p/cakes/judge/task/undo/", sent)
        assert response.status_code == 303
    # The one whose slot and token were right; its task's key only leads back.
    assert Judgment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_queries_do_not_grow_with_the_turns(client, project, lena):
    counts = []
    for answers in ((SAMPLED, None, None), (SAMPLED, ANSWER, ANSWER)):
        Slot.objects.all().delete()
        make_task(project, answers=answers)
        address = client.get("/p/cakes/judge/task/")["Location"]
        with CaptureQueriesContext(connection) as queries:
            page = client.get(address).content.decode()
        counts.append(
            len([q for q in queries if not re.match("BEGIN|COMMIT", q["sql"])])
        )
    assert len(forms_of(page)) == 3
    assert counts[0] == counts[1] <= 14


@pytest.mark.parametrize(("name", "status"), [("sam", 404), ("tara", 403)])
def test_who_may_not_look(client, project, name, status):
    make_task(project)
    sign_in(client, make_user(name))
    assert client.get("/p/cakes/judge/task/").status_code == status
    for deed in ("", "undo/"):
        assert client.post(f"/p/cakes/judge/task/{deed}").status_code == status
