"""The reward program's weights after four steps: frozen numbers, and transformers' own loss.

``reward_weights.json`` was recorded from the program when its loop was the ``Trainer`` of
transformers. Record again, for a reason that a commit states, with
``python -m tests.engine.test_reward_equality``.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from records.recipes import RewardRecipe
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    micro_tokenizer,
    save_micro_policy,
)
from tests.engine.test_reward import judged_rows
from training.engine import reward
from training.engine.run.directory import run_program

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

FROZEN = Path(__file__).with_name("reward_weights.json")
STEPS = 4
BASE = {
    "steps": STEPS,
    "pairs_per_step": 6,
    "evaluate_turns": 2,
    "evaluate_every": 2,
    "muon_learning_rate": 0.0,
    "precision": "fp32",
    "learning_rate": 1e-3,
    "warmup_steps": 1,
}
CASES = {
    "final, sequential": {"labels": "final", "layout": "sequential"},
    "final, interleaved": {"labels": "final"},
    "unit, sequential": {"layout": "sequential"},
    "unit, interleaved": {},
    "with rivals and history": {"pairwise_weight": 0.5, "history_tokens": 8},
    "in micro-batches": {"micro_batch": 2},
    "muon from scratch": {
        "muon_learning_rate": 5e-3,
        "backbone": "scratch",
        "width": 128,
        "layers": 2,
    },
    "bf16": {"precision": "bf16"},
}
# Newton-Schulz and autocast round to bf16: another CPU rounds otherwise.
TOLERANCE = {"muon from scratch": 2e-4, "bf16": 2e-4}


def judged_with_rivals():
    """Judged answers, some beside one of the other verdict to the same label."""
    rows = judged_rows(24, 12)
    for row in [row for row in rows if row["consistent"]]:
        wrong = {"sampled": "No.", "consistent": False, "differs": []}
        rows.append({**row, **wrong, "judgment": 100 + row["judgment"]})
    return rows


def make_reward_run(folder, policy, recipe, resume=None):
    data = {
        "train": demo_rows(),
        "held_out": demo_rows(4, "held-out"),
        "judgments": judged_with_rivals(),
    }
    return make_run(
        folder, "reward", {**BASE, **recipe}, {"policy": policy}, data, resume
    )


def run_reward(folder, policy, recipe, resume=None):
    make_reward_run(folder, policy, recipe, resume)
    assert run_program("reward", RewardRecipe, reward.main, [str(folder)]) == 0
    return folder


def weights(folder, step=STEPS):
    return load_file(folder / f"checkpoints/step-{step:06d}/model.safetensors")


def fingerprint(folder, step=STEPS):
    """Return of each weight its product with a fixed wave, in the size of one number."""
    return {
        name: float(
            weight.double().flatten() @ torch.arange(weight.numel()).double().cos()
        )
        / math.sqrt(weight.numel())
        for name, weight in weights(folder, step).items()
    }


def loss_of(folder):
    return next(
        event["values"]["loss"]
        for event in events(folder, "metrics")
        if "loss" in event["values"]
    )


def frozen(case):
    return json.loads(FROZEN.read_text())[case]


def must_equal(folder, case):
    tolerance = TOLERANCE.get(case, 1e-5)
    known = frozen(case)
    assert fingerprint(folder) == pytest.approx(known["weights"], abs=tolerance)
    assert loss_of(folder) == pytest.approx(known["loss"], abs=10 * tolerance)


@pytest.mark.parametrize("case", CASES)
def test_four_steps_give_the_frozen_weights(tmp_path, case):
    policy = save_micro_policy(tmp_path / "policy", "llama")
    folder = run_reward(tmp_path / "run", policy, CASES[case])
    must_equal(folder, case)
    before, after = fingerprint(folder, 2), fingerprint(folder)
    assert max(abs(before[name] - after[name]) for name in after) > 5e-4


def test_a_run_resumed_after_two_steps_gives_the_frozen_weights(tmp_path):
    policy = save_micro_policy(tmp_path / "policy", "llama")
    whole = run_reward(tmp_path / "whole", policy, {})
    half = str(whole / "checkpoints/step-000002")
    resumed = run_reward(tmp_path / "resumed", policy, {}, half)
    must_equal(resumed, "unit, interleaved")
    one, other = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_final_labels_learn_by_the_cross_entropy_of_transformers(tmp_path):
    """The reference: a sequence classifier of two outputs read at the last token."""
    tokenizer = micro_tokenizer()
    marks = ["<<label>>", "<<sampled>>", "<<match>>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    save_micro_policy(tmp_path / "policy", "llama")
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "policy", num_labels=2, dtype=torch.float32
    )
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    start = tmp_path / "start"
    model.save_pretrained(start)
    tokenizer.save_pretrained(start)

    recipe = {**BASE, "labels": "final", "layout": "sequential"}
    recipe |= {"pairs_per_step": 2, "judged_share": 1.0, "warmup_steps": 0}
    judged = judged_rows(24, 0)
    rows = [  # one of each verdict: a step takes both
        next(row for row in judged if row["consistent"] == verdict)
        for verdict in (True, False)
    ]
    data = {"train": demo_rows(4), "judgments": rows}
    make_run(tmp_path / "run", "reward", recipe, {"policy": start}, data)
    arguments = [str(tmp_path / "run")]
    assert run_program("reward", RewardRecipe, reward.main, arguments) == 0
    trained = weights(tmp_path / "run")

    end = tmp_path / "run/checkpoints/step-000004"
    tokenizer = AutoTokenizer.from_pretrained(end)
    model = AutoModelForSequenceClassification.from_pretrained(
        start, dtype=torch.float32
    )
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    mark, sampled, match = tokenizer.convert_tokens_to_ids(marks)

    def ids(row):
        label, answer = (
            tokenizer.encode(
                row[side], add_special_tokens=False, split_special_tokens=True
            )
            for side in ("label", "sampled")
        )
        return torch.tensor([[mark, *label, sampled, *answer, match]])

    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    groups = [
        {"params": matrices, "weight_decay": 0.01},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    for step in range(STEPS):
        for group in optimizer.param_groups:  # the second half falls to zero
            group["lr"] = 1e-3 * min(1.0, (STEPS - step) / (STEPS / 2))
        optimizer.zero_grad()
        for row in rows:
            target = torch.tensor([int(row["consistent"])])
            loss = model(input_ids=ids(row), labels=target).loss
            (loss / len(rows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    expected = {name: p.detach() for name, p in model.named_parameters()}
    first = load_file(start / "model.safetensors")
    moved = max(
        float((expected[name] - first[name]).abs().max())
        for name in first
        if expected[name].shape == first[name].shape
    )
    assert moved > 1e-3
    for name, weight in expected.items():
        # The rows of marks that no prompt of this layout has start at other noise.
        known = len(first[name]) if weight.ndim else None
        gap = (weight[:known] - trained[name][:known]).abs().max()
        assert gap < 1e-5, name


def record():
    """Write the frozen numbers anew, from the program as it is."""
    numbers = json.loads(FROZEN.read_text())  # test_ranking's stay
    with tempfile.TemporaryDirectory() as folder:
        policy = save_micro_policy(Path(folder) / "policy", "llama")
        for case, recipe in CASES.items():
            run = run_reward(Path(folder) / case.replace(" ", "-"), policy, recipe)
            rounded = {name: round(v, 8) for name, v in fingerprint(run).items()}
            numbers[case] = {"loss": round(loss_of(run), 7), "weights": rounded}
    FROZEN.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(record())
