"""Very small models and run directories, made on the spot."""

import atexit
import copy
import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actions.demo import generate
from training.engine.data.conversations import sample_from_json
from training.engine.modeling.policies import build_small_model, save_policy
from training.engine.modeling.tokenizer import train_tokenizer

torch.set_num_threads(1)


@functools.cache
def generated(count, split, seed):
    return json.dumps(list(generate(seed=seed, count=count, split=split)))


def demo_rows(count=30, split="", seed=1):
    """Return rows of one's own: some tests break them."""
    return tuple(json.loads(generated(count, split, seed)))


def demo_samples(count=30, split="", seed=1):
    return [sample_from_json(row) for row in demo_rows(count, split, seed)]


@functools.cache
def tokenizer_texts():
    texts = []
    for sample in demo_samples():
        texts.append(sample.context)
        for turn in sample.turns:
            texts += [turn.text, turn.response, *turn.references]
    return tuple(texts)


@functools.cache
def trained_tokenizer():
    return train_tokenizer(tokenizer_texts(), 900)


def micro_tokenizer():
    """Return a tokenizer of one's own: programs add tokens to theirs."""
    return copy.deepcopy(trained_tokenizer())


def micro_policy(tokenizer, shape="qwen3", seed=0):
    torch.manual_seed(seed)
    if shape == "qwen3":
        return build_small_model(tokenizer, width=32, layers=2, heads=2)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


@functools.cache
def built(shape, seed) -> Path:
    """Return a directory of this process with a micro policy, to be copied only."""
    folder = Path(tempfile.mkdtemp(prefix="concord-micro-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = micro_tokenizer()
    save_policy(micro_policy(tokenizer, shape, seed), tokenizer, folder)
    return folder


def save_micro_policy(folder: Path, shape="qwen3", seed=0) -> Path:
    return shutil.copytree(built(shape, seed), folder, dirs_exist_ok=True)


def make_run(
    folder: Path, program: str, recipe=None, inputs=None, data=None, resume=None
):
    """Write a run directory; ``data`` maps names to rows."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, rows in (data or {}).items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"{name}.jsonl").write_text(lines)
    description = {
        "program": program,
        "recipe": recipe or {},
        "inputs": {role: str(path) for role, path in (inputs or {}).items()},
        "data": {name: f"data/{name}.jsonl" for name in data or {}},
        "resume": resume,
    }
    (folder / "run.json").write_text(json.dumps(description))
    return folder


def events(folder: Path, kind: str):
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]
