"""The Judge page: what it shows, what it records, whom it lets in."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from actions.grammar import parse
from annotation.judging.guidelines import publish_guideline
from annotation.judging.judgments import claim_slot
from annotation.models import (
    Judgment,
    Membership,
    Project,
    Role,
    Skip,
    Slot,
    Touch,
    Verdict,
)
from tests.cast import (
    LABEL,
    SAMPLED,
    make_judgment,
    make_pair,
    make_project,
    make_sample,
    make_user,
    sign_in,
)

pytestmark = pytest.mark.django_db

SWAPPED = (
    "<<think>>The user wants a cake.\nPlan:\n1. Order the cake.\n2. Find a bakery.\n"
    '<<action>>{"name": "Find shops", "parameters": {"kind": "bakery"}}<</action>>'
)
DEEDS = ("", "skip/", "later/", "undo/", "ahead/", "extend/", "leave/")


class Fields(HTMLParser):
    """The fields of the judging form as a browser without JavaScript sends them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sent: dict[str, list[str]] = {}
        self.offered: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        name = a.get("name")
        if tag != "input" or not name:
            return
        if a.get("type") in ("checkbox", "radio"):
            self.offered.setdefault(name, []).append(a["value"])
            if "checked" not in a:
                return
        self.sent.setdefault(name, []).append(a.get("value", ""))


@pytest.fixture
def project() -> Project:
    return make_project(name="Cakes", slug="cakes")


@pytest.fixture
def lena(client: Client):
    return sign_in(client, make_user("lena"))


def fields_of(client: Client) -> dict[str, list[str]]:
    return Fields(client.get("/p/cakes/judge/").content.decode()).sent


def decide(client: Client, **changes):
    sent = {name: values[-1] for name, values in fields_of(client).items()}
    return client.post("/p/cakes/judge/", {**sent, **changes})


