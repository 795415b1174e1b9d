"""What the tests of runs share: a data directory of their own, runs, real processes."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from records.checkpoints import verify_checkpoint
from tests.cast import make_project, make_sample
from tests.forks import FORKS, import_before_forks
from tests.training import supervise_once
from training.models import Run, RunKind
from training.runs.claim import Timing
from training.runs.ingest import register_checkpoint
from training.storage.snapshots import build_snapshot

HERE = Path(__file__).parent
import_before_forks(supervise_once.__name__)
TINY = [sys.executable, str(HERE / "tiny_program.py")]
QUICK = Timing(poll=0.02, lease=30, beat=0.1, grace=3, hint_again=30, lock_wait=0.5)


@pytest.fixture(autouse=True)
def data_dir(settings, tmp_path):
    """Give each test its own data directory."""
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    return settings.DATA_DIR


def make_run(**fields):
    """Return a queued SFT run of a project with one approved sample."""
    project = fields.pop("project", None) or make_project()
    return Run.objects.create(
        **({"project": project, "kind": RunKind.SFT, "recipe": {}} | fields)
    )


def make_project_with_samples(n=3, **fields):
    project = make_project(**fields)
    for _ in range(n):
        make_sample(project=project)
    return project


def make_checkpoint(run, *, step=100, is_final=True):
    """Return a checkpoint of ``run``, whole on disk."""
    directory = run.directory / "checkpoints" / f"step-{step:06d}"
    directory.mkdir(parents=True)
    model = b"weights of run %d at %d" % (run.pk, step)
    (directory / "model.safetensors").write_bytes(model)
    return register(run, directory, step, is_final)


def register(run, directory, step, is_final=True):
    """Return the checkpoint of what is in a directory, now whole."""
    manifest = {
        "files": {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in directory.iterdir()
        },
        "step": step,
        "program": run.kind,
        "kind": "reward" if run.kind == "reward" else "policy",
        "recipe": {"steps": step},
        "parents": [],
        "metrics": {"loss": 0.5},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return register_checkpoint(run, verify_checkpoint(directory), is_final=is_final)


def make_policy(project, **fields):
    """Return the final checkpoint of a finished SFT run."""
    snapshot = build_snapshot(project=project, user=None)
    run = make_run(project=project, state="finished", snapshot=snapshot, **fields)
    return make_checkpoint(run)


def make_real_policy(project):
    """Return a policy that the programs can load: a start that has learned nothing."""
    from tests.engine.micro import save_micro_policy  # which takes torch

    snapshot = build_snapshot(project=project, user=None)
    run = make_run(project=project, state="finished", snapshot=snapshot)
    directory = run.directory / "checkpoints" / "step-000000"
    save_micro_policy(directory)
    return register(run, directory, 0)


def tiny(*arguments):
    """Return the command of the tiny program with these settings."""
    return [*TINY, *map(str, arguments)]


class Worker:
    """A process of ``supervise_once``."""

    def __init__(self, *orders):
        self.pipe, end = FORKS.Pipe()
        self.process = FORKS.Process(target=supervise_once.main, args=(end, *orders))
        self.process.start()
        end.close()
        self.pid = self.process.pid

    def kill(self):
        """Kill it, and wait for its end."""
        self.process.kill()
        self.process.join(20)

    def ask_to_end(self):
        self.process.terminate()

    def outcome(self, seconds=20):
        """Return how its supervision ended, once it has."""
        said = ""
        while said in ("", "ready"):
            assert self.pipe.poll(seconds), "the worker does not end"
            said = (
                self.pipe.recv()
            )  # EOFError: it failed, and its error output says why
        self.process.join(seconds)
        return said


def start_worker(run, command=(), **timing):
    """Supervise a run in a process of its own, on the database of this test."""
    timing = {"poll": 0.02, "lease": 30, "beat": 0.1, "grace": 3} | timing
    database = connection.settings_dict["NAME"]
    return Worker(database, settings.DATA_DIR, run.pk, list(command), timing)


def wait_until(condition, seconds=20, what="it"):
    """Return what ``condition()`` gives once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.03)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def program_starts(run):
    """Return (pid, the rest of the line) per start of the tiny program."""
    path = run.directory / "starts.txt"
    if not path.exists():
        return []
    return [
        (int(line.split()[0]), line.split(" ", 1)[1])
        for line in path.read_text().splitlines()
    ]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
