"""What one person can do with a pair, step by step."""

import json
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from annotation.access import Forbidden, NotAMember
from annotation.judging import adjudication, judgment_checks, judgments
from annotation.models import Judgment, Pair, Slot, SlotState, Touch, Verdict
from tests.cast import (
    LABEL,
    make_judgment,
    make_pair,
    make_project,
    make_sample,
    make_user,
)

pytestmark = pytest.mark.django_db


def claim(project, name, **options):
    found = judgments.claim_slot(project=project, user=make_user(name), **options)
    assert isinstance(found, judgments.Claim), found
    return found


def nothing(project, name):
    found = judgments.claim_slot(project=project, user=make_user(name))
    assert isinstance(found, judgments.NothingToDo), found
    return found


def judge(found, name, verdict=1, **options):
    if verdict == 0 and "units_that_differ" not in options:
        options.setdefault("reasons", ["content"])
    return judgments.record_judgment(
        project=found.slot.project,
        slot_id=found.slot.pk,
        token=found.token,
        user=make_user(name),
        verdict=verdict,
        **options,
    )


def run_out(found):
    Slot.objects.filter(pk=found.slot.pk).update(
        leased_until=Now() - timedelta(hours=1)
    )


def leave(name, *claims):
    return judgments.leave_slots(
        project=claims[0].slot.project,
        user=make_user(name),
        leases=[
            judgments.Lease(found.slot.pk, found.token, found.slot.leased_at)
            for found in claims
        ],
    )


def outcome(pair):
    return (
        Pair.objects.with_outcome()
        .values_list("outcome", "outcome_source")
        .get(pk=pair.pk)
    )


