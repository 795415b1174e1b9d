"""What four steps of the policy program learn: frozen numbers, and TRL's own trainer.

``data/policy_steps/weights.json`` was recorded from the program when it still ran on
``trl.GRPOTrainer``; the answers that it learned from are fixed (``fixed_rollouts``). For
each case it has some projections of how far each tensor moved. Record again, for a reason
that a commit states, with ``python -m tests.engine.test_policy_steps``.
"""

import functools
import json
import math
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import modeling_utils
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from records.recipes import PolicyRecipe
from tests.engine.fixed_rollouts import FOLDER, POLICY, fixed_answer, recorded, rows
from tests.engine.micro import make_run
from tests.engine.test_several import launch
from training.engine import policy
from training.engine.data.conversations import Encoder, sample_from_json
from training.engine.modeling.loading import load_policy
from training.engine.modeling.place import Place
from training.engine.rl import rollouts
from training.engine.rl.rewards import Rewards
from training.engine.run.directory import run_program
from training.engine.sampling.answers import build_prompts
from training.engine.sampling.sampler import Sampling
from training.runs.command import accelerate_config

# peft and transformers warn about settings of their own that they are renaming.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CPU = Place(torch.device("cpu"), half=False)
FROZEN = FOLDER / "weights.json"
BASE = {
    "consistency_source": "oracle",
    "steps": 4,
    "prompts_per_step": 2,
    "num_generations": 4,
    "max_new_tokens": 90,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "beta": 0.05,
    "evaluate_every": 2,
    "precision": "fp32",
}
ALGORITHMS = (
    "grpo by token",
    "grpo",
    "dr_grpo",
    "dapo",
    "reinforce++",
    "reinforce++ baseline",
    "rloo",
    "ppo",
)
CASES = {
    **{name: {"algorithm": name} for name in ALGORITHMS},
    **{
        f"{name}, lora": {"algorithm": name, "method": "lora", "learning_rate": 2e-3}
        for name in ALGORITHMS
    },
    **{
        f"{name}, two updates": {"algorithm": name, "num_iterations": 2}
        for name in ("grpo by token", "grpo", "reinforce++", "ppo")
    },
    "grpo by token, lora, two updates": {
        "algorithm": "grpo by token",
        "method": "lora",
        "learning_rate": 2e-3,
        "num_iterations": 2,
    },
    "dr_grpo, muon, in micro-batches": {
        "algorithm": "dr_grpo",
        "muon_learning_rate": 1e-3,
        "micro_batch": 3,
    },
    "ppo, in micro-batches": {"algorithm": "ppo", "micro_batch": 3},
    "grpo by token, bf16": {"algorithm": "grpo by token", "precision": "bf16"},
}
TOLERANCE = {"grpo by token, bf16": 0.2, "dr_grpo, muon, in micro-batches": 0.02}


def take_steps(folder, settings, resume=None):
    """Run the program on the fixed answers; return how each tensor moved."""
    data = {"train": rows(), "held_out": rows()}
    make_run(folder, "policy", {**BASE, **settings}, {"policy": POLICY}, data, resume)
    rollouts.answer, sampler = fixed_answer, rollouts.answer
    try:
        status = run_program("policy", PolicyRecipe, policy.main, [str(folder)])
    finally:
        rollouts.answer = sampler
    assert status == 0, (folder / "events.jsonl").read_text().splitlines()[-1]
    return moved(folder)


def moved(folder, steps=4):
    start = load_file(POLICY / "model.safetensors")
    end = load_file(folder / f"checkpoints/step-{steps:06}/model.safetensors")
    return {name: (end[name] - start[name]).double().flatten() for name in end}


def projections(tensors):
    """Return the length of each tensor's move, and its place along three directions."""
    return {
        name: [float(move.norm())]
        + [
            float(move @ torch.cos((0.7 + k) * torch.arange(len(move)).double()))
            / math.sqrt(len(move) / 2)
            for k in range(3)
        ]
        for name, move in tensors.items()
    }


def differences(found, frozen):
    """Return how far two moves are apart, as shares of the larger one's length."""
    assert found.keys() == frozen.keys()
    return {
        name: max(abs(a - b) for a, b in zip(found[name], frozen[name], strict=True))
        / max(found[name][0], frozen[name][0], 1e-4)
        for name in found
    }