def test_shows_the_pair_and_leases_it(client, project, lena):
    pair = make_pair(project=project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "A cake, please." in page
    assert "bakery" in page
    assert "florist" in page
    assert f'data-pair="{pair.pk}"' in page
    assert Slot.objects.get(state="leased").holder == lena


def test_is_blind(client, project, lena):
    """No word of where the response came from, not even in the source."""
    from annotation.judging.pairing import ResponseRow, receive_responses
    from tests.browser.stage import PRODUCER

    sample = make_sample(project=project)
    receive_responses(
        project=project,
        producer=PRODUCER,
        responses=[ResponseRow(sample.external_id, 0, 0, SAMPLED)],
    )
    page = client.get("/p/cakes/judge/").content.decode().casefold()
    assert "florist" in page
    for word in ("policy", "checkpoint", "producer", "score", "/runs/"):
        assert word not in page


def test_records_consistent_and_goes_on(client, project, lena):
    make_pair(project=project)
    response = decide(client, verdict="1", seconds="3.5", units="plan/1")
    assert (response.status_code, response["Location"]) == (303, "/p/cakes/judge/")
    judgment = Judgment.objects.get()
    assert (judgment.verdict, judgment.labeler, judgment.seconds_spent) == (
        1,
        lena,
        3.5,
    )
    assert judgment.units_that_differ == []


def test_accepts_the_proposal_with_zero(client, project, lena):
    make_pair(project=project)
    sent = fields_of(client)
    assert sent["units"] == ["action/1/parameters/kind"]
    assert sent["reasons"] == ["parameter"]
    client.post("/p/cakes/judge/", {**sent, "verdict": "0"})
    judgment = Judgment.objects.get()
    assert judgment.verdict == Verdict.INCONSISTENT
    assert judgment.units_that_differ == ["action/1/parameters/kind"]
    assert judgment.reasons == ["parameter"]


JSON = {"Accept": "application/json"}


def ahead(client: Client, sent: dict[str, list[str]]):
    """Fetch the pair after the one whose fields are ``sent``."""
    return client.post("/p/cakes/judge/ahead/", sent)


def test_a_script_gets_a_decision_answered_with_json(client, project, lena):
    make_pair(project=project)
    sent = fields_of(client) | {"verdict": "1"}
    response = client.post("/p/cakes/judge/", sent, headers=JSON)
    assert (response.status_code, response.json()) == (200, {"notice": None})
    assert Judgment.objects.count() == 1
    # A second arrival is harmless; another verdict is refused with what counts.
    assert client.post("/p/cakes/judge/", sent, headers=JSON).status_code == 200
    again = sent | {"verdict": "0"}
    response = client.post("/p/cakes/judge/", again, headers=JSON)
    assert response.status_code == 409
    assert "judged this pair already" in response.json()["notice"]["text"]
    assert Judgment.objects.count() == 1


def test_a_script_hears_what_is_wrong_with_a_decision(client, project, lena):
    make_pair(project=project, sampled=SWAPPED)
    sent = fields_of(client)
    response = client.post("/p/cakes/judge/", sent | {"verdict": "1"}, headers=JSON)
    assert response.status_code == 422
    assert response.json() == {"notice": None, "asks_order": True}
    response = client.post("/p/cakes/judge/", sent | {"verdict": "7"}, headers=JSON)
    assert response.status_code == 422
    assert response.json()["notice"]["level"] == "error"
    assert not Judgment.objects.exists()


def test_the_pair_after_this_one_comes_as_a_fragment(client, project, lena):
    first, second = make_pair(project=project), make_pair(project=project)
    sent = fields_of(client)
    response = ahead(client, sent)
    page = response.content.decode()
    assert "<html" not in page
    assert f'data-pair="{second.pk}"' in page
    assert "0 of 60 today" in page
    shown, following = Slot.objects.leased().order_by("place")
    assert (shown.pair, shown.is_ahead) == (first, False)
    assert (following.pair, following.is_ahead) == (second, True)
    assert following.leased_until - following.leased_at == timedelta(seconds=90)
    assert response["Judge-Since"] == shown.leased_at.isoformat()
    # The fragment is a form of its own: its fields decide that pair.
    client.post("/p/cakes/judge/", Fields(page).sent | {"verdict": "1"})
    assert Judgment.objects.get().pair == second


def test_nothing_after_this_pair_brings_only_what_is_new(client, project, lena):
    make_pair(project=project)
    page = ahead(client, fields_of(client)).content.decode()
    assert "judge-stage" not in page
    assert "0 of 60 today" in page


def test_a_reload_shows_the_pair_on_screen_and_not_the_one_ahead(client, project, lena):
    first, second = make_pair(project=project), make_pair(project=project)
    sent = fields_of(client)
    ahead(client, sent)
    page = client.get("/p/cakes/judge/").content.decode()
    assert f'data-pair="{first.pk}"' in page
    client.post("/p/cakes/judge/", sent | {"verdict": "1"})
    page = client.get("/p/cakes/judge/").content.decode()
    assert f'data-pair="{second.pk}"' in page
    assert not Slot.objects.filter(is_ahead=True).exists()


def test_a_page_that_lost_its_pair_is_told_when_it_asks_for_the_next(
    client, project, lena
):
    pair = make_pair(project=project, slots=1)
    sent = fields_of(client)
    Slot.objects.update(leased_until="2020-01-01T00:00Z")
    make_judgment(pair, make_user("luis"), 1)
    assert ahead(client, sent).status_code == 409
    assert not Slot.objects.leased().exists()


def test_leaving_gives_the_pairs_back(client, project, lena):
    make_pair(project=project, slots=1)
    make_pair(project=project, slots=1)
    sent = fields_of(client)
    following = Fields(ahead(client, sent).content.decode()).sent
    held = {name: sent[name] + following[name] for name in ("slot", "token", "since")}
    assert client.post("/p/cakes/judge/leave/", held).status_code == 204
    assert not Slot.objects.filter(leased_until__gt=Now() + timedelta(seconds=11))
    found = claim_slot(project=project, user=make_user("luis"))
    assert found.slot.pk == int(following["slot"][0])


@pytest.mark.parametrize(
    "held",
    [
        {},
        {"slot": "x", "token": "1", "since": "now"},
        {"slot": ["1", "2"], "token": "1", "since": "2026-01-01T00:00:00+00:00"},
        {"slot": "1\0", "token": str(2**70), "since": "9" * 500},
    ],
)
def test_leaving_with_nonsense_changes_nothing(client, project, lena, held):
    make_pair(project=project)
    client.get("/p/cakes/judge/")
    before = list(Slot.objects.values())
    assert client.post("/p/cakes/judge/leave/", held).status_code == 204
    assert list(Slot.objects.values()) == before


def test_later_shows_another_pair(client, project, lena):
    first, second = make_pair(project=project), make_pair(project=project)
    sent = fields_of(client)
    response = client.post("/p/cakes/judge/later/", sent, follow=True)
    assert f'data-pair="{second.pk}"' in response.content.decode()
    again = client.post("/p/cakes/judge/later/", sent, headers=JSON)
    assert again.status_code == 409
    assert not Skip.objects.exists()
    assert not Touch.objects.filter(pair=first).exists()


def test_asks_once_when_the_step_order_differs(client, project, lena):
    make_pair(project=project, sampled=SWAPPED)
    response = decide(client, verdict="1")
    assert response.status_code == 422
    assert "order_confirmed" in Fields(response.content.decode()).offered
    assert not Judgment.objects.exists()
    decide(client, verdict="1", order_confirmed="1")
    assert Judgment.objects.get().order_confirmed


def test_draws_crossings_and_names_them(client, project, lena):
    make_pair(project=project, sampled=SWAPPED)
    page = client.get("/p/cakes/judge/").content.decode()
    assert page.count('<path class="x"') == 2
    assert "label step 1 is sampled step 2" in page


def test_a_text_outside_the_grammar_is_shown_as_it_is(client, project, lena):
    make_pair(project=project, sampled="<<think>>Half a <<action>>{broken")
    page = client.get("/p/cakes/judge/").content.decode()
    assert "Not in the response grammar" in page
    assert "Half a &lt;&lt;action&gt;&gt;{broken" in page
    assert Fields(page).sent["units"] == ["format"]


@pytest.mark.parametrize(
    "sampled",
    [
        "<<think>>" + "word " * 20_000 + "<</think>>" + "answer " * 3000,
        "<<think>>Plan:\n"
        + "".join(f"{n}. Do {n}\n" for n in range(1, 6000))
        + "<</think>>Ok",
        "<<think>>" + "x" * 100_000,
    ],
    ids=["words", "steps", "unparseable"],
)
def test_a_text_of_100_kb_gives_a_page(client, project, lena, sampled):
    make_pair(project=project, sampled=sampled)
    response = client.get("/p/cakes/judge/")
    assert response.status_code == 200
    assert len(response.content) < 600_000


def test_late_judgment_is_kept_and_said(client, project, lena):
    pair = make_pair(project=project, slots=1)
    sent = fields_of(client)
    Slot.objects.update(leased_until="2020-01-01T00:00Z")
    make_judgment(pair, make_user("luis"), 1)
    response = client.post("/p/cakes/judge/", {**sent, "verdict": "1"}, follow=True)
    assert "does not count" in response.content.decode()
    assert Judgment.objects.get(labeler=lena).is_extra


def test_late_judgment_is_kept_though_the_pair_was_left_and_forgotten(
    client, project, lena
):
    """Its page was left, another judged it, and the person's next claim came by."""
    pair = make_pair(project=project, slots=1)
    sent = {name: values[-1] for name, values in fields_of(client).items()}
    client.post("/p/cakes/judge/leave/", sent)
    Slot.objects.update(leased_until="2020-01-01T00:00Z")
    make_judgment(pair, make_user("luis"), 1)
    client.get("/p/cakes/judge/")
    assert not Touch.objects.filter(user=lena).exists()
    page = client.post("/p/cakes/judge/", sent | {"verdict": "1"}, follow=True)
    assert "does not count" in page.content.decode()
    assert Judgment.objects.get(labeler=lena).is_extra


def publish(project, text):
    project.refresh_from_db()
    publish_guideline(
        project=project,
        author=make_user("rita"),
        text=text,
        base_version=project.guideline_version,
        asks_to_reread=False,
    )


def test_stamps_the_guideline_that_was_on_screen(client, project, lena):
    make_pair(project=project)
    make_pair(project=project)
    publish(project, "Order counts.")
    sent = fields_of(client) | {"verdict": "1"}
    publish(project, "Order and names count.")
    client.post("/p/cakes/judge/", sent)
    assert Judgment.objects.get().guideline_version == 2
    decide(client, verdict="1")
    assert Judgment.objects.latest("pk").guideline_version == 3


@pytest.mark.parametrize("nonsense", ["", "0", "4", "-1", "²", "9" * 30, "v2"])
def test_a_guideline_that_never_was_is_the_current_one(client, project, lena, nonsense):
    make_pair(project=project)
    publish(project, "Order counts.")
    publish(project, "Order and names count.")
    assert decide(client, verdict="1", guideline=nonsense).status_code == 303
    assert Judgment.objects.get().guideline_version == 3


def test_the_same_post_twice_counts_once(client, project, lena):
    make_pair(project=project)
    make_pair(project=project)
    sent = fields_of(client) | {"verdict": "1"}
    for _ in range(2):
        assert client.post("/p/cakes/judge/", sent).status_code == 303
    assert Judgment.objects.count() == 1


def test_skip_needs_a_reason(client, project, lena):
    make_pair(project=project)
    sent = fields_of(client)
    response = client.post("/p/cakes/judge/skip/", {**sent, "reason": ""})
    assert response.status_code == 422
    assert "Say why" in response.content.decode()
    client.post("/p/cakes/judge/skip/", {**sent, "more": "half a sentence"})
    assert Skip.objects.get().reason == "I cannot tell: half a sentence"


def test_undo_brings_the_pair_back(client, project, lena):
    pair = make_pair(project=project)
    make_pair(project=project)
    decide(client, verdict="1")
    response = client.post("/p/cakes/judge/undo/", follow=True)
    page = response.content.decode()
    assert f'data-pair="{pair.pk}"' in page
    assert "Taken back" in page
    assert not Judgment.objects.current().exists()


def test_undo_of_nothing_says_so(client, project, lena):
    make_pair(project=project)
    page = client.post("/p/cakes/judge/undo/", follow=True).content.decode()
    assert "nothing to undo" in page


def test_extending_a_lost_lease_is_a_conflict(client, project, lena):
    make_pair(project=project)
    sent = fields_of(client)
    assert client.post("/p/cakes/judge/extend/", sent).status_code == 204
    client.post("/p/cakes/judge/later/", sent)
    assert client.post("/p/cakes/judge/extend/", sent).status_code == 409


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no pairs", "No pair yet"),
        ("all done", "All done"),
        ("all leased", "someone’s hands"),
        ("nothing for you", "Nothing left for you"),
        ("paused", "Judging is paused"),
    ],
)
def test_nothing_to_do_has_an_answer_for_each_reason(
    client, project, lena, kind, words
):
    if kind == "all leased":
        make_pair(project=project, slots=1)
        claim_slot(project=project, user=make_user("luis"))
    elif kind == "all done":
        make_judgment(make_pair(project=project, slots=1), make_user("luis"), 1)
    elif kind == "nothing for you":
        sample = make_sample(project=project, author=lena)
        make_pair(project=project, turn=sample.turns.get())
    elif kind == "paused":
        make_pair(project=project)
        Project.objects.update(is_paused=True)
    page = client.get("/p/cakes/judge/").content.decode()
    assert words in page
    assert f'data-nothing="{kind}"' in page


