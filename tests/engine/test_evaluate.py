"""Evaluate: honest figures from known answers, intervals by sample."""

import json

import pytest
import torch

from records.recipes import EvaluateRecipe
from tests.engine.micro import demo_rows, events, make_run, save_micro_policy
from training.engine import evaluate
from training.engine.data.conversations import sample_from_json
from training.engine.data.holdout import is_to_choose_on
from training.engine.evaluate import judged, write_samples
from training.engine.run.directory import RunDirectory, run_program
from training.engine.sampling.answers import Answer, Prompt, measure
from training.engine.sampling.figures import paired_gain, summary, with_interval
from training.engine.sampling.sampler import Sampled

RECIPE = EvaluateRecipe()


@pytest.fixture(scope="module")
def samples():
    return [sample_from_json(row) for row in demo_rows(18)]


def answers_of(samples, change=lambda sample, turn, text: text):
    return [
        Answer(
            sample,
            number,
            0,
            change(sample, number, turn.response),
            None,
            Sampled([], [], True),
        )
        for sample in samples
        for number, turn in enumerate(sample.turns)
    ]


def test_labels_as_answers_are_right_in_every_metric(samples):
    figures = summary(judged(answers_of(samples), None), [], samples, RECIPE)
    assert set(figures) == {
        "format_valid",
        "plan_order",
        "action_name",
        "action_parameters",
        "turns_right",
        "tasks_complete",
    }
    assert {figure["value"] for figure in figures.values()} == {1.0}
    assert figures["tasks_complete"]["n"] == len(samples)
    assert figures["turns_right"]["n"] == sum(len(s.turns) for s in samples)


def test_references_as_answers_are_right_too(samples):
    def reword(sample, turn, text):
        return (*sample.turns[turn].references, text)[0]

    figures = summary(judged(answers_of(samples, reword), None), [], samples, RECIPE)
    assert figures["turns_right"]["value"] == 1.0
    assert figures["plan_order"]["value"] == 1.0


def test_one_wrong_turn_spoils_one_task(samples):
    def spoil(sample, turn, text):
        return "I do not know." if (sample is samples[3] and turn == 0) else text

    figures = summary(judged(answers_of(samples, spoil), None), [], samples, RECIPE)
    assert figures["tasks_complete"]["value"] == pytest.approx(17 / 18)
    turns = figures["turns_right"]
    assert turns["value"] == pytest.approx(1 - 1 / turns["n"])
    assert turns["low"] < turns["value"] < turns["high"] == 1.0


def test_a_turn_left_out_keeps_its_task_from_being_complete(samples):
    answers = [a for a in answers_of(samples) if (a.sample, a.turn) != (samples[0], 0)]
    left_out = [Prompt(samples[0], 0, [])]
    figures = summary(judged(answers, None), left_out, samples, RECIPE)
    assert figures["tasks_complete"]["n"] == len(samples)
    assert figures["tasks_complete"]["value"] == pytest.approx(17 / 18)


def test_swapped_steps_and_wrong_parameters_are_counted_apart(samples):
    sample, number = next(
        (s, n)
        for s in samples
        for n, t in enumerate(s.turns)
        if "\n2. " in t.response and "<<action>>" in t.response
    )
    label = sample.turns[number].response
    first = label.split("\n1. ")[1].split("\n")[0]
    second = label.split("\n2. ")[1].split("\n")[0]
    swapped = (
        label.replace(f"1. {first}", "1. @")
        .replace(f"2. {second}", f"2. {first}")
        .replace("1. @", f"1. {second}")
    )
    found = measure(Answer(sample, number, 0, swapped, None, Sampled([], [], True)))
    assert found.plan_order is False
    assert (found.action_name, found.action_parameters) == (True, True)
    assert found.consistent is False
    assert "plan order" in found.errors


def test_turns_without_facts_have_no_truth(samples):
    row = json.loads(json.dumps(samples[0].document))
    for turn in row["turns"]:
        turn.pop("facts")
    bare = [sample_from_json(row)]
    figures = summary(judged(answers_of(bare), None), [], bare, RECIPE)
    assert "turns_right" not in figures
    assert "tasks_complete" not in figures
    assert figures["format_valid"]["value"] == 1.0


