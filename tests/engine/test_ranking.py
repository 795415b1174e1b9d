"""The preference model: its loss, whole runs, and what the policy program reads of it."""

import math

import pytest
import torch
from safetensors.torch import load_file

from records.recipes import RewardRecipe
from tests.engine.micro import events, make_run, save_micro_policy
from tests.engine.test_policy import result, toy_rows
from tests.engine.test_preference import toy_judgments
from tests.engine.test_reward_equality import fingerprint, frozen
from tests.engine.test_rewards import given
from training.engine import preference_model, reward
from training.engine.data.conversations import Encoder, sample_from_json
from training.engine.modeling.policies import Place
from training.engine.reward_model.model import load_reward_model
from training.engine.reward_model.preference import (
    PreferenceModel,
    bradley_terry_loss,
    scores,
)
from training.engine.run.directory import run_program

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

CPU = Place(torch.device("cpu"), half=False)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_micro_policy(tmp_path_factory.mktemp("backbone"))


def run_ranking(folder, backbone, judgments=None, resume=None, **recipe):
    settings = {
        "judges": "preference",
        "steps": 12,
        "pairs_per_step": 2,
        "muon_learning_rate": 0.0,
        "learning_rate": 3e-3,
        "warmup_steps": 0,
        "evaluate_every": 6,
        "precision": "fp32",
        **recipe,
    }
    rows = toy_rows()
    judgments = toy_judgments() if judgments is None else judgments
    data = {"train": rows, "held_out": rows, "judgments": judgments}
    make_run(folder, "reward", settings, {"policy": backbone}, data, resume)
    return run_program("reward", RewardRecipe, reward.main, [str(folder)])


def test_the_loss_is_that_of_bradley_and_terry():
    accepted, rejected = [0.3, -1.0], [0.1, 2.0]
    expected = [
        -math.log(1 / (1 + math.exp(b - c)))
        for c, b in zip(accepted, rejected, strict=True)
    ]
    losses = bradley_terry_loss(torch.tensor(accepted), torch.tensor(rejected))
    assert losses.tolist() == pytest.approx(expected)


def test_the_accepted_answer_comes_to_score_higher(tmp_path, backbone):
    assert run_ranking(tmp_path, backbone) == 0, result(tmp_path)
    losses = [
        event["values"]["loss"]
        for event in events(tmp_path, "metrics")
        if "loss" in event["values"]
    ]
    assert losses[-1] < losses[0] / 2
    told = result(tmp_path)
    assert told["state"] == "finished"
    assert told["values"]["pairs"] > 0  # the held-out pair was measured
    final = [e for e in events(tmp_path, "checkpoint") if e["final"]]
    assert [(e["kind"], e["step"]) for e in final] == [("reward", 12)]


def test_twelve_steps_give_the_frozen_weights(tmp_path, backbone):
    """Recorded before the loop was written anew, as ``test_reward_equality``'s were."""
    assert run_ranking(tmp_path, backbone) == 0
    known = frozen("preference model")
    after = fingerprint(tmp_path, 12)
    assert after == pytest.approx(known["weights"], abs=1e-5)
    losses = [
        event["values"]["loss"]
        for event in events(tmp_path, "metrics")
        if "loss" in event["values"]
    ]
    assert losses[-1] == pytest.approx(known["loss"], abs=1e-4)


def test_a_step_without_room_is_learned_in_parts(tmp_path, backbone, monkeypatch):
    assert run_ranking(tmp_path / "roomy", backbone) == 0
    asked = []

    def short(model, rows, *others):
        asked.append(len(rows))
        if torch.is_grad_enabled() and len(rows) > 2:  # a pair
            raise torch.OutOfMemoryError("no more memory")
        return scores(model, rows, *others)

    monkeypatch.setattr(preference_model, "scores", short)
    assert run_ranking(tmp_path / "tight", backbone) == 0
    assert asked[:3] == [4, 2, 2]
    end = "checkpoints/step-000012/model.safetensors"
    roomy, tight = (load_file(tmp_path / run / end) for run in ("roomy", "tight"))
    assert max((roomy[n] - tight[n]).abs().max().item() for n in roomy) < 1e-5
    assert "2 pairs at once: going on with 1" in " ".join(
        event["message"] for event in events(tmp_path / "tight", "log")
    )


def test_several_processes_are_refused(tmp_path, backbone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_ranking(tmp_path, backbone) == 1
    assert result(tmp_path)["error"] == (
        "recipe: `processes`: expected 1 for a preference model, found 2"
    )


def test_the_policy_program_reads_the_same_scores(tmp_path, backbone):
    assert run_ranking(tmp_path, backbone, steps=6) == 0
    model = PreferenceModel(tmp_path / "checkpoints" / "step-000006", CPU)
    sample = sample_from_json(toy_rows()[0])
    texts = [sample.turns[0].response, "I can not."]
    read = model([given(toy_rows()[0], text) for text in texts])
    encoder = Encoder(model.tokenizer)
    prompt = tuple(encoder.encode(sample).prompt(0))
    rows = [(prompt, tuple(encoder.response_ids(text))) for text in texts]
    with torch.inference_mode():
        pad = model.tokenizer.pad_token_id
        trained = [float(scores(model.model, [row], pad, CPU)) for row in rows]
    assert read == pytest.approx(trained, abs=1e-5)
    assert read[0] > read[1]


def test_a_preference_model_is_no_consistency_model(tmp_path, backbone):
    assert run_ranking(tmp_path, backbone, steps=1) == 0
    with pytest.raises(FileNotFoundError, match=r"reward\.json"):
        load_reward_model(tmp_path / "checkpoints" / "step-000001")


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path, backbone):
    assert run_ranking(tmp_path / "whole", backbone) == 0
    half = tmp_path / "whole" / "checkpoints" / "step-000006"
    assert run_ranking(tmp_path / "resumed", backbone, resume=str(half)) == 0
    end = "checkpoints/step-000012/model.safetensors"
    whole, again = (load_file(tmp_path / run / end) for run in ("whole", "resumed"))
    start = load_file(half / "model.safetensors")
    assert any(not torch.equal(whole[name], start[name]) for name in whole)
    for name in whole:
        assert torch.equal(whole[name], again[name]), name


def test_without_an_inconsistent_answer_it_says_what_it_needs(tmp_path, backbone):
    good = [row for row in toy_judgments() if row["consistent"]]
    assert run_ranking(tmp_path, backbone, good) == 1
    assert result(tmp_path)["error"] == (
        "data.judgments: expected a turn with a consistent and an inconsistent answer, "
        "found none to learn from"
    )
