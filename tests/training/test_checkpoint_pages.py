"""Checkpoints: the list, lineage both ways, promotion, download."""

import io
import tarfile

import pytest

from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from tests.cast import make_judgment, make_project, make_sample, make_user, sign_in
from tests.training.conftest import make_checkpoint, make_policy, make_run
from training.iterations import deeds, promotion
from training.models import Promotion, RunInput
from training.runs import starting_points
from training.storage.snapshots import build_snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    project = make_project(slug="cakes", overlap=1)
    make_sample(project=project, external_id="s1")
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


def answered(project, checkpoint):
    """Let a checkpoint answer a turn, and Lena judge the pair."""
    draw = make_run(project=project, kind="draw", state="finished")
    RunInput.objects.create(run=draw, checkpoint=checkpoint, role="policy")
    receive_responses(
        project=project,
        producer=ProducerFacts(
            draw.pk, checkpoint.pk, checkpoint.digest, checkpoint.step, "current"
        ),
        responses=[ResponseRow("s1", 0, 0, "<<think>>Well.<</think>>No cake.")],
    )
    return make_judgment(project.pairs.get(), make_user("lena"), 0)


def test_lineage_is_shown_both_ways(client, project, tara):
    sft = make_policy(project)
    judgment = answered(project, sft)
    snapshot = build_snapshot(project=project, user=tara, with_judgments=True)
    reward = make_checkpoint(
        make_run(project=project, kind="reward", state="finished", snapshot=snapshot)
    )
    policy = make_checkpoint(make_run(project=project, kind="policy", state="finished"))
    RunInput.objects.create(run=policy.run, checkpoint=reward, role="reward")
    RunInput.objects.create(run=policy.run, checkpoint=sft, role="policy")
    later = make_checkpoint(make_run(project=project, kind="policy", state="finished"))
    RunInput.objects.create(run=later.run, checkpoint=policy, role="policy")
    other = make_policy(project)
    direct = make_checkpoint(
        make_run(
            project=project, kind="preference", state="finished", snapshot=snapshot
        )
    )

    learned = starting_points.policies_that_learned_from(judgment)
    assert set(learned) == {policy, later, direct}
    assert other not in learned

    page = client.get(f"/p/cakes/checkpoints/{sft.pk}/").content.decode()
    assert "1 sampled response " in page
    assert "1 pair, 1 judgment of them" in page
    assert f"Policy {policy.run_id}" in page
    page = client.get(f"/p/cakes/checkpoints/{policy.pk}/").content.decode()
    assert "1 judgment behind it" in page
    assert f"Reward {reward.run_id}" in page
    found = client.get(f"/p/cakes/checkpoints/?judgment={judgment.pk}")
    assert [x.checkpoint for x in found.context["lines"]] == [direct, later, policy]
    foreign = client.get("/p/cakes/checkpoints/?judgment=99999")
    assert foreign.status_code == 404


def test_the_list_shows_finals_and_costs_few_queries(
    client, project, tara, django_assert_max_num_queries
):
    run = make_run(project=project, state="finished")
    for step in range(1, 6):
        make_checkpoint(run, step=step, is_final=step == 5)
    assert len(client.get("/p/cakes/checkpoints/").context["lines"]) == 1
    assert len(client.get("/p/cakes/checkpoints/?all=on").context["lines"]) == 5
    with django_assert_max_num_queries(6):
        client.get("/p/cakes/checkpoints/?all=on")


def test_promote_names_the_current_policy(client, project, tara):
    checkpoint = make_policy(project)
    client.post(
        f"/p/cakes/checkpoints/{checkpoint.pk}/promote/", {"reason": "best yet"}
    )
    made = Promotion.objects.get()
    assert (made.promoted_by, made.reason) == (tara, "best yet")
    assert starting_points.current_policy(project) == checkpoint
    assert "current policy" in client.get("/p/cakes/checkpoints/").content.decode()


