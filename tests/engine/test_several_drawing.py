"""Draw and evaluate: two processes share the work of one, and find the same."""

import json

import pytest

from tests.engine.micro import demo_rows, events, make_run, save_micro_policy
from tests.engine.processes import PROGRAMS, run_together
from tests.engine.test_policy import GOOD, save_judge
from tests.engine.test_several import launch_both
from training.engine.run.directory import run_program

pytestmark = pytest.mark.slow

SETTINGS = {"max_new_tokens": 12, "precision": "fp32"}
DRAW = {**SETTINGS, "turns": 5, "responses_per_turn": 3, "choice": "hard first"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "policy": save_micro_policy(folder / "policy", seed=1),
        "initial": save_micro_policy(folder / "initial", seed=2),
        "reward": save_judge(folder / "judge", GOOD),
    }


def rows(folder, name):
    lines = (folder / "outputs" / name).read_text().splitlines()
    return [json.loads(line) for line in lines]


def close(value, by=1e-5):
    """Return what equals a JSON value up to the rounding of batches."""
    if isinstance(value, dict):
        return {key: close(item, by) for key, item in value.items()}
    if isinstance(value, list):
        return [close(item, by) for item in value]
    return pytest.approx(value, abs=by) if isinstance(value, float) else value


def told(folder):
    return [(e["step"], e["values"]) for e in events(folder, "metrics")]


def test_two_processes_draw_what_one_draws(tmp_path, inputs):
    recipe = {**DRAW, "keep": "accepted"}
    data = {"train": demo_rows(4)}
    one, two = launch_both(tmp_path, "draw", recipe, inputs, data)
    found = rows(one, "responses.jsonl")
    assert len(found) == 2 * 5 * 3
    assert len({row["text"] for row in found}) > 5
    assert rows(two, "responses.jsonl") == close(found)
    assert told(two) == close(told(one))
    (first,), (second,) = events(one, "result"), events(two, "result")
    assert second["state"] == "finished"
    assert second["values"] == close(first["values"])


def test_two_processes_go_on_with_what_one_has_drawn(tmp_path, inputs):
    data = {"train": demo_rows(4)}
    folder = make_run(tmp_path, "draw", {**DRAW, "processes": 2}, inputs, data)
    assert run_program("draw", *PROGRAMS["draw"], [str(folder)]) == 0
    output = folder / "outputs/responses.jsonl"
    whole = rows(folder, "responses.jsonl")
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:7]) + lines[7][:20])  # two turns and a torn one
    assert run_together("draw", folder)[0] == 0
    again = rows(folder, "responses.jsonl")
    assert events(folder, "result")[-1]["values"]["done_before"] == 2
    assert again[:6] == whole[:6]

    def key(row):
        return row["role"], row["sample"], row["turn"], row["index"]

    assert sorted(again, key=key) == close(sorted(whole, key=key))


def test_two_processes_measure_what_one_measures(tmp_path, inputs):
    recipe = {**SETTINGS, "history": "own", "temperature": 1.0}
    data = {"held_out": demo_rows(5, "held-out")}
    one, two = launch_both(tmp_path, "evaluate", recipe, inputs, data)
    assert rows(two, "samples.jsonl") == rows(one, "samples.jsonl")
    evaluation = [
        json.loads((folder / "outputs/evaluation.json").read_text())
        for folder in (one, two)
    ]
    assert "turns_right" in evaluation[0]["policies"]["policy"]
    assert evaluation[1] == close(evaluation[0])
    assert told(two) == close(told(one))
    shown = [[(e["text"], e["label"]) for e in events(f, "sample")] for f in (one, two)]
    assert shown[0] == shown[1]
    assert len(events(two, "result")) == 1
