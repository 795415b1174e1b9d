"""Whole tasks: a simulated user and environment, own history, completion."""

import random

import pytest
import torch

from actions.demo import derive
from records.recipes import EvaluateRecipe, PolicyRecipe
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    micro_policy,
    micro_tokenizer,
    save_micro_policy,
)
from tests.engine.test_policy import (
    answer_with_labels,
    given,
    make_rollouts,
    normal_row,
    result,
)
from training.engine import evaluate, policy
from training.engine.data.conversations import Encoder, sample_from_json
from training.engine.modeling.policies import save_policy
from training.engine.rl.environment import Environment
from training.engine.rl.rewards import Rewarded
from training.engine.rl.rollouts import Episode
from training.engine.run.directory import run_program
from training.engine.sampling.sampler import PartOf

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def calling_turn(row):
    """Return the number of the first turn whose label calls with a parameter."""
    return next(
        number
        for number, turn in enumerate(row["turns"])
        if '"parameters": {"' in turn["response"]
    )


# The world


@pytest.mark.parametrize("row", demo_rows(12), ids=lambda row: row["id"])
def test_a_world_answers_the_labels_as_the_sample_goes_on(row):
    environment = Environment(sample_from_json(row))
    turns = row["turns"]
    replies = [
        environment.reply(given(row, turn["response"], turn=number))
        for number, turn in enumerate(turns)
    ]
    assert replies == [*(turn["input"]["text"] for turn in turns[1:]), None]


def test_another_call_is_answered_by_the_environment():
    row = normal_row()
    number = calling_turn(row)
    wrong, _ = derive.corrupted(row["turns"][number], random.Random(0), "parameter")
    reply = Environment(sample_from_json(row)).reply(given(row, wrong, turn=number))
    assert reply == "not found"


def test_a_task_ends_where_the_policy_answers_instead_of_acting():
    row = normal_row()
    turn = calling_turn(row)
    inside = row["turns"][turn]["input"]["kind"] == "observation"
    text = "So.<</think>>Done." if inside else "<<think>>So.<</think>>Done."
    environment = Environment(sample_from_json(row))
    assert environment.reply(given(row, text, turn=turn)) is None
    label = row["turns"][turn]["response"]
    broken = given(row, label, turn=turn, error=ValueError("cut off"))
    assert environment.reply(broken) is None


# Rollouts


def test_labels_as_answers_give_the_conversation_as_it_is_trained_on(monkeypatch):
    row = next(  # one in which the user speaks again
        row
        for row in demo_rows()
        if [t["input"]["kind"] for t in row["turns"]].count("user") > 1
    )
    rollouts = make_rollouts([row], whole_tasks=True)
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    first = rollouts.prompts[0]
    episode = rollouts.respond(None, [first], PartOf(0, 0, 1))[0][0]
    assert len(episode.answers) == len(row["turns"])
    encoded = rollouts.encoder.encode(sample_from_json(row))
    assert first.ids + episode.ids == encoded.ids
    assert [m == 1 for m in episode.mask] == [
        label != -100 for label in encoded.labels[len(first.ids) :]
    ]