def evaluated(project, new, old, low, high, **fields):
    """Let an evaluation compare two policies: a gain between ``low`` and ``high``."""
    gain = (low + high) / 2
    result = {
        "policies": {
            "policy": {"tasks_complete": {"value": 0.5 + gain}},
            "initial": {"tasks_complete": {"value": 0.5}},
        },
        "gains": {
            "policy": {
                "tasks_complete": {
                    "value": gain,
                    "low": low,
                    "high": high,
                    "n": 150,
                    "changed": 20,
                }
            }
        },
    }
    state = {"state": "finished", "result": result} | fields
    run = make_run(project=project, kind="evaluate", **state)
    RunInput.objects.create(run=run, checkpoint=new, role="policy")
    RunInput.objects.create(run=run, checkpoint=old, role="initial")
    return run


@pytest.fixture
def current(project):
    """Return the project's current policy."""
    checkpoint = make_policy(project)
    promotion.promote(project=checkpoint.project, checkpoint=checkpoint, user=None)
    return checkpoint


@pytest.fixture
def new(project, current):
    """Return a policy that might replace it."""
    made = make_checkpoint(make_run(project=project, kind="policy", state="finished"))
    RunInput.objects.create(run=made.run, checkpoint=current, role="policy")
    return made


@pytest.mark.parametrize(
    ("low", "high", "chip", "in_words"),
    [
        (0.02, 0.14, "good", "Better"),
        (-0.02, 0.06, "good", "Not worse"),
        (-0.2, -0.04, "bad", "Worse"),
        (-0.09, 0.13, "warn", "Undecided"),
    ],
)
def test_the_verdict_is_that_of_an_iteration_with_its_interval_in_words(
    client, project, tara, current, new, low, high, chip, in_words
):
    run = evaluated(project, new, current, low, high)
    page = client.get(f"/p/cakes/checkpoints/{new.pk}/").content.decode()
    assert f'<span class="chip {chip}">{in_words}</span>' in page
    assert f"between {low:+.3f} and {high:+.3f}" in page
    assert "20 of 150 held-out samples came out otherwise" in page
    assert f'<a href="{run.get_absolute_url()}">Evaluate {run.pk}</a>' in page
    answer = client.post(f"/p/cakes/checkpoints/{new.pk}/promote/")
    is_free = chip == "good"
    assert answer.status_code == (302 if is_free else 409)
    assert (starting_points.current_policy(project) == new) is is_free
    assert ("Promote all the same" in page) is not is_free


def test_what_is_worse_or_undecided_needs_the_box_and_a_reason(
    client, project, tara, current, new
):
    evaluated(project, new, current, -0.09, 0.13)
    address = f"/p/cakes/checkpoints/{new.pk}/promote/"
    answer = client.post(address, {"reason": "best by far"})
    assert answer.status_code == 409
    text = answer.content.decode()
    assert "a loss of more than 0.030 is not ruled out" in text
    assert "best by far" in text  # nothing typed is lost
    answer = client.post(address, {"force": "on"})
    assert "A promotion in spite of this needs a reason." in answer.content.decode()
    assert Promotion.objects.count() == 1
    client.post(address, {"force": "on", "reason": "only for a test"})
    newest = Promotion.objects.first()
    assert (newest.checkpoint, newest.is_forced) == (new, True)
    assert newest.reason == "only for a test"


def test_a_start_that_was_not_bettered_is_said_to_be_unchanged(
    client, project, tara, current
):
    run = make_run(project=project, kind="policy", state="finished")
    start = make_checkpoint(run, step=0)
    evaluated(project, start, current, 0.0, 0.0)
    address = f"/p/cakes/checkpoints/{start.pk}/"
    page = client.get(address).content.decode()
    assert "unchanged: its run found nothing better than its start" in page
    answer = client.post(f"{address}promote/")
    assert answer.status_code == 409
    assert "Its run found nothing better" in answer.content.decode()
    assert starting_points.current_policy(project) == current
    written = make_run(project=project, kind="sft", state="finished")
    assert not make_checkpoint(written, step=0).is_unchanged


