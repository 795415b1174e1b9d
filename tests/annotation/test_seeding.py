"""What a fresh demo project has on its pages before any policy was trained."""

import json
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, transaction

from actions.demo import oracle
from annotation.authoring.export import turn_to_json
from annotation.judging.adjudication import adjudicate
from annotation.judging.judgments import record_judgment
from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.judging.progress import progress_of
from annotation.judging.queue import claim_slot
from annotation.judging.session import reveal, session_of
from annotation.management.commands import seed_demo
from annotation.models import (
    Comment,
    GuidelineVersion,
    Judgment,
    Pair,
    PairSource,
    Producer,
    ProducerSource,
    Project,
    Sample,
    Slot,
    Verdict,
)
from tests.cast import sign_in
from training.iterations.metrics import judging_pace
from training.storage.snapshots import build_snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def seeded(django_db_setup, django_db_blocker):
    """Seed once for this file; each test undoes what it does."""
    splits = (("", 30), ("held-out", 3), ("held-out-unseen", 3))
    with (
        django_db_blocker.unblock(),
        transaction.atomic(),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(seed_demo, "SAMPLES", splits)
        call_command("seed_demo", stdout=StringIO())
        yield
        transaction.set_rollback(True)


@pytest.fixture
def project(seeded, db) -> Project:
    return Project.objects.get()


def person(name: str) -> User:
    return User.objects.get(username=name)


@pytest.mark.parametrize("name", ["lena", "luis"])
def test_a_labeler_has_a_pair_to_judge_from_the_first_second(client, project, name):
    sign_in(client, person(name))
    page = client.get("/p/demo/judge/").content.decode()
    assert 'name="slot"' in page
    assert "All done" not in page


def test_an_admin_reads_the_guideline_first_and_then_judges(client, project):
    sign_in(client, person("ada"))
    page = client.get("/p/demo/judge/").content.decode()
    assert "The order of plan steps" in page
    client.post("/p/demo/guideline/read/", {"version": 2})
    assert 'name="slot"' in client.get("/p/demo/judge/").content.decode()


def test_a_few_tens_of_pairs_wait_and_both_verdicts_are_among_them(project):
    waiting = Pair.objects.awaiting_judgment().select_related("turn")
    verdicts = [
        oracle.judge(turn_to_json(pair.turn), pair.sampled_text).consistent
        for pair in waiting
    ]
    assert 20 <= len(verdicts) <= 60
    assert 0.3 < sum(verdicts) / len(verdicts) < 0.7
    assert Slot.objects.waiting().count() == 2 * len(verdicts)


def test_no_answer_is_said_to_come_from_a_policy(project):
    assert [one.source for one in Producer.objects.all()] == [ProducerSource.DEMO]
    producer = Producer.objects.get()
    assert (producer.run_id, producer.checkpoint_id) == (None, None)
    assert producer.policy_role == ""
    assert producer.responses.count() == Pair.objects.count()
    # Another wording may be one of the references: then nobody is asked.
    people, rule = PairSource.PEOPLE, PairSource.RULE
    assert set(Pair.objects.values_list("source", flat=True)) == {people, rule}


def test_the_judge_page_says_afterwards_that_no_policy_gave_the_answer(project):
    lena = person("lena")
    revealed = reveal(project=project, session=session_of(project=project, user=lena))
    assert revealed.origins == ("Demo generator, no policy",)


def rows(snapshot) -> list[dict]:
    text = (snapshot.directory / "judgments.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_its_judgments_are_learned_from_but_are_no_test_of_a_policy(
    project, settings, tmp_path
):
    settings.DATA_DIR = tmp_path
    snapshot = build_snapshot(project=project, user=None, with_judgments=True)
    found = rows(snapshot)
    assert len(found) == Pair.objects.settled().count() > 10
    assert {row["source"] for row in found if row["judgments"]} == {"demo"}
    assert {row["source"] for row in found if not row["judgments"]} == {"rule"}
    assert [row["producer"] for row in found if row["producer"]] == []


def test_the_same_answer_given_by_a_policy_is_a_policys_answer(
    project, settings, tmp_path
):
    settings.DATA_DIR = tmp_path
    pair = Pair.objects.settled().select_related("turn__sample").first()
    receive_responses(
        project=project,
        producer=ProducerFacts(7, 8, "0" * 64, 100, "current"),
        responses=[
            ResponseRow(
                pair.turn.sample.external_id, pair.turn.position, 0, pair.sampled_text
            )
        ],
    )
    snapshot = build_snapshot(project=project, user=None, with_judgments=True)
    (row,) = [row for row in rows(snapshot) if row["pair"] == pair.pk]
    assert row["source"] == "people"
    assert row["producer"] == {"run": 7, "checkpoint": 8, "step": 100}


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "demo", "run_id": 1, "checkpoint_id": 1},
        {"source": "demo", "policy_role": "current"},
        {"source": "policy", "policy_role": "current"},
        {"source": "policy", "run_id": 1, "checkpoint_id": 1},
        {"source": "people", "run_id": 1, "checkpoint_id": 1, "policy_role": "current"},
    ],
)
def test_a_producer_is_a_policy_of_a_run_or_the_demo(fields):
    with pytest.raises(IntegrityError), transaction.atomic():
        Producer.objects.create(**fields)


