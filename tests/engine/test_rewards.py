"""Three kinds of tasks in one run: what each earns, and that it is learned."""

import random

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from actions.demo import derive
from records.recipes import PolicyRecipe
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    micro_policy,
    micro_tokenizer,
)
from tests.engine.test_policy import CPU, given, result, toy_rows
from training.engine import policy
from training.engine.data.conversations import Encoder, read_samples, sample_from_json
from training.engine.modeling.policies import save_policy
from training.engine.reward_model.preference import PreferenceModel
from training.engine.rl.rewards import Rewarded, Rewards
from training.engine.run.directory import RunError, run_program
from training.engine.sampling.answers import measure

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def task(name, question, answer, **meta):
    turn = {"input": {"kind": "user", "text": question}, "response": answer}
    return {"id": name, "turns": [turn], "meta": meta}


SUM = task(
    "sum",
    "What is 2 and 3?",
    "<<think>>Add.<</think>>It is 5.",
    rule={"match": "numeric", "answer": 5},
)
POEM = task("poem", "Write a line.", "The sea is wide.", task="other")


def rewards_of(*answers, **settings):
    recipe = PolicyRecipe(consistency_source="oracle", **settings)
    return Rewards(recipe, None, lambda them: [len(a.text) for a in them])(answers)


def test_each_kind_of_task_has_its_own_rewards():
    action = toy_rows()[0]
    found = rewards_of(
        given(SUM, "<<think>>2 + 3.<</think>>5"),
        given(action, action["turns"][0]["response"]),
        given(POEM, "Blue."),
        given(SUM, "6"),
        given(POEM, "Blue and wide."),
        given(SUM, "5", error=ValueError("cut off")),
        given(POEM, "A long one, cut of", error=ValueError("cut off")),
    )
    assert [(r.format, r.consistency, r.rule, r.preference) for r in found] == [
        (1, None, 1, None),
        (1, 1, None, None),
        (1, None, None, 5),
        (1, None, 0, None),
        (1, None, None, 14),
        (0, None, 0, None),
        (0, None, None, 5),  # the worst of its step
    ]


def test_only_the_last_turn_of_a_reasoning_task_has_the_rule():
    both = {**SUM, "turns": SUM["turns"] * 2}
    assert rewards_of(given(both, "5", turn=0), given(both, "5", turn=1)) == [
        Rewarded(1.0, None),
        Rewarded(1.0, None, rule=1.0),
    ]


def test_the_rule_is_the_truth_of_a_reasoning_task():
    assert measure(given(SUM, "5")).consistent is True
    wrong = measure(given(SUM, "6"))
    assert (wrong.consistent, wrong.errors) == (False, ("rule",))
    assert sample_from_json(SUM).is_verifiable(0)
    assert not sample_from_json(POEM).is_verifiable(0)


def test_a_rule_that_cannot_be_read_is_named(tmp_path):
    bad = {**SUM, "meta": {"rule": {"match": "fuzzy", "answer": 1}}}
    make_run(tmp_path, "policy", data={"train": [demo_rows()[0], bad]})
    with pytest.raises(RunError, match=r"sample sum: .* match: expected one of exact"):
        read_samples(tmp_path / "data" / "train.jsonl")


# The alignment of units: a rule without learning


def by_alignment(*answers, **settings):
    recipe = PolicyRecipe(consistency_source="alignment", **settings)
    return Rewards(recipe, None)(answers)


def test_alignment_pays_what_no_unit_of_the_label_speaks_against():
    row = toy_rows()[0]
    turn = row["turns"][0]
    wrong, _ = derive.corrupted(turn, random.Random(0), "action name")
    same, other, cut = by_alignment(
        given(row, turn["response"]),
        given(row, wrong),
        given(row, turn["response"], error=ValueError("cut off")),
    )
    assert (same.format, same.consistency) == (1.0, 1.0)
    assert (other.format, other.consistency) == (1.0, 0.0)
    assert (cut.format, cut.consistency) == (0.0, 0.0)


def test_alignment_says_nothing_beside_a_label_that_breaks_the_grammar():
    row = toy_rows()[0]
    turn = {**row["turns"][0], "response": "<<think>>no end", "references": []}
    (found,) = by_alignment(given({**row, "turns": [turn]}, "Yes."))
    assert (found.format, found.consistency) == (1.0, None)


# The preference model


def save_preference_model(folder, labels=1):
    tokenizer = micro_tokenizer()
    config = micro_policy(tokenizer).config
    config.num_labels = labels
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_preference_model_scores_the_end_of_each_conversation(tmp_path):
    model = PreferenceModel(save_preference_model(tmp_path), CPU)
    answers = [given(POEM, "Blue."), given(POEM, "The sea is wide and blue.")]
    together = model(answers)
    assert together == pytest.approx([model([a])[0] for a in answers], abs=1e-5)
    assert together[0] != together[1]


def test_a_classifier_of_two_outputs_is_refused(tmp_path):
    with pytest.raises(RunError, match="a classifier of one output, found 2 outputs"):
        PreferenceModel(save_preference_model(tmp_path, labels=2), CPU)


# A run


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Return a policy that gives a right and a wrong answer to each of three tasks."""
    tokenizer = micro_tokenizer()
    model, encoder = micro_policy(tokenizer), Encoder(tokenizer)
    action = toy_rows()[0]
    label = action["turns"][0]["response"]
    texts = [
        (SUM, "It is 5."),
        (SUM, "It is 6."),
        (POEM, "The sea is wide."),
        (POEM, "No."),
        (action, label),
        (action, "I can not."),
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(240):
        optimizer.zero_grad()
        for row, text in texts:
            encoded = encoder.encode(sample_from_json(row), responses=[text])
            ids, labels = torch.tensor([encoded.ids]), torch.tensor([encoded.labels])
            (model(input_ids=ids, labels=labels).loss / len(texts)).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("mixed")
    save_policy(model, tokenizer, folder)
    return folder


def test_three_kinds_of_tasks_are_learned_in_one_run(tmp_path, mixed, monkeypatch):
    monkeypatch.setattr(
        policy,
        "PreferenceModel",
        lambda path, place: lambda answers: [100.0 * len(a.text) for a in answers],
    )
    rows = [toy_rows()[0], SUM, POEM]
    settings = {
        "consistency_source": "oracle",
        "steps": 24,
        "prompts_per_step": 3,
        "num_generations": 16,
        "oversampling": 1.0,
        "temperature": 0.7,
        "max_new_tokens": 90,
        "evaluate_every": 24,
        "learning_rate": 5e-4,
        "warmup_steps": 0,
    }
    inputs = {"policy": mixed, "preference": mixed}
    make_run(tmp_path, "policy", settings, inputs, {"train": rows, "held_out": rows})
    assert run_program("policy", PolicyRecipe, policy.main, [str(tmp_path)]) == 0, (
        result(tmp_path)
    )
    metrics = [event["values"] for event in events(tmp_path, "metrics")]
    for kind in ("consistency", "rule", "preference"):
        seen = [m[f"reward/{kind}"] for m in metrics if f"reward/{kind}" in m]
        assert len(seen) == 24
        assert sum(seen[-6:]) > sum(seen[:6]), (kind, seen)
    truth = [m["held_out/truth"] for m in metrics if "held_out/truth" in m]
    assert max(truth) == 1.0
