"""Numbers that are not finite end a run as failed; its last good checkpoint is kept."""

import hashlib
import json
import math
import re
import shutil
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM

from records.checkpoints import (
    CheckpointError,
    read_manifest,
    verify_checkpoint,
)
from records.finite import NotFiniteError, at, first_not_finite
from records.finite_files import files_must_be_finite
from records.recipes import (
    DrawRecipe,
    EvaluateRecipe,
    RewardRecipe,
    SftRecipe,
)
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    micro_tokenizer,
    save_micro_policy,
)
from tests.engine.test_critic import COMPLETIONS, PROMPTS, batch_of, micro_critic
from tests.engine.test_policy import (
    GOOD,
    run_policy,
    save_judge,
    toy,  # noqa: F401
    toy_rows,
)
from tests.engine.test_preference import run_preference
from tests.engine.test_ranking import run_ranking
from training.engine import draw, evaluate, reward, sft
from training.engine.data.conversations import IGNORED, Encoder, sample_from_json
from training.engine.modeling.finite_weights import weights_must_be_finite
from training.engine.modeling.policies import save_policy
from training.engine.rl.rewards import Rewarded
from training.engine.run.directory import Ending, RunDirectory, run_program
from training.engine.sampling.sampler import Sampled

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SMALL = {
    "steps": 4,
    "conversations_per_step": 1,
    "evaluate_turns": 0,
    "evaluate_every": 1,
    "warmup_steps": 0,
    "muon_learning_rate": 0.0,
    "learning_rate": 1e-3,
    "precision": "fp32",
}