class TestClaim:
    def test_gives_the_highest_priority_then_the_first_place(self):
        project = make_project(overlap=1)
        low, first, second = (
            make_pair(project=project, priority=priority) for priority in (0, 5, 5)
        )
        met = [claim(project, "lena", another=True).pair for _ in range(3)]
        assert met == [first, second, low]

    def test_leases_the_slot_under_a_new_token(self):
        pair = make_pair(slots=1)
        found = claim(pair.project, "lena")
        slot = Slot.objects.get()
        assert (slot.state, slot.holder, slot.token) == ("leased", make_user("lena"), 1)
        assert found.leased_until == slot.leased_until
        assert slot.leased_until - slot.leased_at == timedelta(seconds=600)

    def test_returns_the_held_pair_to_a_second_tab(self):
        pair = make_pair()
        make_pair(project=pair.project)
        first, again = claim(pair.project, "lena"), claim(pair.project, "lena")
        assert (again.slot, again.token) == (first.slot, first.token)
        assert Slot.objects.leased().count() == 1

    def test_gives_another_pair_on_request(self):
        pair = make_pair()
        other = make_pair(project=pair.project)
        claim(pair.project, "lena")
        assert claim(pair.project, "lena", another=True).pair == other

    def test_never_shows_a_pair_to_a_person_twice(self):
        pair = make_pair(slots=2)
        judge(claim(pair.project, "lena"), "lena")
        assert nothing(pair.project, "lena").kind == "nothing for you"
        assert claim(pair.project, "luis").pair == pair

    def test_never_shows_people_their_own_sample(self):
        project = make_project()
        sample = make_sample(project=project, author=make_user("lena"))
        pair = make_pair(turn=sample.turns.get())
        assert nothing(project, "lena").kind == "nothing for you"
        assert claim(project, "luis").pair == pair

    def test_keeps_projects_apart(self):
        make_pair()
        assert nothing(make_project(), "lena").kind == "no pairs"

    def test_finds_a_pair_of_higher_priority_that_came_later(self):
        project = make_project(overlap=1)
        for _ in range(40):
            make_pair(project=project)
        for _ in range(20):
            judge(claim(project, "lena"), "lena")
        urgent = make_pair(project=project, priority=3)
        assert claim(project, "lena").pair == urgent

    def test_finds_a_slot_that_others_gave_back_behind_the_cursor(self, monkeypatch):
        monkeypatch.setattr("annotation.judging.queue.CURSOR_STRIDE", 1)
        project = make_project(overlap=1)
        pairs = [make_pair(project=project) for _ in range(12)]
        held = [claim(project, "luis", another=True) for _ in range(3)]
        late = claim(project, "leo")
        for _ in range(5):
            judge(claim(project, "lena"), "lena")
        judgments.release_slot(
            project=held[2].slot.project,
            slot_id=held[2].slot.pk,
            token=held[2].token,
            user=make_user("luis"),
        )
        assert claim(project, "lena").pair == pairs[2]
        judgments.skip_slot(
            project=held[1].slot.project,
            slot_id=held[1].slot.pk,
            token=1,
            user=make_user("luis"),
            reason="Torn.",
        )
        assert claim(project, "lena", another=True).pair == pairs[1]
        run_out(late)
        assert claim(project, "lena", another=True).pair == pairs[3]

    def test_finds_an_undone_slot_that_its_person_gave_back(self, monkeypatch):
        monkeypatch.setattr("annotation.judging.queue.CURSOR_STRIDE", 1)
        project = make_project(overlap=1)
        pairs = [make_pair(project=project) for _ in range(6)]
        judge(claim(project, "luis"), "luis")
        for _ in range(4):
            judge(claim(project, "lena"), "lena")
        again = judgments.undo_judgment(project=project, user=make_user("luis"))
        assert again.pair == pairs[0]
        judgments.release_slot(
            project=again.slot.project,
            slot_id=again.slot.pk,
            token=again.token,
            user=make_user("luis"),
        )
        met = [claim(project, "lena", another=True).pair for _ in range(2)]
        assert met == [pairs[5], pairs[0]]

    def test_finds_a_slot_its_person_released_behind_their_own_cursor(
        self, monkeypatch
    ):
        monkeypatch.setattr("annotation.judging.queue.CURSOR_STRIDE", 1)
        project = make_project(overlap=1)
        pairs = [make_pair(project=project) for _ in range(4)]
        first = claim(project, "lena")
        for _ in range(2):
            judge(claim(project, "lena", another=True), "lena")
        judgments.release_slot(
            project=first.slot.project,
            slot_id=first.slot.pk,
            token=first.token,
            user=make_user("lena"),
        )
        met = [claim(project, "lena", another=True).pair for _ in range(2)]
        assert met == [pairs[0], pairs[3]]

    def test_finds_the_other_slot_of_a_pair_its_person_released(self, monkeypatch):
        """Another held it, before the person's cursor, and gave it back later."""
        monkeypatch.setattr("annotation.judging.queue.CURSOR_STRIDE", 1)
        project = make_project(overlap=2)
        pair = make_pair(project=project)
        luis = claim(project, "luis")
        lena = claim(project, "lena")
        assert luis.slot.place < lena.slot.place
        for _ in range(3):
            make_pair(project=project)
            judge(claim(project, "lena", another=True), "lena")
        judgments.release_slot(
            project=lena.slot.project,
            slot_id=lena.slot.pk,
            token=lena.token,
            user=make_user("lena"),
        )
        assert claim(project, "leo").slot == lena.slot
        judgments.release_slot(
            project=luis.slot.project,
            slot_id=luis.slot.pk,
            token=1,
            user=make_user("luis"),
        )
        found = claim(project, "lena")
        assert (found.pair, found.slot) == (pair, luis.slot)

    def test_has_a_person_meet_a_released_pair_again_but_not_a_skipped_one(self):
        project = make_project(overlap=1)
        pair = make_pair(project=project)
        lena = make_user("lena")
        first = claim(project, "lena")
        judgments.release_slot(
            project=first.slot.project,
            slot_id=first.slot.pk,
            token=first.token,
            user=lena,
        )
        again = claim(project, "lena")
        assert again.pair == pair
        assert again.token > first.token
        judgments.skip_slot(
            project=again.slot.project,
            slot_id=again.slot.pk,
            token=again.token,
            user=lena,
            reason="Unreadable.",
        )
        assert nothing(project, "lena").kind == "nothing for you"
        assert claim(project, "luis").pair == pair

    def test_costs_seven_queries(self, django_assert_num_queries):
        pair = make_pair()
        user = make_user("lena")
        with django_assert_num_queries(
            7
        ):  # savepoint, roles, lock, renew, claim, read, end
            judgments.claim_slot(project=pair.project, user=user)


class TestNothingToDo:
    def test_says_that_a_project_never_had_a_pair(self):
        assert nothing(make_project(), "lena") == judgments.NothingToDo("no pairs")

    def test_is_all_done_when_every_slot_is_filled(self):
        pair = make_pair(slots=1)
        judge(claim(pair.project, "luis"), "luis")
        assert nothing(pair.project, "lena") == judgments.NothingToDo("all done")

    def test_says_when_the_next_lease_ends(self):
        project = make_project(overlap=1)
        make_pair(project=project)
        make_pair(project=project)
        first = claim(project, "luis")
        claim(project, "leo")
        assert nothing(project, "lena") == judgments.NothingToDo(
            "all leased", first.leased_until
        )

    def test_is_nothing_for_you_when_only_met_pairs_are_leased(self):
        pair = make_pair(slots=2)
        judge(claim(pair.project, "lena"), "lena")
        claim(pair.project, "luis")
        assert nothing(pair.project, "lena") == judgments.NothingToDo("nothing for you")

    def test_is_paused_even_for_a_person_who_holds_a_pair(self):
        pair = make_pair()
        found = claim(pair.project, "lena")
        pair.project.is_paused = True
        pair.project.save()
        assert nothing(pair.project, "lena") == judgments.NothingToDo("paused")
        assert nothing(pair.project, "luis") == judgments.NothingToDo("paused")
        assert not judge(found, "lena").is_extra


