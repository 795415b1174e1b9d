"""Judging through the address of another project: a slot in a body is worth no more there."""

from __future__ import annotations

import pytest

from annotation.judging import judgments
from annotation.models import Judgment, Membership, Skip, Slot, SlotState
from tests.cast import make_pair, make_project, make_user, sign_in

pytestmark = pytest.mark.django_db

DEEDS = ["", "skip/", "later/", "extend/", "ahead/", "leave/", "task/"]


@pytest.fixture
def held(client):
    """A slot that Lena holds in one project; she is a labeler of another, too."""
    project = make_project(slug="cakes", overlap=1)
    make_project(slug="tarts")
    make_pair(project=project)
    found = judgments.claim_slot(project=project, user=make_user("lena"))
    sign_in(client, make_user("lena"))
    return found


def post(client, slug, deed, found):
    sent = {
        "slot": found.slot.pk,
        "token": found.token,
        "since": found.slot.leased_at.isoformat(),
        "proof": found.slot.lease_proof,
        "verdict": "1",
        "reason": "I cannot tell",
        "answer": "1",
    }
    return client.post(f"/p/{slug}/judge/{deed}", sent)


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("is_there", [True, False], ids=["member", "removed"])
def test_does_nothing_there(client, held, deed, is_there):
    if not is_there:
        Membership.objects.get(user__username="lena", project__slug="cakes").delete()
    before = Slot.objects.values().get()
    response = post(client, "tarts", deed, held)
    # A beacon gets no answer whatever it asks for.
    assert response.status_code == (204 if deed == "leave/" else 404)
    assert Slot.objects.values().get() == before
    assert not Judgment.objects.exists()
    assert not Skip.objects.exists()


@pytest.mark.parametrize("deed", DEEDS)
def test_nor_does_the_projects_own_for_who_was_removed(client, held, deed):
    Membership.objects.get(user__username="lena", project__slug="cakes").delete()
    assert post(client, "cakes", deed, held).status_code == 404
    assert not Judgment.objects.exists()


@pytest.mark.parametrize("deed", DEEDS)
def test_nor_for_who_was_deactivated(client, held, deed):
    lena = make_user("lena")
    lena.is_active = False
    lena.save()
    response = post(client, "cakes", deed, held)
    assert (response.status_code, response["Location"].split("?")[0]) == (
        302,
        "/accounts/login/",
    )
    assert not Judgment.objects.exists()


def test_what_a_removed_labeler_held_is_free_at_once(client, held):
    Membership.objects.get(user__username="lena", project__slug="cakes").delete()
    assert Slot.objects.get().state == SlotState.OPEN


def test_the_own_project_takes_it(client, held):
    assert post(client, "cakes", "", held).status_code == 303
    assert Judgment.objects.counted().count() == 1
