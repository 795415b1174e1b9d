"""Claiming a whole task: all its free turns at once, and nobody's twice."""

from __future__ import annotations

import threading

import pytest
from django.db import connections

from annotation.judging.judgments import claim_slot, record_judgment, skip_slot
from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.judging.queue import Lease, NothingToDo, leave_slots
from annotation.judging.whole_task import claim_task, task_of
from annotation.models import (
    Judgment,
    Pair,
    Project,
    SampledResponse,
    Slot,
    Touch,
)
from tests.cast import LABEL, SAMPLED, make_project, make_sample, make_user

ANSWER = "<<think>>All is known.<</think>>At {} o'clock?"


def make_task(
    project: Project, *, answers=(SAMPLED, ANSWER, ANSWER), index=0, **fields
):
    """Make a sample of three turns and the answers of one policy to them."""
    sample = make_sample(
        project=project,
        turns=(
            ("user", "A cake, please.", LABEL),
            ("user", "When is it ready?", ANSWER.format(3)),
            ("user", "And if I come late?", ANSWER.format(4)),
        ),
        **fields,
    )
    draw(sample, answers, index)
    return sample


def draw(sample, answers, index, run=1) -> None:
    facts = {"run_id": run, "checkpoint_id": 1, "checkpoint_digest": "0" * 64}
    receive_responses(
        project=sample.project,
        producer=ProducerFacts(**facts, step=100, policy_role="current"),
        responses=[
            ResponseRow(
                sample.external_id, number, index, text.replace("{}", str(index + 6))
            )
            for number, text in enumerate(answers)
            if text is not None
        ],
    )


@pytest.fixture
def project(db) -> Project:
    return make_project(slug="cakes")


@pytest.fixture
def lena(project):
    return make_user("lena")


def states(task) -> list[str]:
    return [one.state for one in task.turns]


def test_leases_every_turn_under_a_token_of_its_own(project, lena):
    make_task(project)
    task = claim_task(project=project, user=lena)
    assert states(task) == ["yours"] * 3
    assert [one.turn.position for one in task.turns] == [0, 1, 2]
    slots = [one.slot for one in task.turns]
    assert len({slot.pk for slot in slots}) == 3
    assert all(slot.token == 1 and slot.holder == lena for slot in slots)
    for slot in slots:
        record_judgment(
            project=project, slot_id=slot.pk, token=slot.token, user=lena, verdict=1
        )
    assert Judgment.objects.counted().count() == 3
    task = task_of(project=project, user=lena, answer=task.answer)
    assert states(task) == ["judged"] * 3


def test_keeps_to_one_producer_and_one_index(project, lena):
    sample = make_task(project)
    draw(sample, (SAMPLED.replace("florist", "grocer"), None, ANSWER), 1)
    draw(sample, (SAMPLED.replace("florist", "grocer"),), 0, run=2)
    task = claim_task(project=project, user=lena)
    first = SampledResponse.objects.get(pk=task.answer)
    for one in task.turns:
        answer = SampledResponse.objects.get(
            turn=one.turn, producer=first.producer, index=first.index
        )
        assert one.pair.sampled_text == answer.text
    assert Slot.objects.leased().count() == 3


def test_the_same_person_never_holds_two_slots_of_a_pair(project, lena):
    make_task(project)
    for _ in range(3):
        claim_task(project=project, user=lena)
    held = Slot.objects.leased().values_list("pair", flat=True)
    assert len(held) == len(set(held)) == 3
    assert Touch.objects.filter(user=lena).count() == 3


def test_two_people_hold_different_slots_of_one_task(project, lena):
    make_task(project)
    mine = claim_task(project=project, user=lena)
    theirs = claim_task(project=project, user=make_user("luis"))
    assert mine.answer == theirs.answer
    assert {one.slot.pk for one in mine.turns}.isdisjoint(
        one.slot.pk for one in theirs.turns
    )


def test_with_one_slot_a_pair_the_second_person_gets_the_next_task(project, lena):
    Project.objects.update(overlap=1)
    project.refresh_from_db()
    make_task(project)
    make_task(project)
    mine = claim_task(project=project, user=lena)
    theirs = claim_task(project=project, user=make_user("luis"))
    assert mine.sample != theirs.sample
    assert states(mine) == states(theirs) == ["yours"] * 3
    assert claim_task(project=project, user=make_user("lea")).kind == "all leased"


def test_says_of_each_turn_why_it_is_not_yours(project, lena):
    Project.objects.update(overlap=1)
    project.refresh_from_db()
    make_task(
        project, answers=(SAMPLED, ANSWER.replace("{}", "3"), "<<think>>broken {}")
    )
    assert states(claim_task(project=project, user=lena)) == [
        "yours",
        "identical",
        "malformed",
    ]
    make_task(project, answers=(SAMPLED, ANSWER, None))
    luis = make_user("luis")
    claim = claim_slot(project=project, user=luis)
    skip_slot(
        project=claim.slot.project,
        slot_id=claim.slot.pk,
        token=claim.token,
        user=luis,
        reason="Hm",
    )
    assert states(claim_task(project=project, user=luis)) == [
        "skipped",
        "yours",
        "unanswered",
    ]
    lea = make_user("lea")
    assert states(claim_task(project=project, user=lea)) == [
        "yours",
        "others",
        "unanswered",
    ]