class TestRecord:
    def test_fills_the_slot(self):
        pair = make_pair(slots=1)
        judgment = judge(claim(pair.project, "lena"), "lena", seconds_spent=4.5)
        slot = Slot.objects.get()
        assert (slot.state, slot.judgment, slot.holder) == ("done", judgment, None)
        assert list(Judgment.objects.counted()) == [judgment]
        assert judgment.seconds_spent == 4.5
        assert outcome(pair) == (1, "people")

    def test_counts_a_double_post_once(self):
        pair = make_pair()
        found = claim(pair.project, "lena")
        assert judge(found, "lena") == judge(found, "lena")
        assert Judgment.objects.count() == 1

    def test_tells_a_second_tab_with_another_verdict_what_counts(self):
        pair = make_pair()
        found = claim(pair.project, "lena")
        judge(found, "lena", 1)
        with pytest.raises(judgments.AlreadyJudged) as caught:
            judge(found, "lena", 0)
        assert str(caught.value) == (
            "You have judged this pair already: consistent. Undo it to change it."
        )
        assert Judgment.objects.get().verdict == 1

    def test_counts_after_the_lease_ran_out_while_nobody_took_it(self):
        pair = make_pair(slots=1)
        found = claim(pair.project, "lena")
        run_out(found)
        assert not judge(found, "lena").is_extra
        assert outcome(pair) == (1, "people")

    def test_keeps_a_late_judgment_as_an_extra(self):
        pair = make_pair(slots=1)
        found = claim(pair.project, "lena")
        run_out(found)
        taken = claim(pair.project, "luis")
        assert taken.slot == found.slot
        late = judge(found, "lena", 0)
        assert late.is_extra
        assert judge(found, "lena", 0) == late
        assert outcome(pair) == (None, None)
        counted = judge(taken, "luis", 1)
        assert list(Judgment.objects.counted()) == [counted]
        assert outcome(pair) == (1, "people")

    def test_keeps_a_judgment_after_the_slot_is_done_as_an_extra(self):
        pair = make_pair(slots=1)
        found = claim(pair.project, "lena")
        run_out(found)
        judge(claim(pair.project, "luis"), "luis", 1)
        assert judge(found, "lena", 0).is_extra
        assert outcome(pair) == (1, "people")

    def test_lets_a_person_whose_lease_ran_out_go_on(self):
        pair = make_pair(slots=1)
        make_pair(project=pair.project)
        found = claim(pair.project, "lena")
        run_out(found)
        again = claim(pair.project, "lena")
        assert (again.slot, again.token) == (found.slot, found.token)
        assert again.leased_until > found.leased_until
        assert claim(pair.project, "luis").slot != found.slot

    def test_refuses_whoever_never_held_the_slot(self):
        pair = make_pair()
        found = claim(pair.project, "lena")
        with pytest.raises(judgments.LeaseLost):
            judge(found, "luis")
        judge(found, "lena")
        with pytest.raises(judgments.LeaseLost):
            judge(found, "luis")
        assert Judgment.objects.count() == 1

    def test_counts_an_old_tab_of_a_person_who_has_the_slot_again(self):
        pair = make_pair(slots=1)
        lena = make_user("lena")
        first = claim(pair.project, "lena")
        judgments.release_slot(
            project=first.slot.project,
            slot_id=first.slot.pk,
            token=first.token,
            user=lena,
        )
        with pytest.raises(judgments.LeaseLost):
            judge(first, "lena")
        again = claim(pair.project, "lena")
        assert again.token > first.token
        judgment = judge(first, "lena", 0)
        assert (judgment.is_extra, judgment.token) == (False, again.token)
        assert judge(again, "lena", 0) == judge(first, "lena", 0) == judgment
        undone = judgments.undo_judgment(project=pair.project, user=lena)
        assert judge(again, "lena", 0) == judgment  # a double post of before the undo
        assert judge(again, "lena", 1).token == undone.token
        assert outcome(pair) == (1, "people")

    def test_keeps_an_old_tab_out_of_another_persons_lease(self):
        pair = make_pair(slots=1)
        first = claim(pair.project, "lena")
        run_out(first)
        run_out(claim(pair.project, "luis"))
        third = claim(pair.project, "leo")
        assert judge(first, "lena", 0).is_extra
        assert not judge(third, "leo", 1).is_extra
        assert outcome(pair) == (1, "people")

    def test_a_guess_at_another_persons_token_takes_nothing_from_them(self):
        pair = make_pair(slots=1)
        first = claim(pair.project, "lena")
        run_out(first)
        taken = claim(pair.project, "luis")
        with pytest.raises(judgments.LeaseLost):
            judge(taken, "lena", 0)
        assert not judge(taken, "luis", 1).is_extra

    def test_counts_an_old_tab_for_the_slot_by_which_a_person_met_the_pair_again(self):
        """Else the pair would be theirs for ever, and judged already."""
        pair = make_pair(slots=2)
        first = claim(pair.project, "lena")
        leave("lena", first)
        run_out(first)
        taken = claim(pair.project, "luis")
        assert taken.slot == first.slot
        again = claim(pair.project, "lena")
        assert (again.pair, again.slot == first.slot) == (pair, False)
        judgment = judge(first, "lena", 0)
        assert (judgment.is_extra, judgment.slot) == (False, again.slot)
        assert judge(again, "lena", 0) == judge(first, "lena", 0) == judgment
        assert not judge(taken, "luis", 0).is_extra
        assert outcome(pair) == (0, "people")
        assert nothing(pair.project, "lena").kind == "all done"

    def test_refuses_a_token_of_the_future(self):
        pair = make_pair()
        found = claim(pair.project, "lena")
        with pytest.raises(judgments.LeaseLost):
            judgments.record_judgment(
                project=found.slot.project,
                slot_id=found.slot.pk,
                token=found.token + 1,
                user=make_user("lena"),
                verdict=1,
            )

    def test_refuses_an_unknown_slot(self):
        with pytest.raises(judgments.NoSuchSlot):
            judgments.record_judgment(
                project=make_project(),
                slot_id=10**9,
                token=1,
                user=make_user("lena"),
                verdict=1,
            )

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"verdict": 2}, "verdict: expected 0 or 1, found 2."),
            (
                {"verdict": 0, "reasons": []},
                "reasons: expected a reason or a unit that differs, found 'none'.",
            ),
            (
                {"verdict": 0, "reasons": ["smell"]},
                "reasons: expected among content, logic, step order, action name, "
                "parameter, use of result, missing step, extra step, unsafe, "
                "found 'smell'.",
            ),
            (
                {"verdict": 0, "units_that_differ": ["plan/0"]},
                "units: expected a unit such as 'plan/2' or 'answer', found 'plan/0'.",
            ),
            (
                {"verdict": 1, "seconds_spent": float("nan")},
                "seconds: expected 0 or more, found nan.",
            ),
        ],
    )
    def test_names_the_field_that_is_wrong(self, fields, message):
        pair = make_pair()
        found = claim(pair.project, "lena")
        with pytest.raises(judgment_checks.InvalidJudgment) as caught:
            judge(found, "lena", **fields)
        assert str(caught.value) == message
        assert Slot.objects.get(pk=found.slot.pk).state == SlotState.LEASED

    @pytest.mark.parametrize("name", ["", "a" * 300, "two\nlines", "a/b"])
    def test_takes_a_parameter_of_any_name(self, name):
        call = {"name": "Search", "parameters": {name: "1"}}
        sampled = f"<<action>>{json.dumps(call)}<</action>>"
        found = claim(make_pair(slots=1, sampled=sampled).project, "lena")
        units = [f"action/1/parameters/{name}"]
        judgment = judge(found, "lena", 0, units_that_differ=units)
        assert judgment.units_that_differ == units
        assert judgment.reasons == ["parameter"]

    def test_takes_reasons_from_the_units(self):
        pair = make_pair()
        judgment = judge(
            claim(pair.project, "lena"),
            "lena",
            0,
            units_that_differ=["thinking", "action/1/parameters/kind"],
        )
        assert judgment.reasons == ["logic", "parameter"]
        assert judgment.units_that_differ == ["thinking", "action/1/parameters/kind"]

    def test_keeps_reasons_that_were_chosen(self):
        pair = make_pair()
        judgment = judge(
            claim(pair.project, "lena"),
            "lena",
            0,
            reasons=["unsafe"],
            units_that_differ=["answer"],
        )
        assert judgment.reasons == ["unsafe"]

    def test_drops_reasons_of_a_consistent_pair(self):
        pair = make_pair()
        judgment = judge(claim(pair.project, "lena"), "lena", 1, reasons=["content"])
        assert judgment.reasons == []

    def test_stamps_the_version_of_the_guideline(self):
        project = make_project(guideline_version=7)
        make_pair(project=project)
        assert judge(claim(project, "lena"), "lena").guideline_version == 7

    @pytest.mark.parametrize(
        ("on_screen", "kept"), [(6, 6), (1, 1), (7, 7), (8, 7), (0, 7), (None, 7)]
    )
    def test_stamps_the_version_that_was_on_screen_if_there_was_one(
        self, on_screen, kept
    ):
        project = make_project(guideline_version=7)
        make_pair(project=project)
        judgment = judge(claim(project, "lena"), "lena", guideline_version=on_screen)
        assert judgment.guideline_version == kept


