"""The curators' deeds: comments at a place, a fix with attribution, many approvals."""

import pytest

from actions.in_force import Contexts
from annotation.access import Forbidden
from annotation.authoring import review, samples
from annotation.authoring.anchors import place_turn, put_notes
from annotation.authoring.draft_checks import check_turns
from annotation.authoring.export import sample_to_json
from annotation.authoring.sample_rows import save_sample
from annotation.models import Comment, Sample, SampleStatus, Slot
from tests.cast import LABEL, make_pair, make_project, make_sample, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def sample():
    return make_sample(author=make_user("lena"), status="submitted")


def comment(sample, anchor="plan/2", text="Ask first.", position=0, name="rita"):
    return review.comment_on(
        project=sample.project,
        sample=sample,
        user=make_user(name),
        text=text,
        position=position,
        anchor=anchor,
    )


class TestPlaces:
    def test_every_piece_of_a_response_has_one(self):
        turn = place_turn(0, "user", "A cake, please.", LABEL)
        assert [place.anchor for place in turn.places()] == [
            *("", "input", "block/1", "plan/1", "plan/2", "action/1/name"),
            "action/1/parameters/kind",
        ]
        assert turn.place("plan/2").text == "Order the cake."
        assert turn.place("action/1/parameters/kind").text == "bakery"

    def test_a_text_outside_the_grammar_has_one(self):
        turn = place_turn(0, "user", "Hm.", "<<think>>never closed")
        assert [place.anchor for place in turn.places()] == ["", "input", "block/1"]

    def test_the_steps_of_two_plans_are_counted_on(self):
        text = "<<think>>Plan:\n1. A\n\nNo:\nPlan:\n1. B\n2. C\n<</think>>Done."
        turn = place_turn(0, "user", "Hm.", text)
        steps = [p for p in turn.places() if p.anchor.startswith("plan/")]
        assert [(p.anchor, p.text) for p in steps] == [
            ("plan/1", "A"),
            ("plan/2", "B"),
            ("plan/3", "C"),
        ]

    def test_a_parameter_with_a_very_long_name_is_no_place_of_its_own(self):
        call = '<<think>><<action>>{"name": "A", "parameters": {"%s": 1}}<</action>>'
        turn = place_turn(0, "user", "Hm.", call % ("x" * 300))
        assert max(len(place.anchor) for place in turn.places()) <= 200


class TestComment:
    def test_keeps_what_stood_there(self, sample):
        left = comment(sample)
        assert (left.position, left.anchor, left.quote) == (
            0,
            "plan/2",
            "Order the cake.",
        )

    def test_says_when_its_place_says_something_else(self, sample):
        comment(sample)
        turns = [
            place_turn(0, "user", "A cake, please.", LABEL),
            place_turn(0, "user", "A cake, please.", LABEL.replace("Order", "Pay")),
            place_turn(0, "user", "A cake, please.", "Here it is."),
        ]
        for turn in turns:
            assert put_notes([turn], Comment.objects.all()) == []
        stands, changed, gone = turns
        assert [n.is_changed for n in stands.place("plan/2").notes] == [False]
        assert [n.is_changed for n in changed.place("plan/2").notes] == [True]
        assert [n.is_changed for n in gone.lost] == [True]

    @pytest.mark.parametrize(
        ("position", "anchor"), [(0, "plan/9"), (0, "nowhere"), (7, ""), (7, "input")]
    )
    def test_at_no_place_is_refused(self, sample, position, anchor):
        with pytest.raises(review.UnknownPlace):
            comment(sample, anchor, position=position)

    def test_without_words_is_refused(self, sample):
        with pytest.raises(samples.CommentMissing):
            comment(sample, text="  ")

    @pytest.mark.parametrize("name", ["lena", "luis", "tara"])
    def test_by_others_is_forbidden(self, sample, name):
        with pytest.raises(Forbidden):
            comment(sample, name=name)

    def test_is_resolved_by_the_author_or_a_curator(self, sample):
        left = comment(sample)
        for name in ("lena", "rita"):
            user = make_user(name)
            done = review.resolve_comment(
                project=left.sample.project, comment=left, user=user
            )
            assert done.resolved_by == user
            again = review.resolve_comment(
                project=left.sample.project, comment=left, user=user, resolved=False
            )
            assert again.resolved_at is None
        with pytest.raises(Forbidden):
            review.resolve_comment(
                project=left.sample.project, comment=left, user=make_user("luis")
            )

    def test_resolving_twice_keeps_the_first(self, sample):
        left = comment(sample)
        review.resolve_comment(
            project=left.sample.project, comment=left, user=make_user("lena")
        )
        done = review.resolve_comment(
            project=left.sample.project, comment=left, user=make_user("rita")
        )
        assert done.resolved_by == make_user("lena")

    def test_lets_a_sample_be_returned_without_another_word(self, sample):
        comment(sample)
        back = samples.return_sample(
            project=sample.project, sample=sample, user=make_user("rita"), comment=""
        )
        assert back.status == SampleStatus.RETURNED

    def test_that_is_resolved_does_not(self, sample):
        left = comment(sample)
        review.resolve_comment(
            project=left.sample.project, comment=left, user=make_user("lena")
        )
        with pytest.raises(samples.CommentMissing):
            samples.return_sample(
                project=sample.project,
                sample=sample,
                user=make_user("rita"),
                comment="",
            )

    def test_is_settled_by_the_approval(self, sample):
        left = comment(sample)
        samples.approve_sample(
            project=sample.project, sample=sample, user=make_user("rita")
        )
        left.refresh_from_db()
        assert left.resolved_by == make_user("rita")

    def test_stands_in_the_authors_draft_beside_its_turn(self, sample):
        comment(sample)
        comment(sample, anchor="", position=None, text="All of it.")
        draft = review.start_fix(
            project=sample.project, sample=sample, user=make_user("rita")
        )
        draft.content["turns"][0]["response"] = LABEL.replace("Order", "Pay")
        notes = review.notes_of_draft(draft, check_turns(draft.content, Contexts()))
        assert [n.comment.text for n in notes[0]] == ["All of it."]
        assert [(n.comment.text, n.is_changed) for n in notes[1]] == [
            ("Ask first.", True)
        ]