def frozen(case):
    return json.loads(FROZEN.read_text())[case]


@pytest.mark.parametrize("case", CASES)
def test_four_steps_learn_what_they_always_did(tmp_path, case):
    found = projections(take_steps(tmp_path, CASES[case]))
    assert max(lengths for lengths, *_ in found.values()) > 0.05
    apart = differences(found, frozen(case))
    assert max(apart.values()) < TOLERANCE.get(case, 1e-3), apart


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("grpo by token", {"beta": 0.1}),
        ("grpo, two updates", {"epsilon": 0.15}),
        ("ppo", {"gae_lambda": 0.9}),
        ("rloo", {"format_weight": 0.55}),
    ],
)
def test_another_setting_learns_something_else(tmp_path, case, change):
    """So the comparison above can fail."""
    found = projections(take_steps(tmp_path, CASES[case] | change))
    assert max(differences(found, frozen(case)).values()) > 5e-3


@pytest.mark.parametrize("case", ["grpo by token, lora", "ppo, two updates"])
def test_a_resumed_run_learns_the_same(tmp_path, case):
    whole = take_steps(tmp_path / "whole", CASES[case])
    half = str(tmp_path / "whole/checkpoints/step-000002")
    resumed = take_steps(tmp_path / "resumed", CASES[case], resume=half)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("case", ["grpo by token", "dr_grpo, lora"])
def test_checkpointed_activations_learn_the_same(tmp_path, monkeypatch, case):
    recomputed = []
    compute = modeling_utils.checkpoint

    def counting(*args, **settings):
        recomputed.append(1)
        return compute(*args, **settings)

    monkeypatch.setattr(modeling_utils, "checkpoint", counting)
    settings = CASES[case] | {"gradient_checkpointing": True}
    apart = differences(projections(take_steps(tmp_path, settings)), frozen(case))
    assert len(recomputed) >= 4  # a layer and four steps
    assert max(apart.values()) < 1e-3, apart


def test_vllm_samples_with_the_newest_weights(tmp_path, monkeypatch):
    """A stand-in for TRL's client: vLLM needs a GPU."""
    made = []

    class Engine:
        def __init__(self, **settings):
            self.settings, self.embeddings = settings, []
            made.append(self)

        def sync_weights(self):
            embeddings = self.settings["model"].get_input_embeddings()
            self.embeddings.append(embeddings.weight.detach().clone())

        def generate(self, prompts, images, num_generations):
            drawn = [
                recorded()[rows()[0]["id"]][1][number % num_generations]
                for number in range(len(prompts))
            ]
            logprobs = [[[logprob] for logprob in row[1]] for row in drawn]
            return prompts, [row[0] for row in drawn], logprobs, None

    client = SimpleNamespace(VLLMGeneration=Engine)
    monkeypatch.setitem(sys.modules, "trl.generation", client)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    settings = {**BASE, "backend": "vllm", "temperature": 1.0}
    data = {"train": rows()[:1], "held_out": rows()[:1]}
    make_run(tmp_path, "policy", settings, {"policy": POLICY}, data)
    assert run_program("policy", PolicyRecipe, policy.main, [str(tmp_path)]) == 0
    (engine,) = made
    told = {
        "mode": "colocate",
        "temperature": 1.0,
        "max_completion_length": 90,
        "max_num_seqs": 8,
    }
    assert told.items() <= engine.settings.items()
    assert len(engine.embeddings) == 4
    assert not torch.equal(engine.embeddings[0], engine.embeddings[1])
    assert max(move.norm() for move in moved(tmp_path).values()) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("case", ["grpo by token", "dr_grpo", "reinforce++, lora"])
def test_two_processes_learn_the_same(tmp_path, case):
    recipe = {**BASE, **CASES[case], "processes": 2}
    data = {"train": rows(), "held_out": rows()}
    make_run(tmp_path, "policy", recipe, {"policy": POLICY}, data)
    (tmp_path / "accelerate.json").write_text(json.dumps(accelerate_config(2, "ddp")))
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    config = ["--config_file", str(tmp_path / "accelerate.json")]
    module = ["--main_process_port", "0", "-m", "tests.engine.fixed_rollouts"]
    launch([*launcher, *config, *module], tmp_path)
    apart = differences(projections(moved(tmp_path)), frozen(case))
    assert max(apart.values()) < 1e-3, apart