class TestStepOrder:
    TURNED = LABEL.replace(
        "1. Find a bakery.\n2. Order the cake.", "1. Order the cake.\n2. Find a bakery."
    )

    def test_consistent_with_steps_turned_round_asks_once(self):
        pair = make_pair(sampled=self.TURNED)
        found = claim(pair.project, "lena")
        with pytest.raises(judgment_checks.OrderNotConfirmed) as caught:
            judge(found, "lena", 1)
        assert caught.value.steps == ((1, 2),)
        assert str(caught.value) == (
            "The plan steps come in another order (steps 1 and 2), which makes a pair "
            "inconsistent. Confirm that it is consistent all the same."
        )
        assert Judgment.objects.count() == 0
        assert judge(found, "lena", 1, order_confirmed=True).order_confirmed

    def test_a_plan_right_after_the_tag_is_seen(self):
        text = "<<think>>Plan:\n1. Find a bakery.\n2. Order the cake.\n<</think>>Done."
        turned = (
            "<<think>>Plan:\n1. Order the cake.\n2. Find a bakery.\n<</think>>Done."
        )
        sample = make_sample(turns=(("user", "Cake!", text),))
        pair = make_pair(turn=sample.turns.get(), sampled=turned)
        with pytest.raises(judgment_checks.OrderNotConfirmed):
            judge(claim(pair.project, "lena"), "lena", 1)

    def test_not_consistent_asks_nothing(self):
        pair = make_pair(sampled=self.TURNED)
        judge(claim(pair.project, "lena"), "lena", 0)

    def test_a_project_may_do_without(self):
        project = make_project(confirm_step_order=False)
        make_pair(project=project, sampled=self.TURNED)
        judge(claim(project, "lena"), "lena", 1)


