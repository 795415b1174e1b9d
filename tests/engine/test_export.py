"""A policy handed on: whoever has transformers alone reads from it what we do."""

import json
import subprocess
import sys

import pytest
import torch
from django.core.management import call_command

from records.recipes import SftRecipe
from tests.cast import make_project, make_sample
from tests.engine import micro
from tests.training.conftest import data_dir, make_run  # noqa: F401
from training.engine import sft
from training.engine.modeling.loading import load_policy
from training.engine.modeling.policies import Place
from training.engine.run.directory import run_program
from training.models import Checkpoint
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


def test_a_stranger_loads_the_export_and_gets_the_same_logits(tmp_path):
    project = make_project()
    make_sample(project=project)
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
