"""Draw: which turns, what is executed, what is marked, and nothing twice."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from records.recipes import DrawRecipe
from records.responses import ResponseRow
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    save_micro_policy,
)
from tests.engine.test_scoring import micro_reward_model
from training.engine import draw
from training.engine.data.conversations import sample_from_json
from training.engine.reward_model.model import save_reward_model
from training.engine.reward_model.packing import RewardSettings
from training.engine.run.directory import run_program
from training.engine.sampling import sampler
from training.engine.sampling.answers import Answer
from training.engine.sampling.sampler import Sampled

SMALL = {"turns": 3, "responses_per_turn": 2, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    return {
        "policy": save_micro_policy(folder / "current", seed=1),
        "initial": save_micro_policy(folder / "initial", seed=2),
    }


def run_draw(folder, policies, recipe=None, rows=None):
    rows = {"train": rows or demo_rows(4)}
    make_run(folder, "draw", {**SMALL, **(recipe or {})}, policies, rows)
    return run_program("draw", DrawRecipe, draw.draw, [str(folder)])


def responses(folder):
    lines = (folder / "outputs/responses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_both_policies_answer_the_same_turns(policies, tmp_path):
    assert run_draw(tmp_path, policies) == 0
    rows = responses(tmp_path)
    assert len(rows) == 2 * 3 * 2
    turns = {
        role: {(r["sample"], r["turn"]) for r in rows if r["role"] == role}
        for role in ("current", "initial")
    }
    assert turns["current"] == turns["initial"]
    assert [r["index"] for r in rows[:4]] == [0, 1, 0, 1]
    (result,) = events(tmp_path, "result")
    assert result["values"]["current/responses"] == 6
    assert result["values"]["turns_too_long"] == 0


def test_the_current_policy_alone_is_enough(policies, tmp_path):
    assert run_draw(tmp_path, {"policy": policies["policy"]}) == 0
    assert {row["role"] for row in responses(tmp_path)} == {"current"}


def test_a_run_without_a_policy_says_so(tmp_path):
    assert run_draw(tmp_path, {}) == 1
    (result,) = events(tmp_path, "result")
    assert result["error"] == (
        "run.json: `inputs.policy`: expected a checkpoint, found nothing"
    )


def test_the_same_seed_draws_the_same_and_another_does_not(policies, tmp_path):
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run_draw(tmp_path / name, policies, {"seed": seed}) == 0
        drawn.append(responses(tmp_path / name))
    assert drawn[0] == drawn[1] != drawn[2]


def test_without_room_for_a_batch_the_same_is_drawn_in_smaller_ones(
    policies, tmp_path, monkeypatch
):
    assert run_draw(tmp_path / "roomy", policies) == 0
    compute = sampler._sample_batch

    def refuse(model, prompts, sampling, noise, place, per_prompt, cached):
        if len(prompts) * per_prompt > 1:
            raise torch.OutOfMemoryError("no more memory")
        return compute(model, prompts, sampling, noise, place, per_prompt, cached)

    monkeypatch.setattr(sampler, "_sample_batch", refuse)
    assert run_draw(tmp_path / "tight", policies) == 0
    roomy, tight = responses(tmp_path / "roomy"), responses(tmp_path / "tight")
    assert [row["text"] for row in tight] == [row["text"] for row in roomy]
    said = [e["message"] for e in events(tmp_path / "tight", "log")]
    assert "out of memory with" in " ".join(said)


def test_a_run_started_again_keeps_whole_turns_and_redraws_the_rest(policies, tmp_path):
    assert run_draw(tmp_path, policies) == 0
    output = tmp_path / "outputs/responses.jsonl"
    whole = output.read_text()
    lines = whole.splitlines(keepends=True)
    output.write_text("".join(lines[:3]) + lines[3][:20])
    assert run_program("draw", DrawRecipe, draw.draw, [str(tmp_path)]) == 0
    assert output.read_text().startswith("".join(lines[:2]))
    counts = Counter((r["role"], r["sample"], r["turn"]) for r in responses(tmp_path))
    assert set(counts.values()) == {2}
    assert len(counts) == 6
    # What is drawn for a turn hangs on nothing but the turn.
    assert sorted(output.read_text().splitlines()) == sorted(whole.splitlines())
    assert events(tmp_path, "result")[-1]["values"]["done_before"] == 1


# Rejection sampling


def test_what_is_kept_is_new_well_formed_accepted_and_the_likeliest(calling):
    sample, _ = calling
    texts = ["a", "b", "a", "c", "d", "e"]
    group = [given_answer(sample, 0, text) for text in texts]
    rows = [
        ResponseRow(sample.id, 0, index, text, rm_score=score)
        for index, (text, score) in enumerate(
            zip(texts, (0.7, 0.9, 0.8, 0.95, 0.99, 0.4), strict=True)
        )
    ]
    rows[3] = replace(rows[3], identical=True)
    rows[4] = replace(rows[4], format_error="cut off")
    reward = SimpleNamespace(settings=SimpleNamespace(threshold=0.5))
    marked = draw.mark_kept(rows, group, reward, 0)
    assert [row.kept for row in marked] == [False, True, True, False, False, False]
    marked = draw.mark_kept(rows, group, reward, 1)
    assert [row.kept for row in marked] == [False, True, False, False, False, False]


def test_in_a_reasoning_task_its_rule_accepts():
    row = {
        "id": "sum",
        "turns": [{"input": {"kind": "user", "text": "2 + 3?"}, "response": "5"}],
        "meta": {"rule": {"match": "numeric", "answer": 5}},
    }
    sample = sample_from_json(row)
    group = [given_answer(sample, 0, text) for text in ("It is 5.", "It is 6.")]
    rows = [
        ResponseRow(sample.id, 0, a.index, a.text, rm_score=score)
        for a, score in zip(group, (0.1, 0.9), strict=True)
    ]
    reward = SimpleNamespace(settings=SimpleNamespace(threshold=0.5))
    marked = draw.mark_kept(rows, group, reward, 0)
    assert [row.kept for row in marked] == [True, False]


def test_accepted_answers_only_needs_a_reward_model(policies, tmp_path):
    assert run_draw(tmp_path, policies, {"keep": "accepted"}) == 1
    assert "inputs.reward" in events(tmp_path, "result")[0]["error"]


def saved_reward_model(folder):
    model = micro_reward_model()
    folder.mkdir()
    settings = RewardSettings("interleaved", "unit")
    save_reward_model(folder, model.reader.classifier, model.tokenizer, settings)
    return folder


@pytest.mark.parametrize("keep", ["all", "accepted"])
def test_turns_whose_label_breaks_the_grammar_are_counted_not_scored(
    policies, tmp_path, keep
):
    rows = demo_rows(4)
    broken = rows[1]["turns"][0]
    broken["response"] = broken["response"].replace("<</action>>", "")
    inputs = {**policies, "reward": saved_reward_model(tmp_path / "reward")}
    recipe = {"keep": keep, "turns": 0}
    assert run_draw(tmp_path / "run", inputs, recipe, rows) == 0
    found = responses(tmp_path / "run")
    unscored = [row for row in found if "rm_score" not in row]
    assert {(row["sample"], row["turn"]) for row in unscored} == {(rows[1]["id"], 0)}
    assert len(unscored) == 2 * SMALL["responses_per_turn"]
    if keep == "accepted":
        assert not any(row["kept"] for row in unscored)
    values = events(tmp_path / "run", "result")[0]["values"]
    assert values["turns_label_unreadable"] == 1
    assert 0 <= values["current/rm_score"] <= 1
    (warning,) = [e for e in events(tmp_path / "run", "log") if e["level"] == "warning"]
    count = sum(len(row["turns"]) for row in rows)
    assert f"1 of {count} turns have a label response that" in warning["message"]


def test_every_drawn_answer_says_whether_it_was_kept(policies, tmp_path):
    inputs = {**policies, "reward": saved_reward_model(tmp_path / "reward")}
    assert run_draw(tmp_path / "run", inputs, {"keep": "accepted"}) == 0
    rows = responses(tmp_path / "run")
    values = events(tmp_path / "run", "result")[0]["values"]
    for role in ("current", "initial"):
        kept = [row for row in rows if row["role"] == role and row["kept"]]
        assert values[f"{role}/kept"] == len(kept)
        assert not any(row["format_error"] or row["identical"] for row in kept)


def test_a_stop_file_ends_the_run_between_turns(policies, tmp_path):
    make_run(tmp_path, "draw", SMALL, policies, {"train": demo_rows(4)})
    (tmp_path / "stop").touch()
    assert run_program("draw", DrawRecipe, draw.draw, [str(tmp_path)]) == 0
    assert events(tmp_path, "result")[-1]["state"] == "stopped"


def test_turns_too_long_are_counted_not_cut(policies, tmp_path):
    recipe = {"max_prompt_tokens": 150, "turns": 0}
    assert run_draw(tmp_path, policies, recipe) == 0
    (result,) = events(tmp_path, "result")
    total = sum(len(row["turns"]) for row in demo_rows(4))
    assert result["values"]["turns"] + result["values"]["turns_too_long"] == total
    assert result["values"]["turns_too_long"] > 0
    (warning,) = [e for e in events(tmp_path, "log") if e["level"] == "warning"]
    assert "prompts are longer than 150 tokens" in warning["message"]


def test_hard_first_takes_the_turns_that_surprise_most(policies, tmp_path):
    for name, turns in (("few", 3), ("all", 0)):
        recipe = {"choice": "hard first", "turns": turns}
        assert run_draw(tmp_path / name, policies, recipe) == 0
    few = {(r["sample"], r["turn"]) for r in responses(tmp_path / "few")}
    assert len(few) == 3
    everything = {(r["sample"], r["turn"]) for r in responses(tmp_path / "all")}
    assert few < everything


# What is executed


def given_answer(sample, turn, text):
    return Answer(sample, turn, 0, text, None, Sampled([], [], True))


@pytest.fixture
def calling():
    """Return a sample with an action call whose observation is recorded, and the turn."""
    for row in demo_rows():
        sample = sample_from_json(row)
        for number, turn in enumerate(sample.turns[:-1]):
            if (
                '"parameters": {"' in turn.response
                and sample.turns[number + 1].kind == "observation"
            ):
                return sample, number
    raise AssertionError


def test_the_labels_own_call_replays_the_recorded_observation(calling):
    sample, turn = calling
    respaced = sample.turns[turn].response.replace('": ', '":  ')
    for text in (sample.turns[turn].response, respaced):
        row = draw.row_of(given_answer(sample, turn, text), "current")
        assert row.observation == sample.turns[turn + 1].text
        assert row.observation_source == "recorded"


def test_another_call_is_answered_by_the_simulator(calling):
    sample, turn = calling
    text = '<<action>>{"name": "Fly away", "parameters": {}}<</action>>'
    if not sample.turns[turn].inside_thinking:
        text = "<<think>>" + text
    row = draw.row_of(given_answer(sample, turn, text), "current")
    assert row.observation.startswith('Error: there is no action "Fly away"')
    assert row.observation_source == "simulator"


def test_without_facts_another_call_is_not_answered(calling):
    sample, turn = calling
    row = json.loads(json.dumps(sample.document))
    for item in row["turns"]:
        item.pop("facts", None)
    bare = sample_from_json(row)
    text = '<<think>><<action>>{"name": "Fly away", "parameters": {}}<</action>>'
    drawn = draw.row_of(given_answer(bare, turn, text), "current")
    assert (drawn.observation, drawn.observation_source) == ("", "")


def test_only_the_very_label_is_marked_identical(calling):
    sample, turn = calling
    label = sample.turns[turn].response
    respaced = label.replace('": ', '":  ')
    for text, identical in ((label, True), (respaced, False)):
        row = draw.row_of(given_answer(sample, turn, text), "current")
        assert row.identical is identical


def test_a_reward_model_scores_every_answer_and_the_mean_survives_a_restart(
    policies, tmp_path
):
    model = micro_reward_model()
    reward = tmp_path / "reward"
    reward.mkdir()
    save_reward_model(
        reward,
        model.reader.classifier,
        model.tokenizer,
        RewardSettings("interleaved", "unit"),
    )
    folder = tmp_path / "run"
    assert run_draw(folder, {**policies, "reward": reward}) == 0
    rows = responses(folder)
    assert all(0 <= row["rm_score"] <= 1 for row in rows)
    assert all(row["rm_score"] == 0 for row in rows if row["format_error"])
    for role in ("current", "initial"):
        scores = [row["rm_score"] for row in rows if row["role"] == role]
        told = events(folder, "result")[-1]["values"][f"{role}/rm_score"]
        assert told == pytest.approx(sum(scores) / len(scores))
    before = events(folder, "result")[-1]["values"]["current/rm_score"]
    assert run_draw(folder, {**policies, "reward": reward}) == 0
    assert events(folder, "result")[-1]["values"]["done_before"] == 6
    assert events(folder, "result")[-1]["values"]["current/rm_score"] == before


def test_no_more_turns_are_read_than_are_answered(policies, tmp_path, monkeypatch):
    looked_at = []
    encode = draw.Encoder.encode

    def watched(encoder, sample, **others):
        looked_at.append(sample.id)
        return encode(encoder, sample, **others)

    monkeypatch.setattr(draw.Encoder, "encode", watched)
    current = {"policy": policies["policy"]}
    assert run_draw(tmp_path, current, {}, demo_rows(40)) == 0
    (result,) = events(tmp_path, "result")
    assert result["values"]["turns"] == 3
    assert len(looked_at) == 2 * 3  # once to choose, once to answer