def test_a_project_without_pairs_says_what_comes_next_and_who_does_it(client, project):
    tara, rita = make_user("tara"), make_user("rita")
    for user in (tara, rita):
        Membership.objects.create(project=project, user=user, role=Role.LABELER)
    sign_in(client, rita)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "no approved sample so far" in page
    assert 'href="/p/cakes/samples/import/"' in page
    assert 'href="/p/cakes/runs/new/draw/"' not in page
    make_sample(project=project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "a trainer starts a run that draws responses" in page
    assert 'href="/p/cakes/runs/new/draw/"' not in page
    sign_in(client, tara)
    assert 'href="/p/cakes/runs/new/draw/"' in (
        client.get("/p/cakes/judge/").content.decode()
    )


def test_history_and_contexts_only_of_pairs_one_has_met(client, project, lena):
    sample = make_sample(
        project=project,
        turns=(("user", "Hello.", "Good morning."), ("user", "A cake, please.", LABEL)),
    )
    pair = make_pair(project=project, turn=sample.turns.get(position=1))
    address = f"/p/cakes/judge/context/{pair.pk}/"
    assert client.get(address).status_code == 404
    client.get("/p/cakes/judge/")
    page = client.get(address).content.decode()
    assert "Good morning." in page
    assert "<html" in page
    assert (
        "<html"
        not in client.get(address, headers={"HX-Request": "true"}).content.decode()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"slot": ""},
        {"slot": "x"},
        {"slot": str(10**30)},
        {"slot": "-1"},
        {"token": "1.5"},
        {"token": str(2**63)},
        {"verdict": ""},
        {"verdict": "2"},
        {"verdict": "١"},
        {"seconds": "nan"},
        {"seconds": "1e400"},
        {"reasons": "because"},
        {"verdict": "0", "units": "plan/0", "reasons": ["content"]},
        {"verdict": "0", "units": "a\0b", "reasons": ["content"]},
        {"verdict": "0", "units": ["x" * 5000], "reasons": ["content"]},
        {"verdict": "0", "units": [], "reasons": []},
        {"verdict": "0", "units": [f"plan/{n}" for n in range(1, 900)]},
    ],
)
def test_bad_input_gets_a_message_and_the_pair_again(client, project, lena, changes):
    pair = make_pair(project=project)
    sent = fields_of(client) | {"verdict": "1"} | changes
    response = client.post("/p/cakes/judge/", sent)
    page = response.content.decode()
    assert response.status_code == 422
    assert f'data-pair="{pair.pk}"' in page
    assert 'class="notice message error"' in page
    assert not Judgment.objects.exists()


