"""The run directory: lock, leash, stop, events, checkpoints, readable failures."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from records.checkpoints import (
    CheckpointError,
    newest_to_resume,
    verify_checkpoint,
)
from records.finite import NotFiniteError
from records.recipes import SftRecipe
from tests.engine.micro import events, make_run
from training.engine.run.directory import (
    LOCKED,
    Ending,
    RunDirectory,
    RunError,
    run_program,
)
from training.engine.run.rows import read_records

ROOT = Path(__file__).parents[2]

# A program that counts steps until it is asked to stop, with the real start and end.
COUNTING = """
import sys, time
from records.recipes import SftRecipe
from training.engine.run.directory import Ending, run_program

def count(run, recipe):
    for step in range(10_000):
        run.progress(step, 10_000)
        if run.stop_requested and {obeys}:
            run.save_checkpoint(
                step, lambda at: (at / "x").write_text("x"), kind="policy", recipe=recipe
            )
            return Ending("stopped", {{"step": step}})
        time.sleep(0.02)
    return Ending("finished", {{}})

sys.exit(run_program("sft", SftRecipe, count))
"""


def start(folder, *, obeys=True, leash=False):
    """Start the counting program and wait until it reports its first step."""
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTING.format(obeys=obeys), str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        env={**os.environ, "CONCORD_LEASH": "1" if leash else ""},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (folder / "events.jsonl").exists() or not events(folder, "progress"):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    return process


@pytest.fixture
def run_dir(tmp_path):
    return make_run(tmp_path / "run", "sft")


def finish(run, recipe):
    return Ending("finished", {"loss": 1.5})


def write_one(folder):
    (folder / "weights").write_bytes(b"123")
    (folder / "trainer").mkdir()
    (folder / "trainer" / "state.json").write_text("{}")


def test_a_finished_program_ends_with_its_result(run_dir):
    assert run_program("sft", SftRecipe, finish, [str(run_dir)]) == 0
    (result,) = events(run_dir, "result")
    assert result["state"] == "finished"
    assert result["values"] == {"loss": 1.5}
    assert result["error"] == ""


def test_an_exception_becomes_a_readable_result(run_dir, capsys):
    def fail(run, recipe):
        raise ZeroDivisionError("no steps")

    assert run_program("sft", SftRecipe, fail, [str(run_dir)]) == 1
    assert events(run_dir, "result")[-1]["error"] == "ZeroDivisionError: no steps"
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "run.json: expected a readable file, found No such file or directory"),
        ("[]", "run.json: expected a JSON object, found a list of 0"),
        ("{", "run.json: expected a JSON object, found invalid JSON"),
        ("{}", "run.json: `program`: expected a program's name, found nothing"),
        ('{"program": "draw"}', "run.json: `program`: expected 'sft', found 'draw'"),
        (
            '{"program": "sft", "data": {"train": "data/none.jsonl"}}',
            "run.json: `data.train`: expected an existing path, found 'data/none.jsonl'",
        ),
        (
            '{"program": "sft", "inputs": {"policy": 3}}',
            "run.json: `inputs.policy`: expected a path or null, found 3",
        ),
        (
            '{"program": "sft", "recipe": {"steps": -1}}',
            "recipe: `steps`: expected at least 1, found -1",
        ),
        (
            '{"program": "sft", "resume": "checkpoints/gone"}',
            "run.json: `resume`: expected an existing path, found 'checkpoints/gone'",
        ),
    ],
)
def test_a_malformed_run_json_is_explained(run_dir, content, error):
    (run_dir / "run.json").unlink()
    if content is not None:
        (run_dir / "run.json").write_text(content)
    assert run_program("sft", SftRecipe, finish, [str(run_dir)]) == 1
    (result,) = events(run_dir, "result")
    assert result["state"] == "failed"
    assert result["error"].startswith(error)


def test_a_missing_folder_is_explained(tmp_path, capsys):
    assert run_program("sft", SftRecipe, finish, [str(tmp_path / "none")]) == 1
    assert "expected a run directory, found no such folder" in capsys.readouterr().err


def test_a_second_process_exits_75(run_dir):
    with (run_dir / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_program("sft", SftRecipe, finish, [str(run_dir)]) == LOCKED
    assert not (run_dir / "events.jsonl").exists()
    assert run_program("sft", SftRecipe, finish, [str(run_dir)]) == 0


def test_sigterm_ends_in_stopped_with_a_checkpoint(run_dir):
    process = start(run_dir)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert events(run_dir, "result")[-1]["state"] == "stopped"
    assert len(events(run_dir, "checkpoint")) == 1
    process.stdin.close()


def test_a_stop_file_ends_in_stopped_with_a_checkpoint(run_dir):
    process = start(run_dir)
    (run_dir / "stop").touch()
    assert process.wait(30) == 0
    assert events(run_dir, "result")[-1]["state"] == "stopped"
    verify_checkpoint(run_dir / events(run_dir, "checkpoint")[0]["path"])
    process.stdin.close()


def test_the_end_of_the_leash_asks_to_stop(run_dir):
    process = start(run_dir, leash=True)
    process.stdin.close()
    assert process.wait(30) == 0
    assert events(run_dir, "result")[-1]["state"] == "stopped"


@pytest.mark.slow
def test_the_end_of_the_leash_kills_a_program_that_does_not_stop(run_dir):
    process = start(run_dir, obeys=False, leash=True)
    process.stdin.close()
    assert process.wait(30) == -signal.SIGKILL
    assert not events(run_dir, "result")


def test_without_a_leash_the_end_of_stdin_means_nothing(run_dir):
    process = start(run_dir)
    process.stdin.close()
    before = len(events(run_dir, "progress"))
    time.sleep(0.3)
    assert len(events(run_dir, "progress")) > before
    process.kill()
    process.wait()


def test_a_torn_last_line_does_not_spoil_the_next(run_dir):
    (run_dir / "events.jsonl").write_text('{"event":"progress"}\n{"event":"metr')
    assert run_program("sft", SftRecipe, finish, [str(run_dir)]) == 0
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    assert lines[1] == '{"event":"metr'
    assert json.loads(lines[2])["event"] == "result"


@pytest.fixture
def run(run_dir):
    opened = RunDirectory(run_dir)
    opened.read()
    yield opened
    opened.close()


def test_numbers_that_json_lacks_are_refused_by_name(run):
    with pytest.raises(NotFiniteError, match="step 1: expected a finite deep/0, found"):
        run.metrics(1, {"loss": 1.0, "none": None, "deep": [math.inf, 1.0]})
    with pytest.raises(NotFiniteError, match="step 2: sample: expected a finite r, "):
        run.sample(2, prompt="", text="", label="", scores={"r": math.nan})
    assert not events(run.path, "metrics")
    assert not events(run.path, "sample")


def test_a_checkpoint_is_whole_and_announced(run):
    manifest = run.save_checkpoint(
        3,
        write_one,
        kind="policy",
        recipe=SftRecipe(),
        metrics={"loss": 2.0},
        final=True,
    )
    (event,) = events(run.path, "checkpoint")
    assert event["path"] == "checkpoints/step-000003"
    assert event["final"] is True
    assert event["digest"] == manifest.digest
    found = verify_checkpoint(run.path / event["path"])
    assert set(found.manifest.files) == {"weights", "trainer/state.json"}
    assert found.manifest.metrics == {"loss": 2.0}
    assert newest_to_resume(run.path).step == 3


def test_a_crash_while_writing_leaves_no_checkpoint(run):
    def crash(folder):
        write_one(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint(3, crash, kind="policy", recipe=SftRecipe())
    assert newest_to_resume(run.path) is None
    assert not events(run.path, "checkpoint")
    run.close()
    reopened = RunDirectory(run.path)
    assert not list(run.checkpoints.iterdir())
    run._lock, run._events = reopened._lock, reopened._events


def test_a_whole_checkpoint_is_never_rewritten(run):
    first = run.save_checkpoint(3, write_one, kind="policy", recipe=SftRecipe())

    def other(folder):
        (folder / "weights").write_bytes(b"456")

    second = run.save_checkpoint(3, other, kind="policy", recipe=SftRecipe())
    assert second.digest == first.digest
    assert (first.path / "weights").read_bytes() == b"123"
    assert len(events(run.path, "checkpoint")) == 2


def test_a_changed_checkpoint_is_noticed(run):
    manifest = run.save_checkpoint(3, write_one, kind="policy", recipe=SftRecipe())
    (manifest.path / "weights").write_bytes(b"124")
    with pytest.raises(
        CheckpointError, match="weights was changed after it was written"
    ):
        verify_checkpoint(manifest.path)
    (manifest.path / "weights").unlink()
    with pytest.raises(CheckpointError, match="weights is missing"):
        verify_checkpoint(manifest.path)
    assert newest_to_resume(run.path) is None


def test_a_run_refuses_a_changed_checkpoint(run, tmp_path):
    manifest = run.save_checkpoint(3, write_one, kind="policy", recipe=SftRecipe())
    (manifest.path / "weights").write_bytes(b"124")
    next_run = make_run(tmp_path / "next", "sft", inputs={"policy": manifest.path})
    assert run_program("sft", SftRecipe, finish, [str(next_run)]) == 1
    assert "was changed" in events(next_run, "result")[0]["error"]


def test_parents_are_the_digests_of_the_inputs(run, tmp_path):
    first = run.save_checkpoint(3, write_one, kind="policy", recipe=SftRecipe())
    opened = RunDirectory(
        make_run(tmp_path / "next", "sft", inputs={"policy": first.path})
    )
    opened.read()
    second = opened.save_checkpoint(1, write_one, kind="policy", recipe=SftRecipe())
    opened.close()
    assert second.manifest.parents == (first.digest,)


def test_a_bad_data_line_is_named(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": 1}\n\n[1]\n')
    with pytest.raises(RunError) as caught:
        read_records(path, dict)
    assert (
        str(caught.value)
        == "train.jsonl, line 3: expected a JSON object, found a list of 1"
    )


def test_everything_is_on_disk_before_a_checkpoint_gets_its_name(run, monkeypatch):
    synced = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(handle):
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def noted_rename(staging, target):
        inside = {staging, *staging.rglob("*")}
        assert len(inside) == 5
        assert inside <= set(synced)
        synced.clear()
        return rename(staging, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)

    def write(folder):
        (folder / "weights").write_bytes(b"weights")
        (folder / "trainer").mkdir()
        (folder / "trainer" / "state.json").write_text("{}")

    run.save_checkpoint(1, write, kind="policy", recipe=SftRecipe())
    assert synced == [run.checkpoints]  # and the new name after it
