"""My work: a person's own decisions, and nobody else's."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotation.authoring.samples import return_sample
from annotation.judging.adjudication import adjudicate
from annotation.judging.progress import progress_of
from annotation.models import Comment, Judgment, Membership, Project
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


def test_lists_my_decisions_and_counts_them(client, project):
    lena = sign_in(client, make_user("lena"))
    for verdict in (1, 0):
        make_judgment(make_pair(project=project), lena, verdict)
    make_judgment(make_pair(project=project), make_user("luis"), 1)
    page = client.get("/p/cakes/work/").content.decode()
    assert page.count('<button class="linkish" type="submit">Undo') == 2
    assert "<dt>In all</dt><dd>2</dd>" in page


def test_undoes_an_older_decision_by_name(client, project):
    lena = sign_in(client, make_user("lena"))
    first = make_judgment(make_pair(project=project), lena, 1)
    make_judgment(make_pair(project=project), lena, 1)
    response = client.post("/p/cakes/judge/undo/", {"judgment": first.pk}, follow=True)
    assert f'data-pair="{first.pair_id}"' in response.content.decode()
    assert Judgment.objects.current().filter(labeler=lena).count() == 1


def test_nobody_undoes_another_persons_decision(client, project):
    judgment = make_judgment(make_pair(project=project), make_user("luis"), 1)
    sign_in(client, make_user("lena"))
    client.post("/p/cakes/judge/undo/", {"judgment": judgment.pk})
    assert Judgment.objects.current().get() == judgment


def test_shows_what_was_returned(client, project):
    lena = sign_in(client, make_user("lena"))
    sample = make_sample(project=project, author=lena)
    return_sample(
        project=sample.project,
        sample=sample,
        user=make_user("rita"),
        comment="Say more.",
    )
    assert "Say more." in client.get("/p/cakes/work/").content.decode()


@pytest.mark.parametrize(("name", "status"), [("sam", 404), ("tara", 403)])
def test_who_may_not_look(client, project, name, status):
    sign_in(client, make_user(name))
    assert client.get("/p/cakes/work/").status_code == status


def backdate(judgment: Judgment, **fields) -> None:
    Judgment.objects.filter(pk=judgment.pk).update(**fields)


def facts_of(page: str) -> dict[str, str]:
    """Return the figures of the page's cards by their names."""
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    return {name: re.sub("<.*?>", "", value) for name, value in found}


def test_is_paged_by_key_and_offers_undo_on_the_first_ten_only(client, project):
    lena = sign_in(client, make_user("lena"))
    Project.objects.update(overlap=1)
    made = [make_judgment(make_pair(project=project), lena, 1) for _ in range(53)]
    page = client.get("/p/cakes/work/").content.decode()
    undo = '<button class="linkish" type="submit">Undo'
    assert page.count("<tr>") - page.count("<thead><tr>") == 50
    assert page.count(undo) == 10
    address = f"?before={made[3].pk}"
    assert f'href="{address}"' in page
    rest = client.get(f"/p/cakes/work/{address}").content.decode()
    assert rest.count('data-name="Seconds"') == 3
    assert undo not in rest
    assert 'rel="next"' not in rest


@pytest.mark.parametrize("before", ["x", "-1", "1.5", "9" * 40, "\0", "١", ""])
def test_a_key_that_is_none_shows_the_newest(client, project, before):
    lena = sign_in(client, make_user("lena"))
    make_judgment(make_pair(project=project), lena, 1)
    response = client.get("/p/cakes/work/", {"before": before})
    assert response.status_code == 200
    assert "The newest first" in response.content.decode()


def test_the_final_answer_is_told_only_once_the_pair_is_settled(client, project):
    lena, luis, lea = (make_user(name) for name in ("lena", "luis", "lea"))
    sign_in(client, lena)
    pair = make_pair(project=project, slots=3)
    make_judgment(pair, lena, 1)
    make_judgment(pair, luis, 0)
    page = client.get("/p/cakes/work/").content.decode()
    assert facts_of(page)["As the others"] == "none final yet"
    assert '<span class="bad">not consistent</span>' not in page
    make_judgment(pair, lea, 0, reasons=("step order",))
    page = client.get("/p/cakes/work/").content.decode()
    assert facts_of(page)["As the others"] == "0 % of 1"
    assert '<span class="bad">not consistent</span>' in page


def test_an_outcome_that_is_ones_own_word_is_no_agreement(client, project):
    lena = sign_in(client, make_user("lena"))
    make_judgment(make_pair(project=project, slots=1), lena, 1)
    page = client.get("/p/cakes/work/").content.decode()
    assert facts_of(page)["As the others"] == "none final yet"


