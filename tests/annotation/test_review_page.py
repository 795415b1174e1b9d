"""Review: the queue of submitted samples, its deeds, and the history of a sample."""

import re

import pytest

from annotation.authoring.review import comment_on
from annotation.authoring.sample_rows import save_sample
from annotation.models import Comment, Draft, Sample, SampleVersion
from tests.cast import make_project, make_sample, make_user, sign_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(slug="cakes")


@pytest.fixture
def rita(client):
    return sign_in(client, make_user("rita"))


def submitted(project, name="lena", **fields):
    author = make_user(name) if name else None
    return make_sample(project=project, author=author, status="submitted", **fields)


def written(project, response="Yes.", name="lena"):
    turn = {"input": {"kind": "user", "text": "A cake?"}, "response": response}
    return save_sample(
        project=project,
        author=make_user(name),
        document={"id": f"w-{Sample.objects.count()}", "turns": [turn]},
    )


def body(response):
    return response.content.decode()


def shown(page):
    """Return the id of the sample the desk shows."""
    found = re.search(r'<h1 class="break"><a[^>]*>([^<]*)</a>', page)
    return found and found[1]


class TestQueue:
    def test_shows_the_oldest_first_and_goes_through(self, client, project, rita):
        first, second, third = (submitted(project) for _ in range(3))
        make_sample(project=project)
        page = body(client.get("/p/cakes/review/"))
        assert shown(page) == first.external_id
        assert "1 of 3 submitted" in page
        assert f'href="?at={second.pk}"' in page
        assert 'id="previous"' not in page
        page = body(client.get(f"/p/cakes/review/?at={third.pk}"))
        assert shown(page) == third.external_id
        assert "3 of 3 submitted" in page
        assert 'id="next"' not in page
        page = body(client.get(f"/p/cakes/review/?at={third.pk + 1}"))
        assert shown(page) == first.external_id

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("scenario=bread", "b"),
            ("situation=noise", "c"),
            ("author=luis", "d"),
            ("author=nobody", None),
            ("situation=%00&scenario=%00&at=x", "a"),
            ("at=" + "9" * 40, "a"),
        ],
    )
    def test_filters(self, client, project, rita, query, found):
        submitted(project, external_id="a", scenario="cakes")
        submitted(project, external_id="b", scenario="bread")
        submitted(project, external_id="c", situation="noise")
        submitted(project, "luis", external_id="d")
        assert shown(body(client.get(f"/p/cakes/review/?{query}"))) == found

    def test_an_empty_queue_says_so(self, client, project, rita):
        make_sample(project=project)
        assert "Nothing waits for review" in body(client.get("/p/cakes/review/"))

    def test_costs_ten_queries_whatever_its_length(
        self, client, project, rita, django_assert_max_num_queries
    ):
        for size in (2, 12):
            turns = tuple(("user", str(n), "Yes.") for n in range(size))
            for _ in range(size):
                sample = submitted(project, turns=turns)
                for turn in range(size):
                    comment_on(
                        project=sample.project,
                        sample=sample,
                        user=make_user("ada"),
                        text="Hm.",
                        position=turn,
                        anchor="answer",
                    )
            with django_assert_max_num_queries(10):
                client.get(f"/p/cakes/review/?at={sample.pk}")

    @pytest.mark.parametrize(
        ("name", "status"),
        [("sam", 404), ("lena", 403), ("tara", 403), ("ada", 200), ("rita", 200)],
    )
    def test_who_may_review(self, client, project, name, status):
        sample = submitted(project)
        sign_in(client, make_user(name))
        for address in ("", "bulk/"):
            assert client.get(f"/p/cakes/review/{address}").status_code == status
        if status == 200:
            return
        for deed in ("approve", "return", "comment", "fix"):
            address = f"/p/cakes/review/{sample.pk}/{deed}/"
            assert client.post(address, {"comment": "No."}).status_code == status
        sample.refresh_from_db()
        assert sample.status == "submitted"


