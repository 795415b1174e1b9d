"""The steps of DPO and KTO are those of version 14, and TRL's losses are ours.

``recorded/preference_steps.json`` holds the figures of that version's program and, of
every weight at the end, how far it moved and a projection of it.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.micro import events, save_micro_policy
from tests.engine.test_preference import run_preference, toy_judgments

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


@pytest.mark.parametrize("case", CASES)
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