def spoil(folder, name, value):
    """Put a value into one place of a weight of a saved model; return the folder."""
    weights = load_file(folder / "model.safetensors")
    weights[name].flatten()[1] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def treacherous(folder, token):
    """Make a model whose loss is finite and whose gradient at ``token`` is not.

    The norm of an embedding of zeros is 0, and its slope 1/√ε, for the smallest ε.
    """
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "base_model.embed_tokens.weight"):
        if name in weights:
            weights[name][token] = 0.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = 1.4e-45
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rehash(checkpoint):
    """Write the manifest of files that were changed, as a faulty program might."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"] = {
        name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
        for name in manifest["files"]
    }
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return checkpoint


def token_in(folder, rows, only=None):
    """Return a token of every prompt of ``rows``, or one of the row ``only`` alone."""
    encoder = Encoder(AutoTokenizer.from_pretrained(folder))
    found = [set(encoder.encode(sample_from_json(row)).prompt(0)) for row in rows]
    if only is None:
        return max(set.intersection(*found))
    others = set().union(
        *(
            encoder.encode(sample_from_json(row)).ids
            for number, row in enumerate(rows)
            if number != only
        )
    )
    return max(found[only] - others)


def run_sft(folder, base, rows=None, **recipe):
    data = {"train": rows or demo_rows(4), "held_out": demo_rows(2, "held-out", 2)}
    make_run(folder, "sft", {**SMALL, "base": str(base), **recipe}, None, data)
    return run_program("sft", SftRecipe, sft.train, [str(folder)])


def copied(source, folder):
    shutil.copytree(source, folder)
    return folder


def failure(folder):
    (result,) = events(folder, "result")
    assert result["state"] == "failed"
    return result["error"]


def overflow(folder):
    """Return why a run failed; a norm that overflows is inf, or nan where 0 × inf is."""
    return re.sub("found (nan|inf)", "found what overflowed", failure(folder))


def kept(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# A base that is not finite


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.1.input_layernorm.weight", math.nan),
        ("model.norm.weight", math.inf),
        ("model.embed_tokens.weight", -math.inf),
        ("lm_head.weight", math.nan),
    ],
)
def test_a_base_with_one_bad_weight_is_refused_before_any_step(tmp_path, name, value):
    base = spoil(save_micro_policy(tmp_path / "base", "llama"), name, value)
    assert run_sft(tmp_path / "run", base) == 1
    assert failure(tmp_path / "run") == (
        f"model directory base: expected a finite weight `{name}`, found {value}. "
        "The run stopped before its first checkpoint."
    )
    assert kept(tmp_path / "run") == []
    assert not events(tmp_path / "run", "metrics")


def test_a_saved_buffer_counts_as_a_weight():
    module = torch.nn.BatchNorm1d(2)
    module.running_var[1] = math.nan
    with pytest.raises(NotFiniteError, match="`running_var`, found nan"):
        weights_must_be_finite(module, "base")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_every_precision_is_looked_at(dtype):
    module = torch.nn.Linear(3, 1)
    weights_must_be_finite(module.to(dtype), "base")
    module.weight.data[0, 1] = math.nan
    with pytest.raises(NotFiniteError):
        weights_must_be_finite(module, "base")


def test_no_program_takes_a_policy_with_a_bad_weight(tmp_path):
    bad = spoil(save_micro_policy(tmp_path / "bad"), "model.norm.weight", math.nan)
    rows = toy_rows()
    data = {"train": rows, "held_out": rows}
    for program, recipe_type, main in (
        ("draw", DrawRecipe, draw.draw),
        ("evaluate", EvaluateRecipe, evaluate.evaluate),
        ("reward", RewardRecipe, reward.main),
    ):
        folder = make_run(tmp_path / program, program, None, {"policy": bad}, data)
        assert run_program(program, recipe_type, main, [str(folder)]) == 1
        assert "a finite weight `model.norm.weight`, found nan" in failure(folder)
    assert run_preference(tmp_path / "preference", bad) == 1
    assert "a finite weight" in failure(tmp_path / "preference")
    assert run_policy(tmp_path / "policy", bad, consistency_source="oracle") == 1
    assert "a finite weight" in failure(tmp_path / "policy")


def test_a_reward_model_with_a_bad_head_scores_nothing(tmp_path, toy):  # noqa: F811
    judge = save_judge(tmp_path / "judge", GOOD)
    rehash(spoil(judge, "score.weight", math.nan))
    assert run_policy(tmp_path / "run", toy, judge) == 1
    error = failure(tmp_path / "run")
    assert "expected a finite weight `score.weight`, found nan" in error
    assert kept(tmp_path / "run") == []


# Scores


def test_a_score_that_overflows_ends_the_run(tmp_path, toy):  # noqa: F811
    judge = save_judge(tmp_path / "judge", GOOD)
    weights = load_file(judge / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], 3e38)
    save_file(weights, judge / "model.safetensors", {"format": "pt"})
    assert run_policy(tmp_path / "run", toy, rehash(judge)) == 1
    assert failure(tmp_path / "run") == (
        "expected a finite score of the reward model, found nan. "
        "The run stopped before its first checkpoint."
    )


@pytest.mark.parametrize("kind", ["consistency", "rule", "preference"])
def test_a_reward_that_is_not_finite_is_not_taken_for_one_that_does_not_apply(kind):
    with pytest.raises(NotFiniteError, match=f"reward/{kind}, found nan"):
        Rewarded(**{"format": 1.0, "consistency": None, kind: math.nan})


def test_a_token_of_no_known_probability_is_not_an_answer():
    with pytest.raises(NotFiniteError, match="sampled token, found nan"):
        Sampled([3, 4], [-0.5, math.nan], ended=True)


def test_logits_that_overflow_give_no_answers(tmp_path):
    """Every weight is finite, the logits are not: the head and the norm are huge."""
    policy = save_micro_policy(tmp_path / "policy", "llama")
    weights = load_file(policy / "model.safetensors")
    for name in ("lm_head.weight", "model.norm.weight"):
        weights[name] = torch.full_like(weights[name], 1e30)
    save_file(weights, policy / "model.safetensors", {"format": "pt"})
    data = {"train": toy_rows(), "held_out": toy_rows()}
    for program, recipe_type, main in (
        ("draw", DrawRecipe, draw.draw),
        ("evaluate", EvaluateRecipe, evaluate.evaluate),
    ):
        recipe = {"max_new_tokens": 4, "precision": "fp32"}
        folder = make_run(tmp_path / program, program, recipe, {"policy": policy}, data)
        assert run_program(program, recipe_type, main, [str(folder)]) == 1
        assert "finite log-probability of a sampled token, found nan" in failure(folder)


# Steps


def test_a_gradient_that_overflows_stops_the_run_at_its_last_good_checkpoint(tmp_path):
    base = save_micro_policy(tmp_path / "base", "llama")
    token = token_in(base, demo_rows(4), only=0)
    assert run_sft(tmp_path / "run", treacherous(base, token)) == 1
    steps = [event["step"] for event in events(tmp_path / "run", "checkpoint")]
    assert steps
    assert overflow(tmp_path / "run") == (
        f"step {steps[-1] + 1}: expected a finite gradient norm, found what overflowed. "
        f"The run stopped; its last good checkpoint is step {steps[-1]}."
    )
    last = tmp_path / "run" / "checkpoints" / f"step-{steps[-1]:06d}"
    verify_checkpoint(last)
    for name, tensor in load_file(last / "model.safetensors").items():
        assert tensor.isfinite().all(), name


def test_a_held_out_loss_that_is_not_finite_stops_the_run(tmp_path):
    """The bias of two tokens is finite, the sum of their losses is not."""
    tokenizer = micro_tokenizer()
    config = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = PhiForCausalLM(config)
    encoder = Encoder(tokenizer)
    seen = {
        i for row in demo_rows(4) for i in encoder.encode(sample_from_json(row)).ids
    }
    held_out = Counter(
        label
        for row in demo_rows(2, "held-out", 2)
        for label in encoder.encode(sample_from_json(row)).labels
        if label != IGNORED and label not in seen
    )
    (often, count), *_ = held_out.most_common(1)
    assert count > 1
    model.lm_head.bias.data[often] = -3e38
    save_policy(model, tokenizer, tmp_path / "base")
    recipe = {"evaluate_every": 2, "evaluate_turns": 2}
    assert run_sft(tmp_path / "run", tmp_path / "base", **recipe) == 1
    assert failure(tmp_path / "run") == (
        "step 2: expected a finite held_out_loss, found inf. "
        "The run stopped before its first checkpoint."
    )


def test_preference_stops_at_a_gradient_that_overflows(tmp_path, toy):  # noqa: F811
    start = copied(toy, tmp_path / "start")
    treacherous(start, token_in(start, toy_rows()))
    assert run_preference(tmp_path / "run", start, method="full") == 1
    assert overflow(tmp_path / "run") == (
        "step 1: expected a finite gradient norm, found what overflowed. "
        "The run stopped; its last good checkpoint is step 0."
    )


def test_ranking_stops_at_a_gradient_that_overflows(tmp_path):
    start = save_micro_policy(tmp_path / "start")
    treacherous(start, token_in(start, toy_rows()))
    assert run_ranking(tmp_path / "run", start) == 1
    assert overflow(tmp_path / "run") == (
        "step 1: expected a finite gradient norm, found what overflowed. "
        "The run stopped before its first checkpoint."
    )


def test_the_reward_program_stops_at_a_gradient_that_overflows(tmp_path):
    start = save_micro_policy(tmp_path / "start")
    tokenizer = AutoTokenizer.from_pretrained(start)
    treacherous(start, tokenizer.encode("Plan", add_special_tokens=False)[0])
    recipe = {
        "steps": 2,
        "pairs_per_step": 4,
        "precision": "fp32",
        "muon_learning_rate": 0.0,
        "layout": "sequential",
        "judged_share": 0.0,
    }
    data = {"train": demo_rows(4)}
    make_run(tmp_path / "run", "reward", recipe, {"policy": start}, data)
    arguments = [str(tmp_path / "run")]
    assert run_program("reward", RewardRecipe, reward.main, arguments) == 1
    assert overflow(tmp_path / "run") == (
        "step 1: expected a finite gradient norm, found what overflowed. "
        "The run stopped before its first checkpoint."
    )


def test_the_policy_program_stops_at_a_gradient_that_overflows(tmp_path, toy):  # noqa: F811
    start = copied(toy, tmp_path / "start")
    treacherous(start, token_in(start, toy_rows()))
    recipe = {
        "consistency_source": "oracle",
        "muon_learning_rate": 0.0,
        "method": "full",
    }
    assert run_policy(tmp_path / "run", start, **recipe) == 1
    assert overflow(tmp_path / "run") == (
        "step 1: expected a finite gradient norm, found what overflowed. "
        "The run stopped; its last good checkpoint is step 0."
    )


def test_the_critic_stops_at_a_loss_that_overflows(tmp_path):
    critic = micro_critic(tmp_path)
    batch = batch_of(PROMPTS, COMPLETIONS, [[1] * 4, [1] * 4, [1] * 2])
    old = critic.values(batch)
    before = {name: w.clone() for name, w in critic.model.state_dict().items()}
    with pytest.raises(
        NotFiniteError, match="critic: step 3: expected a finite loss, found"
    ):
        critic.learn(batch, old, torch.full_like(old, 1e30), 3)
    for name, weight in critic.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


# What is written


def opened(folder):
    make_run(folder, "sft")
    run = RunDirectory(folder)
    run.read()
    return run


def test_a_checkpoint_with_a_bad_weight_is_not_left(tmp_path):
    run = opened(tmp_path)

    def write(folder):
        save_file({"a": torch.ones(3)}, folder / "good.safetensors")
        save_file({"b": torch.tensor([1.0, -math.inf])}, folder / "model.safetensors")

    with pytest.raises(NotFiniteError) as raised:
        run.save_checkpoint(3, write, kind="policy", recipe=SftRecipe())
    run.close()
    assert str(raised.value) == (
        "checkpoint of step 3: model.safetensors: "
        "expected a finite weight `b`, found -inf"
    )
    assert kept(tmp_path) == []
    assert not events(tmp_path, "checkpoint")


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e5m2,
        torch.float8_e4m3fn,
    ],
)
def test_saved_numbers_of_every_type_are_told_apart(tmp_path, dtype):
    numbers = torch.linspace(-4, 4, 1000).to(dtype)
    whole = torch.arange(-5, 5)
    tensors = {"n": numbers, "whole": whole, "none": torch.zeros(0, dtype=dtype)}
    save_file(tensors, tmp_path / "a.safetensors")
    files_must_be_finite(tmp_path, "here")
    bad = [math.nan]
    if dtype != torch.float8_e4m3fn:  # it has no infinity
        bad += [math.inf, -math.inf]
    for value in bad:
        tensors["n"] = torch.cat([numbers, torch.tensor([value]).to(dtype)])
        save_file(tensors, tmp_path / "a.safetensors")
        with pytest.raises(NotFiniteError, match=f"weight `n`, found {value}$"):
            files_must_be_finite(tmp_path, "here")


def test_a_file_that_only_looks_like_weights_is_no_checkpoint(tmp_path):
    run = opened(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        run.save_checkpoint(
            3,
            lambda folder: (folder / "model.safetensors").write_bytes(b"weights"),
            kind="policy",
            recipe=SftRecipe(),
        )
    run.close()
    assert kept(tmp_path) == []


@pytest.mark.parametrize("figure", [math.nan, {"low": [0.5, math.inf]}])
def test_a_checkpoint_with_a_bad_figure_is_not_left(tmp_path, figure):
    run = opened(tmp_path)
    with pytest.raises(NotFiniteError, match="finite truth"):
        run.save_checkpoint(
            3,
            lambda folder: (folder / "x").write_text("x"),
            kind="policy",
            recipe=SftRecipe(),
            metrics={"truth": figure},
        )
    run.close()
    assert kept(tmp_path) == []


def test_a_figure_that_is_not_finite_fails_the_run_and_none_does_not(tmp_path):
    def told(run, recipe):
        run.metrics(1, {"loss": 0.5, "none": None})
        return Ending("finished", {"truth": {"low": math.nan}})

    make_run(tmp_path, "sft")
    assert run_program("sft", SftRecipe, told, [str(tmp_path)]) == 1
    assert failure(tmp_path) == (
        "result: expected a finite truth/low, found nan. "
        "The run stopped before its first checkpoint."
    )
    assert events(tmp_path, "metrics")[0]["values"] == {"loss": 0.5, "none": None}


def test_a_manifest_with_a_bad_figure_is_no_checkpoint(tmp_path):
    run = opened(tmp_path)
    manifest = run.save_checkpoint(
        3,
        lambda folder: (folder / "x").write_text("x"),
        kind="policy",
        recipe=SftRecipe(),
        metrics={"loss": 0.5},
    )
    run.close()
    path = manifest.path / "manifest.json"
    path.write_text(path.read_text().replace("0.5", "1e999"))
    with pytest.raises(
        CheckpointError, match=r"loss`: expected a finite number, found inf"
    ):
        read_manifest(manifest.path)


# Small parts


def test_the_place_of_a_bad_number_is_named_from_the_outside_in():
    with pytest.raises(NotFiniteError) as raised, at("step 4"), at("critic"):
        raise NotFiniteError("loss", math.inf, "part 2")
    expected = "step 4: critic: part 2: expected a finite loss, found inf"
    assert str(raised.value) == expected


def test_the_first_bad_number_is_found_however_deep():
    assert first_not_finite({"a": 1, "b": None, "c": "nan", "d": True}) is None
    assert first_not_finite({"a": [0.5, {"b": -math.inf}]}) == ("a/1/b", -math.inf)