class TestSkip:
    def test_needs_a_reason_and_is_no_judgment(self):
        pair = make_pair(slots=1)
        found = claim(pair.project, "lena")
        lease = {
            "project": found.slot.project,
            "slot_id": found.slot.pk,
            "token": found.token,
        }
        with pytest.raises(
            judgment_checks.InvalidJudgment, match="reason: expected 1 to 300"
        ):
            judgments.skip_slot(**lease, user=make_user("lena"), reason="  ")
        judgments.skip_slot(**lease, user=make_user("lena"), reason="In Finnish.")
        slot = Slot.objects.get()
        assert (slot.state, slot.holder) == (SlotState.OPEN, None)
        assert Judgment.objects.count() == 0
        assert pair.skips.get().reason == "In Finnish."

    def test_by_another_is_refused(self):
        pair = make_pair(slots=1)
        found = claim(pair.project, "lena")
        with pytest.raises(judgments.LeaseLost):
            judgments.skip_slot(
                project=found.slot.project,
                slot_id=found.slot.pk,
                token=found.token,
                user=make_user("luis"),
                reason="Mine!",
            )


class TestExtend:
    def test_prolongs_a_lease_up_to_a_limit(self):
        pair = make_pair()
        found = claim(pair.project, "lena")
        lease = {
            "project": found.slot.project,
            "slot_id": found.slot.pk,
            "token": found.token,
            "user": make_user("lena"),
        }
        slots = Slot.objects.filter(pk=found.slot.pk)
        slots.update(leased_at=Now() - timedelta(seconds=300))
        assert judgments.extend_lease(**lease) > found.leased_until
        slots.update(leased_at=Now() - timedelta(seconds=3500))
        before = slots.get().leased_until
        slots.update(leased_until=Now())
        assert judgments.extend_lease(**lease) < before

    def test_of_a_lost_lease_is_refused(self):
        pair = make_pair(slots=1)
        found = claim(pair.project, "lena")
        run_out(found)
        claim(pair.project, "luis")
        with pytest.raises(judgments.LeaseLost):
            judgments.extend_lease(
                project=found.slot.project,
                slot_id=found.slot.pk,
                token=found.token,
                user=make_user("lena"),
            )


