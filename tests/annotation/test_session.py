"""The session: goal, pace, the strip of last decisions, and two gentle notices."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotation.judging.judgments import undo_judgment
from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.judging.session import midnight_of, session_of
from annotation.models import Judgment, Project, Slot
from tests.cast import (
    SAMPLED,
    make_judgment,
    make_pair,
    make_project,
    make_sample,
    make_user,
    sign_in,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project(slug="cakes", overlap=1)


@pytest.fixture
def lena(client):
    return sign_in(client, make_user("lena"))


def judged(project, user, verdicts, *, seconds=10.0, apart=timedelta(seconds=10)):
    """Judge pairs one after the other, the last of them just now."""
    made = [make_judgment(make_pair(project=project), user, v) for v in verdicts]
    now = timezone.now()
    for back, judgment in enumerate(reversed(made)):
        Judgment.objects.filter(pk=judgment.pk).update(
            created_at=now - back * apart, seconds_spent=seconds
        )
    return made


def texts(project, user) -> list[str]:
    return [one.text for one in session_of(project=project, user=user).notices]


def test_counts_today_and_takes_the_median(project, lena):
    for seconds, judgment in zip(
        (4, 11, 90), judged(project, lena, (1, 0, 1)), strict=True
    ):
        Judgment.objects.filter(pk=judgment.pk).update(seconds_spent=seconds)
    old = judged(project, lena, (1,), seconds=500)[0]
    yesterday = midnight_of(timezone.now()) - timedelta(minutes=1)
    Judgment.objects.filter(pk=old.pk).update(created_at=yesterday)
    make_judgment(make_pair(project=project), make_user("luis"), 1)
    found = session_of(project=project, user=lena)
    today = sum(
        one.created_at >= midnight_of(timezone.now())
        for one in Judgment.objects.filter(labeler=lena)
    )
    assert (found.today, found.goal) == (today, 60)
    assert found.median == 11


def test_a_new_person_has_an_empty_session(project, lena):
    found = session_of(project=project, user=lena)
    assert (found.today, found.median, found.last, found.notices) == (0, None, (), ())


def test_the_header_shows_goal_bar_and_pace(client, project, lena):
    judged(project, lena, (1,), seconds=11.2)
    make_pair(project=project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "1 of 60 today" in page
    assert '<progress max="60" value="1"' in page
    assert "11 s median" in page
    Project.objects.update(daily_goal=0)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "1 today" in page
    assert "<progress" not in page


def test_twenty_equal_answers_are_noticed_and_nineteen_are_not(project, lena):
    judged(project, lena, [0] + [1] * 19)
    assert texts(project, lena) == []
    judged(project, lena, [1])
    (text,) = texts(project, lena)
    assert "last 20 answers were all “consistent”" in text
    judged(project, lena, [0])
    assert texts(project, lena) == []


def test_an_undone_answer_is_not_counted_in_a_row(project, lena):
    judged(project, lena, [1] * 20)
    undo_judgment(project=project, user=lena)
    assert texts(project, lena) == []


def test_a_closed_notice_stays_away_until_twenty_more(client, project, lena):
    judged(project, lena, [1] * 20)
    make_pair(project=project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "answers were all" in page
    key = session_of(project=project, user=lena).notices[0].key
    assert f'value="{key}"' in page
    client.post("/p/cakes/judge/session/close/", {"notice": key})
    assert "answers were all" not in client.get("/p/cakes/judge/").content.decode()
    Slot.objects.filter(state="leased").delete()
    judged(project, lena, [1] * 19)
    make_pair(project=project)
    assert "answers were all" not in client.get("/p/cakes/judge/").content.decode()
    Slot.objects.filter(state="leased").delete()
    judged(project, lena, [1])
    make_pair(project=project)
    assert "last 40 answers" in client.get("/p/cakes/judge/").content.decode()


def test_fifty_minutes_without_a_pause_suggest_one(project, lena):
    judged(project, lena, [0, 1] * 13, apart=timedelta(minutes=2))
    (text,) = texts(project, lena)
    assert "judged for 50 minutes without a pause" in text
    Project.objects.update(break_after_minutes=51)
    project.refresh_from_db()
    assert texts(project, lena) == []
    Project.objects.update(break_after_minutes=0)
    project.refresh_from_db()
    assert texts(project, lena) == []


def test_a_pause_of_five_minutes_begins_a_new_stretch(project, lena):
    made = judged(project, lena, [0, 1] * 15, apart=timedelta(minutes=2))
    for judgment in made[:20]:
        judgment.refresh_from_db()
        Judgment.objects.filter(pk=judgment.pk).update(
            created_at=judgment.created_at - timedelta(minutes=3)
        )
    assert texts(project, lena) == []


def test_who_is_on_a_pause_already_is_not_told_to_take_one(project, lena):
    made = judged(project, lena, [0, 1] * 15, apart=timedelta(minutes=2))
    for judgment in made:
        judgment.refresh_from_db()
        Judgment.objects.filter(pk=judgment.pk).update(
            created_at=judgment.created_at - timedelta(minutes=6)
        )
    assert texts(project, lena) == []


def test_the_strip_names_each_decision_and_opens_it_again(client, project, lena):
    first, second = judged(project, lena, (0, 1))
    for judgment in (first, second):
        sample = judgment.pair.turn.sample
        sample.scenario = "food delivery"
        sample.save()
    make_pair(project=project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert 'aria-label="Not consistent: food delivery, turn 1"' in page
    assert page.index("Not consistent: food") < page.index('"Consistent: food')
    assert f'name="judgment" value="{first.pk}"' in page
    response = client.post("/p/cakes/judge/undo/", {"judgment": first.pk}, follow=True)
    assert f'data-pair="{first.pair_id}"' in response.content.decode()
    assert list(Judgment.objects.current()) == [second]


def test_the_strip_has_ten_and_a_late_one_says_why_it_cannot_be_opened(
    client, project, lena
):
    made = judged(project, lena, [1] * 12)
    Judgment.objects.filter(pk=made[-1].pk).update(is_extra=True)
    make_pair(project=project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert page.count('class="square"') == 10
    assert page.count("Came late: it does not count and cannot be undone.") == 2
    square = page[page.index(f'name="judgment" value="{made[-1].pk}"') :]
    assert "disabled" in square[: square.index(">")]


def test_the_fragment_has_the_three_pieces_in_four_queries(client, project, lena):
    judged(project, lena, [1] * 20)
    with CaptureQueriesContext(connection) as queries:
        page = client.get("/p/cakes/judge/session/").content.decode()
    assert len(queries) == 4
    assert page.count('hx-swap-oob="true"') == 3
    for piece in ('id="today"', 'id="last"', 'id="session"'):
        assert piece in page
    assert "<html" not in page


def test_keys_of_no_notice_are_not_kept(client, project, lena):
    for key in ("", "run-1", "x" * 9999, "run-1-1\n", "\0"):
        client.post("/p/cakes/judge/session/close/", {"notice": key})
    assert "closed notices" not in client.session


def make_drawn_pair(project, **changes):
    sample = make_sample(project=project)
    facts = {"run_id": 77, "checkpoint_id": 5, "checkpoint_digest": "0" * 64}
    receive_responses(
        project=project,
        producer=ProducerFacts(**facts, step=123, policy_role="current"),
        responses=[ResponseRow(sample.external_id, 0, 0, SAMPLED)],
    )
    return sample.turns.get().pairs.get()


def test_reveals_nothing_unless_the_project_says_so(client, project, lena):
    make_judgment(make_drawn_pair(project), lena, 1)
    make_drawn_pair(project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "run 77" not in page
    assert "Current policy" not in page


def test_reveals_the_pair_before_and_never_the_one_shown(client, project, lena):
    Project.objects.update(reveal_after=True)
    project.refresh_from_db()
    make_drawn_pair(project)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "run 77" not in page
    for word in ("policy", "checkpoint", "producer", "step 123"):
        assert word not in page.casefold()
    judgment = make_judgment(make_drawn_pair(project), lena, 1)
    page = client.get("/p/cakes/judge/").content.decode()
    assert page.count("Current policy, run 77, step 123") == 1
    assert f'data-pair="{judgment.pair_id}"' not in page


def test_others_verdicts_wait_until_the_pair_is_settled(client, project, lena):
    Project.objects.update(reveal_after=True, overlap=3, overlap_limit=3)
    project.refresh_from_db()
    pair = make_drawn_pair(project)
    make_judgment(pair, make_user("luis"), 0)
    make_judgment(pair, lena, 1)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "shown once the pair is settled" in page
    assert "Others said" not in page
    make_judgment(pair, make_user("lea"), 0)
    page = client.get("/p/cakes/judge/").content.decode()
    assert "Others said: Not consistent, Not consistent." in page


@pytest.mark.django_db(transaction=True)
def test_revealing_costs_one_query(client, project, lena):
    Project.objects.update(reveal_after=True)
    project.refresh_from_db()
    make_judgment(make_drawn_pair(project), lena, 1)
    counts = []
    for revealing in (True, False):
        Project.objects.update(reveal_after=revealing)
        with CaptureQueriesContext(connection) as queries:
            client.get("/p/cakes/judge/session/")
        counts.append(len(queries))
    assert counts[0] == counts[1] + 1


@pytest.mark.parametrize(("name", "status"), [("sam", 404), ("tara", 403)])
def test_who_may_not_look(client, project, name, status):
    sign_in(client, make_user(name))
    assert client.get("/p/cakes/judge/session/").status_code == status
    close = "/p/cakes/judge/session/close/"
    assert client.post(close, {"notice": "run-1-1"}).status_code == status


def test_a_pair_fetched_ahead_is_as_blind(client, project, lena):
    Project.objects.update(reveal_after=True)
    for _ in range(2):
        make_drawn_pair(project)
    page = client.get("/p/cakes/judge/").content.decode()
    lease = {
        name: page.split(f'name="{name}" value="')[1].split('"')[0]
        for name in ("slot", "token")
    }
    ahead = client.post("/p/cakes/judge/ahead/", lease).content.decode()
    assert "florist" in ahead
    for word in ("policy", "checkpoint", "producer", "run 77", "step 123", "score"):
        assert word not in ahead.casefold()
