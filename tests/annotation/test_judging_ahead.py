"""Pairs fetched ahead of their showing, pages that are left, pairs set aside."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from annotation.judging import judgment_checks, judgments
from annotation.models import Judgment, Slot, Touch
from tests.annotation.test_judging import claim, judge, leave, nothing, outcome, run_out
from tests.cast import (
    make_pair,
    make_project,
    make_user,
)

pytestmark = pytest.mark.django_db


def after(found, name):
    """Fetch what comes after the pair on screen."""
    return judgments.claim_ahead(
        project=found.slot.project,
        user=make_user(name),
        shown=found.slot.pk,
        token=found.token,
    )


def forgotten(pair):
    """Let Lena's page be left, Luis judge its pair, and Lena's touch of it go."""
    shown = claim(pair.project, "lena")
    leave("lena", shown)
    run_out(shown)
    judge(claim(pair.project, "luis"), "luis")
    Slot.objects.filter(pair=pair, state="open").update(state="closed")
    nothing(pair.project, "lena")
    Slot.objects.filter(pair=pair, state="closed").update(state="open")
    assert not Touch.objects.filter(user=make_user("lena"), pair=pair).exists()
    return shown


def aside(found, name):
    judgments.set_aside(
        project=found.slot.project,
        slot_id=found.slot.pk,
        token=found.token,
        user=make_user(name),
    )


class TestAhead:
    @pytest.mark.parametrize(("whole", "short"), [(600, 90), (30, 30)])
    def test_leases_the_next_pair_for_a_short_time(self, whole, short):
        project = make_project(lease_seconds=whole)
        make_pair(project=project)
        second = make_pair(project=project)
        following = after(claim(project, "lena"), "lena").claim
        slot = following.slot
        assert (slot.pair, slot.is_ahead) == (second, True)
        assert slot.leased_until - slot.leased_at == timedelta(seconds=short)
        assert not Touch.objects.get(pair=second).is_seen

    def test_a_person_has_one_pair_ahead_however_often_they_ask(self):
        project = make_project()
        for _ in range(4):
            make_pair(project=project)
        shown = claim(project, "lena")
        found = {after(shown, "lena").claim.slot.pk for _ in range(3)}
        assert len(found) == 1
        assert Slot.objects.filter(is_ahead=True).count() == 1

    def test_showing_it_makes_it_a_whole_lease(self):
        project = make_project()
        for _ in range(3):
            make_pair(project=project)
        second = after(claim(project, "lena"), "lena").claim
        ahead = after(second, "lena")
        slot = Slot.objects.get(pk=second.slot.pk)
        assert not slot.is_ahead
        assert slot.leased_until - slot.leased_at == timedelta(seconds=600)
        assert ahead.since == slot.leased_at
        assert Touch.objects.get(pair=second.pair).is_seen
        assert Slot.objects.get(is_ahead=True) == ahead.claim.slot

    def test_it_can_be_judged_before_the_server_heard_of_its_showing(self):
        project = make_project()
        make_pair(project=project)
        make_pair(project=project)
        shown = claim(project, "lena")
        following = after(shown, "lena").claim
        assert not judge(following, "lena").is_extra
        assert not judge(shown, "lena").is_extra

    def test_after_an_undo_the_pair_that_was_on_screen_comes_next(self):
        project = make_project()
        for _ in range(4):
            make_pair(project=project)
        first = claim(project, "lena")
        second = after(first, "lena").claim
        judge(first, "lena")
        third = after(second, "lena").claim
        back = judgments.undo_judgment(project=project, user=make_user("lena"))
        assert back.pair == first.pair
        assert after(back, "lena").claim.slot == second.slot
        judge(back, "lena")
        assert after(second, "lena").claim.slot == third.slot

    def test_nothing_comes_after_the_last_pair(self):
        pair = make_pair(slots=2)
        ahead = after(claim(pair.project, "lena"), "lena")
        assert ahead.claim == judgments.NothingToDo("nothing for you")

    def test_nothing_comes_in_a_paused_project(self):
        project = make_project()
        make_pair(project=project)
        make_pair(project=project)
        shown = claim(project, "lena")
        project.is_paused = True
        project.save()
        assert after(shown, "lena").claim == judgments.NothingToDo("paused")

    def test_a_pair_that_passed_on_is_told(self):
        pair = make_pair(slots=1)
        make_pair(project=pair.project)
        shown = claim(pair.project, "lena")
        run_out(shown)
        claim(pair.project, "luis")
        with pytest.raises(judgments.LeaseLost):
            after(shown, "lena")
        assert Slot.objects.leased().filter(holder=make_user("lena")).count() == 0

    def test_a_pair_never_seen_that_passed_on_may_be_met_after_all(self):
        project = make_project(overlap=2)
        make_pair(project=project, slots=1)
        unseen = make_pair(project=project)
        make_pair(project=project, slots=1)
        first = claim(project, "lena")
        second = after(first, "lena").claim
        assert second.pair == unseen
        run_out(second)
        luis = claim(project, "luis")
        assert luis.slot == second.slot
        judge(first, "lena")
        # Their next claim drops the touch; the pair's other slot is theirs to judge.
        assert claim(project, "lena").pair in (unseen, second.pair)

    def test_extending_keeps_it_short(self):
        project = make_project()
        make_pair(project=project)
        make_pair(project=project)
        following = after(claim(project, "lena"), "lena").claim
        until = judgments.extend_lease(
            project=following.slot.project,
            slot_id=following.slot.pk,
            token=following.token,
            user=make_user("lena"),
        )
        assert until - following.slot.leased_at < timedelta(seconds=100)


class TestLeave:
    def test_frees_the_pair_ahead_at_once_and_the_one_shown_in_a_moment(self):
        project = make_project(overlap=1)
        make_pair(project=project)
        make_pair(project=project)
        shown = claim(project, "lena")
        following = after(shown, "lena").claim
        assert leave("lena", shown, following) == 2
        assert claim(project, "luis").slot == following.slot
        shown.slot.refresh_from_db()
        assert timedelta(0) < shown.slot.leased_until - shown.slot.leased_at
        assert nothing(project, "lea").kind == "all leased"
        assert not Slot.objects.filter(
            pk=shown.slot.pk, leased_until__gt=Now() + timedelta(seconds=11)
        )

    def test_a_reload_finds_the_same_pair_with_a_whole_lease(self):
        pair = make_pair(slots=1)
        shown = claim(pair.project, "lena")
        leave("lena", shown)
        again = claim(pair.project, "lena")
        assert (again.slot, again.token) == (shown.slot, shown.token)
        assert again.leased_until - again.slot.leased_at == timedelta(seconds=600)
        # The beacon of the page before comes late: the pair is not its any more.
        assert leave("lena", shown) == 0

    def test_a_pair_somebody_took_meanwhile_is_met_again(self):
        pair = make_pair(slots=2)
        shown = claim(pair.project, "lena")
        leave("lena", shown)
        run_out(shown)
        judge(claim(pair.project, "luis"), "luis")
        again = claim(pair.project, "lena")
        assert (again.pair, again.slot == shown.slot) == (pair, False)
        assert Touch.objects.get(pair=pair, user=make_user("lena")).is_seen

    def test_a_pair_that_was_judged_or_skipped_is_not_met_again(self):
        project = make_project(overlap=3, overlap_limit=3)
        first, second = make_pair(project=project), make_pair(project=project)
        shown = claim(project, "lena")
        following = after(shown, "lena").claim
        leave("lena", shown, following)
        judge(shown, "lena")
        judgments.skip_slot(
            project=following.slot.project,
            slot_id=following.slot.pk,
            token=following.token,
            user=make_user("lena"),
            reason="Cannot tell.",
        )
        assert nothing(project, "lena").kind == "nothing for you"
        assert Touch.objects.filter(user=make_user("lena")).count() == 2
        assert {first, second} == {shown.pair, following.pair}

    def test_what_is_posted_by_the_page_that_was_left_counts(self):
        pair = make_pair(slots=1)
        shown = claim(pair.project, "lena")
        leave("lena", shown)
        run_out(shown)
        assert not judge(shown, "lena").is_extra

    def test_what_is_posted_after_the_pair_was_forgotten_is_an_extra(self):
        """The lease's proof says that it was theirs; the touch is gone by then."""
        pair = make_pair(slots=1)
        shown = forgotten(pair)
        late = judge(shown, "lena", 0, proof=shown.slot.lease_proof)
        assert (late.is_extra, late.slot, late.token) == (True, shown.slot, 1)
        assert judge(shown, "lena", 0, proof=shown.slot.lease_proof) == late
        assert outcome(pair) == (1, "people")
        # Who has judged a pair does not meet it.
        assert Touch.objects.get(pair=pair, user=make_user("lena")).is_seen

    def test_what_is_posted_late_keeps_the_pair_from_being_met_again(self):
        pair = make_pair(slots=2)
        shown = forgotten(pair)
        judge(shown, "lena", 0, proof=shown.slot.lease_proof)
        assert nothing(pair.project, "lena").kind == "nothing for you"

    def test_a_proof_is_for_one_person_and_one_lease(self):
        pair = make_pair(slots=1)
        shown = forgotten(pair)
        other = claim(make_pair().project, "lena")
        for name, proof in (
            ("lena", ""),
            ("lena", other.slot.lease_proof),
            ("lena", shown.slot.lease_proof[:-1]),
            ("lea", shown.slot.lease_proof),
        ):
            with pytest.raises(judgments.LeaseLost):
                judge(shown, name, 0, proof=proof)
        assert Judgment.objects.get().labeler == make_user("luis")

    def test_a_late_judgment_that_is_refused_leaves_no_trace(self):
        pair = make_pair(slots=1)
        shown = forgotten(pair)
        with pytest.raises(judgment_checks.InvalidJudgment):
            judge(shown, "lena", 0, reasons=["mood"], proof=shown.slot.lease_proof)
        assert not Touch.objects.filter(user=make_user("lena"), pair=pair).exists()

    def test_nobody_leaves_for_another(self):
        pair = make_pair(slots=1)
        shown = claim(pair.project, "lena")
        assert leave("luis", shown) == 0