def test_my_own_vote_does_not_count_for_my_agreement(client, project):
    """With it in, whoever decides a split pair agrees with it always."""
    lena, luis, lea = (make_user(name) for name in ("lena", "luis", "lea"))
    sign_in(client, lena)
    pair = make_pair(project=project, slots=3)
    for user, verdict in ((luis, 0), (lea, 1), (lena, 1)):
        make_judgment(pair, user, verdict)
    agreement = progress_of(project=project, user=lena).agreement
    assert (agreement.count, agreement.agreed) == (0, 0)
    page = client.get("/p/cakes/work/").content.decode()
    assert facts_of(page)["As the others"] == "none final yet"
    assert '<span class="good">the same</span>' in page
    # Luis was outvoted by the two others; nothing but Lea's own vote decided for her.
    assert progress_of(project=project, user=luis).agreement.percent == 0
    assert progress_of(project=project, user=lea).agreement.count == 0


def test_my_own_word_as_a_curator_does_not_count_for_my_agreement(project):
    rita, luis = make_user("rita"), make_user("luis")
    Membership.objects.create(project=project, user=rita, role="labeler")
    Project.objects.update(overlap=2, overlap_limit=2)
    project.refresh_from_db()
    pair = make_pair(project=project)
    make_judgment(pair, rita, 0)
    make_judgment(pair, luis, 1)
    adjudicate(project=project, pair=pair, curator=rita, verdict=0, reasons=["content"])
    assert progress_of(project=project, user=rita).agreement.agreed == 0
    assert progress_of(project=project, user=luis).agreement.percent == 0


def test_tells_by_reason_what_i_saw_of_it(client, project):
    lena, luis, rita = (make_user(name) for name in ("lena", "luis", "rita"))
    sign_in(client, lena)
    for verdict in (0, 0, 1):
        pair = make_pair(project=project)
        make_judgment(pair, lena, verdict, reasons=None)
        make_judgment(pair, luis, 0, reasons=("step order", "parameter"))
        if verdict:
            adjudicate(
                project=pair.project,
                pair=pair,
                curator=rita,
                verdict=0,
                reasons=["step order"],
            )
    figures = facts_of(client.get("/p/cakes/work/").content.decode())
    assert figures["Step order"] == "67 % of 3"
    assert figures["Parameter"] == "100 % of 2"
    assert "Logic" not in figures


def test_tells_pace_and_quick_judgments_apart(client, project):
    lena = sign_in(client, make_user("lena"))
    for seconds in (0.5, 7, 30, 0):
        judgment = make_judgment(make_pair(project=project), lena, 1)
        backdate(judgment, seconds_spent=seconds)
    page = client.get("/p/cakes/work/").content.decode()
    assert facts_of(page)["Median time"] == "7 s"
    assert facts_of(page)["Under 2 s"] == "1"
    assert page.count(">quick<") == 1


def test_leaves_out_what_is_older_than_thirty_days(client, project):
    lena = sign_in(client, make_user("lena"))
    for days in (0, 8, 40):
        judgment = make_judgment(make_pair(project=project), lena, 1)
        backdate(judgment, created_at=timezone.now() - timedelta(days=days))
    progress = progress_of(project=project, user=lena)
    assert progress.whole.count == 2
    assert [week.count for week in progress.weeks] == [1, 1]


def test_shows_calibration_when_there_was_some(client, project):
    lena = sign_in(client, make_user("lena"))
    make_judgment(make_pair(project=project), lena, 1)
    assert "unnamed" not in client.get("/p/cakes/work/").content.decode()
    Project.objects.update(calibration_percent=100)
    make_judgment(make_pair(project=project), lena, 1)
    assert "unnamed, label" in client.get("/p/cakes/work/").content.decode()


def test_links_the_open_comments_of_what_was_returned(client, project):
    lena = sign_in(client, make_user("lena"))
    rita = make_user("rita")
    sample = make_sample(project=project, author=lena)
    say = {"sample": sample, "author": rita, "position": 0, "anchor": "plan/2"}
    one = Comment.objects.create(**say, text="Confirm first.")
    Comment.objects.create(
        **say, text="Long done.", resolved_at=timezone.now(), resolved_by=rita
    )
    return_sample(project=sample.project, sample=sample, user=rita, comment="Say more.")
    page = client.get("/p/cakes/work/").content.decode()
    assert f'/p/cakes/samples/{sample.pk}/#comment-{one.pk}"' in page
    assert "Confirm first." in page
    assert "Long done." not in page


@pytest.mark.django_db(transaction=True)
def test_costs_ten_queries_whatever_there_is(client, project):
    lena = sign_in(client, make_user("lena"))
    rita = make_user("rita")
    Project.objects.update(calibration_percent=50)
    counts = []
    for _ in range(2):
        for _ in range(6):
            pair = make_pair(project=project)
            make_judgment(pair, lena, 0)
            make_judgment(pair, make_user("luis"), 0)
            sample = make_sample(project=project, author=lena)
            Comment.objects.create(sample=sample, author=rita, text="Hm.")
            return_sample(
                project=sample.project, sample=sample, user=rita, comment="Say more."
            )
        with CaptureQueriesContext(connection) as queries:
            client.get("/p/cakes/work/")
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 10
