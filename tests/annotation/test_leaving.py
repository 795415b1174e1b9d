"""Who loses a role, or is deactivated: what they held is free, what they post is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.functions import Now

from annotation.access import Forbidden, NotAMember, roles_held
from annotation.authoring import samples
from annotation.judging import judgments, whole_task
from annotation.leaving import release_slots_of_leavers
from annotation.models import (
    Judgment,
    Membership,
    QueueCursor,
    Role,
    Skip,
    Slot,
    Touch,
)
from tests.annotation.test_queue_locks import until_it_waits
from tests.cast import make_pair, make_project, make_sample, make_user, sign_in


def remove(user, project):
    Membership.objects.get(user=user, project=project).delete()


def trade_for_trainer(user, project):
    membership = Membership.objects.get(user=user, project=project)
    membership.role = Role.TRAINER
    membership.save()


def move_elsewhere(user, project):
    membership = Membership.objects.get(user=user, project=project)
    membership.project = make_project(name="Elsewhere", slug="elsewhere")
    Membership.objects.filter(
        project=membership.project, user=user, role=membership.role
    ).delete()
    membership.save()


def deactivate(user, project):
    person = User.objects.get(pk=user.pk)
    person.is_active = False
    person.save()


LOSSES = [remove, trade_for_trainer, move_elsewhere, deactivate]


@pytest.fixture
def project(db):
    return make_project(overlap=1)


@pytest.fixture
def lena(project):
    return make_user("lena")


def claim(project, user, **more):
    found = judgments.claim_slot(project=project, user=user, **more)
    assert isinstance(found, judgments.Claim), found
    return found


class TestLeases:
    @pytest.mark.parametrize("lose", LOSSES)
    def test_are_free_at_once_for_others(self, project, lena, lose):
        for _ in range(3):
            make_pair(project=project)
        shown = claim(project, lena)
        ahead = judgments.claim_ahead(
            project=project, user=lena, shown=shown.slot.pk, token=shown.token
        ).claim
        assert isinstance(ahead, judgments.Claim)
        lose(lena, project)
        assert not Slot.objects.leased().exists()
        taken = claim(project, make_user("luis"))
        assert taken.slot == shown.slot
        assert taken.token > shown.token

    def test_are_met_again_by_who_comes_back(self, project, lena):
        pair = make_pair(project=project)
        claim(project, lena)
        remove(lena, project)
        Membership.objects.create(project=project, user=lena, role=Role.LABELER)
        assert claim(project, lena).pair == pair

    def test_of_another_project_stay(self, project, lena):
        other = make_project()
        make_pair(project=project)
        make_pair(project=other)
        claim(project, lena)
        kept = claim(other, lena)
        remove(lena, project)
        assert [slot.pk for slot in Slot.objects.leased()] == [kept.slot.pk]

    def test_stay_with_who_keeps_another_role_that_judges(self, project, lena):
        make_pair(project=project)
        Membership.objects.create(project=project, user=lena, role=Role.ADMIN)
        claim(project, lena)
        Membership.objects.get(project=project, user=lena, role=Role.LABELER).delete()
        assert Slot.objects.leased().count() == 1

    def test_of_a_superuser_go_with_that_rank(self, project):
        make_pair(project=project)
        root = make_user("root", is_superuser=True)
        claim(project, root)
        root.save()
        assert Slot.objects.leased().count() == 1
        root.is_superuser = False
        root.save(update_fields=["is_superuser"])
        assert not Slot.objects.leased().exists()

    def test_stay_when_a_person_signs_in(self, client, project, lena):
        make_pair(project=project)
        claim(project, lena)
        sign_in(client, lena)
        assert Slot.objects.leased().count() == 1

    def test_go_when_the_admin_removes_a_member(self, client, project, lena):
        make_pair(project=project)
        claim(project, lena)
        sign_in(client, make_user("root", is_superuser=True, is_staff=True))
        membership = Membership.objects.get(user=lena, project=project)
        address = f"/admin/annotation/membership/{membership.pk}/delete/"
        assert client.post(address, {"post": "yes"}).status_code == 302
        assert not Slot.objects.leased().exists()

    def test_taken_away_behind_the_back_of_the_code_run_out(self, project, lena):
        make_pair(project=project)
        shown = claim(project, lena)
        Membership.objects.filter(user=lena, project=project)._raw_delete("default")
        with pytest.raises(NotAMember):
            judgments.extend_lease(
                project=project, slot_id=shown.slot.pk, token=shown.token, user=lena
            )
        Slot.objects.update(leased_until=Now())
        assert claim(project, make_user("luis")).slot == shown.slot

    def test_are_looked_after_at_any_time(self, project, lena):
        make_pair(project=project)
        claim(project, lena)
        Membership.objects.filter(user=lena, project=project)._raw_delete("default")
        assert release_slots_of_leavers() == 1
        assert release_slots_of_leavers() == 0
        assert not Touch.objects.exists()


DEEDS = {
    "judges": lambda found, lease: judgments.record_judgment(verdict=1, **lease),
    "posts late": lambda found, lease: judgments.record_judgment(
        verdict=1, proof=found.slot.lease_proof, **lease
    ),
    "skips": lambda found, lease: judgments.skip_slot(reason="Torn.", **lease),
    "extends": lambda found, lease: judgments.extend_lease(**lease),
    "puts aside": lambda found, lease: judgments.set_aside(**lease),
    "releases": lambda found, lease: judgments.release_slot(**lease),
    "leaves": lambda found, lease: judgments.leave_slots(
        project=lease["project"],
        user=lease["user"],
        leases=[judgments.Lease(found.slot.pk, found.token, found.slot.leased_at)],
    ),
    "claims": lambda found, lease: judgments.claim_slot(
        project=lease["project"], user=lease["user"]
    ),
    "looks ahead": lambda found, lease: judgments.claim_ahead(
        project=lease["project"],
        user=lease["user"],
        shown=found.slot.pk,
        token=found.token,
    ),
    "opens a task": lambda found, lease: whole_task.claim_task(
        project=lease["project"], user=lease["user"], answer=1
    ),
    "undoes": lambda found, lease: judgments.undo_judgment(
        project=lease["project"], user=lease["user"]
    ),
}


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_nobody_does_anything_after_it(project, lena, deed, lose):
    make_pair(project=project)
    found = claim(project, lena)
    lose(lena, project)
    lease = {"slot_id": found.slot.pk, "token": found.token, "user": lena}
    error = Forbidden if lose is trade_for_trainer else NotAMember
    with pytest.raises(error):
        deed(found, {"project": project, **lease})
    assert not Judgment.objects.exists()
    assert not Skip.objects.exists()


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_nobody_does_anything_through_another_project(project, lena, deed):
    """Of which they are a member, with the very role."""
    make_pair(project=project)
    found = claim(project, lena)
    remove(lena, project)
    other = make_project()
    before = list(Slot.objects.values())
    lease = {"slot_id": found.slot.pk, "token": found.token, "user": lena}
    with suppress(judgments.JudgingError, judgments.NoSuchSlot):
        deed(found, {"project": other, **lease})
    assert list(Slot.objects.values()) == before
    assert not Judgment.objects.exists()
    assert not Skip.objects.exists()


def test_a_curator_approves_nothing_after_it(project):
    rita = make_user("rita")
    sample = make_sample(project=project, status="submitted")
    remove(rita, project)
    with pytest.raises(NotAMember):
        samples.approve_sample(project=project, sample=sample, user=rita)


def test_roles_are_read_anew_whatever_the_user_knows_of_itself(project, lena):
    User.objects.filter(pk=lena.pk).update(is_active=False)
    assert lena.is_active
    with transaction.atomic(), pytest.raises(NotAMember):
        roles_held(project, lena)


@pytest.mark.django_db(transaction=True)
class TestAtTheSameInstant:
    """Two transactions, each with a connection of its own."""

    def test_a_judgment_that_was_first_counts_and_the_removal_waits(
        self, project, lena, meanwhile
    ):
        make_pair(project=project)
        found = claim(project, lena)
        with transaction.atomic():
            judgment = judgments.record_judgment(
                project=project,
                slot_id=found.slot.pk,
                token=found.token,
                user=lena,
                verdict=1,
            )
            removal = meanwhile(remove, user=lena, project=project)
            until_it_waits(removal)
        removal.result(timeout=10)
        assert not judgment.is_extra
        assert Judgment.objects.counted().get() == judgment

    @pytest.mark.parametrize("lose", [remove, deactivate])
    def test_a_removal_that_was_first_is_waited_for_and_then_seen(
        self, project, lena, meanwhile, lose
    ):
        make_pair(project=project)
        found = claim(project, lena)
        with transaction.atomic():
            lose(lena, project)
            deed = meanwhile(
                judgments.record_judgment,
                project=project,
                slot_id=found.slot.pk,
                token=found.token,
                user=lena,
                verdict=1,
                proof=found.slot.lease_proof,
            )
            until_it_waits(deed)
        with pytest.raises(NotAMember):
            deed.result(timeout=10)
        assert not Judgment.objects.exists()

    def test_a_removal_that_is_taken_back_changes_nothing(
        self, project, lena, meanwhile
    ):
        make_pair(project=project)
        found = claim(project, lena)
        with transaction.atomic():
            remove(lena, project)
            deed = meanwhile(
                judgments.record_judgment,
                project=project,
                slot_id=found.slot.pk,
                token=found.token,
                user=lena,
                verdict=1,
            )
            until_it_waits(deed)
            transaction.set_rollback(True)
        assert not deed.result(timeout=10).is_extra

    @pytest.mark.parametrize("lose", [remove, deactivate])
    def test_a_claim_that_was_first_is_given_back_by_the_removal(
        self, project, lena, meanwhile, lose
    ):
        make_pair(project=project)
        QueueCursor.objects.all().delete()
        with transaction.atomic():
            found = claim(project, lena)
            removal = meanwhile(lose, user=lena, project=project)
            until_it_waits(removal)
        removal.result(timeout=10)
        slot = Slot.objects.get()
        assert (slot.pk, slot.state, slot.holder) == (found.slot.pk, "open", None)

    def test_a_skip_that_comes_second_is_refused(self, project, lena, meanwhile):
        make_pair(project=project)
        found = claim(project, lena)
        with transaction.atomic():
            remove(lena, project)
            deed = meanwhile(
                judgments.skip_slot,
                project=project,
                slot_id=found.slot.pk,
                token=found.token,
                user=lena,
                reason="Torn.",
            )
            until_it_waits(deed)
        with pytest.raises(NotAMember):
            deed.result(timeout=10)
        assert not Skip.objects.exists()
