"""Checkpoints: the list, lineage both ways, promotion, download."""

import io
import tarfile

import pytest

from annotation.pairing import ProducerFacts, ResponseRow, receive_responses
from tests.cast import make_judgment, make_project, make_sample, make_user, sign_in
from tests.training.conftest import make_checkpoint, make_policy, make_run
from training import launching
from training.models import Promotion, RunInput
from training.snapshots import build_snapshot

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

    learned = launching.policies_that_learned_from(judgment)
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
    promotion = Promotion.objects.get()
    assert (promotion.promoted_by, promotion.reason) == (tara, "best yet")
    assert launching.current_policy(project) == checkpoint
    assert "current policy" in client.get("/p/cakes/checkpoints/").content.decode()


def test_a_policy_worse_on_held_out_truth_is_refused_unless_forced_with_a_reason(
    client, project, tara
):
    worse = make_checkpoint(
        make_run(
            project=project,
            kind="policy",
            state="finished",
            result={"truth_at_start": 0.5, "truth": 0.4},
        )
    )
    address = f"/p/cakes/checkpoints/{worse.pk}/promote/"
    answer = client.post(address)
    assert answer.status_code == 409
    assert "0.400 after 0.500" in answer.content.decode()
    answer = client.post(address, {"force": "on"})
    assert "needs a reason" in answer.content.decode()
    assert not Promotion.objects.exists()
    client.post(address, {"force": "on", "reason": "only for a test"})
    assert Promotion.objects.get().is_forced


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
