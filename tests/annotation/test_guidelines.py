"""The guideline's deeds: nothing published is lost, and who has to read what."""

import pytest

from annotation.access import Forbidden, NotAMember
from annotation.judging import guidelines
from annotation.judging.adjudication import adjudicate
from annotation.models import GuidelineVersion, Project
from tests.cast import make_judgment, make_pair, make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(guideline="Order counts.")


def publish(project, text="Order counts. So do names.", name="rita", **fields):
    project.refresh_from_db()
    fields = {"base_version": project.guideline_version} | fields
    return guidelines.publish_guideline(
        project=project, author=make_user(name), text=text, **fields
    )


class TestPublish:
    def test_makes_the_next_version_and_keeps_the_text_before(self, project):
        publish(project, change="Names count.")
        project.refresh_from_db()
        assert project.guideline == "Order counts. So do names."
        assert project.guideline_version == 2
        first, second = GuidelineVersion.objects.all()
        assert (first.version, first.text, first.asks_to_reread) == (
            1,
            "Order counts.",
            False,
        )
        assert (second.version, second.change, second.author.username) == (
            2,
            "Names count.",
            "rita",
        )

    def test_from_an_old_version_is_a_conflict_and_changes_nothing(self, project):
        publish(project, "Theirs.")
        with pytest.raises(guidelines.GuidelineConflict) as caught:
            publish(project, "Mine.", base_version=1)
        assert str(caught.value) == (
            "Version 2 was published meanwhile; you began from version 1."
        )
        assert Project.objects.get(pk=project.pk).guideline == "Theirs."
        assert GuidelineVersion.objects.count() == 2

    def test_of_the_same_words_is_refused(self, project):
        with pytest.raises(guidelines.NothingChanged):
            publish(project, "Order counts.")

    def test_of_a_book_is_refused(self, project):
        with pytest.raises(guidelines.InvalidGuideline, match="50000 characters"):
            publish(project, "x" * 50_001)

    @pytest.mark.parametrize(
        ("name", "error"),
        [("lena", Forbidden), ("tara", Forbidden), ("sam", NotAMember)],
    )
    def test_by_others_is_refused(self, project, name, error):
        with pytest.raises(error):
            publish(project, name=name)

    def test_a_judgment_names_the_version_it_was_given_under(self, project):
        lena = make_user("lena")
        first = make_judgment(make_pair(project=project), lena, 1)
        publish(project)
        project.refresh_from_db()
        second = make_judgment(make_pair(project=project), lena, 1)
        assert (first.guideline_version, second.guideline_version) == (1, 2)


class TestReading:
    def unread(self, project, name="lena"):
        found = guidelines.unread_guideline(project=project, user=make_user(name))
        return found and found.version

    def test_a_published_version_is_unread_until_confirmed(self, project):
        assert self.unread(project) is None
        publish(project)
        assert self.unread(project) == 2
        lena = make_user("lena")
        for _ in range(2):
            guidelines.confirm_reading(project=project, user=lena, version=2)
        assert self.unread(project) is None
        assert self.unread(project, "luis") == 2

    def test_the_author_has_read_it(self, project):
        publish(project)
        assert self.unread(project, "rita") is None

    def test_a_typing_mistake_asks_nobody_but_those_who_owe_the_one_before(
        self, project
    ):
        publish(project, "One.")
        guidelines.confirm_reading(project=project, user=make_user("lena"), version=2)
        publish(project, "One!", asks_to_reread=False)
        assert self.unread(project) is None
        assert self.unread(project, "luis") == 2
        guidelines.confirm_reading(project=project, user=make_user("luis"), version=3)
        assert self.unread(project, "luis") is None

    def test_of_a_version_that_is_not_there_is_refused(self, project):
        with pytest.raises(guidelines.InvalidGuideline, match="no guideline version 7"):
            guidelines.confirm_reading(
                project=project, user=make_user("lena"), version=7
            )

    def test_costs_one_query(self, project, django_assert_num_queries):
        publish(project)
        lena = make_user("lena")
        with django_assert_num_queries(1):
            guidelines.unread_guideline(project=project, user=lena)

    def test_the_last_known_version_is_what_was_read_or_judged_by(self, project):
        lena = make_user("lena")

        def known(before):
            found = guidelines.last_known_version(
                project=project, user=lena, before=before
            )
            return found and found.text

        assert known(2) is None
        make_judgment(make_pair(project=project), lena, 1)
        publish(project, "Two.")
        assert known(2) == "Order counts."
        # A decision under way when version 2 came out is no sign of having read it.
        project.refresh_from_db()
        make_judgment(make_pair(project=project), lena, 1)
        assert known(2) == "Order counts."
        guidelines.confirm_reading(project=project, user=lena, version=2)
        assert known(3) == "Two."

    def test_who_judged_while_it_came_out_had_the_one_before(self, project):
        lena = make_user("lena")
        publish(project, "Two.")
        project.refresh_from_db()
        make_judgment(make_pair(project=project), lena, 1)
        found = guidelines.last_known_version(project=project, user=lena, before=2)
        assert found.text == "Order counts."


class TestExamples:
    def pin(self, pair, name="rita", note=""):
        return guidelines.pin_example(
            project=pair.project, pair=pair, curator=make_user(name), note=note
        )

    def settled(self, project, verdict=0):
        pair = make_pair(project=project)
        reasons = ("content",) if verdict == 0 else ()
        adjudicate(
            project=pair.project,
            pair=pair,
            curator=make_user("rita"),
            verdict=verdict,
            reasons=reasons,
        )
        return pair

    def test_a_settled_pair_is_pinned_with_its_verdict(self, project):
        bad = self.pin(self.settled(project, 0), note=" See the kind. ")
        good = self.pin(self.settled(project, 1))
        assert (bad.verdict, bad.note, bad.position) == (0, "See the kind.", 0)
        assert (good.verdict, good.position) == (1, 1)

    def test_pinned_again_only_the_note_changes(self, project):
        pair = self.settled(project)
        self.pin(pair, note="Old.")
        self.pin(self.settled(project))
        again = self.pin(pair, note="New.")
        assert (again.note, again.position) == ("New.", 0)
        assert project.examples.count() == 2

    def test_a_pair_people_still_judge_is_no_example(self, project):
        with pytest.raises(guidelines.ExampleUnsettled, match="no final verdict yet"):
            self.pin(make_pair(project=project))

    def test_by_a_labeler_is_forbidden(self, project):
        with pytest.raises(Forbidden):
            self.pin(self.settled(project), "lena")
