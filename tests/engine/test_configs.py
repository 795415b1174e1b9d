"""Configs: valid from the start, the same in a checkpoint as in the base it came from."""

import json
import resource

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from records.recipes import SftRecipe
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    micro_tokenizer,
    save_micro_policy,
)
from tests.engine.test_policy import run_policy, toy_rows
from training.engine import sft
from training.engine.modeling.configs import restore, valid_generation
from training.engine.modeling.loading import load_policy
from training.engine.modeling.policies import Place, save_policy
from training.engine.run.directory import RunDirectory, RunError, run_program
from training.engine.sampling.sampler import Sampling, sample_responses

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # peft looks for experts by the names that they had before transformers fused them.
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),
]

CPU = Place(torch.device("cpu"), half=False)
EXPERTS = {
    "Qwen3Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "head_dim": 8,
        "router_aux_loss_coef": 0.02,
    },
    "Mixtral": {"num_local_experts": 4, "router_aux_loss_coef": 0.02},
    "GraniteMoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def make_base(folder, kind, **settings):
    """Write a tiny model of a kind that transformers knows, as others publish them."""
    tokenizer = micro_tokenizer()
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **{**EXPERTS.get(kind, {}), **settings},
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_sft(folder, base, **recipe):
    recipe = {
        "base": str(base),
        "steps": 3,
        "conversations_per_step": 2,
        "evaluate_turns": 2,
        "evaluate_every": 2,
        "muon_learning_rate": 0.0,
        "learning_rate": 1e-3,
        "precision": "fp32",
        **recipe,
    }
    data = {"train": demo_rows(4), "held_out": demo_rows(2, "held-out", 2)}
    make_run(folder, "sft", recipe, None, data)
    return run_program("sft", SftRecipe, sft.train, [str(folder)])


def read(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def failure(folder):
    (result,) = events(folder, "result")
    assert result["state"] == "failed"
    return result["error"]


# A mixture of experts


@pytest.mark.parametrize(
    ("kind", "flag", "method"),
    [
        ("Qwen3Moe", False, "full"),
        ("Qwen3Moe", True, "full"),
        ("Mixtral", False, "lora"),
        ("GraniteMoe", True, "full"),
    ],
)
def test_experts_are_trained_sampled_from_and_saved_as_they_came(
    tmp_path, kind, flag, method
):
    base = make_base(tmp_path / "base", kind, output_router_logits=flag)
    assert run_sft(tmp_path / "run", base, method=method) == 0
    (result,) = events(tmp_path / "run", "result")
    assert result["state"] == "finished"
    assert result["values"]["held_out_turns"] == 2
    for step in (2, 3):
        saved = tmp_path / "run" / "checkpoints" / f"step-{step:06d}"
        assert read(saved) == read(base)
    model, _ = load_policy(saved, CPU)
    sampling = Sampling(0.0, 1.0, 4, (1,), 0)
    prompts = [[5, 6, 7, 8], [9, 10]]
    assert sample_responses(model, prompts, sampling, place=CPU, seed=1)


def test_a_policy_of_experts_is_improved_and_saved_as_it_came(tmp_path):
    base = make_base(tmp_path / "base", "Qwen3Moe", output_router_logits=True)
    recipe = {"consistency_source": "oracle", "steps": 1, "evaluate_every": 1}
    recipe |= {"max_new_tokens": 8, "method": "full"}
    assert run_policy(tmp_path / "run", base, rows=toy_rows(), **recipe) == 0
    assert read(tmp_path / "run" / "checkpoints" / "step-000001") == read(base)


def test_what_a_trainer_wrote_into_the_configs_is_undone(tmp_path):
    model, tokenizer = load_policy(make_base(tmp_path / "base", "Mixtral"), CPU)
    config, generation = model.config.to_dict(), model.generation_config.to_dict()
    model.config.output_router_logits = True
    model.config.router_aux_loss_coef = 0.5
    model.config.use_cache = False
    model.config.invented = 3
    model.config.eos_token_id = [1, 2]
    model.generation_config.temperature = 0.3
    restore(model)
    assert model.config.to_dict() == config
    assert model.generation_config.to_dict() == generation
    model.config.router_aux_loss_coef = 0.5
    save_policy(model, tokenizer, tmp_path / "saved")
    assert read(tmp_path / "saved") == read(tmp_path / "base")


# Generation configs


NOT_VALID = [
    {"temperature": 0.6, "top_p": 0.9},
    {"temperature": 0.9, "top_p": 0.6, "_from_model_config": True},  # Llama 2
    {"top_k": 20},
    {"min_p": 0.1},
    {"do_sample": False, "temperature": 0.7, "top_k": 1},
    {"temperature": 0.0, "top_p": 0.5},
    {"temperature": "0.7"},
    {"early_stopping": True, "length_penalty": 2.0},
    {"max_new_tokens": -1},
    {"max_new_tokens": "20"},
    {"num_return_sequences": 3},
    {"cache_implementation": "not known"},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"output_scores": True},
    {"watermarking_config": {"seeding_scheme": "none"}},
    {"pad_token_id": -1},
    {"unknown": [1, 2], "to_dict": 3, "save_pretrained": 1},
]