# TRL's trainer, used plainly

DRAW = 1  # whose groups all have a signal
TRL = {
    "grpo": {"loss_type": "grpo", "beta": 0.05, "use_bias_correction_kl": False},
    "grpo by token": {
        "loss_type": "dapo",
        "beta": 0.05,
        "use_bias_correction_kl": True,
    },
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
}


def trl_steps(folder, rows, settings, **config):
    """Let ``trl.GRPOTrainer`` learn from the same answers and rewards."""
    model, tokenizer = load_policy(POLICY, CPU)
    encoder = Encoder(tokenizer)
    prompts, _ = build_prompts(encoder, [sample_from_json(row) for row in rows], 4096)
    by_id = {prompt.sample.id: prompt for prompt in prompts}
    sampling = Sampling(1.0, 1.0, 90, encoder.frame.stop_ids, tokenizer.pad_token_id)
    groups = fixed_answer(
        None, tokenizer, prompts, sampling, place=CPU, seed=None, per_turn=4, draw=DRAW
    )
    answers = dict(zip(by_id, groups, strict=True))
    score = Rewards(PolicyRecipe(consistency_source="oracle"), None)

    def rollout(ids, trainer):
        drawn = [answers[name][number % 4] for number, name in enumerate(ids)]
        return {
            "prompt_ids": [by_id[name].ids for name in ids],
            "completion_ids": [answer.sampled.ids for answer in drawn],
            "logprobs": [answer.sampled.logprobs for answer in drawn],
            "earned": [0.5 * r.format + r.consistency for r in score(drawn)],
        }

    def reward(earned, **_):
        return earned

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings["learning_rate"],
        betas=(0.9, 0.95),
        weight_decay=0.0,
    )
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[reward],
        rollout_func=rollout,
        train_dataset=Dataset.from_dict({"prompt": list(by_id) * 2}),
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=2,
            per_device_train_batch_size=8,
            num_generations=4,
            num_iterations=settings["num_iterations"],
            temperature=PolicyRecipe().temperature,
            max_completion_length=settings["max_new_tokens"],
            shuffle_dataset=False,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **config,
        ),
    )
    trainer.train()
    start, end = load_file(POLICY / "model.safetensors"), model.state_dict()
    return {name: (end[name] - start[name]).double().flatten() for name in start}


@pytest.mark.parametrize("algorithm", TRL)
@pytest.mark.parametrize("updates", [1, 2])
def test_trls_trainer_learns_the_same(tmp_path, monkeypatch, algorithm, updates):
    """From two draws, or from one in two updates; no answer is near the limit."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    answer = functools.partial(fixed_answer, draw=DRAW)
    monkeypatch.setattr("training.engine.rl.rollouts.answer", answer)
    settings = {
        **BASE,
        "algorithm": algorithm,
        "num_iterations": updates,
        "steps": 2,
        "max_new_tokens": 200,
    }
    two = rows()[:2]
    data = {"train": two, "held_out": two}
    make_run(tmp_path / "ours", "policy", settings, {"policy": POLICY}, data)
    arguments = [str(tmp_path / "ours")]
    assert run_program("policy", PolicyRecipe, policy.main, arguments) == 0
    ours = moved(tmp_path / "ours", 2)
    theirs = trl_steps(tmp_path / "theirs", two, settings, **TRL[algorithm])
    farthest = max(move.abs().max().item() for move in ours.values())
    apart = max((ours[n] - theirs[n]).abs().max().item() for n in ours)
    assert apart < 2e-5 < 1e-3 < farthest


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        recorded = {
            case: {
                name: [float(f"{value:.7g}") for value in values]
                for name, values in projections(
                    take_steps(Path(folder, case.replace(" ", "-")), settings)
                ).items()
            }
            for case, settings in CASES.items()
        }
    FROZEN.write_text(json.dumps(recorded, indent=1) + "\n")
