"""How a sample comes to be approved, and how drafts survive two tabs."""

import pytest

from annotation.access import Forbidden, NotAMember
from annotation.authoring import samples
from annotation.judging import judgments
from annotation.models import Draft, Pair, SampleStatus, Slot, SlotState
from tests.cast import make_judgment, make_pair, make_project, make_sample, make_user

pytestmark = pytest.mark.django_db

STATUS = SampleStatus


def written_by(name, status=STATUS.DRAFT, **fields):
    return make_sample(author=make_user(name), status=status, **fields)


class TestSubmit:
    def test_by_the_author(self):
        sample = written_by("lena")
        samples.submit_sample(
            project=sample.project, sample=sample, user=make_user("lena")
        )
        sample.refresh_from_db()
        assert sample.status == STATUS.SUBMITTED

    def test_by_another_labeler_is_forbidden(self):
        sample = written_by("lena")
        with pytest.raises(Forbidden, match="by its author or a curator"):
            samples.submit_sample(
                project=sample.project, sample=sample, user=make_user("luis")
            )

    def test_clears_the_comment_it_was_returned_with(self):
        sample = written_by("lena", STATUS.RETURNED, return_comment="Which cake?")
        submitted = samples.submit_sample(
            project=sample.project, sample=sample, user=make_user("lena")
        )
        assert submitted.return_comment == ""

    def test_of_an_approved_sample_is_refused(self):
        sample = written_by("lena", STATUS.APPROVED)
        with pytest.raises(samples.WrongStatus) as caught:
            samples.submit_sample(
                project=sample.project, sample=sample, user=make_user("lena")
            )
        assert str(caught.value) == (
            f"Sample {sample} is approved; "
            "only a draft or returned one can be submitted."
        )

    def test_of_an_unfinished_sample_names_the_turn(self):
        sample = written_by("lena", turns=(("user", "Hi.", " "),))
        with pytest.raises(samples.IncompleteSample) as caught:
            samples.submit_sample(
                project=sample.project, sample=sample, user=make_user("lena")
            )
        assert str(caught.value) == f"Sample {sample} has no response in turn 1."


class TestApprove:
    def test_by_a_curator(self):
        sample = written_by("lena", STATUS.SUBMITTED)
        approved = samples.approve_sample(
            project=sample.project, sample=sample, user=make_user("rita")
        )
        assert approved.status == STATUS.APPROVED

    def test_by_a_stranger_finds_nothing(self):
        sample = written_by("lena", STATUS.SUBMITTED)
        with pytest.raises(NotAMember):
            samples.approve_sample(
                project=sample.project, sample=sample, user=make_user("sam")
            )

    @pytest.mark.parametrize("name", ["lena", "luis", "tara"])
    def test_by_others_is_forbidden(self, name):
        sample = written_by("lena", STATUS.SUBMITTED)
        with pytest.raises(Forbidden) as caught:
            samples.approve_sample(
                project=sample.project, sample=sample, user=make_user(name)
            )
        assert str(caught.value) == "Approving a sample is for the role curator."

    def test_of_ones_own_sample_is_forbidden_to_curators_but_not_to_admins(self):
        own = written_by("rita", STATUS.SUBMITTED)
        with pytest.raises(Forbidden):
            samples.approve_sample(
                project=own.project, sample=own, user=make_user("rita")
            )
        own = written_by("ada", STATUS.SUBMITTED)
        samples.approve_sample(project=own.project, sample=own, user=make_user("ada"))

    def test_of_a_draft_is_refused(self):
        draft = written_by("lena")
        with pytest.raises(samples.WrongStatus):
            samples.approve_sample(
                project=draft.project, sample=draft, user=make_user("rita")
            )


class TestReturn:
    def test_keeps_the_comment_for_the_author(self):
        sample = written_by("lena", STATUS.SUBMITTED)
        back = samples.return_sample(
            project=sample.project,
            sample=sample,
            user=make_user("rita"),
            comment=" Which cake? ",
        )
        assert (back.status, back.return_comment) == (STATUS.RETURNED, "Which cake?")

    def test_without_a_comment_is_refused(self):
        sample = written_by("lena", STATUS.SUBMITTED)
        with pytest.raises(samples.CommentMissing):
            samples.return_sample(
                project=sample.project,
                sample=sample,
                user=make_user("rita"),
                comment=" ",
            )


class TestRetire:
    def test_takes_the_pairs_out_of_the_queue_and_keeps_what_was_judged(self):
        sample = written_by("ada", STATUS.APPROVED)
        pair = make_pair(turn=sample.turns.get(), slots=3)
        judgment = make_judgment(pair, make_user("lena"), 1)
        held = judgments.claim_slot(project=sample.project, user=make_user("luis"))
        samples.retire_sample(
            project=sample.project, sample=sample, user=make_user("rita")
        )
        assert list(
            pair.slots.order_by("ordinal").values_list("state", "judgment")
        ) == [
            (SlotState.DONE, judgment.pk),
            (SlotState.CLOSED, None),
            (SlotState.CLOSED, None),
        ]
        late = judgments.record_judgment(
            project=held.slot.project,
            slot_id=held.slot.pk,
            token=held.token,
            user=make_user("luis"),
            verdict=1,
        )
        assert late.is_extra
        assert Pair.objects.with_outcome().get().outcome is None

    def test_is_final(self):
        sample = written_by("lena", STATUS.RETIRED)
        for deed in (samples.retire_sample, samples.approve_sample):
            with pytest.raises(samples.WrongStatus):
                deed(project=sample.project, sample=sample, user=make_user("rita"))

    def test_by_a_labeler_is_forbidden(self):
        sample = written_by("lena", STATUS.APPROVED)
        make_pair(turn=sample.turns.get())
        with pytest.raises(Forbidden):
            samples.retire_sample(
                project=sample.project, sample=sample, user=make_user("lena")
            )
        assert Slot.objects.waiting().exists()


class TestDraft:
    def make(self, **content):
        return Draft.objects.create(
            project=make_project(), author=make_user("lena"), content=content
        )

    def test_every_save_is_a_version(self):
        draft = self.make()
        saved = samples.save_draft(
            project=draft.project,
            user=make_user("lena"),
            draft=draft,
            version=0,
            content={"id": "one"},
        )
        saved = samples.save_draft(
            project=saved.project,
            user=make_user("lena"),
            draft=saved,
            version=1,
            content={"id": "two"},
        )
        assert (saved.version, saved.content) == (2, {"id": "two"})

    def test_a_stale_save_is_refused_with_what_the_server_has(self):
        draft = self.make()
        samples.save_draft(
            project=draft.project,
            user=make_user("lena"),
            draft=draft,
            version=0,
            content={"id": "first tab"},
        )
        with pytest.raises(samples.StaleDraft) as caught:
            samples.save_draft(
                project=draft.project,
                user=make_user("lena"),
                draft=draft,
                version=0,
                content={"id": "second tab"},
            )
        assert caught.value.draft.content == {"id": "first tab"}
        assert str(caught.value) == (
            "This draft was saved elsewhere: the server has version 1, "
            "this page began from version 0."
        )

    def test_a_save_repeated_is_no_conflict(self):
        draft = self.make()
        samples.save_draft(
            project=draft.project,
            user=make_user("lena"),
            draft=draft,
            version=0,
            content={"id": "one"},
        )
        again = samples.save_draft(
            project=draft.project,
            user=make_user("lena"),
            draft=draft,
            version=0,
            content={"id": "one"},
        )
        assert again.version == 1
