"""Handing a model on: a plain Hugging Face directory with a card, nothing of Concord."""

import io
import tarfile

import pytest
from django.core.management import CommandError, call_command

from tests.cast import make_project, make_sample, make_user, sign_in
from tests.training.conftest import make_checkpoint, make_policy, make_run
from training.models import RunInput

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    project = make_project(slug="cakes", name="Cakes | *and* more")
    make_sample(project=project, external_id="s1")
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


def test_the_card_tells_data_lineage_figures_licence_and_loading(client, project, tara):
    first = make_policy(project)
    run = make_run(
        project=project, kind="policy", state="finished", snapshot=first.run.snapshot
    )
    RunInput.objects.create(run=run, checkpoint=first, role="policy")
    checkpoint = make_checkpoint(run)
    answer = client.get(
        f"/p/cakes/checkpoints/{checkpoint.pk}/export/?licence=apache-2.0"
    )
    raw = b"".join(answer.streaming_content)
    assert len(raw) == int(answer["Content-Length"])
    name = f"cakes-policy-{run.pk}-100"
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert sorted(archive.getnames()) == [
            f"{name}/README.md",
            f"{name}/model.safetensors",
        ]
        card = archive.extractfile(f"{name}/README.md").read().decode()
    front = card.split("---")[1]
    assert 'license: "apache-2.0"' in front
    assert 'pipeline_tag: "text-generation"' in front
    assert "# Cakes \\| \\*and\\* more: policy" in card
    assert "| train | 1 |" in card
    assert f"took as policy: sft run {first.run_id}, step 100, `{first.digest}`" in card
    assert "| loss | 0.500 |" in card
    assert "AutoModelForCausalLM.from_pretrained(PATH)" in card


def test_a_licence_that_is_no_identifier_is_said_at_the_field(client, project, tara):
    checkpoint = make_policy(project)
    answer = client.get(f"/p/cakes/checkpoints/{checkpoint.pk}/export/?licence=a b%0Ac")
    assert answer.status_code == 400
    page = answer.content.decode()
    assert "such as apache-2.0" in page
    assert "a b" in page


def test_strangers_get_404_and_labelers_403(client, project):
    checkpoint = make_policy(project)
    address = f"/p/cakes/checkpoints/{checkpoint.pk}/export/"
    sign_in(client, make_user("sam"))
    assert client.get(address).status_code == 404
    sign_in(client, make_user("lena"))
    assert client.get(address).status_code == 403


def test_the_command_overwrites_nothing_and_refuses_damaged_files(project, tmp_path):
    checkpoint = make_policy(project)
    with pytest.raises(CommandError, match="exists already"):
        call_command("export_checkpoint", str(checkpoint.pk), str(tmp_path))
    (checkpoint.directory / "model.safetensors").write_bytes(b"other")
    target = tmp_path / "export"
    with pytest.raises(CommandError, match="was changed after it was written"):
        call_command("export_checkpoint", str(checkpoint.pk), str(target))
    assert not target.exists()
    with pytest.raises(CommandError, match="There is no checkpoint 999999"):
        call_command("export_checkpoint", "999999", str(target))
