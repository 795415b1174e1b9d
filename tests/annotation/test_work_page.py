"""My work: a person's own decisions, and nobody else's."""

from __future__ import annotations

import pytest

from annotation.models import Judgment
from annotation.samples import return_sample
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
    return_sample(sample=sample, user=make_user("rita"), comment="Say more.")
    assert "Say more." in client.get("/p/cakes/work/").content.decode()


@pytest.mark.parametrize(("name", "status"), [("sam", 404), ("tara", 403)])
def test_who_may_not_look(client, project, name, status):
    sign_in(client, make_user(name))
    assert client.get("/p/cakes/work/").status_code == status
