"""Doors and pages of what acts by itself: who may bring it in, and where it is seen."""

from __future__ import annotations

import json

import pytest

from annotation.authoring.samples import return_sample
from annotation.authoring.writing import start_draft, submit_draft
from annotation.models import Draft, Membership, Role, Sample
from tests.cast import LABEL, make_project, make_sample, make_user, sign_in

pytestmark = pytest.mark.django_db

RULE = {"match": "numeric", "answer": 42}
FACTS = {"scenario": "cakes"}
PROPOSAL = {"checkpoint": 7, "digest": "d" * 64, "text": "I am a policy."}
DOCUMENT = {
    "id": "forged",
    "turns": [
        {
            "input": {"kind": "user", "text": "How many?"},
            "response": "42.",
            "facts": FACTS,
            "proposal": PROPOSAL,
        }
    ],
    "meta": {"rule": RULE, "task": "other", "note": "mine"},
}
CHAT = {
    "messages": [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "42."},
    ],
    "rule": RULE,
    "note": "mine",
}
ACTING = ("rule", "task", "facts", "proposal")
PASTE = "/p/cakes/write/paste/"


@pytest.fixture
def project():
    return make_project(slug="cakes")


def paste(client, document, do="make"):
    return client.post(PASTE, {"text": json.dumps(document), "do": do}, follow=True)


def acting_of(document) -> set[str]:
    return {name for name in ACTING if f'"{name}":' in json.dumps(document)}


class TestPaste:
    @pytest.mark.parametrize("document", [DOCUMENT, CHAT], ids=["concord", "chat"])
    def test_by_a_labeler_leaves_it_out_and_says_so(self, client, project, document):
        sign_in(client, make_user("lena"))
        page = paste(client, document).content.decode()
        content = Draft.objects.get().content
        assert acting_of(content) == set()
        assert content["meta"] == {"note": "mine"}
        assert (
            "Removed, because only a curator may add it to a sample: meta.rule" in page
        )

    def test_by_a_labeler_says_so_before_anything_is_made(self, client, project):
        sign_in(client, make_user("lena"))
        page = paste(client, DOCUMENT, do="preview").content.decode()
        assert "meta.rule, meta.task, turns[0].facts, turns[0].proposal" in page
        assert "&quot;rule&quot;" in page, "the pasted text is gone"
        assert not Draft.objects.exists()

    @pytest.mark.parametrize("name", ["rita", "ada"])
    def test_by_a_curator_keeps_it(self, client, project, name):
        sign_in(client, make_user(name))
        page = paste(client, DOCUMENT).content.decode()
        assert acting_of(Draft.objects.get().content) == set(ACTING)
        assert "Removed, because" not in page


class TestSubmit:
    def draft(self, project, name):
        draft, _ = start_draft(
            project=project,
            user=make_user(name),
            content={"turns": DOCUMENT["turns"], "meta": DOCUMENT["meta"]},
        )
        return draft

    def test_leaves_out_what_a_draft_of_before_this_rule_holds(self, client, project):
        draft = self.draft(project, "lena")
        Draft.objects.filter(pk=draft.pk).update(
            content={"turns": DOCUMENT["turns"], "meta": DOCUMENT["meta"]}
        )
        sign_in(client, make_user("lena"))
        sent = {
            "do": "submit",
            "version": 0,
            "turn_kind": "user",
            "turn_text": "How many?",
            "turn_response": "42.",
            "turn_key": "1",
        }
        page = client.post(f"/p/cakes/write/{draft.pk}/", sent, follow=True)
        assert "Removed, because only a curator may" in page.content.decode()
        sample = Sample.objects.get()
        assert (sample.status, sample.meta) == ("submitted", {"note": "mine"})
        assert sample.turns.get().facts is None

    def test_by_who_was_a_curator_when_it_was_pasted_leaves_it_out(self, project):
        rita = make_user("rita")
        draft = self.draft(project, "rita")
        Membership.objects.create(project=project, user=rita, role=Role.LABELER)
        Membership.objects.get(project=project, user=rita, role=Role.CURATOR).delete()
        sample, left_out = submit_draft(project=project, user=rita, draft=draft)
        assert left_out == ["meta.rule", "meta.task", "turns[0].facts"]
        assert sample.meta == {"note": "mine"}

    def test_by_a_curator_keeps_it(self, project):
        draft = self.draft(project, "rita")
        sample, left_out = submit_draft(
            project=project, user=make_user("rita"), draft=draft
        )
        assert left_out == []
        assert sample.meta == DOCUMENT["meta"]
        assert sample.turns.get().facts == FACTS

    def test_of_a_returned_sample_keeps_what_a_curator_gave_it(self, client, project):
        lena, rita = make_user("lena"), make_user("rita")
        sample = make_sample(
            project=project,
            author=lena,
            status="submitted",
            meta={"rule": RULE},
            turns=(("user", "How many?", "42."),),
        )
        return_sample(project=project, sample=sample, user=rita, comment="Hm.")
        sign_in(client, lena)
        client.post(f"/p/cakes/write/revise/{sample.pk}/")
        draft = Draft.objects.get()
        changed = {**draft.content, "meta": {"rule": RULE, "task": "other"}}
        Draft.objects.update(content=changed)
        again, left_out = submit_draft(project=project, user=lena, draft=draft)
        assert left_out == ["meta.task"]
        assert again.meta == {"rule": RULE}