class TestDeeds:
    def test_approve_shows_the_next_of_the_same_filters(self, client, project, rita):
        first = submitted(project, scenario="cakes")
        submitted(project, scenario="bread")
        last = submitted(project, scenario="cakes")
        response = client.post(
            f"/p/cakes/review/{first.pk}/approve/?scenario=cakes", follow=True
        )
        assert shown(body(response)) == last.external_id
        assert f"{first} is approved." in body(response)
        first.refresh_from_db()
        assert first.status == "approved"

    def test_ones_own_cannot_be_approved(self, client, project, rita):
        own = submitted(project, "rita")
        page = body(client.get("/p/cakes/review/"))
        assert "another curator approves it" in page
        assert 'id="approve"' not in page
        page = body(client.post(f"/p/cakes/review/{own.pk}/approve/", follow=True))
        assert "does not approve a sample they wrote" in page
        own.refresh_from_db()
        assert own.status == "submitted"

    def test_approving_what_someone_else_just_did_goes_on(self, client, project, rita):
        gone, stays = submitted(project), submitted(project)
        Sample.objects.filter(pk=gone.pk).update(status="approved")
        page = body(client.post(f"/p/cakes/review/{gone.pk}/approve/", follow=True))
        assert "only a submitted one" in page
        assert shown(page) == stays.external_id

    def test_comments_stand_at_their_place_and_go_back_with_the_sample(
        self, client, project, rita
    ):
        sample = submitted(project)
        sent = {"place": "0:plan/2", "text": "Ask before <b>ordering</b>."}
        response = client.post(f"/p/cakes/review/{sample.pk}/comment/", sent)
        left = Comment.objects.get()
        assert response.url == f"/p/cakes/review/?at={sample.pk}#comment-{left.pk}"
        page = body(client.get("/p/cakes/review/"))
        assert "Ask before &lt;b&gt;ordering&lt;/b&gt;." in page
        client.post(f"/p/cakes/review/{sample.pk}/return/", {"comment": ""})
        sample.refresh_from_db()
        assert sample.status == "returned"
        sign_in(client, make_user("lena"))
        response = client.post(f"/p/cakes/write/revise/{sample.pk}/", follow=True)
        assert "Ask before" in body(response)
        assert "text changed" not in body(response)

    @pytest.mark.parametrize(
        "sent",
        [
            {"text": ""},
            {"text": "x" * 6000},
            {"text": "x\0"},
            {"text": "Kept words.", "place": "0:plan/77"},
            {"text": "Kept words.", "place": "99:input"},
            {"text": "Kept words.", "place": "nowhere"},
            {"text": "Kept words.", "place": "0:\0"},
        ],
    )
    def test_a_bad_comment_is_refused_and_kept_in_the_form(
        self, client, project, rita, sent
    ):
        sample = submitted(project)
        response = client.post(f"/p/cakes/review/{sample.pk}/comment/", sent)
        assert response.status_code == 422
        assert "errorlist" in body(response)
        assert sent["text"].replace("\0", "")[:11] in body(response)
        assert not Comment.objects.exists()

    def test_returning_without_a_word_is_refused(self, client, project, rita):
        sample = submitted(project)
        response = client.post(f"/p/cakes/review/{sample.pk}/return/", {"comment": " "})
        assert response.status_code == 422
        assert "Say what the author should change." in body(response)

    def test_a_fix_keeps_the_author_and_goes_back_to_review(
        self, client, project, rita
    ):
        sample = written(project)
        response = client.post(f"/p/cakes/review/{sample.pk}/fix/", follow=True)
        assert "fixing someone’s sample" in body(response)
        draft = Draft.objects.get()
        sent = {
            "do": "submit",
            "why": "It was rude.",
            "version": draft.version,
            "situation": "normal",
            "turn_kind": ["user"],
            "turn_text": ["A cake?"],
            "turn_response": ["Yes, please."],
        }
        response = client.post(f"/p/cakes/write/{draft.pk}/", sent)
        assert response.url == f"/p/cakes/review/?at={sample.pk}"
        sample.refresh_from_db()
        assert (sample.author.username, sample.status) == ("lena", "submitted")
        assert sample.turns.get().response == "Yes, please."
        assert SampleVersion.objects.get(number=2).why == "It was rude."
        assert not Draft.objects.exists()

    def test_a_returned_sample_without_an_author_is_fixed_from_its_page(
        self, client, project, rita
    ):
        sample = written(project)
        Sample.objects.filter(pk=sample.pk).update(author=None)
        client.post(f"/p/cakes/samples/{sample.pk}/return/", {"comment": "Ask first."})
        desk = body(client.get("/p/cakes/review/"))
        assert "whose author cannot revise them" in desk
        assert 'href="/p/cakes/samples/?status=returned"' in desk
        page = body(client.get(f"/p/cakes/samples/{sample.pk}/"))
        assert "has no author who could revise it" in page
        assert f'action="/p/cakes/review/{sample.pk}/fix/"' in page
        response = client.post(f"/p/cakes/review/{sample.pk}/fix/", follow=True)
        assert "You are fixing an imported sample." in body(response)
        draft = Draft.objects.get()
        sent = {
            "do": "submit",
            "version": draft.version,
            "situation": "normal",
            "turn_kind": ["user"],
            "turn_text": ["A cake?"],
            "turn_response": ["Which one?"],
        }
        client.post(f"/p/cakes/write/{draft.pk}/", sent)
        sample.refresh_from_db()
        assert (sample.author, sample.status) == (None, "submitted")
        assert "cannot revise them" not in body(client.get("/p/cakes/review/"))

    def test_an_author_who_has_left_is_named_and_a_curator_goes_on(
        self, client, project, rita
    ):
        sample = written(project)
        client.post(f"/p/cakes/samples/{sample.pk}/return/", {"comment": "Ask first."})
        assert "cannot revise them" not in body(client.get("/p/cakes/review/"))
        project.memberships.filter(user=sample.author).delete()
        assert "cannot revise them" in body(client.get("/p/cakes/review/"))
        page = body(client.get(f"/p/cakes/samples/{sample.pk}/"))
        assert "lena, who wrote it, is no longer here" in page

    def test_an_outdated_fix_is_refused_and_kept(self, client, project, rita):
        sample = written(project)
        client.post(f"/p/cakes/review/{sample.pk}/fix/")
        draft = Draft.objects.get()
        Sample.objects.filter(pk=sample.pk).update(content_hash="f" * 64)
        sent = {
            "do": "submit",
            "why": "It was rude.",
            "version": 0,
            "turn_kind": ["user"],
            "turn_text": ["A cake?"],
            "turn_response": ["Mine."],
        }
        response = client.post(f"/p/cakes/write/{draft.pk}/", sent)
        assert response.status_code == 422
        assert "was changed by someone else" in body(response)
        assert "It was rude." in body(response)
        assert "Mine." in str(Draft.objects.get().content)


