"""Who waits for whom: a deed meets slots that another transaction is writing.

The other transaction is this test's own; the deed runs in a thread with a connection of
its own. What locks several slots does it in the order of their keys, or waits for none.
"""

import time
from contextlib import contextmanager

import pytest
from django.db import connection, transaction

from annotation.judging import judgments
from annotation.judging.judgments import Claim, claim_ahead, claim_slot
from annotation.judging.slots import close_slots
from annotation.judging.whole_task import claim_task
from annotation.models import Slot
from tests.annotation.test_claim_task import make_task
from tests.cast import make_pair, make_project, make_user

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def writing(slot):
    """Hold the slot's row as any deed on it does, and let go at the end."""
    with transaction.atomic():
        take(slot)
        yield


def take(slot):
    Slot.objects.select_for_update(no_key=True, nowait=True).get(pk=slot.pk)


def until_it_waits(future):
    """Return once the other connection waits for a lock."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert not future.done(), "the deed did not wait"
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock')"
            )
            if cursor.fetchone()[0]:
                return
        time.sleep(0.01)
    raise AssertionError("the deed does not wait for a lock")


@pytest.fixture
def project():
    return make_project(overlap=1)


@pytest.fixture
def lena(project):
    return make_user("lena")


def two_claims(project, lena):
    """Claim a pair, and the one after it."""
    make_pair(project=project)
    make_pair(project=project)
    shown = claim_slot(project=project, user=lena)
    ahead = claim_ahead(
        project=project, user=lena, shown=shown.slot.pk, token=shown.token
    ).claim
    assert isinstance(ahead, Claim)
    return shown, ahead


def test_a_reload_while_its_slot_is_written_shows_the_same_pair(
    meanwhile, project, lena
):
    make_pair(project=project)
    make_pair(project=project)
    shown = claim_slot(project=project, user=lena)
    with writing(shown.slot):
        future = meanwhile(claim_slot, project=project, user=lena)
        until_it_waits(future)
    again = future.result(timeout=10)
    assert (again.slot, again.token) == (shown.slot, shown.token)
    assert Slot.objects.leased().count() == 1


def test_a_page_that_asks_while_its_pair_ahead_is_written_gets_that_one(
    meanwhile, project, lena
):
    shown, ahead = two_claims(project, lena)
    make_pair(project=project)
    with writing(ahead.slot):
        future = meanwhile(
            claim_ahead,
            project=project,
            user=lena,
            shown=shown.slot.pk,
            token=shown.token,
        )
        until_it_waits(future)
    assert future.result(timeout=10).claim.slot == ahead.slot
    assert Slot.objects.leased().count() == 2


@pytest.mark.parametrize("shows", [0, 1])
def test_turning_over_takes_slots_in_the_order_of_their_keys(
    meanwhile, project, lena, shows
):
    claims = two_claims(project, lena)
    first, second = sorted((found.slot for found in claims), key=lambda slot: slot.pk)
    shown = claims[shows]
    with writing(first):
        future = meanwhile(
            claim_ahead,
            project=project,
            user=lena,
            shown=shown.slot.pk,
            token=shown.token,
        )
        until_it_waits(future)
        take(second)  # what waits for the first does not hold the second
    assert future.result(timeout=10).claim.slot == claims[1 - shows].slot


def test_closing_takes_slots_in_the_order_of_their_keys(meanwhile, project):
    first, second = (make_pair(project=project).slots.get() for _ in range(2))
    # Rewritten, its row stands behind the other's.
    Slot.objects.filter(pk=first.pk).update(priority=1)
    close = transaction.atomic(close_slots)
    with writing(first):
        future = meanwhile(close, slots=Slot.objects.filter(project=project))
        until_it_waits(future)
        take(second)
    assert future.result(timeout=10) == 2


def test_a_whole_task_waits_for_nobody(meanwhile, project, lena):
    make_task(project)
    task = claim_task(project=project, user=lena)
    with writing(task.yours[0].slot):
        future = meanwhile(claim_task, project=project, user=lena, answer=task.answer)
        again = future.result(timeout=10)
    assert [one.slot.pk for one in again.yours] == [one.slot.pk for one in task.yours]


def test_two_tabs_judge_one_lease_once(meanwhile, project, lena):
    make_pair(project=project)
    found = claim_slot(project=project, user=lena)
    lease = {
        "project": project,
        "slot_id": found.slot.pk,
        "token": found.token,
        "user": lena,
        "verdict": 1,
    }
    with transaction.atomic():
        first = judgments.record_judgment(**lease)
        future = meanwhile(judgments.record_judgment, **lease)
        until_it_waits(future)
    assert future.result(timeout=10) == first
