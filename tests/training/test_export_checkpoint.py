"""Handing a model on: a plain Hugging Face directory with a card, nothing of Concord."""

import io
import json
import subprocess
import sys
import tarfile

import pytest
from django.core.management import CommandError, call_command

from records.recipes import SftRecipe
from tests.cast import make_project, make_sample, make_user, sign_in
from tests.engine import micro
from tests.training.conftest import make_checkpoint, make_policy, make_run
from training.engine import sft
from training.engine.run.directory import run_program
from training.models import Checkpoint, RunInput
from training.runs.ingest import register_found
from training.storage.snapshots import build_snapshot

pytestmark = [
    pytest.mark.django_db,
    # peft asks for a name that transformers is about to drop.
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
    ),
]

# What a stranger does: no Concord on the path (-I), only transformers.
STRANGER = """
import importlib.util, json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert importlib.util.find_spec("training") is None
torch.set_num_threads(1)
path, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
messages = [{"role": "user", "content": "A cake?"}, {"role": "assistant", "content": text}]
ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
with torch.no_grad():
    logits = model(ids).logits[0, -1]
print(json.dumps({
    "ids": ids.tolist(),
    "logits": logits.tolist(),
    "text": tokenizer.decode(tokenizer.encode(text, add_special_tokens=False),
                             skip_special_tokens=True),
    "stops": tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id),
}))
"""
TEXT = (
    '<<think>>I look.<<action>>{"name": "Find shops", "parameters": {}}<</action>>'
    "<<observation>>Two.<</observation>><</think>>There are two."
)


@pytest.fixture
def project():
    project = make_project(slug="cakes", name="Cakes | *and* more")
    make_sample(project=project, external_id="s1")
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


def adapted_policy(project):
    """Return the final checkpoint of a real SFT run that trained adapters."""
    run = make_run(
        project=project,
        state="finished",
        snapshot=build_snapshot(project=project, user=None),
    )
    base = micro.save_micro_policy(run.directory / "base")
    recipe = {
        "method": "lora",
        "lora_rank": 4,
        "steps": 2,
        "learning_rate": 0.05,
        "conversations_per_step": 2,
        "warmup_steps": 0,
        "evaluate_turns": 0,
        "precision": "fp32",
    }
    data = {"train": micro.demo_rows(6)}
    micro.make_run(run.directory, "sft", recipe, {"policy": base}, data)
    assert run_program("sft", SftRecipe, sft.train, [str(run.directory)]) == 0
    register_found(run)
    return Checkpoint.objects.get(run=run, step=2)


def test_a_stranger_loads_the_export_and_gets_the_same_logits(project, tmp_path):
    import torch

    from training.engine.modeling.loading import load_policy
    from training.engine.modeling.policies import Place

    checkpoint = adapted_policy(project)
    assert "trainer/weights.safetensors" in checkpoint.manifest["files"]
    target = tmp_path / "export"
    call_command("export_checkpoint", str(checkpoint.pk), str(target), licence="mit")
    names = {p.name for p in target.iterdir()}
    assert {"README.md", "chat_template.jinja", "generation_config.json"} <= names
    assert not {"trainer", "manifest.json", "adapter_config.json"} & names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".py"))]

    said = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(target), TEXT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    found = json.loads(said.stdout)
    model, _ = load_policy(checkpoint.directory, Place(torch.device("cpu"), half=False))
    with torch.no_grad():
        ours = model(torch.tensor(found["ids"])).logits[0, -1]
    assert torch.equal(ours, torch.tensor(found["logits"]))
    base, _ = load_policy(
        checkpoint.run.directory / "base", Place(torch.device("cpu"), half=False)
    )
    with torch.no_grad():  # the adapters did change something
        assert not torch.allclose(
            base(torch.tensor(found["ids"])).logits[0, -1], ours, atol=1e-3
        )
    assert found["text"] == TEXT
    assert found["stops"] == ["<</action>>", "<|end|>"]


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
