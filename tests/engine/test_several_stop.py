"""Two processes: asked to stop they stop once and go on as one; one that dies ends all."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from records.checkpoints import verify_checkpoint
from tests.engine.micro import events, make_run, save_micro_policy
from tests.engine.processes import run_together
from tests.engine.test_policy import toy, toy_rows  # noqa: F401
from tests.engine.test_several import REWARD, apart, reward_data
from tests.engine.test_several_policy import RECIPE as POLICY
from training.runs.command import program_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

STEPS = 4
END = f"checkpoints/step-{STEPS:06d}"
NOT_COMPARED = ("seconds", "tokens_per_second", "mfu")


def told(folder):
    return {
        (event["step"], name): value
        for event in events(folder, "metrics")
        for name, value in event["values"].items()
        if not name.startswith(NOT_COMPARED)
    }


def befallen(folder, program, recipe, what):
    """Run a program that something befalls; return its exit status and its words.

    Fails unless every process of it is gone soon after.
    """
    command = program_command(program, recipe, folder)[:-1]
    environment = os.environ | {
        "BEFALLS": what,
        "CONCORD_LEASH": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": os.getcwd(),  # noqa: PTH109
    }
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [*command, "tests.engine.interrupted", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    with child.stdin as leash:
        if what.startswith("leash"):
            until(lambda: (folder / "reached").exists(), 120)
            leash.close()
        status = child.wait(240)
        until(lambda: not running(folder), 20)
    return status, (folder / "log.txt").read_text()


def until(happens, seconds):
    ends = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < ends
        time.sleep(0.1)


def running(folder):
    """Return the processes that write to the log of a run directory."""
    log = str(folder / "log.txt")
    return [each for each in Path("/proc").glob("[0-9]*/fd/1") if written(each) == log]


def written(stream):
    try:
        return str(stream.readlink())
    except OSError:  # it has ended
        return ""


@pytest.fixture
def make(request, tmp_path, toy):  # noqa: F811
    """Return what makes a run directory of two processes, and its recipe."""
    if request.param == "reward":
        policy = save_micro_policy(tmp_path / "policy")
        settings, data = {**REWARD, "evaluate_every": 100}, reward_data()
    else:
        policy = toy
        settings = {**POLICY, "evaluate_every": STEPS}
        data = {"train": toy_rows(), "held_out": toy_rows()}
    settings = {**settings, "steps": STEPS, "processes": 2}

    def make(name, resume=None):
        inputs = {"policy": policy}
        return make_run(tmp_path / name, request.param, settings, inputs, data, resume)

    return request.param, settings, make


@pytest.mark.parametrize("make", ["policy"], indirect=True)
def test_a_stopped_run_goes_on_as_if_it_never_stopped(make):
    program, recipe, make_it = make
    whole, stopped = make_it("whole"), make_it("stopped")
    assert run_together(program, whole)[0] == 0
    _, said = befallen(stopped, program, recipe, "leash 2")
    (result,) = events(stopped, "result")
    assert (result["state"], result["error"]) == ("stopped", ""), said
    saved = [e for e in events(stopped, "checkpoint") if e["step"]]
    assert [e["step"] for e in saved] == [2]
    assert verify_checkpoint(stopped / saved[0]["path"]).step == 2

    document = json.loads((stopped / "run.json").read_text())
    document["resume"] = saved[0]["path"]
    (stopped / "run.json").write_text(json.dumps(document))
    assert run_together(program, stopped)[0] == 0
    assert [e["state"] for e in events(stopped, "result")] == ["stopped", "finished"]
    assert apart(whole, stopped, f"{END}/model.safetensors") < 1e-6
    again = told(stopped)
    assert {where: again[where] for where in told(whole)} == {
        where: value if value is None else pytest.approx(value, abs=1e-6)
        for where, value in told(whole).items()
    }


@pytest.mark.parametrize(
    ("make", "what"), [("reward", "raise"), ("policy", "die")], indirect=["make"]
)
def test_a_process_that_ends_ends_the_run_with_a_reason(make, what):
    program, recipe, make_it = make
    folder = make_it("run")
    status, said = befallen(folder, program, recipe, f"{what} 2")
    assert status != 0
    (result,) = events(folder, "result")
    assert result["state"] == ("failed" if what == "raise" else "killed"), said
    if what == "raise":
        assert "another process of this run ended" in result["error"], said
        assert "process 1: ValueError: the last process does not" in result["error"]