class TestFix:
    @pytest.fixture
    def sample(self):
        sample = save_sample(
            project=make_project(),
            author=make_user("lena"),
            document={
                "id": "one",
                "turns": [{"input": {"kind": "user", "text": "Hi."}, "response": "A."}],
            },
        )
        make_user("rita")
        return sample

    def finish(self, draft, response="B.", why="Wording."):
        document = sample_to_json(draft.sample)
        document["turns"][0]["response"] = response
        return review.finish_fix(
            project=draft.project,
            draft=draft,
            document=document,
            editor=draft.author,
            why=why,
        )

    def test_keeps_the_author_and_names_the_editor(self, sample):
        rita = make_user("rita")
        draft = review.start_fix(project=sample.project, sample=sample, user=rita)
        fixed = self.finish(draft)
        assert (fixed.author.username, fixed.status) == ("lena", "submitted")
        assert fixed.turns.get().response == "B."
        version = fixed.versions.last()
        assert (version.editor, version.why) == (rita, "Wording.")

    def test_is_gone_on_with(self, sample):
        rita = make_user("rita")
        first = review.start_fix(project=sample.project, sample=sample, user=rita)
        assert (
            review.start_fix(project=sample.project, sample=sample, user=rita) == first
        )

    def test_of_a_sample_that_changed_meanwhile_is_refused(self, sample):
        mine = review.start_fix(
            project=sample.project, sample=sample, user=make_user("rita")
        )
        theirs = review.start_fix(
            project=sample.project, sample=sample, user=make_user("ada")
        )
        self.finish(theirs, "C.")
        with pytest.raises(review.FixOutdated):
            self.finish(mine)
        assert sample.turns.get().response == "C."

    def test_of_a_sample_that_went_back_is_refused(self, sample):
        draft = review.start_fix(
            project=sample.project, sample=sample, user=make_user("rita")
        )
        samples.return_sample(
            project=sample.project, sample=sample, user=make_user("ada"), comment="No."
        )
        with pytest.raises(samples.WrongStatus):
            self.finish(draft)

    @pytest.mark.parametrize("status", ["draft", "submitted", "approved", "returned"])
    @pytest.mark.parametrize("author", ["lena", None])
    def test_of_any_sample_brings_it_to_review(self, sample, status, author):
        sample.author = make_user(author) if author else None
        sample.status, sample.return_comment = status, "Ask first."
        sample.save()
        pair = make_pair(project=sample.project, turn=sample.turns.get())
        rita = make_user("rita")
        fixed = self.finish(
            review.start_fix(project=sample.project, sample=sample, user=rita)
        )
        assert fixed.author == sample.author
        assert (fixed.status, fixed.return_comment) == ("submitted", "")
        assert fixed.versions.last().editor == rita
        waiting = pair.slots.waiting().exists()
        assert waiting == (status != "approved")  # the others' have been closed before
        samples.approve_sample(
            project=fixed.project, sample=fixed, user=make_user("ada")
        )

    def test_of_a_retired_sample_is_refused(self, sample):
        sample = samples.retire_sample(
            project=sample.project, sample=sample, user=make_user("rita")
        )
        with pytest.raises(samples.WrongStatus, match="is retired; only a"):
            review.start_fix(
                project=sample.project, sample=sample, user=make_user("rita")
            )

    @pytest.mark.parametrize("name", ["lena", "tara"])
    def test_by_others_is_forbidden(self, sample, name):
        with pytest.raises(Forbidden):
            review.start_fix(
                project=sample.project, sample=sample, user=make_user(name)
            )


