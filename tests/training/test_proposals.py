"""Asking a policy for the next response of a draft, and taking its text over."""

import json
import shutil
import sys

import pytest
from django.utils import timezone

from annotation.models import Draft, Sample
from tests.cast import make_project, make_user, sign_in
from tests.training.conftest import (
    make_checkpoint,
    make_policy,
    make_project_with_samples,
    make_run,
)
from training.iterations.promotion import promote
from training.models import Proposal
from training.policies import proposals

pytestmark = pytest.mark.django_db

CONTENT = {
    "scenario": "cakes",
    "situation": "normal",
    "contexts": [],
    "turns": [
        {"input": {"kind": "user", "text": "Are you open?"}, "response": "Until six."},
        {"input": {"kind": "user", "text": "Then a cake please."}, "response": ""},
    ],
}
# A stand-in for the weights only: a real process that reads the real request.
ECHO = """
import json, sys
request = json.load(sys.stdin)
last = request["document"]["turns"][-1]
assert last["response"] == ""
json.dump({"text": "Gladly: " + last["input"]["text"], "format_error": ""}, sys.stdout)
"""


@pytest.fixture
def project():
    project = make_project_with_samples()
    promote(project=project, checkpoint=make_policy(project), user=make_user("tara"))
    return project


@pytest.fixture
def draft(project):
    return make_draft(project)


def make_draft(project, author="lena"):
    return Draft.objects.create(
        project=project, author=make_user(author), content=CONTENT
    )


def form(draft, **fields):
    turns = CONTENT["turns"]
    return {
        "version": draft.version,
        "scenario": "cakes",
        "situation": "normal",
        "turn_kind": [turn["input"]["kind"] for turn in turns],
        "turn_text": [turn["input"]["text"] for turn in turns],
        "turn_response": [turn["response"] for turn in turns],
    } | fields


def propose(client, draft, as_fragment=True, **fields):
    return client.post(
        f"/p/{draft.project.slug}/write/{draft.pk}/propose/",
        form(draft, propose=2, **fields),
        headers={"HX-Request": "true"} if as_fragment else {},
    )


def answered(proposal, program=ECHO):
    return proposals.answer_proposal(
        proposal.pk, command=[sys.executable, "-c", program]
    )


def test_asks_with_what_the_page_holds_and_waits(client, draft):
    sign_in(client, make_user("lena"))
    texts = ["Are you open?", "Then two cakes please."]
    page = propose(client, draft, turn_text=texts).content.decode()
    proposal = Proposal.objects.get()
    assert f'hx-get="/p/{draft.project.slug}/proposals/{proposal.pk}/"' in page
    assert [turn["response"] for turn in proposal.document["turns"]] == [
        "Until six.",
        "",
    ]
    assert proposal.document["turns"][1]["input"]["text"] == "Then two cakes please."
    draft.refresh_from_db()
    assert draft.content == CONTENT  # asking changes nothing


def test_shows_the_text_and_takes_it_over_with_the_rest_of_the_form(client, draft):
    sign_in(client, make_user("lena"))
    propose(client, draft)
    proposal = answered(Proposal.objects.get())
    slug = draft.project.slug
    page = client.get(
        f"/p/{slug}/proposals/{proposal.pk}/", headers={"HX-Request": "true"}
    ).content.decode()
    assert "Gladly: Then a cake please." in page
    assert "hx-trigger" not in page  # it no longer asks

    answer = client.post(
        f"/p/{slug}/proposals/{proposal.pk}/use/", form(draft, scenario="bakery")
    )
    assert answer.url == f"/p/{slug}/write/{draft.pk}/#turn-2"
    draft.refresh_from_db()
    turn = draft.content["turns"][1]
    assert turn["response"] == "Gladly: Then a cake please."
    assert turn["proposal"] == {
        "checkpoint": proposal.checkpoint_id,
        "digest": proposal.checkpoint.digest,
        "text": "Gladly: Then a cake please.",
    }
    assert draft.content["scenario"] == "bakery"


def test_a_draft_saved_elsewhere_meanwhile_is_a_conflict_and_keeps_both(client, draft):
    sign_in(client, make_user("lena"))
    propose(client, draft)
    proposal = answered(Proposal.objects.get())
    Draft.objects.filter(pk=draft.pk).update(
        version=draft.version + 1, content=CONTENT | {"scenario": "tea"}
    )
    answer = client.post(
        f"/p/{draft.project.slug}/proposals/{proposal.pk}/use/", form(draft)
    )
    assert answer.status_code == 409
    assert "Gladly: Then a cake please." in answer.content.decode()
    draft.refresh_from_db()
    assert draft.content["scenario"] == "tea"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"turn_text": ["Are you open?", " "]}, "Turn 2 has no input yet"),
        ({"turn_response": ["", ""]}, "Turn 1 has no response yet"),
        ({"propose": "7"}, "The draft has no turn 7."),
        ({"propose": "²"}, "The draft has no turn 0."),
        ({"propose": "1" * 5000}, "The draft has no turn 0."),
    ],
    ids=["no input", "no history", "no such turn", "no number", "too long"],
)
def test_says_why_there_is_nothing_to_propose(client, draft, changes, message):
    sign_in(client, make_user("lena"))
    page = client.post(
        f"/p/{draft.project.slug}/write/{draft.pk}/propose/",
        form(draft, propose=2) | changes,
        headers={"HX-Request": "true"},
    )
    assert message in page.content.decode()
    assert not Proposal.objects.exists()