@pytest.mark.parametrize("settings", NOT_VALID)
def test_a_generation_config_that_cannot_be_saved_is_made_one_that_can(
    tmp_path, settings
):
    valid_generation(settings).save_pretrained(tmp_path)
    GenerationConfig.from_pretrained(tmp_path).validate(strict=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.6, "top_p": 0.95, "do_sample": True, "top_k": 20},
        {"repetition_penalty": 1.05, "max_new_tokens": 512},
        {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True},
        {"temperature": 1.0, "top_p": 1.0},
        {"cache_implementation": "hybrid"},
        {"unknown": [1, 2]},
    ],
)
def test_a_valid_generation_config_stays_as_it_is(settings):
    found = valid_generation(settings).to_diff_dict()
    assert found == GenerationConfig(**settings).to_diff_dict()


def test_a_temperature_is_kept_and_sampled_with():
    found = valid_generation({"temperature": 0.9, "top_p": 0.6})
    assert (found.do_sample, found.temperature, found.top_p) == (True, 0.9, 0.6)
    greedy = valid_generation({"temperature": 0.9, "do_sample": False})
    assert (greedy.do_sample, greedy.temperature) == (False, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2},
        {"cache_implementation": "not known", "top_k": 20},
        {"max_new_tokens": -1, "penalty": 2},
    ],
)
def test_a_base_with_such_a_generation_config_is_trained(tmp_path, settings):
    base = save_micro_policy(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps(settings))
    assert run_sft(tmp_path / "run", base, steps=1) == 0
    saved = tmp_path / "run" / "checkpoints" / "step-000001"
    _, tokenizer = load_policy(base, CPU)
    found = read(saved, "generation_config.json")
    assert found["pad_token_id"] == tokenizer.pad_token_id
    kept = {k: v for k, v in settings.items() if k in ("temperature", "top_p", "top_k")}
    assert {**found, **kept} == found


def test_sampling_settings_in_an_old_config_are_no_obstacle_either(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    (base / "generation_config.json").unlink()
    config = {**read(base), "temperature": 0.7, "top_p": 0.9, "num_beams": 1}
    (base / "config.json").write_text(json.dumps(config))
    assert run_sft(tmp_path / "run", base, steps=1) == 0


@pytest.mark.parametrize("content", ["{", "[]", "\ufeff"])
def test_a_generation_config_that_is_none_is_refused_by_name(tmp_path, content):
    base = save_micro_policy(tmp_path / "base")
    (base / "generation_config.json").write_text(content)
    assert run_sft(tmp_path / "run", base) == 1
    expected = "model directory base: generation_config.json: expected a JSON object"
    assert failure(tmp_path / "run").startswith(expected)


# The rehearsal


def test_what_cannot_be_saved_ends_the_run_before_its_first_step(tmp_path):
    base = save_micro_policy(tmp_path / "base")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # as on a full disk
    try:
        status = run_sft(tmp_path / "run", base)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert failure(tmp_path / "run").startswith(
        "checkpoint before the first step: expected a model that can be saved, found "
    )
    assert not events(tmp_path / "run", "metrics")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_rehearsal_leaves_nothing_and_announces_nothing(tmp_path):
    make_run(tmp_path, "sft")
    run = RunDirectory(tmp_path)
    run.read()
    written = []

    def write(folder):
        (folder / "x").write_text("x")
        written.append(folder)

    run.rehearse_checkpoint(write)
    assert len(written) == 1

    def fail(folder):
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left on device"):
        run.rehearse_checkpoint(fail)
    run.close()
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert not events(tmp_path, "checkpoint")
