"""Fine-tuning's steps are those of version 14, which ran them on TRL's trainer.

``recorded/sft_steps.json`` holds the losses and gradient norms of that program and, of
every weight at the end, how far it moved and a projection of it. Its ways of computing a
step, full and LoRA, packed, in micro-batches, resumed, have to lead to the same place.
"""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from records.recipes import SftRecipe
from tests.engine.micro import (
    demo_rows,
    demo_samples,
    events,
    make_run,
    save_micro_policy,
)
from training.engine import sft
from training.engine.data.conversations import Encoder
from training.engine.data.sft_batches import EpochOrder
from training.engine.modeling.loading import load_policy
from training.engine.modeling.optim import muon_and_adamw, warmup_stable_decay
from training.engine.modeling.place import Place
from training.engine.run.directory import run_program

# peft asks for a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

RECORDED = Path(__file__).parent / "recorded/sft_steps.json"
STEPS = 4
COMMON = {
    "steps": STEPS,
    "conversations_per_step": 3,
    "warmup_steps": 2,
    "evaluate_every": 2,
    "evaluate_turns": 1,
    "precision": "fp32",
}
ADAMW = {"muon_learning_rate": 0.0, "learning_rate": 1e-3}
LORA = {"method": "lora", "lora_rank": 4, "learning_rate": 1e-2}
CASES = {
    "full": {},
    "adamw": ADAMW,
    "lora": LORA,
    "packed": {**ADAMW, "packing": True},
    "lora-packed": {**LORA, "packing": True},
    "micro-batches": {**ADAMW, "micro_batch": 2},
    "packed-micro-batches": {**ADAMW, "packing": True, "micro_batch": 1},
    "checkpointing": {**ADAMW, "gradient_checkpointing": True},
    "lora-checkpointing": {**LORA, "gradient_checkpointing": True},
    "bf16": {"precision": "bf16"},
    "unclipped": {**ADAMW, "max_grad_norm": 0.0},
}


QUICK = ("full", "lora-packed", "micro-batches", "bf16")


def run_case(folder, case, shape="qwen3"):
    """Run a recipe to its end, and its second half again; return what it did."""
    start = save_micro_policy(folder / "start", shape)
    rows = {"train": demo_rows(12), "held_out": demo_rows(3, "held-out", 2)}
    done = {}
    for name, resume in (("run", None), ("resumed", "../run/checkpoints/step-000002")):
        run = folder / name
        make_run(run, "sft", {**COMMON, **CASES[case]}, {"policy": start}, rows, resume)
        assert run_program("sft", SftRecipe, sft.train, [str(run)]) == 0
        values = [event["values"] for event in events(run, "metrics")]
        ends = load_file(run / f"checkpoints/step-00000{STEPS}/model.safetensors")
        starts = load_file(start / "model.safetensors")
        done[name] = {
            figure: [v[figure] for v in values if v.get(figure) is not None]
            for figure in ("loss", "gradient_norm", "held_out_loss")
        } | {
            "weights": {
                weight: [
                    float((end - starts[weight]).norm()),
                    float(end.flatten() @ torch.cos(torch.arange(end.numel()) * 0.7)),
                ]
                for weight, end in ends.items()
            }
        }
    return done


def slow(case):
    return pytest.param(case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "case", [c if c in QUICK else slow(c) for c in CASES], ids=list(CASES)
)
def test_the_steps_are_those_recorded(tmp_path, case):
    recorded = json.loads(RECORDED.read_text())[case]
    done = run_case(tmp_path, case)
    by = 2e-3 if case == "bf16" else 2e-5
    for name, figures in recorded.items():
        for figure in ("loss", "gradient_norm", "held_out_loss"):
            assert done[name][figure] == pytest.approx(figures[figure], rel=by, abs=by)
        weights = done[name]["weights"]
        assert weights.keys() == figures["weights"].keys()
        for weight, expected in figures["weights"].items():
            assert weights[weight] == pytest.approx(expected, rel=by, abs=by), weight


def test_the_steps_are_those_of_trls_trainer(tmp_path):
    """The same batches, labels and optimizer on ``SFTTrainer``, used as it comes."""
    small = {"width": 32, "layers": 2}
    settings = {**COMMON, **ADAMW, **small, "steps": 2, "evaluate_turns": 0}
    make_run(tmp_path / "run", "sft", settings, data={"train": demo_rows(12)})
    assert run_program("sft", SftRecipe, sft.train, [str(tmp_path / "run")]) == 0
    (ours,) = (e["values"] for e in events(tmp_path / "run", "metrics"))
    end = load_file(tmp_path / "run/checkpoints/step-000002/model.safetensors")

    start = tmp_path / "run/checkpoints/step-000000"
    model, tokenizer = load_policy(start, Place(torch.device("cpu"), half=False))
    recipe = SftRecipe(**settings)
    order = EpochOrder(Encoder(tokenizer), demo_samples(12), recipe, 2048)
    optimizer = muon_and_adamw(
        model.named_parameters(),
        muon_rate=0.0,
        adamw_rate=recipe.learning_rate,
        weight_decay=sft.WEIGHT_DECAY,
        muon=False,
    )
    schedule = warmup_stable_decay(
        optimizer, first=0, steps=2, warmup=recipe.warmup_steps, decay_fraction=0.5
    )
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=SFTConfig(
            output_dir=str(tmp_path / "theirs"),
            max_steps=2,
            per_device_train_batch_size=3,
            train_sampling_strategy="sequential",
            max_grad_norm=recipe.max_grad_norm,
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            max_length=None,
            logging_steps=2,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [
                {"input_ids": encoded.ids, "labels": encoded.labels}
                for step in range(2)
                for encoded in order.step(step)
            ]
        ),
        optimizers=(optimizer, schedule),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    theirs = trainer.state.log_history[0]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["gradient_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    assert ours["token_accuracy"] == pytest.approx(theirs["mean_token_accuracy"])
    before = load_file(start / "model.safetensors")
    for name, weight in model.state_dict().items():
        if name in end:  # the head is tied
            assert torch.allclose(weight, end[name], atol=1e-5), name
    assert any((end[name] - before[name]).abs().max() > 5e-4 for name in end)