def test_an_empty_post_is_no_error_of_ours(client, project, lena):
    make_pair(project=project)
    for deed in DEEDS:
        answer = client.post(f"/p/cakes/judge/{deed}")
        assert answer.status_code in (204, 303, 422)
    for judgment in ("x", "9" * 40, "-1", "\0"):
        response = client.post("/p/cakes/judge/undo/", {"judgment": judgment})
        assert response.status_code == 303


def test_what_was_filled_in_comes_back(client, project, lena):
    make_pair(project=project)
    sent = fields_of(client)
    response = client.post(
        "/p/cakes/judge/",
        {**sent, "verdict": "0", "units": ["thinking"], "reasons": ["because"]},
    )
    back = Fields(response.content.decode()).sent
    assert back["units"] == ["thinking"]
    assert back["verdict"] == ["0"]


def test_stranger_gets_404(client, project):
    sign_in(client, make_user("sam"))
    assert client.get("/p/cakes/judge/").status_code == 404
    for deed in DEEDS:
        assert client.post(f"/p/cakes/judge/{deed}").status_code == 404


def test_insider_without_the_role_gets_403(client, project):
    sign_in(client, make_user("tara"))
    response = client.get("/p/cakes/judge/")
    assert response.status_code == 403
    assert "Not yours to do" in response.content.decode()
    for deed in DEEDS:
        assert client.post(f"/p/cakes/judge/{deed}").status_code == 403