class TestUndo:
    def test_hands_the_pair_back_and_supersedes_the_judgment(self):
        pair = make_pair(slots=1)
        lena = make_user("lena")
        found = claim(pair.project, "lena")
        first = judge(found, "lena", 1)
        again = judgments.undo_judgment(project=pair.project, user=lena)
        assert again.slot == found.slot
        assert again.token > found.token
        assert Judgment.objects.counted().count() == 0
        second = judge(again, "lena", 0)
        rows = list(Judgment.objects.values_list("verdict", "supersedes"))
        withdrawn = Judgment.objects.get(verdict=Verdict.WITHDRAWN)
        assert rows == [(1, None), (2, first.pk), (0, withdrawn.pk)]
        assert list(Judgment.objects.current()) == [second]
        assert outcome(pair) == (0, "people")

    def test_makes_the_pair_the_next_one_shown(self):
        project = make_project()
        pair = make_pair(project=project)
        other = make_pair(project=project)
        judge(claim(project, "lena"), "lena")
        assert claim(project, "lena").pair == other
        judgments.undo_judgment(project=project, user=make_user("lena"))
        again = claim(project, "lena")
        assert again.pair == pair
        judge(again, "lena")
        assert claim(project, "lena").pair == other

    def test_reaches_back_over_the_last_ten_decisions(self):
        project = make_project(overlap=1)
        lena = make_user("lena")
        for _ in range(11):
            make_pair(project=project)
        judged = [judge(claim(project, "lena"), "lena") for _ in range(11)]
        shown = list(judgments.last_decisions(lena, project))
        assert shown == judged[:0:-1]
        with pytest.raises(judgments.NothingToUndo):
            judgments.undo_judgment(
                project=project, user=lena, judgment_id=judged[0].pk
            )
        again = judgments.undo_judgment(
            project=project, user=lena, judgment_id=judged[1].pk
        )
        assert again.pair == judged[1].pair

    def test_of_another_persons_judgment_is_refused(self):
        pair = make_pair()
        judgment = judge(claim(pair.project, "luis"), "luis")
        with pytest.raises(judgments.NothingToUndo):
            judgments.undo_judgment(
                project=pair.project, user=make_user("lena"), judgment_id=judgment.pk
            )

    def test_of_a_late_judgment_is_refused(self):
        pair = make_pair(slots=1)
        found = claim(pair.project, "lena")
        run_out(found)
        claim(pair.project, "luis")
        late = judge(found, "lena")
        with pytest.raises(judgments.NothingToUndo, match="came late"):
            judgments.undo_judgment(
                project=pair.project, user=make_user("lena"), judgment_id=late.pk
            )

    def test_twice_ends_at_the_oldest(self):
        pair = make_pair()
        judge(claim(pair.project, "lena"), "lena")
        judgments.undo_judgment(project=pair.project, user=make_user("lena"))
        with pytest.raises(judgments.NothingToUndo):
            judgments.undo_judgment(project=pair.project, user=make_user("lena"))

    def test_after_a_lost_lease_the_late_judgment_is_an_extra(self):
        pair = make_pair(slots=1)
        judge(claim(pair.project, "lena"), "lena")
        again = judgments.undo_judgment(project=pair.project, user=make_user("lena"))
        run_out(again)
        claim(pair.project, "luis")
        assert judge(again, "lena", 0).is_extra

    def test_closes_the_slots_that_the_disagreement_had_added(self):
        pair = make_pair(slots=2)
        make_judgment(pair, make_user("lena"), 1)
        make_judgment(pair, make_user("luis"), 0)
        assert pair.slots.waiting().count() == 2
        again = judgments.undo_judgment(project=pair.project, user=make_user("lena"))
        assert [slot.state for slot in pair.slots.order_by("ordinal")] == [
            "leased",
            "done",
            "closed",
            "closed",
        ]
        judge(again, "lena", 0)
        assert outcome(pair) == (0, "people")

    def test_leaves_an_added_slot_to_whoever_holds_it(self):
        pair = make_pair(slots=2)
        make_judgment(pair, make_user("lena"), 1)
        make_judgment(pair, make_user("luis"), 0)
        third = claim(pair.project, "leo")
        again = judgments.undo_judgment(project=pair.project, user=make_user("lena"))
        judge(again, "lena", 0)
        assert not judge(third, "leo", 1).is_extra
        # Two to one: the pair is contested still, and a fourth is asked.
        assert outcome(pair) == (None, None)
        make_judgment(pair, make_user("lea"), 0)
        assert outcome(pair) == (0, "people")

    def test_and_the_same_verdict_again_adds_the_slots_again(self):
        pair = make_pair(slots=2)
        make_judgment(pair, make_user("lena"), 1)
        make_judgment(pair, make_user("luis"), 0)
        judge(
            judgments.undo_judgment(project=pair.project, user=make_user("lena")),
            "lena",
            1,
        )
        assert pair.slots.waiting().count() == 2
        make_judgment(pair, make_user("leo"), 1)
        make_judgment(pair, make_user("lea"), 1)
        assert outcome(pair) == (1, "people")