class TestResolving:
    def make(self, project):
        return comment_on(
            project=project,
            sample=submitted(project),
            user=make_user("rita"),
            text="Hm.",
            position=0,
            anchor="input",
        )

    def test_the_author_marks_it_and_opens_it_again(self, client, project):
        left = self.make(project)
        sign_in(client, make_user("lena"))
        address = f"/p/cakes/comments/{left.pk}/resolve/"
        assert "Mark as resolved" in body(
            client.get(f"/p/cakes/samples/{left.sample_id}/")
        )
        response = client.post(address, {"resolved": "1"})
        assert response.url == f"/p/cakes/samples/{left.sample_id}/#comment-{left.pk}"
        left.refresh_from_db()
        assert left.resolved_by == make_user("lena")
        page = body(
            client.post(address, {"resolved": "0"}, headers={"HX-Request": "true"})
        )
        assert "Mark as resolved" in page
        assert "<html" not in page
        left.refresh_from_db()
        assert left.resolved_by is None

    def test_goes_back_to_the_desk_even_from_a_refused_form(
        self, client, project, rita
    ):
        left = self.make(project)
        address = f"/p/cakes/review/{left.sample_id}/comment/"
        page = body(client.post(address, {"text": ""}))
        to = f"/p/cakes/review/?at={left.sample_id}"
        resolving = page[page.index("/resolve/") :]
        assert re.search(r'name="next" value="([^"]*)"', resolving)[1] == to
        response = client.post(
            f"/p/cakes/comments/{left.pk}/resolve/", {"next": to}, follow=True
        )
        assert response.status_code == 200
        assert shown(body(response)) == left.sample.external_id

    def test_goes_back_to_no_foreign_address(self, client, project, rita):
        left = self.make(project)
        address = f"/p/cakes/comments/{left.pk}/resolve/"
        foreign = ("https://elsewhere.example/", "//elsewhere.example/")
        no_paths = ("-1", "annotation:home", "javascript:alert(1)", "\0", "a\r\nb", "?")
        for to in foreign + no_paths:
            assert client.post(address, {"next": to}).url.startswith("/p/cakes/samples")

    @pytest.mark.parametrize(("name", "status"), [("sam", 404), ("luis", 403)])
    def test_is_not_for_others(self, client, project, name, status):
        left = self.make(project)
        sign_in(client, make_user(name))
        response = client.post(f"/p/cakes/comments/{left.pk}/resolve/")
        assert response.status_code == status
        left.refresh_from_db()
        assert left.resolved_at is None