def test_not_signed_in_goes_to_the_sign_in_page(client, project):
    response = client.get("/p/cakes/judge/")
    assert (response.status_code, response["Location"]) == (
        302,
        "/accounts/login/?next=/p/cakes/judge/",
    )


def statements(deed) -> list[str]:
    """Return the statements of ``deed()``, session, user and membership included."""
    with CaptureQueriesContext(connection) as queries:
        deed()
    return [q["sql"] for q in queries if not re.match("BEGIN|COMMIT", q["sql"])]


def assert_costs(most: int, deed) -> None:
    found = statements(deed)
    assert len(found) <= most, "\n".join(found)


@pytest.mark.django_db(transaction=True)
def test_a_pair_costs_nine_queries(client, project, lena):
    for _ in range(3):
        make_pair(project=project)
    decide(client, verdict="1")
    assert_costs(9, lambda: client.get("/p/cakes/judge/"))
    assert Slot.objects.leased().count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_pair_ahead_costs_nine_queries(client, project, lena):
    for _ in range(3):
        make_pair(project=project)
    sent = fields_of(client)
    assert_costs(9, lambda: ahead(client, sent))
    assert Slot.objects.filter(is_ahead=True).count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "decision",
    [
        {"verdict": "1"},
        {"verdict": "0", "units": ["plan/1", "action/1/parameters/kind"]},
        {"verdict": "0", "units": [], "reasons": ["logic", "unsafe"]},
    ],
    ids=["1", "0 with units", "0 with reasons"],
)
@pytest.mark.parametrize("headers", [JSON, {}], ids=["script", "form"])
def test_a_decision_costs_nine_queries(client, project, lena, decision, headers):
    make_pair(project=project)
    sent = fields_of(client) | decision
    post = lambda: client.post("/p/cakes/judge/", sent, headers=headers)  # noqa: E731
    assert_costs(9, post)
    assert Judgment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_decision_that_adds_slots_costs_nine_queries(client, project, lena):
    pair = make_pair(project=project)
    make_judgment(pair, make_user("luis"), 1)
    sent = fields_of(client) | {"verdict": "0"}
    assert_costs(9, lambda: client.post("/p/cakes/judge/", sent, headers=JSON))
    assert Slot.objects.filter(pair=pair, round=2).count() == 2


@pytest.mark.django_db(transaction=True)
def test_other_deeds_are_cheap_too(client, project, lena):
    make_pair(project=project)
    sent = fields_of(client) | {"verdict": "1"}
    client.post("/p/cakes/judge/", sent)
    assert_costs(15, lambda: client.post("/p/cakes/judge/undo/", headers=JSON))
    assert not Judgment.objects.current().exists()
    sent = fields_of(client) | {"reason": "I cannot tell"}
    assert_costs(7, lambda: client.post("/p/cakes/judge/skip/", sent, headers=JSON))
    assert Skip.objects.exists()
    make_pair(project=project)
    sent = fields_of(client)
    assert_costs(15, lambda: client.post("/p/cakes/judge/later/", sent, headers=JSON))


def test_the_label_of_the_cast_is_in_the_grammar():
    assert parse(LABEL).plan is not None
