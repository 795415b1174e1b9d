"""Disagreements: what labelers leave to a curator, settled one at a time."""

import re

import pytest

from annotation.judging import adjudication, judgments
from annotation.models import Adjudication, Pair
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
    return make_project(slug="cakes", overlap=2, overlap_limit=2)


@pytest.fixture
def rita(client):
    return sign_in(client, make_user("rita"))


def split(project, author=None, **fields):
    """Return a pair that Lena and Luis judge differently, with no third to ask."""
    author = make_user(author) if author else None
    turn = make_sample(project=project, author=author, **fields).turns.get()
    pair = make_pair(turn=turn)
    make_judgment(pair, make_user("lena"), 1)
    make_judgment(pair, make_user("luis"), 0, units=("action/1/parameters/kind",))
    return pair


def skip(pair, name):
    user = make_user(name)
    claim = judgments.claim_slot(project=pair.project, user=user)
    assert claim.pair == pair
    judgments.skip_slot(
        project=claim.slot.project,
        slot_id=claim.slot.pk,
        token=claim.token,
        user=user,
        reason=f"{name} cannot",
    )


def body(response):
    return response.content.decode()


def shown(page):
    found = re.search(r"<h1><a[^>]*>Pair (\d+)</a>", page)
    return found and int(found[1])


class TestSkippedByAll:
    def test_once_every_labeler_has_met_it(self, project):
        pair = make_pair(project=project)
        for name in ("lena", "luis", "lea"):
            skip(pair, name)
            assert not Pair.objects.skipped_by_all().exists()
        skip(pair, "leo")
        assert Pair.objects.skipped_by_all().get() == pair

    def test_the_author_is_not_waited_for(self, project):
        turn = make_sample(project=project, author=make_user("leo")).turns.get()
        pair = make_pair(turn=turn)
        for name in ("lena", "luis", "lea"):
            skip(pair, name)
        assert Pair.objects.skipped_by_all().get() == pair

    def test_not_while_somebody_holds_it(self, project):
        pair = make_pair(project=project)
        for name in ("lena", "luis", "lea"):
            skip(pair, name)
        judgments.claim_slot(project=project, user=make_user("leo"))
        assert not Pair.objects.skipped_by_all().exists()


class TestQueue:
    def test_shows_the_pair_and_what_each_labeler_said(self, client, project, rita):
        pair = split(project)
        page = body(client.get("/p/cakes/review/disputes/"))
        assert shown(page) == pair.pk
        assert "1 of 1" in page
        assert 'data-unit="action/1/parameters/kind"' in page
        for words in ("lena", "luis", "parameter kind", "Parameter"):
            assert words in page

    def test_goes_through_the_oldest_first(self, client, project, rita):
        first, second = split(project), split(project)
        page = body(client.get("/p/cakes/review/disputes/"))
        assert shown(page) == first.pk
        assert f'href="?kind=disputed&amp;at={second.pk}"' in page
        page = body(client.get(f"/p/cakes/review/disputes/?at={second.pk}"))
        assert shown(page) == second.pk
        assert 'id="next"' not in page

    def test_skipped_pairs_have_a_list_of_their_own(self, client, project, rita):
        pair = make_pair(project=project)
        for name in ("lena", "luis", "lea", "leo"):
            skip(pair, name)
        assert shown(body(client.get("/p/cakes/review/disputes/"))) is None
        page = body(client.get("/p/cakes/review/disputes/?kind=skipped"))
        assert shown(page) == pair.pk
        assert "leo cannot" in page

    def test_never_shows_a_pair_of_ones_own_sample(self, client, project, rita):
        pair = split(project, author="rita")
        page = body(client.get("/p/cakes/review/disputes/"))
        assert shown(page) is None
        for address in ("", "settle/"):
            answer = client.post if address else client.get
            assert answer(f"/p/cakes/pairs/{pair.pk}/{address}").status_code == 403
        assert not Adjudication.objects.exists()

    @pytest.mark.parametrize("query", ["kind=x", "at=x", "at=" + "9" * 40, "kind=%00"])
    def test_nonsense_is_no_error(self, client, project, rita, query):
        pair = split(project)
        page = body(client.get(f"/p/cakes/review/disputes/?{query}"))
        assert shown(page) == pair.pk

    def test_costs_the_same_whatever_its_length(
        self, client, project, rita, django_assert_max_num_queries
    ):
        for size in (2, 8):
            for _ in range(size):
                split(project)
            with django_assert_max_num_queries(9):
                client.get("/p/cakes/review/disputes/")

    @pytest.mark.parametrize(
        ("name", "status"), [("sam", 404), ("lena", 403), ("tara", 403), ("ada", 200)]
    )
    def test_who_may_see_it(self, client, project, name, status):
        pair = split(project)
        sign_in(client, make_user(name))
        for address in ("review/disputes/", f"pairs/{pair.pk}/"):
            assert client.get(f"/p/cakes/{address}").status_code == status
        if status != 200:
            response = client.post(
                f"/p/cakes/pairs/{pair.pk}/settle/", {"verdict": "1"}
            )
            assert response.status_code == status
            assert not Adjudication.objects.exists()