def test_the_guideline_says_that_order_counts_and_shows_three_examples(client, project):
    assert project.guideline_version == 2
    assert GuidelineVersion.objects.count() == 2
    assert project.examples.count() == 3
    assert sorted(project.examples.values_list("verdict", flat=True)) == [0, 0, 1]
    sign_in(client, person("lena"))
    page = client.get("/p/demo/guideline/").content.decode()
    assert "The order of plan steps" in page
    assert "but in another order" in page


def test_the_history_tells_what_the_second_version_added(client, project):
    sign_in(client, person("rita"))
    page = client.get("/p/demo/guideline/history/").content.decode()
    assert "What counts as another order" in page


def test_two_labelers_have_judged_as_the_oracle_does_but_for_one_pair(project):
    differing = [
        (judgment.labeler.username, judgment.pair.turn.position)
        for judgment in Judgment.objects.select_related("pair__turn", "labeler")
        if bool(judgment.verdict)
        != oracle.judge(
            turn_to_json(judgment.pair.turn), judgment.pair.sampled_text
        ).consistent
    ]
    assert differing == [("luis", 0)]
    by_person = Judgment.objects.values_list("labeler__username", flat=True)
    assert {name: list(by_person).count(name) for name in set(by_person)} == {
        "lena": 16,
        "luis": 16,
    }


def test_no_seeded_judgment_counts_as_anybodys_work(client, project):
    lena = person("lena")
    session = session_of(project=project, user=lena)
    assert (session.today, session.median, session.notices) == (0, None, ())
    progress = progress_of(project=project, user=lena)
    assert (progress.whole.count, progress.whole.median) == (0, None)
    assert progress.agreement.count == 0
    pace = judging_pace(project)
    assert (pace.last_hour, pace.per_hour, pace.seconds_each) == (0, 0, None)
    sign_in(client, lena)
    page = client.get("/p/demo/work/").content.decode()
    assert "<dt>Today</dt><dd>0 of 60</dd>" in page
    assert "<dt>In all</dt><dd>16</dd>" in page
    assert "Last 30 days" not in page
    claim = claim_slot(project=project, user=lena)
    given = {
        "project": project,
        "slot_id": claim.slot.pk,
        "token": claim.token,
        "user": lena,
    }
    record_judgment(verdict=1, seconds_spent=9, order_confirmed=True, **given)
    session = session_of(project=project, user=lena)
    assert (session.today, session.median) == (1, 9)
    assert progress_of(project=project, user=lena).whole.count == 1


def test_a_curator_has_one_disagreement_to_settle_about_the_order(client, project):
    (pair,) = Pair.objects.disputed()
    assert pair.turn.position == 0
    sign_in(client, person("rita"))
    assert f"/pairs/{pair.pk}/" in (
        client.get("/p/demo/review/disputes/").content.decode()
    )
    adjudicate(
        project=pair.project,
        pair=pair,
        curator=person("rita"),
        verdict=Verdict.INCONSISTENT,
        reasons=["step order"],
    )
    assert not Pair.objects.disputed().exists()


def test_three_drafts_of_two_people_wait_for_review_one_with_a_comment(client, project):
    drafts = Sample.objects.filter(status="submitted")
    assert sorted(drafts.values_list("author__username", flat=True)) == [
        *("lena", "luis", "luis")
    ]
    comment = Comment.objects.get()
    assert comment.quote == "Place the order and tell the result"
    sign_in(client, person("rita"))
    page = client.get("/p/demo/review/").content.decode()
    assert "stand the wrong way round" in page


def test_the_drafts_have_nothing_that_keeps_them_from_approval(client, project):
    sign_in(client, person("rita"))
    for pk in Sample.objects.filter(status="submitted").values_list("pk", flat=True):
        client.post(f"/p/demo/review/{pk}/approve/")
    assert not Sample.objects.filter(status="submitted").exists()


def test_my_work_shows_what_the_labelers_did(client, project):
    sign_in(client, person("lena"))
    page = client.get("/p/demo/work/").content.decode()
    assert page.count('<span class="chip good">consistent') == 10
    assert page.count('<span class="chip bad">not consistent') == 6