class TestSetAside:
    def test_the_pair_comes_after_all_others(self):
        project = make_project()
        first, second, third = (make_pair(project=project) for _ in range(3))
        aside(claim(project, "lena"), "lena")
        met = []
        for _ in range(3):
            met.append(claim(project, "lena"))
            judge(met[-1], "lena")
        assert [found.pair for found in met] == [second, third, first]

    def test_it_waits_behind_every_priority(self):
        project = make_project()
        urgent = make_pair(project=project, priority=7)
        other = make_pair(project=project)
        aside(claim(project, "lena"), "lena")
        assert claim(project, "lena").pair == other
        assert claim(project, "luis").pair == other
        assert claim(project, "luis", another=True).pair == urgent

    def test_the_only_pair_left_comes_back(self):
        pair = make_pair()
        for _ in range(20):
            found = claim(pair.project, "lena")
            assert found.pair == pair
            aside(found, "lena")
        assert not judge(claim(pair.project, "lena"), "lena").is_extra

    def test_it_is_no_judgment_and_no_skip(self):
        pair = make_pair()
        aside(claim(pair.project, "lena"), "lena")
        assert not Touch.objects.exists()
        assert not Judgment.objects.exists()
        assert not pair.skips.exists()
        assert set(pair.slots.values_list("state", flat=True)) == {"open"}

    def test_a_slot_that_another_person_gives_back_is_found_too(self):
        """Their cursor passed the pair while they had met it; then it was un-met."""
        project = make_project()
        pair = make_pair(project=project)
        others = [make_pair(project=project) for _ in range(12)]
        hers = claim(project, "lena")
        his = claim(project, "luis")
        assert hers.pair == his.pair == pair
        for _ in others:
            judge(claim(project, "lena", another=True), "lena")
        aside(hers, "lena")
        judge(claim(project, "lena"), "lena")
        judgments.release_slot(
            project=his.slot.project,
            slot_id=his.slot.pk,
            token=his.token,
            user=make_user("luis"),
        )
        assert nothing(project, "lena").kind == "nothing for you"
        assert claim(project, "lea").slot == his.slot

    def test_the_lease_is_gone(self):
        pair = make_pair()
        found = claim(pair.project, "lena")
        aside(found, "lena")
        with pytest.raises(judgments.LeaseLost):
            aside(found, "lena")
        with pytest.raises(judgments.LeaseLost):
            judge(found, "lena")