class TestSettling:
    def test_records_the_word_and_shows_the_next(self, client, project, rita):
        first, second = split(project), split(project)
        response = client.post(
            f"/p/cakes/pairs/{first.pk}/settle/?kind=disputed",
            {
                "verdict": "0",
                "reasons": ["parameter"],
                "units": ["action/1/parameters/kind"],
                "comment": "A florist sells no cake.",
            },
            follow=True,
        )
        assert shown(body(response)) == second.pk
        word = Adjudication.objects.get()
        assert (word.pair, word.curator, word.verdict) == (first, rita, 0)
        assert word.units_that_differ == ["action/1/parameters/kind"]
        assert word.comment == "A florist sells no cake."
        assert Pair.objects.with_outcome().get(pk=first.pk).outcome == 0

    def test_and_pins_in_one_go(self, client, project, rita):
        pair = split(project)
        sent = {"verdict": "1", "comment": "Same *shop*.", "pin": "1"}
        response = client.post(f"/p/cakes/pairs/{pair.pk}/settle/", sent, follow=True)
        assert "pinned to the guideline" in body(response)
        example = project.examples.get()
        assert (example.pair, example.verdict, example.note) == (
            pair,
            1,
            "Same *shop*.",
        )
        assert "<em>shop</em>" in body(client.get("/p/cakes/guideline/"))

    @pytest.mark.parametrize(
        ("sent", "words"),
        [
            ({}, "Choose consistent or not consistent first."),
            ({"verdict": "2"}, "verdict"),
            ({"verdict": "0"}, "a reason or a unit that differs"),
            ({"verdict": "0", "units": ["nonsense"]}, "a unit such as"),
            ({"verdict": "0", "reasons": ["nonsense"]}, "nonsense"),
            ({"verdict": "1", "comment": "x" * 6000}, "5000"),
            ({"verdict": "1", "comment": "x\0"}, "Null"),
        ],
    )
    def test_bad_input_is_refused_and_kept(self, client, project, rita, sent, words):
        pair = split(project)
        response = client.post(
            f"/p/cakes/pairs/{pair.pk}/settle/", {"comment": "Kept."} | sent
        )
        assert response.status_code == 422
        if words != "verdict":
            assert words in body(response)
        if "comment" not in sent:
            assert "Kept." in body(response)
        assert not Adjudication.objects.exists()

    def test_a_pair_settled_meanwhile_says_so(self, client, project, rita):
        pair = split(project)
        adjudication.adjudicate(
            project=pair.project, pair=pair, curator=make_user("ada"), verdict=1
        )
        response = client.post(f"/p/cakes/pairs/{pair.pk}/settle/", {"verdict": "1"})
        assert response.status_code == 422
        assert "is settled already" in body(response)


class TestPairPage:
    def test_shows_the_outcome_and_pins(self, client, project, rita):
        pair = split(project)
        adjudication.adjudicate(
            project=pair.project,
            pair=pair,
            curator=make_user("ada"),
            verdict=1,
            comment="Look closer.",
        )
        page = body(client.get(f"/p/cakes/pairs/{pair.pk}/"))
        assert "Look closer." in page
        assert 'name="verdict"' not in page
        client.post(f"/p/cakes/guideline/pin/{pair.pk}/", {"note": "See."})
        assert project.examples.get().note == "See."
        page = body(client.get(f"/p/cakes/pairs/{pair.pk}/"))
        assert "Save the note" in page
        client.post(f"/p/cakes/guideline/unpin/{project.examples.get().pk}/")
        assert not project.examples.exists()

    def test_a_pair_in_the_queue_can_be_neither_settled_nor_pinned_here(
        self, client, project, rita
    ):
        pair = make_pair(project=project)
        page = body(client.get(f"/p/cakes/pairs/{pair.pk}/"))
        assert 'name="verdict"' not in page
        assert "Pin this pair" not in page
        response = client.post(f"/p/cakes/pairs/{pair.pk}/settle/", {"verdict": "1"})
        assert response.status_code == 422
        assert "still to judge" in body(response)
        assert not Adjudication.objects.exists()
        response = client.post(f"/p/cakes/guideline/pin/{pair.pk}/", follow=True)
        assert "no final verdict yet" in body(response)

    def test_the_samples_page_leads_to_it(self, client, project, rita):
        pair = split(project)
        page = body(client.get(f"/p/cakes/samples/{pair.turn.sample_id}/"))
        assert f"/p/cakes/pairs/{pair.pk}/" in page

    def test_a_foreign_pair_is_not_here(self, client, project, rita):
        pair = make_pair(project=make_project(slug="bread"))
        assert client.get(f"/p/cakes/pairs/{pair.pk}/").status_code == 404
        assert client.get(f"/p/cakes/pairs/{10**30}/").status_code == 404