def test_the_newest_evaluation_beside_the_current_policy_counts(project, current, new):
    other = make_policy(project)
    evaluated(project, new, current, -0.2, -0.1)
    newest = evaluated(project, new, current, 0.1, 0.2)
    evaluated(project, new, other, -0.2, -0.1)  # beside another policy
    evaluated(project, current, new, -0.2, -0.1)  # the other way round
    evaluated(project, new, current, -0.2, -0.1, state="stopped")
    evaluated(project, new, current, 0, 0, result={"policies": {}})  # no truth known
    standing = promotion.standing_of(new)
    assert (standing.run, standing.against) == (newest, ())


def test_the_margin_is_that_of_the_newest_iteration(project, current, new):
    evaluated(project, new, current, -0.09, 0.13)
    assert promotion.standing_of(new).comparison.margin == 0.03
    deeds.start_iteration(project=project, user=None, margin=0.1)
    assert promotion.standing_of(new).comparison.verdict == "not worse"


def test_what_its_own_run_says_decides_nothing_without_an_interval(
    client, project, tara, current, new
):
    new.run.result = {"truth_at_start": 0.5, "truth": 0.6}
    new.run.save()
    answer = client.post(f"/p/cakes/checkpoints/{new.pk}/promote/")
    assert answer.status_code == 409
    text = answer.content.decode()
    assert "Held-out truth is 0.600 after 0.500, but its interval is not known" in text
    assert "Its own run compared it with what it started from:" in text


def test_a_policy_nobody_measured_asks_to_be_evaluated_beside_the_current_one(
    client, project, tara, current, new
):
    page = client.get(f"/p/cakes/checkpoints/{new.pk}/").content.decode()
    assert "No evaluation has compared it with the current policy" in page
    link = f"/p/cakes/runs/new/evaluate/?policy={new.pk}&amp;initial={current.pk}"
    assert f'href="{link}"' in page
    answer = client.post(f"/p/cakes/checkpoints/{new.pk}/promote/")
    assert "Held-out truth was not measured" in answer.content.decode()
    form = client.get(f"/p/cakes/runs/new/evaluate/?policy={new.pk}").context["form"]
    assert form["initial"].initial == current.pk


def test_the_first_policy_and_the_current_one_again_ask_nothing(client, project, tara):
    first = make_policy(project)
    for _ in range(2):
        answer = client.post(f"/p/cakes/checkpoints/{first.pk}/promote/")
        assert answer.status_code == 302
    assert not Promotion.objects.filter(is_forced=True).exists()


def test_a_reward_model_or_a_damaged_policy_is_never_promoted(client, project, tara):
    reward = make_checkpoint(make_run(project=project, kind="reward", state="finished"))
    answer = client.post(f"/p/cakes/checkpoints/{reward.pk}/promote/")
    assert answer.status_code == 409
    damaged = make_policy(project)
    (damaged.directory / "model.safetensors").unlink()
    answer = client.post(
        f"/p/cakes/checkpoints/{damaged.pk}/promote/", {"force": "on", "reason": "x"}
    )
    assert "model.safetensors is missing" in answer.content.decode()
    assert not Promotion.objects.exists()


def test_download_streams_a_tar_of_the_files(client, project, tara):
    checkpoint = make_policy(project)
    answer = client.get(f"/p/cakes/checkpoints/{checkpoint.pk}/download/")
    raw = b"".join(answer.streaming_content)
    assert len(raw) == int(answer["Content-Length"])
    name = f"cakes-run-{checkpoint.run_id}-step-{checkpoint.step}"
    assert answer["Content-Disposition"] == f'attachment; filename="{name}.tar"'
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert sorted(archive.getnames()) == [
            f"{name}/manifest.json",
            f"{name}/model.safetensors",
        ]
        model = archive.extractfile(f"{name}/model.safetensors")
        assert model.read() == (checkpoint.directory / "model.safetensors").read_bytes()


def test_files_that_are_gone_are_said(client, project, tara):
    import shutil

    checkpoint = make_policy(project)
    shutil.rmtree(checkpoint.directory)
    page = client.get(f"/p/cakes/checkpoints/{checkpoint.pk}/").content.decode()
    assert "files are gone" in page
    address = f"/p/cakes/checkpoints/{checkpoint.pk}/download/"
    assert client.get(address).status_code == 404