class TestOverlap:
    def test_agreement_settles_the_pair(self):
        pair = make_pair(slots=2)
        make_judgment(pair, make_user("lena"), 1)
        assert outcome(pair) == (None, None)
        assert pair in Pair.objects.awaiting_judgment()
        make_judgment(pair, make_user("luis"), 1)
        assert outcome(pair) == (1, "people")
        assert pair in Pair.objects.settled()
        assert pair not in Pair.objects.awaiting_judgment()

    def test_a_tie_adds_two_slots_of_higher_priority(self):
        pair = make_pair(slots=2)
        for _ in range(3):
            make_pair(project=pair.project)
        make_judgment(pair, make_user("lena"), 1)
        make_judgment(pair, make_user("luis"), 0)
        added = list(pair.slots.filter(ordinal__gt=2).order_by("ordinal"))
        assert [(s.ordinal, s.round, s.priority, s.state) for s in added] == [
            (3, 2, 1, SlotState.OPEN),
            (4, 2, 1, SlotState.OPEN),
        ]
        found = claim(pair.project, "leo")
        assert found.slot == added[0]
        judge(found, "leo", 0)
        assert outcome(pair) == (None, None)
        judge(claim(pair.project, "lea"), "lea", 0)
        assert outcome(pair) == (0, "people")
        assert pair.slots.count() == 4

    def test_by_default_a_pair_can_stay_split_and_is_a_curators(self):
        pair = make_pair()
        for name, verdict in (("lena", 1), ("luis", 0), ("lea", 1), ("leo", 0)):
            make_judgment(pair, make_user(name), verdict)
        assert list(Pair.objects.disputed()) == [pair]
        assert not pair.slots.waiting().exists()

    def test_an_odd_limit_gives_the_last_word_to_one_person(self):
        pair = make_pair(project=make_project(overlap_limit=3))
        make_judgment(pair, make_user("lena"), 1)
        make_judgment(pair, make_user("luis"), 0)
        assert pair.slots.count() == 3
        make_judgment(pair, make_user("leo"), 0)
        assert outcome(pair) == (0, "people")

    def test_a_first_round_that_is_odd_is_settled_by_its_majority(self):
        pair = make_pair(project=make_project(overlap=3))
        for name, verdict in (("lena", 1), ("luis", 0), ("lea", 1)):
            make_judgment(pair, make_user(name), verdict)
        assert outcome(pair) == (1, "people")
        assert pair.slots.count() == 3

    def test_a_pair_that_was_split_needs_a_lead_of_two_after_an_undo_too(self):
        pair = make_pair()
        for name, verdict in (("lena", 1), ("luis", 0), ("lea", 1)):
            make_judgment(pair, make_user(name), verdict)
        back = judgments.undo_judgment(project=pair.project, user=make_user("lena"))
        assert not pair.slots.filter(state=SlotState.OPEN).exists()
        judge(back, "lena", 1)
        assert outcome(pair) == (None, None)
        make_judgment(pair, make_user("leo"), 1)
        assert outcome(pair) == (1, "people")

    def test_a_split_pair_that_no_labeler_is_left_for_is_a_curators(self):
        pair = make_pair(project=make_project())
        pair.project.memberships.filter(user__username__in=["lea", "leo"]).delete()
        make_judgment(pair, make_user("lena"), 1)
        assert not Pair.objects.skipped_by_all().exists()
        make_judgment(pair, make_user("luis"), 0)
        assert list(Pair.objects.skipped_by_all()) == [pair]
        adjudication.adjudicate(
            project=pair.project, pair=pair, curator=make_user("rita"), verdict=1
        )
        assert outcome(pair) == (1, "adjudication")
        assert not Pair.objects.skipped_by_all().exists()

    def test_a_tie_at_the_limit_is_disputed_until_a_curator_settles_it(self):
        project = make_project(overlap=2, overlap_limit=2)
        pair = make_pair(project=project)
        make_judgment(pair, make_user("lena"), 1)
        make_judgment(pair, make_user("luis"), 0)
        assert list(Pair.objects.disputed()) == [pair]
        assert pair in Pair.objects.unsettled()
        adjudication.adjudicate(
            project=pair.project,
            pair=pair,
            curator=make_user("rita"),
            verdict=0,
            reasons=["logic"],
        )
        assert outcome(pair) == (0, "adjudication")
        assert not Pair.objects.disputed().exists()
        with pytest.raises(adjudication.AlreadySettled):
            adjudication.adjudicate(
                project=pair.project, pair=pair, curator=make_user("rita"), verdict=1
            )
        with pytest.raises(judgments.NothingToUndo, match="curator has settled"):
            judgments.undo_judgment(project=project, user=make_user("lena"))

    def test_only_curators_settle_and_not_their_own_samples(self):
        project = make_project(overlap=2, overlap_limit=2)
        sample = make_sample(project=project, author=make_user("rita"))
        pair = make_pair(turn=sample.turns.get())
        make_judgment(pair, make_user("lena"), 1)
        make_judgment(pair, make_user("luis"), 0)
        for name, error in (
            ("lena", Forbidden),
            ("rita", Forbidden),
            ("sam", NotAMember),
        ):
            with pytest.raises(error):
                adjudication.adjudicate(
                    project=pair.project, pair=pair, curator=make_user(name), verdict=1
                )
        adjudication.adjudicate(
            project=pair.project, pair=pair, curator=make_user("ada"), verdict=1
        )

    def test_a_curators_word_closes_what_is_still_open(self):
        pair = make_pair(slots=2)
        found = claim(pair.project, "lena")
        adjudication.adjudicate(
            project=pair.project, pair=pair, curator=make_user("rita"), verdict=1
        )
        assert not pair.slots.waiting().exists()
        assert judge(found, "lena", 1).is_extra
        assert outcome(pair) == (1, "adjudication")

    def test_a_settled_pair_is_not_the_curators(self):
        pair = make_pair(slots=1)
        make_judgment(pair, make_user("lena"), 1)
        with pytest.raises(adjudication.AlreadySettled):
            adjudication.adjudicate(
                project=pair.project,
                pair=pair,
                curator=make_user("rita"),
                verdict=0,
                reasons=["logic"],
            )

    def test_derived_outcomes_have_their_own_source(self):
        project = make_project()
        same = make_pair(project=project, source="identical")
        broken = make_pair(project=project, source="format")
        assert outcome(same) == (1, "identical")
        assert outcome(make_pair(project=project, source="rule")) == (1, "rule")
        assert outcome(broken) == (0, "format")