class TestBulk:
    @pytest.fixture
    def project(self):
        return make_project()

    def make(self, project, name="lena", status="submitted", **fields):
        author = make_user(name) if name else None
        return make_sample(project=project, author=author, status=status, **fields)

    def plan(self, project, **lookups):
        rows = Sample.objects.filter(project=project, status="submitted", **lookups)
        return review.plan_bulk(user=make_user("rita"), samples=rows)

    def approve(self, project, keys, name="rita"):
        return review.approve_in_bulk(project=project, user=make_user(name), keys=keys)

    def test_says_what_it_would_do_and_what_not_and_why(self, project):
        good = self.make(project)
        imported = self.make(project, None)
        own = self.make(project, "rita")
        bad = self.make(project, turns=(("user", "Hi.", "<<think>>never closed"),))
        empty = self.make(project, turns=(("user", "Hi.", " "),))
        talked = self.make(project)
        comment(talked)
        self.make(project, status="approved")
        plan = self.plan(project)
        assert plan.ready == (good.pk, imported.pk)
        why = dict(plan.left_out)
        assert why[own] == "your own"
        assert why[bad].startswith("turn 1 breaks the response grammar: ")
        assert why[empty] == "turn 1 has no response"
        assert why[talked] == "has open comments"
        assert len(why) == 4

    def test_approves_what_was_planned_and_opens_the_queue(self, project):
        keys = [self.make(project).pk for _ in range(3)]
        pair = make_pair(turn=Sample.objects.get(pk=keys[0]).turns.get())
        sample = Sample.objects.get(pk=keys[0])
        samples.return_sample(
            project=sample.project, sample=sample, user=make_user("rita"), comment="No."
        )
        samples.submit_sample(
            project=sample.project, sample=sample, user=make_user("lena")
        )
        assert not Slot.objects.waiting().exists()
        result = self.approve(project, keys)
        assert (result.approved, result.left_out) == (3, [])
        assert not Sample.objects.exclude(status="approved").exists()
        assert Slot.objects.waiting().filter(pair=pair).count() == project.overlap

    def test_leaves_out_what_changed_since(self, project):
        stays, goes = self.make(project), self.make(project)
        samples.return_sample(
            project=goes.project, sample=goes, user=make_user("rita"), comment="No."
        )
        result = self.approve(project, [stays.pk, goes.pk])
        assert result.approved == 1
        assert result.left_out == [(goes, "no longer submitted")]

    def test_never_approves_ones_own_or_another_projects(self, project):
        own = self.make(project, "ada")
        other = self.make(make_project())
        result = self.approve(project, [own.pk, other.pk], "ada")
        assert result.approved == 0
        assert [why for _, why in result.left_out] == ["your own"]
        other.refresh_from_db()
        assert other.status == "submitted"

    def test_costs_no_more_for_ten_times_as_many(
        self, project, django_assert_max_num_queries
    ):
        for size in (9, 90):
            keys = [self.make(project).pk for _ in range(size)]
            with django_assert_max_num_queries(10):
                assert self.approve(project, keys).approved == size

    def test_by_a_labeler_is_forbidden(self, project):
        with pytest.raises(Forbidden):
            self.approve(project, [self.make(project).pk], "luis")