class TestBulk:
    def test_counts_excludes_confirms_and_reports(self, client, project, rita):
        for _ in range(3):
            submitted(project, scenario="cakes")
        own = submitted(project, "rita", scenario="cakes")
        other = submitted(project, scenario="bread")
        page = body(client.get("/p/cakes/review/bulk/?scenario=cakes"))
        assert "Approve 3 samples" in page
        assert own.external_id in page
        assert "your own" in page
        keys = re.search(r'name="keys" value="([\d,]+)"', page)[1]
        assert Sample.objects.filter(status="approved").count() == 0
        # One more comes in between: it was not counted, so it is not approved.
        late = submitted(project, scenario="cakes")
        page = body(client.post("/p/cakes/review/bulk/?scenario=cakes", {"keys": keys}))
        assert "3 samples are approved." in page
        assert Sample.objects.filter(status="approved").count() == 3
        for sample in (own, other, late):
            sample.refresh_from_db()
            assert sample.status == "submitted"

    @pytest.mark.parametrize("keys", ["", "x", "1,,2", "1;2", "9" * 30])
    def test_nonsense_approves_nothing(self, client, project, rita, keys):
        submitted(project)
        response = client.post("/p/cakes/review/bulk/", {"keys": keys})
        assert response.status_code == 422
        assert Sample.objects.get().status == "submitted"

    def test_costs_the_same_whatever_the_number(
        self, client, project, rita, django_assert_max_num_queries
    ):
        for size in (5, 50):
            for _ in range(size):
                submitted(project)
            with django_assert_max_num_queries(10):
                client.get("/p/cakes/review/bulk/")


class TestRetire:
    def test_asks_first(self, client, project, rita):
        sample = make_sample(project=project)
        address = f"/p/cakes/samples/{sample.pk}/retire/"
        assert client.post(address).status_code == 422
        client.post(address, {"sure": "yes"})
        sample.refresh_from_db()
        assert sample.status == "retired"
        response = client.post(address, {"sure": "yes"})
        assert response.status_code == 422

    @pytest.mark.parametrize(
        ("name", "status"), [("sam", 404), ("lena", 403), ("tara", 403)]
    )
    def test_is_for_curators(self, client, project, name, status):
        sample = make_sample(project=project)
        sign_in(client, make_user(name))
        address = f"/p/cakes/samples/{sample.pk}/retire/"
        assert client.post(address, {"sure": "yes"}).status_code == status


class TestHistory:
    def changed(self, project, times=2):
        sample = written(project, "Yes, the cake is good.")
        for number in range(times):
            turn = {
                "input": {"kind": "user", "text": "A cake?"},
                "response": f"Yes, the cake is good {number} times.",
            }
            sample = save_sample(
                project=project,
                author=make_user("rita"),
                sample=sample,
                document={"id": sample.external_id, "turns": [turn]},
                why=f"Reason {number}.",
            )
        return sample

    def test_shows_who_changed_what_and_why(self, client, project, rita):
        sample = self.changed(project)
        page = body(client.get(f"/p/cakes/samples/{sample.pk}/history/"))
        assert "Reason 1." in page
        assert "not the author" in page
        assert re.search(r"<del>.*?0</del><ins>.*?1</ins>", page, re.DOTALL)
        page = body(client.get(f"/p/cakes/samples/{sample.pk}/history/?old=1&new=2"))
        assert re.search(r"<ins>.*? 0 times</ins>", page, re.DOTALL)
        assert "Turn 1, response" in page
        assert "Turn 1, input" not in page

    def test_of_what_never_changed_says_so(self, client, project, rita):
        sample = make_sample(project=project)
        page = body(client.get(f"/p/cakes/samples/{sample.pk}/history/"))
        assert "Never changed" in page

    @pytest.mark.parametrize("query", ["old=x", "old=3&new=1", "new=" + "9" * 40])
    def test_nonsense_is_no_error(self, client, project, rita, query):
        sample = self.changed(project)
        address = f"/p/cakes/samples/{sample.pk}/history/?{query}"
        assert client.get(address).status_code == 200

    def test_costs_the_same_whatever_its_length(
        self, client, project, rita, django_assert_max_num_queries
    ):
        for times in (2, 12):
            sample = self.changed(project, times)
            with django_assert_max_num_queries(7):
                client.get(f"/p/cakes/samples/{sample.pk}/history/")

    @pytest.mark.parametrize(
        ("name", "status"), [("sam", 404), ("luis", 403), ("lena", 200), ("tara", 200)]
    )
    def test_who_may_see_it(self, client, project, name, status):
        sample = self.changed(project)
        sign_in(client, make_user(name))
        address = f"/p/cakes/samples/{sample.pk}/history/"
        assert client.get(address).status_code == status
