"""TensorBoard's own reader reads what a run wrote, also after it was resumed."""

import json
import math
import warnings

import pytest

from training.engine.run.directory import RunDirectory

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def open_run(path, resume=None):
    path.mkdir(exist_ok=True)
    document = {"program": "sft", "recipe": {}, "resume": resume}
    (path / "run.json").write_text(json.dumps(document))
    run = RunDirectory(path)
    run.read()
    return run


def curves(path):
    reader = EventAccumulator(str(path / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(each.step, each.value) for each in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_tensorboard_reads_the_metrics_as_they_were_reported(tmp_path):
    run = open_run(tmp_path / "run")
    expected = []
    for step in range(1, 301):
        value = 2.5 * math.exp(-step / 90)
        run.metrics(step, {"loss": value, "reward/format": step % 2, "ok": True})
        expected.append((step, pytest.approx(value, rel=1e-6)))
    run.metrics(400, {"länge": 3, "text": "no number", "none": None})
    run.close()
    found = curves(tmp_path / "run")
    assert found["loss"] == expected
    assert found["reward/format"][:3] == [(1, 1.0), (2, 0.0), (3, 1.0)]
    assert found["länge"] == [(400, 3.0)]
    assert "text" not in found
    assert "none" not in found


def test_a_resumed_run_supersedes_what_lies_beyond_its_checkpoint(tmp_path):
    from records.recipes import SftRecipe

    path = tmp_path / "run"
    run = open_run(path)
    for step in range(1, 11):
        run.metrics(step, {"loss": 100 + step})

    def write(folder):
        (folder / "weights").write_bytes(b"w")

    run.save_checkpoint(6, write, kind="policy", recipe=SftRecipe())
    run.close()
    again = open_run(path, resume="checkpoints/step-000006")
    for step in range(7, 13):
        again.metrics(step, {"loss": 200 + step})
    again.close()
    wanted = [(s, 100 + s) for s in range(1, 7)] + [(s, 200 + s) for s in range(7, 13)]
    assert curves(path)["loss"] == wanted


def test_a_run_that_reports_nothing_leaves_no_file(tmp_path):
    open_run(tmp_path / "run").close()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_disk_that_takes_no_curves_does_not_stop_the_run(tmp_path):
    path = tmp_path / "run"
    run = open_run(path)
    (path / "tensorboard").write_text("in the way")
    run.metrics(1, {"loss": 1.0})
    run.metrics(2, {"loss": 0.5})
    run.close()
    lines = (path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["event"] for e in events] == ["log", "metrics", "metrics"]
    assert "TensorBoard" in events[0]["message"]