class TestQueueState:
    def test_counts_slots_by_state(self):
        project = make_project(overlap=1)
        for _ in range(5):
            make_pair(project=project)
        judge(claim(project, "lena"), "lena")
        held = claim(project, "lena")
        run_out(claim(project, "luis"))
        assert judgments.queue_state(project) == judgments.QueueState(
            open=2, leased=1, expired=1, done=1, next_free_at=held.leased_until
        )


class TestDatabase:
    """The promises hold even for code that forgets them."""

    def refuses(self, name, deed):
        with pytest.raises(IntegrityError, match=name), transaction.atomic():
            deed()

    def test_refuses_a_second_judgment_of_a_person(self):
        pair = make_pair()
        judgment = make_judgment(pair, make_user("lena"), 1)
        other = pair.slots.waiting().get()
        self.refuses(
            "judgment_once_per_labeler",
            lambda: Judgment.objects.create(
                project=pair.project,
                pair=pair,
                slot=other,
                token=9,
                labeler=judgment.labeler,
                verdict=1,
            ),
        )

    def test_refuses_a_second_judgment_under_one_lease(self):
        judgment = make_judgment(make_pair(), make_user("lena"), 1)
        self.refuses(
            "judgment_once_per_lease",
            lambda: Judgment.objects.create(
                project=judgment.project,
                pair=judgment.pair,
                slot=judgment.slot,
                token=judgment.token,
                labeler=make_user("luis"),
                verdict=1,
            ),
        )

    def test_refuses_one_judgment_for_two_slots(self):
        pair = make_pair(slots=2)
        judgment = make_judgment(pair, make_user("lena"), 1)
        self.refuses(
            "judgment_id",
            lambda: pair.slots.filter(state="open").update(
                state="done", judgment=judgment
            ),
        )

    def test_refuses_a_done_slot_without_a_judgment(self):
        pair = make_pair(slots=1)
        self.refuses("slot_done_means_judged", lambda: pair.slots.update(state="done"))

    def test_refuses_a_lease_without_a_holder(self):
        pair = make_pair(slots=1)
        self.refuses(
            "slot_leased_means_held", lambda: pair.slots.update(state="leased")
        )

    def test_refuses_a_second_meeting(self):
        pair = make_pair()
        Touch.objects.create(pair=pair, user=make_user("lena"))
        self.refuses(
            "touch_pkey",
            lambda: Touch.objects.create(pair=pair, user=make_user("lena")),
        )

    def test_refuses_a_withdrawal_without_a_reason(self):
        judgment = make_judgment(make_pair(), make_user("lena"), 1)
        self.refuses(
            "judgment_withdrawn_has_reason",
            lambda: Judgment.objects.create(
                project=judgment.project,
                pair=judgment.pair,
                slot=judgment.slot,
                token=judgment.token,
                labeler=judgment.labeler,
                verdict=2,
                supersedes=judgment,
            ),
        )