def test_somebody_elses_facts_are_no_truth(samples):
    row = json.loads(json.dumps(samples[0].document))
    for turn in row["turns"]:
        turn["facts"] = {"mine": 1}
    bare = sample_from_json(row)
    assert measure(answers_of([bare])[0]).consistent is None


def test_the_interval_is_over_samples_not_turns():
    alike = {str(i): [i % 2 == 0] * 10 for i in range(20)}
    mixed = {str(i): [True, False] * 5 for i in range(20)}
    one, other = with_interval(alike, RECIPE), with_interval(mixed, RECIPE)
    assert one["value"] == other["value"] == 0.5
    assert one["high"] - one["low"] > 0.3
    assert other["high"] == other["low"] == 0.5


def test_the_interval_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(200):
        drawn = (torch.rand(60, generator=generator) < 0.7).tolist()
        found = with_interval({str(i): [v] for i, v in enumerate(drawn)}, RECIPE)
        covered += found["low"] <= 0.7 <= found["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_the_paired_interval_forgets_what_is_hard_for_both():
    """Two policies differ on three samples of sixty; half of all are hard for both."""
    before = {str(i): [i % 2 == 0] for i in range(60)}
    after = before | {"1": [True], "3": [True], "5": [True]}
    gain = paired_gain(before, after, RECIPE)
    assert gain["value"] == pytest.approx(0.05)
    assert (gain["n"], gain["changed"]) == (60, 3)
    assert 0 <= gain["low"] < 0.05 < gain["high"] < 0.12
    apart = with_interval(after, RECIPE)
    assert apart["high"] - apart["low"] > 2 * (gain["high"] - gain["low"])


def test_the_paired_interval_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for _ in range(200):
        hard = torch.rand(80, generator=generator) < 0.4
        flips = torch.rand(80, generator=generator) < 0.2
        up = torch.rand(80, generator=generator) < 0.7
        before = {str(i): [not bool(h)] for i, h in enumerate(hard)}
        after = {
            name: [bool(u)] if f else verdict
            for (name, verdict), f, u in zip(before.items(), flips, up, strict=True)
        }
        found = paired_gain(before, after, RECIPE)
        covered += found["low"] <= 0.2 * (0.7 - 0.6) <= found["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_equal_answers_gain_nothing_for_certain():
    same = {str(i): [i % 3 == 0, True] for i in range(9)}
    gain = paired_gain(same, dict(same), RECIPE)
    assert (gain["value"], gain["low"], gain["high"], gain["changed"]) == (0, 0, 0, 0)


def test_only_samples_that_both_answered_are_compared():
    gain = paired_gain({"a": [True], "b": [True]}, {"b": [False], "c": [True]}, RECIPE)
    assert (gain["value"], gain["n"]) == (-1.0, 1)
    assert paired_gain({"a": [True]}, {"c": [True]}, RECIPE) == {}


def test_every_policy_is_compared_with_the_initial_one(tmp_path):
    inputs = {
        "policy": save_micro_policy(tmp_path / "policy", seed=1),
        "initial": save_micro_policy(tmp_path / "initial", seed=2),
    }
    rows = demo_rows(2, "held-out", 5)
    run = make_run(
        tmp_path / "run", "evaluate", {"max_new_tokens": 4}, inputs, {"held_out": rows}
    )
    assert run_program("evaluate", EvaluateRecipe, evaluate.evaluate, [str(run)]) == 0
    gains = json.loads((run / "outputs/evaluation.json").read_text())["gains"]
    assert list(gains) == ["policy"]
    assert gains["policy"]["tasks_complete"]["n"] == 2
    assert gains["policy"]["turns_right"]["value"] == 0.0


def test_a_whole_run_measures_every_policy(tmp_path):
    inputs = {
        "base": save_micro_policy(tmp_path / "base", seed=1),
        "current": save_micro_policy(tmp_path / "current", seed=2),
    }
    rows = [*demo_rows(2, "held-out", 5), *demo_rows(2, "held-out-unseen", 6)]
    run = make_run(
        tmp_path / "run", "evaluate", {"max_new_tokens": 4}, inputs, {"held_out": rows}
    )
    assert run_program("evaluate", EvaluateRecipe, evaluate.evaluate, [str(run)]) == 0
    found = json.loads((run / "outputs/evaluation.json").read_text())
    assert set(found["policies"]) == {"base", "current"}
    assert set(found["by_split"]["base"]) == {"held-out", "held-out-unseen"}
    assert found["history"] == "teacher-forced"
    turns = found["policies"]["base"]["format_valid"]
    assert turns["n"] == sum(len(row["turns"]) for row in rows)
    (result,) = events(run, "result")
    assert result["values"]["policies"] == found["policies"]

    lines = (run / "outputs/samples.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [(t["role"], t["sample"]) for t in told] == [
        (role, row["id"]) for role in ("base", "current") for row in rows
    ]
    assert {t["complete"] for t in told} == {False}
    assert sum(t["turns"] for t in told if t["role"] == "base") == turns["n"]


def test_a_sample_is_complete_when_all_its_turns_are_right(samples, tmp_path):
    run = RunDirectory(
        make_run(tmp_path / "run", "evaluate", {}, {}, {"held_out": demo_rows(18)})
    )

    def spoil(sample, turn, text):
        return "I do not know." if (sample is samples[3] and turn == 0) else text

    rows = judged(answers_of(samples, spoil), None)
    write_samples(run, "policy", rows, [], samples)
    lines = (run.outputs / "samples.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [t["complete"] for t in told] == [s is not samples[3] for s in samples]
    assert told[3]["right"] == told[3]["turns"] - 1
    run.close()


def test_samples_to_choose_on_are_not_measured(tmp_path):
    inputs = {"current": save_micro_policy(tmp_path / "current")}
    rows = [
        {**row, "id": f"h{n}"} for n, row in enumerate(demo_rows(14, "held-out", 5))
    ]
    settings = {"max_new_tokens": 2}
    run = make_run(tmp_path / "run", "evaluate", settings, inputs, {"held_out": rows})
    assert run_program("evaluate", EvaluateRecipe, evaluate.evaluate, [str(run)]) == 0
    lines = (run / "outputs/samples.jsonl").read_text().splitlines()
    measured = [json.loads(line)["sample"] for line in lines]
    chosen_on = [row["id"] for row in rows if is_to_choose_on(row["id"])]
    assert len(chosen_on) >= 4
    assert measured == [row["id"] for row in rows if row["id"] not in chosen_on]
    values = events(run, "result")[0]["values"]
    assert values["samples"] == len(measured)
    assert values["samples_to_choose_on"] == len(chosen_on)


def test_too_few_samples_to_be_split_are_all_measured_and_the_log_says_so(tmp_path):
    inputs = {"current": save_micro_policy(tmp_path / "current")}
    rows = demo_rows(3, "held-out", 5)
    settings = {"max_new_tokens": 2}
    run = make_run(tmp_path / "run", "evaluate", settings, inputs, {"held_out": rows})
    assert run_program("evaluate", EvaluateRecipe, evaluate.evaluate, [str(run)]) == 0
    values = events(run, "result")[0]["values"]
    assert (values["samples"], values["samples_to_choose_on"]) == (3, 0)
    (warning,) = [e for e in events(run, "log") if e["level"] == "warning"]
    assert warning["message"].startswith("3 held-out samples are too few to be split")


def test_a_stop_file_ends_the_run(tmp_path):
    inputs = {"current": save_micro_policy(tmp_path / "current")}
    rows = {"held_out": demo_rows(2, "held-out", 5)}
    run = make_run(tmp_path / "run", "evaluate", {}, inputs, rows)
    (run / "stop").touch()
    assert run_program("evaluate", EvaluateRecipe, evaluate.evaluate, [str(run)]) == 0
    assert events(run, "result")[-1]["state"] == "stopped"
