"""The steps of DPO and KTO are those of version 14, and TRL's losses are ours.

``recorded/preference_steps.json`` holds the figures of that version's program and, of
every weight at the end, how far it moved and a projection of it.
"""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from records.recipes import PreferenceRecipe
from tests.engine.micro import (
    events,
    micro_policy,
    micro_tokenizer,
    save_micro_policy,
)
from tests.engine.test_preference import run_preference, toy_judgments
from training.engine.data.preference_pairs import Batch
from training.engine.modeling.place import Place
from training.engine.modeling.reference import WithReference
from training.engine.preference import accumulate_gradient

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

RECORDED = Path(__file__).parent / "recorded/preference_steps.json"
FIGURES = ("loss", "gradient_norm", "margin", "kl", "logprob/good", "logprob/bad")
COMMON = {
    "steps": 6,
    "evaluate_every": 3,
    "held_out_samples": 1,
    "max_new_tokens": 4,
    "beta": 0.3,
}
CASES = {
    f"{objective}-{method}": {"objective": objective, "method": method}
    for objective in ("dpo", "kto")
    for method in ("full", "lora")
} | {"kto-micro-batches": {"objective": "kto", "micro_batch": 1, "max_grad_norm": 0.0}}


QUICK = ("dpo-full", "kto-lora")


def run_case(folder, case):
    """Run a recipe to its end, and its second half again; return what it did."""
    start = save_micro_policy(folder / "start")
    judgments = [{**row, "split": "train"} for row in toy_judgments()]
    starts = load_file(start / "model.safetensors")
    half = str(folder / "run/checkpoints/step-000003")
    done = {}
    for name, resume in (("run", None), ("resumed", half)):
        settings = {**COMMON, **CASES[case]}
        assert run_preference(folder / name, start, judgments, resume, **settings) == 0
        ends = load_file(folder / name / "checkpoints/step-000006/model.safetensors")
        values = [event["values"] for event in events(folder / name, "metrics")]
        done[name] = {
            figure: [v[figure] for v in values if figure in v] for figure in FIGURES
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
    done = run_case(tmp_path, case)
    for name, figures in json.loads(RECORDED.read_text())[case].items():
        for figure in FIGURES:
            expected = pytest.approx(figures[figure], rel=1e-4, abs=2e-5)
            assert done[name][figure] == expected, figure
        weights = done[name]["weights"]
        assert weights.keys() == figures["weights"].keys()
        for weight, expected in figures["weights"].items():
            near = pytest.approx(expected, rel=2e-5, abs=2e-5)
            assert weights[weight] == near, weight


WORDS = ["one two three", "four", "five six", "seven eight nine ten"]
ONCE = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "learning_rate": 0.0,
    "beta": 0.3,
    "max_length": None,
    "activation_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def their_loss(trainer):
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


def our_loss(objective, policy, reference, pad, rows, good):
    """Return the loss that the program's step has on TRL's own token ids."""
    place = Place(torch.device("cpu"), half=False)
    recipe = PreferenceRecipe(objective=objective, beta=0.3)
    models = WithReference(policy, reference, pad, place)
    return accumulate_gradient(models, recipe, Batch(rows, good), 1)["loss"]


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_the_loss_is_that_of_trls_trainer(tmp_path, objective):
    tokenizer = micro_tokenizer()
    policy, reference = (micro_policy(tokenizer, seed=seed) for seed in (1, 2))
    models = {"model": policy, "ref_model": reference, "processing_class": tokenizer}
    if objective == "dpo":
        texts = [
            {"prompt": "say ", "chosen": WORDS[0], "rejected": WORDS[1]},
            {"prompt": "tell ", "chosen": WORDS[2], "rejected": WORDS[3]},
        ]
        trainer = DPOTrainer(
            args=DPOConfig(output_dir=str(tmp_path), **ONCE),
            train_dataset=Dataset.from_list(texts),
            **models,
        )
        rows, good = [], [True, False, True, False]
        for one in trainer.train_dataset:
            prompt = tuple(one["prompt_ids"])
            rows += [
                (prompt, tuple(one["chosen_ids"])),
                (prompt, tuple(one["rejected_ids"])),
            ]
    else:
        texts = [
            {"prompt": "say ", "completion": WORDS[0], "label": True},
            {"prompt": "tell ", "completion": WORDS[3], "label": False},
        ]
        trainer = KTOTrainer(
            args=KTOConfig(output_dir=str(tmp_path), **ONCE),
            train_dataset=Dataset.from_list(texts),
            **models,
        )
        good = [one["label"] for one in trainer.train_dataset]
        rows = [
            (tuple(one["prompt_ids"]), tuple(one["completion_ids"]))
            for one in trainer.train_dataset
        ]
    theirs = their_loss(trainer)
    ours = our_loss(objective, policy, reference, tokenizer.pad_token_id, rows, good)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert abs(ours - (0.6931 if objective == "dpo" else 0.5)) > 0.01  # π is not π_ref