def test_what_was_not_reached_counts_nothing_and_completes_nothing():
    row = normal_row()
    environment = Environment(sample_from_json(row))
    turns = len(row["turns"])
    half = [Rewarded(1.0, 1.0)] * (turns // 2)
    episode = Episode(None, rewarded=half, environment=environment)
    assert episode.earned("consistency") == pytest.approx(len(half) / turns)
    assert episode.completion == 0.0
    whole = Episode(
        None, rewarded=[Rewarded(1.0, 1.0)] * turns, environment=environment
    )
    assert (whole.earned("format"), whole.completion) == (1.0, 1.0)
    almost = [Rewarded(1.0, 1.0)] * (turns - 1) + [Rewarded(1.0, 0.25)]
    assert Episode(None, rewarded=almost, environment=environment).completion == 0.25
    assert Episode(None, rewarded=almost).completion is None


def test_turns_that_nobody_can_judge_neither_spoil_a_task_nor_complete_it():
    row = normal_row()
    environment = Environment(sample_from_json(row))
    turns = len(row["turns"])
    unknown = Rewarded(1.0, None)
    some = [unknown, *[Rewarded(1.0, 0.5)] * (turns - 1)]
    assert Episode(None, rewarded=some, environment=environment).completion == 0.5
    assert (
        Episode(None, rewarded=[unknown] * turns, environment=environment).completion
        is None
    )


# Evaluation


def evaluated(folder, start, rows, monkeypatch, answer):
    monkeypatch.setattr(evaluate, "answer", answer)
    settings = {"history": "own"}
    make_run(folder, "evaluate", settings, {"policy": start}, {"held_out": rows})
    program = evaluate.evaluate
    assert run_program("evaluate", EvaluateRecipe, program, [str(folder)]) == 0
    return result(folder)["values"]


def test_a_policy_that_says_the_labels_completes_every_task(tmp_path, monkeypatch):
    start = save_micro_policy(tmp_path / "policy")
    rows = demo_rows(6)
    right = answer_with_labels(Encoder(micro_tokenizer()))
    values = evaluated(tmp_path / "a", start, rows, monkeypatch, right)
    assert values["history"] == "own"
    assert values["policies"]["policy"]["tasks_complete"]["value"] == 1.0

    def stumbling(model, tokenizer, prompts, *args, **kwargs):
        """Stop after the first turn of the first sample."""
        answers = right(model, tokenizer, prompts, *args, **kwargs)
        for (one,) in answers:
            if one.sample.id == rows[0]["id"] and not one.turn:
                object.__setattr__(one, "format_error", ValueError("cut off"))
        return answers

    values = evaluated(tmp_path / "b", start, rows, monkeypatch, stumbling)
    figures = values["policies"]["policy"]
    assert figures["tasks_complete"]["value"] == pytest.approx(5 / 6)
    turns = sum(len(row["turns"]) for row in rows)
    assert figures["format_valid"]["n"] == turns - len(rows[0]["turns"]) + 1


# Reinforcement learning


def test_whole_tasks_are_learned(tmp_path):
    """The policy was taught right and wrong at both turns of a small task."""
    row = normal_row()
    turns = row["turns"][:2]
    row = {**row, "contexts": [], "turns": turns}
    assert [turn["input"]["kind"] for turn in turns] == ["user", "observation"]
    rng = random.Random(0)
    right = [turn["response"] for turn in turns]
    wrong = [derive.corrupted(turn, rng, "action name")[0] for turn in turns]
    torch.manual_seed(0)
    tokenizer = micro_tokenizer()
    model, encoder = micro_policy(tokenizer), Encoder(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    texts = [right, [wrong[0], right[1]], [right[0], wrong[1]]]
    for _ in range(100):
        optimizer.zero_grad()
        for responses in texts:
            encoded = encoder.encode(sample_from_json(row), responses=responses)
            ids, labels = torch.tensor([encoded.ids]), torch.tensor([encoded.labels])
            (model(input_ids=ids, labels=labels).loss / len(texts)).backward()
        optimizer.step()
    start = tmp_path / "start"
    start.mkdir()
    save_policy(model, tokenizer, start)
    settings = {
        "consistency_source": "oracle",
        "whole_tasks": True,
        "steps": 8,
        "prompts_per_step": 1,
        "num_generations": 16,
        "oversampling": 1.0,
        "temperature": 0.7,
        "max_new_tokens": 120,
        "evaluate_every": 8,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
    }
    data = {"train": [row], "held_out": [row]}
    make_run(tmp_path / "run", "policy", settings, {"policy": start}, data)
    status = run_program("policy", PolicyRecipe, policy.main, [str(tmp_path / "run")])
    assert status == 0, result(tmp_path / "run")
    metrics = [event["values"] for event in events(tmp_path / "run", "metrics")]
    complete = [m["reward/completion"] for m in metrics if "reward/completion" in m]
    reached = [m["turns_per_response"] for m in metrics if "turns_per_response" in m]
    assert max(reached) > 1
    assert 0 < complete[0] < 0.9
    assert sum(complete[-4:]) / 4 > complete[0] + 0.2  # the first was before any step