def test_a_task_again_keeps_its_tokens_and_takes_what_has_become_free(project, lena):
    Project.objects.update(overlap=1)
    project.refresh_from_db()
    make_task(project)
    luis = make_user("luis")
    claim = claim_slot(project=project, user=luis)
    task = claim_task(project=project, user=lena)
    assert states(task) == ["others", "yours", "yours"]
    Slot.objects.filter(pk=claim.slot.pk).update(leased_until="2020-01-01T00:00Z")
    again = claim_task(project=project, user=lena, answer=task.answer)
    assert states(again) == ["yours"] * 3
    for before, after in zip(task.yours, again.yours[1:], strict=True):
        assert before.slot.token == after.slot.token
        assert before.slot.leased_at < after.slot.leased_at


def test_nobody_chooses_a_task_they_have_not_met(project, lena):
    make_task(project)
    task = claim_task(project=project, user=lena)
    luis = make_user("luis")
    assert claim_task(project=project, user=luis, answer=task.answer) is None
    assert task_of(project=project, user=luis, answer=task.answer) is None
    assert claim_task(project=project, user=lena, answer=10**18) is None
    other = make_project()
    assert claim_task(project=other, user=lena, answer=task.answer) is None
    assert Slot.objects.leased().count() == 3


def test_an_author_gets_none_of_their_own_task(project, lena):
    make_task(project, author=lena)
    found = claim_task(project=project, user=lena)
    assert isinstance(found, NothingToDo)
    assert not Touch.objects.exists()


def test_a_paused_project_leases_nothing_more(project, lena):
    make_task(project)
    task = claim_task(project=project, user=lena)
    Project.objects.update(is_paused=True)
    assert claim_task(project=project, user=make_user("luis")).kind == "paused"
    again = claim_task(project=project, user=lena, answer=task.answer)
    assert again.yours[0].slot.leased_at == task.yours[0].slot.leased_at


def leases_of(task) -> list[Lease]:
    return [
        Lease(one.slot.pk, one.slot.token, one.slot.leased_at) for one in task.yours
    ]


def test_leaving_gives_back_what_is_not_judged(project, lena):
    Project.objects.update(overlap=1)
    project.refresh_from_db()
    make_task(project)
    task = claim_task(project=project, user=lena)
    first = task.yours[0].slot
    record_judgment(
        project=project, slot_id=first.pk, token=first.token, user=lena, verdict=1
    )
    assert leave_slots(project=project, user=lena, leases=leases_of(task)) == 2
    Slot.objects.leased().update(leased_until="2020-01-01T00:00Z")
    luis = make_user("luis")
    assert states(claim_task(project=project, user=luis)) == [
        "others",
        "yours",
        "yours",
    ]


def test_a_reload_after_leaving_finds_the_same_turns_seen_again(project, lena):
    make_task(project)
    task = claim_task(project=project, user=lena)
    leave_slots(project=project, user=lena, leases=leases_of(task))
    again = claim_task(project=project, user=lena, answer=task.answer)
    assert [one.slot.token for one in again.yours] == [1, 1, 1]
    assert not Touch.objects.filter(is_seen=False).exists()


def test_leaving_an_old_showing_keeps_what_a_newer_one_holds(project, lena):
    make_task(project)
    old = claim_task(project=project, user=lena)
    claim_task(project=project, user=lena, answer=old.answer)
    assert leave_slots(project=project, user=lena, leases=leases_of(old)) == 0


@pytest.mark.django_db(transaction=True)
def test_people_who_claim_at_once_never_share_a_slot(project):
    Project.objects.update(overlap=2)
    project.refresh_from_db()
    for _ in range(4):
        make_task(project)
    users = [make_user(name) for name in ("lena", "luis", "lea", "leo", "ada")]
    start = threading.Barrier(2 * len(users))
    claimed: list[tuple[int, object]] = []
    problems: list[BaseException] = []

    def claim(user) -> None:
        try:
            start.wait(10)
            for _ in range(4):
                task = claim_task(project=project, user=user)
                if isinstance(task, NothingToDo):
                    return
                claimed.append((user.pk, task))
                for one in task.yours:
                    record_judgment(
                        project=one.slot.project,
                        slot_id=one.slot.pk,
                        token=one.slot.token,
                        user=user,
                        verdict=1,
                    )
        except BaseException as error:
            problems.append(error)
        finally:
            connections.close_all()

    # Two tabs of each.
    threads = [threading.Thread(target=claim, args=[user]) for user in users * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    for user in users:
        task = claim_task(project=project, user=user)
        if not isinstance(task, NothingToDo):
            assert all(
                slot.holder_id == user.pk for slot in (o.slot for o in task.yours)
            )
    judged = list(Judgment.objects.current().values_list("pair", "labeler"))
    assert len(judged) == len(set(judged))
    for pair in Pair.objects.all():
        assert pair.slots.exclude(judgment=None).count() <= 2
        assert (
            pair.judgments.counted().count()
            == pair.slots.exclude(judgment=None).count()
        )
    assert Judgment.objects.counted().count() == 4 * 3 * 2
    assert Touch.objects.count() == 4 * 3 * 2
