"""A reward model is trained on any architecture, with a classifier in transformers or not."""

import json

import pytest
import torch

from records.recipes import RewardRecipe
from tests.engine.micro import demo_rows, events, make_run
from tests.engine.test_configs import CPU, make_base
from tests.engine.test_ranking import run_ranking
from training.engine import reward
from training.engine.modeling.heads import classifier_class
from training.engine.modeling.loading import load_classifier, load_policy
from training.engine.reward_model.model import load_reward_model
from training.engine.reward_model.packing import Pair
from training.engine.reward_model.preference import PreferenceModel
from training.engine.run.directory import run_program

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize("kind", ["Granite", "Cohere"])
def test_a_reward_model_is_trained_on_what_has_no_classifier(tmp_path, kind):
    base = make_base(tmp_path / "base", kind)
    recipe = {
        "steps": 2,
        "pairs_per_step": 4,
        "evaluate_turns": 2,
        "evaluate_every": 1,
        "muon_learning_rate": 0.0,
        "judged_share": 0.0,
        "derived": ["references", "changes"],
        "precision": "fp32",
    }
    data = {"train": demo_rows(4), "held_out": demo_rows(2, "held-out", 2)}
    make_run(tmp_path / "run", "reward", recipe, {"policy": base}, data)
    arguments = [str(tmp_path / "run")]
    assert run_program("reward", RewardRecipe, reward.main, arguments) == 0
    (result,) = events(tmp_path / "run", "result")
    assert result["state"] == "finished"
    saved = [tmp_path / "run" / "checkpoints" / f"step-{step:06d}" for step in (1, 2)]
    label = demo_rows(1)[0]["turns"][0]["response"]
    scores = [
        load_reward_model(folder).score([Pair(label, label)])[0].logit
        for folder in saved
    ]
    assert scores[0] != scores[1]  # it learned, and what it learned was read
    config = json.loads((saved[1] / "config.json").read_text())
    assert config["model_type"] == kind.lower()


def test_a_preference_model_is_trained_on_what_has_no_classifier(tmp_path):
    base = make_base(tmp_path / "base", "Granite")
    assert run_ranking(tmp_path / "run", base, steps=1) == 0
    assert PreferenceModel(tmp_path / "run" / "checkpoints" / "step-000001", CPU)


@torch.no_grad()
def test_its_backbone_is_that_of_the_language_model(tmp_path):
    base = make_base(tmp_path / "base", "Granite")
    policy, _ = load_policy(base, CPU)
    classifier = load_classifier(base, CPU, outputs=2)
    ids = torch.tensor([[5, 6, 7, 8]])
    hidden = policy.base_model(input_ids=ids).last_hidden_state
    found = classifier.base_model(input_ids=ids).last_hidden_state
    assert torch.equal(found, hidden)
    assert torch.equal(
        classifier(input_ids=ids).logits, classifier.score(hidden)[:, -1]
    )


def test_what_transformers_has_is_taken():
    from transformers import AutoModelForSequenceClassification, Qwen3Config

    assert classifier_class(Qwen3Config) is AutoModelForSequenceClassification