def test_without_a_policy_there_is_none_to_ask(client):
    draft = make_draft(make_project())
    sign_in(client, make_user("lena"))
    assert "No policy has been trained" in propose(client, draft).content.decode()


def test_before_the_first_promotion_the_newest_finished_policy_is_asked():
    project = make_project_with_samples()
    make_policy(project)
    newest = make_policy(project)
    make_checkpoint(make_run(project=project), is_final=False)
    proposal = proposals.ask_proposal(
        project=project,
        draft=make_draft(project),
        content=CONTENT,
        turn=1,
        user=make_user("lena"),
    )
    assert proposal.checkpoint == newest


def test_a_page_without_scripts_is_whole(client, draft):
    sign_in(client, make_user("lena"))
    page = propose(client, draft, as_fragment=False).content.decode()
    assert "Look again" in page
    assert "Back to the draft" in page


def test_a_program_that_fails_says_its_last_line_to_the_person(client, draft):
    sign_in(client, make_user("lena"))
    propose(client, draft)
    proposal = answered(
        Proposal.objects.get(),
        "import sys; sys.stderr.write('loading\\nno room for 9 tokens\\n'); sys.exit(1)",
    )
    assert (proposal.state, proposal.error) == ("failed", "no room for 9 tokens")
    page = client.get(
        f"/p/{draft.project.slug}/proposals/{proposal.pk}/",
        headers={"HX-Request": "true"},
    ).content.decode()
    assert "no room for 9 tokens" in page
    assert "Ask again" in page


def test_what_the_database_cannot_keep_is_left_out(draft):
    proposal = proposals.ask_proposal(
        project=draft.project,
        draft=draft,
        content=CONTENT,
        turn=1,
        user=make_user("lena"),
    )
    program = "import json, sys; json.dump({'text': 'A\\0B'}, sys.stdout)"
    assert answered(proposal, program).text == "AB"


def test_a_broken_checkpoint_is_not_run(draft):
    proposal = proposals.ask_proposal(
        project=draft.project,
        draft=draft,
        content=CONTENT,
        turn=1,
        user=make_user("lena"),
    )
    shutil.rmtree(proposal.checkpoint.directory)
    assert "not intact" in answered(proposal).error


def test_asking_again_drops_the_first_and_a_late_answer_to_it_is_nothing(draft):
    lena = make_user("lena")
    first = proposals.ask_proposal(
        project=draft.project, draft=draft, content=CONTENT, turn=1, user=lena
    )
    second = proposals.ask_proposal(
        project=draft.project, draft=draft, content=CONTENT, turn=1, user=lena
    )
    assert answered(first) is None
    assert answered(second).state == "ready"


def test_the_page_stops_waiting_when_no_worker_comes(client, draft):
    sign_in(client, make_user("lena"))
    propose(client, draft)
    Proposal.objects.update(created_at=timezone.now() - proposals.GIVE_UP * 2)
    page = client.get(
        f"/p/{draft.project.slug}/proposals/{Proposal.objects.get().pk}/",
        headers={"HX-Request": "true"},
    ).content.decode()
    assert "No worker took this up" in page
    assert "hx-trigger" not in page


def test_the_device_is_left_to_a_run_that_uses_it(project, draft):
    make_run(project=project, state="running", leased_until=timezone.now())
    proposal = proposals.ask_proposal(
        project=draft.project,
        draft=draft,
        content=CONTENT,
        turn=1,
        user=make_user("lena"),
    )
    program = """
import json, sys
json.dump({"text": json.load(sys.stdin)["settings"]["device"]}, sys.stdout)
"""
    assert answered(proposal, program).text == "cpu"


def test_it_reaches_no_draft_but_ones_own(client, draft, project):
    slug = project.slug
    proposal = proposals.ask_proposal(
        project=draft.project,
        draft=draft,
        content=CONTENT,
        turn=1,
        user=make_user("lena"),
    )
    for name in ("luis", "sam"):
        sign_in(client, make_user(name))
        assert propose(client, draft).status_code == 404
        assert client.get(f"/p/{slug}/proposals/{proposal.pk}/").status_code == 404
        address = f"/p/{slug}/proposals/{proposal.pk}/use/"
        assert client.post(address, form(draft)).status_code == 404
    sign_in(client, make_user("tara"))
    assert propose(client, draft).status_code == 403


@pytest.mark.slow
def test_a_real_policy_answers(project, draft):
    from records.checkpoints import file_sha256, verify_checkpoint
    from tests.engine.micro import micro_policy, micro_tokenizer
    from training.engine.modeling.policies import save_policy

    assert Sample.objects.filter(project=project).exists()
    proposal = proposals.ask_proposal(
        project=draft.project,
        draft=draft,
        content=CONTENT,
        turn=1,
        user=make_user("lena"),
    )
    checkpoint = proposal.checkpoint
    tokenizer = micro_tokenizer()
    save_policy(micro_policy(tokenizer), tokenizer, checkpoint.directory)
    place = checkpoint.directory / "manifest.json"
    manifest = json.loads(place.read_text())
    manifest["files"] = {
        path.name: file_sha256(path)
        for path in checkpoint.directory.iterdir()
        if path != place
    }
    place.write_text(json.dumps(manifest))
    checkpoint.digest = verify_checkpoint(checkpoint.directory).digest
    checkpoint.save()
    answer = proposals.answer_proposal(proposal.pk)
    assert (answer.state, answer.error) == ("ready", "")
    assert answer.text
