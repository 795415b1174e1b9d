"""The guideline's pages, and the one that stands before the next pair."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation.judging.adjudication import adjudicate
from annotation.judging.guidelines import pin_example, publish_guideline
from annotation.models import (
    GuidelineReading,
    GuidelineVersion,
    Judgment,
    Project,
    Slot,
)
from tests.cast import make_judgment, make_pair, make_project, make_user, sign_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(slug="cakes", guideline="# Rules\n\nThe *order* counts.")


@pytest.fixture
def lena(client):
    return sign_in(client, make_user("lena"))


def as_rita(client):
    return sign_in(client, make_user("rita"))


def publish(project, text, **fields):
    project.refresh_from_db()
    return publish_guideline(
        project=project,
        author=make_user("rita"),
        text=text,
        base_version=project.guideline_version,
        **fields,
    )


def pinned(project, verdict=0, note="Look at the **kind**."):
    pair = make_pair(project=project)
    adjudicate(
        project=pair.project,
        pair=pair,
        curator=make_user("rita"),
        verdict=verdict,
        reasons=() if verdict else ("content",),
    )
    return pin_example(project=project, pair=pair, curator=make_user("rita"), note=note)


def body(response):
    return response.content.decode()


class TestReadingIt:
    def test_is_rendered_with_its_examples(self, client, project, lena):
        pinned(project)
        page = body(client.get("/p/cakes/guideline/"))
        assert "<h3>Rules</h3>" in page
        assert "<em>order</em>" in page
        assert "<strong>kind</strong>" in page
        assert "florist" in page
        assert "guideline/edit/" not in page

    def test_the_drawer_has_no_frame(self, client, project, lena):
        page = body(client.get("/p/cakes/guideline/", headers={"HX-Request": "true"}))
        assert "<em>order</em>" in page
        assert "<html" not in page

    def test_costs_the_same_whatever_the_number_of_examples(
        self, client, project, lena, django_assert_max_num_queries
    ):
        for _ in range(2):
            for _ in range(4):
                pinned(project)
            with django_assert_max_num_queries(5):
                client.get("/p/cakes/guideline/")

    @pytest.mark.parametrize(
        ("name", "status"), [("sam", 404), ("tara", 200), ("rita", 200)]
    )
    def test_who_may_read_it(self, client, project, name, status):
        sign_in(client, make_user(name))
        for address in ("", "history/"):
            assert client.get(f"/p/cakes/guideline/{address}").status_code == status


class TestEditing:
    FORM = {"text": "New text.", "change": "All new.", "base_version": 1, "do": "go"}

    def test_publishes(self, client, project):
        as_rita(client)
        sent = self.FORM | {"asks_to_reread": "on"}
        response = client.post("/p/cakes/guideline/edit/", sent, follow=True)
        assert "Version 2 of the guideline is published." in body(response)
        version = GuidelineVersion.objects.get(version=2)
        assert (version.text, version.asks_to_reread) == ("New text.", True)

    def test_the_line_ends_of_browsers_are_no_change(self, client, project):
        as_rita(client)
        sent = self.FORM | {"text": project.guideline.replace("\n", "\r\n")}
        response = client.post("/p/cakes/guideline/edit/", sent)
        assert response.status_code == 422
        assert "word for word" in body(response)

    def test_a_conflict_shows_both_changes_and_keeps_what_was_typed(
        self, client, project
    ):
        publish(project, "# Rules\n\nThe *order* counts twice.")
        as_rita(client)
        sent = self.FORM | {"text": "# Rules\n\nThe *order* counts for me."}
        response = client.post("/p/cakes/guideline/edit/", sent)
        assert response.status_code == 409
        page = body(response)
        assert "Version 2 was published meanwhile" in page
        assert "counts for me." in page
        assert re.search(r"<ins>.*twice", page, re.DOTALL)
        assert 'name="base_version" value="2"' in page
        client.post("/p/cakes/guideline/edit/", sent | {"base_version": 2})
        project.refresh_from_db()
        assert project.guideline.endswith("counts for me.")
        assert GuidelineVersion.objects.filter(text__contains="twice").exists()

    def test_preview_shows_and_stores_nothing(self, client, project):
        as_rita(client)
        page = body(client.post("/p/cakes/guideline/preview/", {"text": "**x** <i>\0"}))
        assert "<strong>x</strong> &lt;i&gt;" in page
        page = body(
            client.post("/p/cakes/guideline/edit/", self.FORM | {"do": "preview"})
        )
        assert "<p>New text.</p>" in page
        assert not GuidelineVersion.objects.exists()

    @pytest.mark.parametrize(
        "sent",
        [
            {},
            {"text": "x", "base_version": "x"},
            {"text": "x\0", "base_version": 1},
            {"text": "x" * 50_001, "base_version": 1},
            {"text": "x", "change": "y" * 301, "base_version": 1},
            {"text": "x", "base_version": 10**12},
        ],
    )
    def test_bad_input_gets_a_message_and_nothing_is_published(
        self, client, project, sent
    ):
        as_rita(client)
        response = client.post("/p/cakes/guideline/edit/", sent)
        assert response.status_code == 422
        assert not GuidelineVersion.objects.exists()

    @pytest.mark.parametrize(
        ("name", "status"), [("sam", 404), ("lena", 403), ("tara", 403)]
    )
    def test_is_for_curators(self, client, project, name, status):
        example = pinned(project)
        sign_in(client, make_user(name))
        assert client.get("/p/cakes/guideline/edit/").status_code == status
        for address in (
            "edit/",
            "preview/",
            f"pin/{example.pair_id}/",
            f"unpin/{example.pk}/",
        ):
            response = client.post(f"/p/cakes/guideline/{address}", self.FORM)
            assert response.status_code == status, address
        assert Project.objects.get().guideline_version == 1


class TestHistory:
    def test_shows_what_changed_between_any_two(self, client, project, lena):
        publish(project, "# Rules\n\nThe *order* matters.", change="Wording.")
        publish(project, "# Rules\n\nThe *order* matters a lot.")
        page = body(client.get("/p/cakes/guideline/history/"))
        assert "Wording." in page
        assert re.search(r"<ins>.*a lot", page, re.DOTALL)
        assert "counts<" not in page
        page = body(client.get("/p/cakes/guideline/history/?old=1&new=2"))
        assert re.search(r"<del>.*counts</del>", page, re.DOTALL)

    @pytest.mark.parametrize("query", ["old=x", "old=-1&new=99", "new=" + "9" * 40])
    def test_nonsense_shows_the_newest(self, client, project, lena, query):
        publish(project, "New.")
        page = client.get(f"/p/cakes/guideline/history/?{query}")
        assert page.status_code == 200

    def test_costs_the_same_whatever_its_length(
        self, client, project, lena, django_assert_max_num_queries
    ):
        for size in (3, 12):
            for number in range(size):
                publish(project, f"Text {size} {number}.")
            with django_assert_max_num_queries(6):
                client.get("/p/cakes/guideline/history/")


class TestBeforeTheNextPair:
    def form(self):
        slot = Slot.objects.get(state="leased")
        return {"slot": slot.pk, "token": slot.token, "verdict": 1}

    def test_a_change_is_shown_before_the_next_pair_and_once(
        self, client, project, lena
    ):
        make_judgment(make_pair(project=project), lena, 1)
        make_pair(project=project)
        publish(project, "# Rules\n\nThe *order* counts double.", change="Double.")
        page = body(client.get("/p/cakes/judge/"))
        assert "Please read the guideline, version 2" in page
        assert "Double." in page
        assert re.search(r"<ins>.*double", page, re.DOTALL)
        assert 'form class="stage' not in page
        assert not Slot.objects.filter(state="leased").exists()
        response = client.post("/p/cakes/guideline/read/", {"version": 2})
        assert (response.status_code, response.url) == (303, "/p/cakes/judge/")
        assert "Please read" not in body(client.get("/p/cakes/judge/"))

    def test_a_decision_under_way_is_recorded_first(self, client, project, lena):
        for _ in range(2):
            make_pair(project=project)
        client.get("/p/cakes/judge/")
        sent = self.form()
        publish(project, "New.")
        page = body(client.post("/p/cakes/judge/", sent, follow=True))
        assert Judgment.objects.get().verdict == 1
        assert "Please read the guideline" in page

    def test_a_decision_that_comes_back_keeps_its_pair(self, client, project, lena):
        make_pair(project=project)
        client.get("/p/cakes/judge/")
        sent = self.form() | {"verdict": 0}
        publish(project, "New.")
        response = client.post("/p/cakes/judge/", sent)
        assert response.status_code == 422
        assert "Please read" not in body(response)

    def test_who_never_judged_reads_the_whole(self, client, project, lena):
        make_pair(project=project)
        publish(project, "New.")
        page = body(client.get("/p/cakes/judge/"))
        assert "Read it once before the first pair." in page
        assert "Changed since" not in page

    def test_costs_nothing_once_the_session_knows(self, client, project, lena):
        make_pair(project=project)
        client.get("/p/cakes/judge/")
        with CaptureQueriesContext(connection) as before:
            client.get("/p/cakes/judge/")
        publish(project, "New.")
        client.post("/p/cakes/guideline/read/", {"version": 2})
        client.get("/p/cakes/judge/")
        with CaptureQueriesContext(connection) as after:
            client.get("/p/cakes/judge/")
        assert len(after) == len(before)

    @pytest.mark.parametrize("version", ["", "x", "7", "-1", "9" * 30])
    def test_reading_nonsense_is_no_reading(self, client, project, lena, version):
        publish(project, "New.")
        response = client.post("/p/cakes/guideline/read/", {"version": version})
        assert response.status_code in (302, 303)
        assert not GuidelineReading.objects.filter(user=lena).exists()

    @pytest.mark.parametrize(("name", "status"), [("sam", 404), ("tara", 403)])
    def test_reading_is_for_labelers(self, client, project, name, status):
        sign_in(client, make_user(name))
        response = client.post("/p/cakes/guideline/read/", {"version": 1})
        assert response.status_code == status