class TestAnotherSituation:
    @pytest.mark.parametrize(("name", "kept"), [("lena", False), ("ada", True)])
    def test_of_ones_own_sample_has_the_rule_only_for_curators(
        self, client, project, name, kept
    ):
        sample = make_sample(
            project=project,
            author=make_user(name),
            meta={"rule": RULE},
            turns=(("user", "A cake?", LABEL.split("<<action>>")[0] + "<</think>>No."),)
            * 2,
        )
        sign_in(client, make_user(name))
        address = f"/p/cakes/write/from/{sample.pk}/"
        page = client.post(address, {"situation": "noise"}, follow=True)
        meta = Draft.objects.get().content["meta"]
        assert ("rule" in meta) is kept
        assert ("Removed, because" in page.content.decode()) is not kept


class TestPages:
    def sample(self, project, **fields):
        sample = make_sample(
            project=project,
            **({"status": "submitted", "meta": {"rule": RULE}} | fields),
        )
        sample.turns.update(facts=FACTS, proposal=PROPOSAL)
        return sample

    @pytest.mark.parametrize(
        "address", ["review/?at={}", "samples/{}/", "samples/{}/history/"]
    )
    def test_show_what_acts(self, client, project, address):
        sample = self.sample(project)
        sign_in(client, make_user("rita"))
        page = client.get("/p/cakes/" + address.format(sample.pk)).content.decode()
        assert "This rule alone decides" in page
        assert "&quot;answer&quot;: 42" in page
        assert "turns[0].facts" in page
        assert "I am a policy." in page

    def test_say_nothing_where_nothing_does(self, client, project):
        sample = make_sample(project=project, status="submitted", meta={"note": "x"})
        sign_in(client, make_user("rita"))
        for address in ("review/", f"samples/{sample.pk}/"):
            page = client.get(f"/p/cakes/{address}").content.decode()
            assert "affects rewards or authorship" not in page

    def test_show_a_rule_that_cannot_be_applied_any_more(self, client, project):
        sample = self.sample(project, meta={"rule": {"match": "luck", "answer": 1}})
        sign_in(client, make_user("rita"))
        for address in ("review/", f"samples/{sample.pk}/"):
            page = client.get(f"/p/cakes/{address}").content.decode()
            assert "This rule cannot be applied: match: expected one of" in page

    def test_the_history_shows_a_rule_that_came_in(self, client, project):
        rita = make_user("rita")
        draft, _ = start_draft(
            project=project,
            user=rita,
            content={
                "turns": [{k: DOCUMENT["turns"][0][k] for k in ("input", "response")}]
            },
        )
        sample, _ = submit_draft(project=project, user=rita, draft=draft)
        sign_in(client, make_user("ada"))
        client.post(f"/p/cakes/review/{sample.pk}/fix/")
        fix = Draft.objects.get()
        Draft.objects.update(
            content={**fix.content, "turns": DOCUMENT["turns"], "meta": {"rule": RULE}}
        )
        submit_draft(project=project, user=make_user("ada"), draft=fix)
        page = client.get(f"/p/cakes/samples/{sample.pk}/history/").content.decode()
        for title in (
            "meta.rule",
            "Turn 1, facts an oracle judges by",
            "Turn 1, a policy’s proposal",
        ):
            assert title.replace("’", "&#x27;") in page
