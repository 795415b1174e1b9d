"""Model directories that come from anybody: read, never run, and always answered."""

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from records.recipes import SftRecipe
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    micro_policy,
    micro_tokenizer,
    save_micro_policy,
)
from training.engine import sft
from training.engine.data.conversations import ChatFrame
from training.engine.modeling import chat_template
from training.engine.modeling.loading import (
    load_classifier,
    load_policy,
    load_tokenizer,
)
from training.engine.modeling.policies import Place
from training.engine.run.directory import RunError, run_program

ROOT = Path(__file__).parents[2]
PRODUCT = ("actions", "annotation", "config", "training")
CPU = Place(torch.device("cpu"), half=False)


load_critic = functools.partial(load_classifier, outputs=1)


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_one_module_loads_whatever_is_loaded():
    callers = {
        str(path.relative_to(ROOT))
        for folder in PRODUCT
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "from_pretrained"
    }
    assert callers == {"training/engine/modeling/loading.py"}


# Code in the directory


def with_code(folder, config, kind):
    """Give a directory a class of its own that leaves a file where it is imported."""
    (folder / "mine.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast, Qwen3Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
        "class Config(Qwen3Config):\n    model_type = 'mine'\n"
    )
    change(folder / config, **kind)
    return folder


TOKENIZER = {
    "tokenizer_class": "Tokenizer",
    "auto_map": {"AutoTokenizer": [None, "mine.Tokenizer"]},
}
CONFIG = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}


def test_a_program_runs_no_code_of_a_directory_whatever_standard_input_says(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    with_code(base, "tokenizer_config.json", TOKENIZER)
    with_code(base, "config.json", CONFIG)
    recipe = {"base": str(base), "steps": 1, "evaluate_turns": 0}
    folder = make_run(tmp_path / "run", "sft", recipe, data={"train": demo_rows(2)})
    subprocess.run(
        [sys.executable, "-m", "training.engine.sft", str(folder)],
        input="y\n" * 9,
        text=True,
        cwd=ROOT,
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert not (base / "ran").exists()
    (result,) = events(folder, "result")
    assert result["error"].endswith("brings code of its own, which is never run")


def test_a_program_reads_nothing_of_standard_input(tmp_path):
    """It reads its end, so that no library can take what stands there for an answer."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from training.engine.run.directory import run_program\n"
            "from records.recipes import SftRecipe\n"
            "sys.argv[1:] = ['/nowhere']\n"
            "run_program('sft', SftRecipe, None)\n"
            "import os; print([sys.stdin.read(), os.read(0, 9)])",
        ],
        input="y\n",
        text=True,
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    assert told == "['', b'']\n"


@pytest.mark.parametrize(
    ("config", "kind"),
    [("tokenizer_config.json", TOKENIZER), ("config.json", CONFIG)],
)
@pytest.mark.parametrize("load", [load_policy, load_critic])
def test_code_of_a_directory_is_not_run(load, config, kind, tmp_path):
    base = with_code(save_micro_policy(tmp_path / "base"), config, kind)
    if config == "config.json":
        with pytest.raises(RunError) as caught:
            load(base, CPU)
        assert str(caught.value) == (
            "model directory base: expected a model that transformers knows, found one "
            "that brings code of its own, which is never run"
        )
    else:
        load(base, CPU)
    assert not (base / "ran").exists()


# Weights


def test_pickled_weights_are_refused(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    torch.save(load_file(str(base / "model.safetensors")), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    for load in (load_policy, load_critic):
        with pytest.raises(RunError) as caught:
            load(base, CPU)
        assert str(caught.value) == (
            "model directory base: expected weights in safetensors, found "
            "pytorch_model.bin, a format that can run code"
        )


def test_an_adapter_beside_weights_is_refused(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "other"}')
    with pytest.raises(RunError, match="expected a whole model, found an adapter"):
        load_policy(base, CPU)


def test_weights_that_lack_a_matrix_are_refused_and_not_made_up(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    weights = load_file(str(base / "model.safetensors"))
    gone = "model.layers.1.mlp.up_proj.weight"
    del weights[gone]
    save_file(weights, str(base / "model.safetensors"), {"format": "pt"})
    for load in (load_policy, load_critic):
        with pytest.raises(RunError, match=rf"expected weights of {gone}, found none"):
            load(base, CPU)


def test_a_torn_file_of_weights_ends_in_a_sentence(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="expected a model directory that transformers"):
        load_policy(base, CPU)


def test_a_head_of_other_outputs_is_made_anew_where_outputs_are_asked_for(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    two = load_classifier(base, CPU, outputs=2)
    two.save_pretrained(tmp_path / "two")
    one = load_classifier(tmp_path / "two", CPU, outputs=1)
    assert one.score.weight.shape == (1, 32)
    same = load_classifier(tmp_path / "two", CPU)
    torch.testing.assert_close(same.score.weight, two.score.weight)


# The chat template

LOOPS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "power": "{% set n = messages | length * 3 %}{{ n ** (n ** n) }}",
    "loops without a system role": "{% if messages[0].role == 'system' %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
}
LARGE = {
    "text": "{{ 'x' * (messages | length * 2 ** 33) }}",
    "output": "{% for a in range(9999) %}{{ 'x' * 999 }}{% endfor %}",
}


def with_template(template):
    tokenizer = micro_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("kind", LOOPS)
def test_a_template_without_an_end_ends_in_a_sentence(kind, monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", 0.5)
    with pytest.raises(RunError) as caught:
        ChatFrame.of(with_template(LOOPS[kind]))
    assert str(caught.value) == (
        "chat template: expected a text within 0.5 seconds, found none"
    )


@pytest.mark.parametrize("kind", LARGE)
def test_a_template_that_takes_all_memory_ends_in_a_sentence(kind):
    with pytest.raises(RunError) as caught:
        ChatFrame.of(with_template(LARGE[kind]))
    assert str(caught.value) == (
        "chat template: expected a text of at most 1 MiB, found one that needs more "
        "memory"
    )


def test_a_template_that_is_broken_ends_in_its_own_words():
    with pytest.raises(ValueError, match=r"chat template: .*endfor"):
        ChatFrame.of(with_template("{% for m in messages %}"))
    with pytest.raises(ValueError, match=r"chat template: roles must please me"):
        ChatFrame.of(with_template("{{ raise_exception('roles must please me') }}"))


def test_a_run_on_a_base_with_an_endless_template_fails_and_says_why(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(chat_template, "SECONDS", 0.5)
    base = save_micro_policy(tmp_path / "base")
    (base / "chat_template.jinja").write_text(LOOPS["loops"])
    recipe = {"base": str(base), "steps": 1}
    folder = make_run(tmp_path / "run", "sft", recipe, data={"train": demo_rows(2)})
    assert run_program("sft", SftRecipe, sft.train, [str(folder)]) == 1
    (result,) = events(folder, "result")
    assert result["state"] == "failed"
    assert result["error"].startswith("chat template: expected a text within")


def test_what_is_loaded_renders_as_it_did(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    messages = [{"role": "user", "content": "Hello"}]
    tokenizer = load_tokenizer(base)
    expected = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert chat_template.render(tokenizer, messages) == expected
    assert chat_template.render(tokenizer, messages) == expected  # remembered
    assert micro_policy(tokenizer).config.vocab_size == len(tokenizer)
