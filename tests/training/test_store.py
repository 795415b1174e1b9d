"""Machines that share runs through an object store: two data directories, one store."""

import json
import os
import shutil
import threading
from pathlib import Path

import fsspec
import pytest
from django.db import connection
from fsspec.implementations.local import LocalFileSystem

from records.checkpoints import CheckpointError, verify_checkpoint
from tests.cast import make_user, sign_in
from tests.training.conftest import (
    QUICK,
    make_checkpoint,
    make_policy,
    make_project_with_samples,
    make_run,
    program_starts,
    tiny,
    wait_until,
)
from training import tasks
from training.iterations import promotion
from training.models import Checkpoint, Metric, Retention, Run, RunSample
from training.policies import retention
from training.policies.retention import remove_files
from training.runs import control, ingest, launch, supervise
from training.runs.command import program_environment
from training.runs.supervise import Outcome
from training.storage import store
from training.storage.store import StoreError

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def shared(settings, tmp_path):
    """Return the folder that plays the object store."""
    folder = tmp_path / "store"
    folder.mkdir()
    settings.STORE = folder.as_uri()
    return folder


@pytest.fixture
def machines(settings, tmp_path, shared):
    """Return how to be on machine "a" or "b": each has its own data directory."""

    def be_on(name):
        settings.DATA_DIR = tmp_path / name
        settings.DATA_DIR.mkdir(exist_ok=True)

    be_on("a")
    return be_on


def see_through(run, command, **kwargs):
    timing = {"timing": QUICK} | kwargs
    outcome = supervise.supervise(run.pk, command=command, **timing)
    run.refresh_from_db()
    return outcome


def start(project, kind="sft", **inputs):
    return launch.start_run(
        project=project, kind=kind, recipe={}, inputs=inputs, user=None
    )


def notes(run):
    return [note.message for note in run.notes.order_by("pk")]


# Two machines


def test_a_run_begun_on_one_machine_goes_on_from_its_checkpoint_on_another(machines):
    run = start(make_project_with_samples())
    command = tiny("--steps", 20, "--kill-at", 12)
    assert see_through(run, command) is Outcome.QUEUED_AGAIN
    samples = set(RunSample.objects.values_list("event_offset", flat=True))
    on_a = run.directory

    machines("b")
    assert not run.directory.exists()
    assert see_through(run, command) is Outcome.FINISHED
    assert on_a != run.directory
    assert program_starts(run) == [(program_starts(run)[0][0], "attempt 2 from 10")]
    assert "Taken over from another machine with 2 checkpoints." in notes(run)
    assert "Resumed from checkpoint 10." in notes(run)
    steps = Metric.objects.filter(run=run, name="loss").values_list("step", flat=True)
    assert sorted(steps) == list(range(1, 21))
    assert "starting at 0" in notes(run)  # what the first machine had said
    assert "starting at 10" in notes(run)
    kept = set(RunSample.objects.values_list("event_offset", flat=True))
    assert kept - samples  # nothing of the second was taken for something of the first
    final = run.checkpoints.get(is_final=True)
    assert verify_checkpoint(final.directory, digest=final.digest).step == 20
    assert not run.checkpoints.filter(stored_at__isnull=True).exists()


def test_a_run_that_comes_back_begins_with_what_the_other_machine_left(machines):
    run = start(make_project_with_samples())
    killed = tiny("--steps", 30, "--kill-at", 7)
    assert see_through(run, killed) is Outcome.QUEUED_AGAIN
    machines("b")
    again = tiny("--steps", 30, "--kill-at", 17, "--every-attempt")
    assert see_through(run, again) is Outcome.QUEUED_AGAIN
    machines("a")
    assert see_through(run, tiny("--steps", 30)) is Outcome.FINISHED
    assert [line for _, line in program_starts(run)] == [
        "attempt 2 from 15"
    ]  # the second left 15: it counts as the first
    (aside,) = run.directory.glob(".before-*")
    assert (aside / "checkpoints" / "step-000005").is_dir()
    steps = Metric.objects.filter(run=run, name="loss").values_list("step", flat=True)
    assert sorted(steps) == list(range(1, 31))


def test_a_model_made_on_one_machine_starts_a_run_on_another(machines):
    project = make_project_with_samples()
    sft = start(project)
    assert see_through(sft, tiny("--steps", 5)) is Outcome.FINISHED
    policy = sft.checkpoints.get(is_final=True)

    machines("b")  # also where the page is
    run = start(project, "evaluate", policy=policy)
    assert not policy.directory.exists()
    assert see_through(run, tiny("--evaluation", "{}")) is Outcome.FINISHED
    document = json.loads((run.directory / "run.json").read_text())
    assert document["inputs"] == {"policy": str(policy.directory)}
    assert verify_checkpoint(policy.directory, digest=policy.digest)
    promotion.promote(project=policy.project, checkpoint=policy, user=None)


def test_a_snapshot_frozen_on_one_machine_is_read_on_another(machines):
    run = start(make_project_with_samples())
    machines("b")
    assert not run.snapshot.directory.exists()
    assert see_through(run, tiny("--steps", 2)) is Outcome.FINISHED
    assert (run.directory / "data" / "train.jsonl").stat().st_size > 0


def test_answers_half_drawn_are_drawn_on_elsewhere(machines):
    run = make_run(kind="draw")
    outputs = run.directory / "outputs"
    outputs.mkdir(parents=True)
    (outputs / "responses.jsonl").write_text("{}\n")
    store.put_outputs(run)
    machines("b")
    run.directory.mkdir(parents=True)
    assert store.take_over(run) == 0
    assert (run.directory / "outputs" / "responses.jsonl").read_text() == "{}\n"


def test_a_finished_draw_whose_worker_died_is_drawn_again_elsewhere(machines, tmp_path):
    """Its outputs may not be in the store, and nobody can say."""
    project = make_project_with_samples()
    file = tmp_path / "responses.jsonl"
    file.write_text("")
    run = start(project, "draw", policy=make_policy(project))
    store.put_checkpoints(run.run_inputs.get().checkpoint.run)
    Run.objects.filter(pk=run.pk).update(
        home=store.home(), program_state="finished", events_offset=40, attempts=1
    )
    machines("b")
    assert see_through(run, tiny("--responses", file)) is Outcome.FINISHED
    assert len(program_starts(run)) == 1


def test_with_one_data_directory_for_all_nothing_is_taken_over(shared):
    run = start(make_project_with_samples())
    command = tiny("--steps", 20, "--kill-at", 12)
    see_through(run, command)
    assert see_through(run, command, worker="another:1") is Outcome.FINISHED
    assert len(program_starts(run)) == 2
    assert not any("Taken over" in each for each in notes(run))


def test_without_a_store_nothing_changes(data_dir):
    run = start(make_project_with_samples())
    assert see_through(run, tiny("--steps", 5)) is Outcome.FINISHED
    assert run.home == ""
    assert not (data_dir / "home").exists()
    assert set(run.checkpoints.values_list("stored_at", flat=True)) == {None}


# What can go wrong


def make_stored(shared, **fields):
    project = make_project_with_samples()
    checkpoint = make_checkpoint(make_run(project=project, **fields))
    store.put_checkpoints(checkpoint.run)
    checkpoint.refresh_from_db()
    assert checkpoint.stored_at
    return checkpoint, shared / checkpoint.path


def test_a_file_that_changed_in_the_store_is_not_taken(machines, shared):
    checkpoint, there = make_stored(shared)
    (there / "model.safetensors").write_bytes(b"something else")
    machines("b")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors has another hash in the store"
    ):
        store.fetch(checkpoint)
    assert list(checkpoint.directory.parent.iterdir()) == []


def test_a_manifest_of_another_checkpoint_is_not_taken(machines, shared):
    checkpoint, there = make_stored(shared)
    (there / "manifest.json").write_text('{"files": {}}')
    machines("b")
    with pytest.raises(CheckpointError, match="its manifest in the store has another"):
        store.fetch(checkpoint)
    assert not checkpoint.directory.exists()


def test_a_manifest_cannot_write_outside_of_its_folder(machines, shared):
    run = make_run(project=make_project_with_samples())
    there = shared / "runs" / str(run.pk) / "outputs"
    there.mkdir(parents=True)
    (there / "manifest.json").write_text('{"files": {"../../evil": "00"}}')
    machines("b")
    run.directory.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="expected names inside the checkpoint"):
        store.take_over(run)


def test_a_put_that_broke_off_leaves_nothing_that_looks_whole(shared, monkeypatch):
    project = make_project_with_samples()
    checkpoint = make_checkpoint(make_run(project=project))
    put = LocalFileSystem.put_file

    def breaks(self, path, there, **kwargs):
        if path.endswith("manifest.json"):
            raise OSError("the line is down")
        return put(self, path, there, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "put_file", breaks)
    with pytest.raises(StoreError, match="the line is down"):
        store.put_checkpoints(checkpoint.run)
    checkpoint.refresh_from_db()
    assert checkpoint.stored_at is None
    assert (shared / checkpoint.path / "model.safetensors").is_file()
    assert not (shared / checkpoint.path / "manifest.json").exists()
    monkeypatch.setattr(LocalFileSystem, "put_file", put)
    Run.objects.filter(pk=checkpoint.run_id).update(state="failed", home=store.home())
    store.put_what_is_missing()
    checkpoint.refresh_from_db()
    assert checkpoint.stored_at


def test_a_store_that_is_away_fails_no_run_and_is_told(settings):
    settings.STORE = "s3://bucket/prefix"  # its library is not installed
    run = make_run()
    assert see_through(run, tiny("--steps", 2)) is Outcome.FINISHED
    assert any(
        each.startswith("Not everything is in the store, tried again later: ")
        for each in notes(run)
    )


def finish_draw(tmp_path):
    """Return a finished draw whose answers lie in ``outputs/``."""
    project = make_project_with_samples()
    file = tmp_path / "responses.jsonl"
    file.write_text("")
    policy = make_policy(project)
    store.put_checkpoints(policy.run)
    run = start(project, "draw", policy=policy)
    command = tiny("--responses", file)
    assert see_through(run, command) is Outcome.FINISHED
    return run


def test_outputs_that_the_store_did_not_take_are_put_later(
    shared, tmp_path, monkeypatch, caplog
):
    there = shared / "runs"
    put, refused = LocalFileSystem.makedirs, []

    def refuses_once(self, path, **kwargs):
        if path.endswith("/outputs") and not refused:
            refused.append(path)
            raise OSError("the line is down")
        return put(self, path, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "makedirs", refuses_once)
    run = finish_draw(tmp_path)
    assert refused
    assert any("tried again later" in each for each in notes(run))
    assert run.outputs_stored_at is None
    tasks.reconcile()
    run.refresh_from_db()
    assert run.outputs_stored_at
    outputs = there / str(run.pk) / "outputs"
    assert sorted(p.name for p in outputs.iterdir()) == [
        "manifest.json",
        "responses.jsonl",
    ]
    assert caplog.messages == []


def test_outputs_wait_for_as_long_as_the_store_refuses_them(shared, tmp_path, caplog):
    """A file where the folder must be, as a store with a wrong prefix would have it."""
    project = make_project_with_samples()
    (shared / "runs").write_text("in the way")
    runs = []
    for _ in range(store.AT_ONCE + 2):
        run = make_run(project=project, kind="draw", state="finished")
        Run.objects.filter(pk=run.pk).update(home=store.home())
        (run.directory / "outputs").mkdir(parents=True)
        (run.directory / "outputs" / "responses.jsonl").write_text("{}\n")
        runs.append(run)
    tasks.reconcile()
    assert len(caplog.messages) == store.AT_ONCE  # bounded, and each is logged
    assert all("Tried again later: the object store" in m for m in caplog.messages)
    waiting = Run.objects.filter(outputs_stored_at__isnull=True)
    assert waiting.count() == len(runs)
    (shared / "runs").unlink()
    (shared / "runs" / str(runs[0].pk)).mkdir(parents=True)
    (shared / "runs" / str(runs[0].pk) / "outputs").write_text("in the way")
    wait_until(lambda: tasks.reconcile() or waiting.count() == 1)
    assert waiting.get() == runs[0]  # and keeps none of the others waiting
    assert (shared / "runs" / str(runs[-1].pk) / "outputs" / "manifest.json").is_file()


def test_what_a_new_attempt_leaves_is_put_again(shared, tmp_path):
    run = finish_draw(tmp_path)
    first = run.outputs_stored_at
    assert first
    Run.objects.filter(pk=run.pk).update(state="failed", program_state="failed")
    control.resume_run(project=run.project, run=run, user=None)
    gone = tiny("--state", "failed")
    shutil.rmtree(shared / "runs" / str(run.pk))
    (shared / "runs" / str(run.pk)).write_text("in the way")
    assert see_through(run, gone) is Outcome.FAILED
    assert run.outputs_stored_at is None


def test_a_start_that_cannot_store_its_data_is_refused_with_the_reason(settings):
    settings.STORE = "s3://bucket/prefix"  # its library is not installed
    with pytest.raises(launch.LaunchRefusedError, match="the object store, snapshots"):
        start(make_project_with_samples())
    assert not Run.objects.exists()


def test_what_lies_on_a_machine_that_the_run_has_left_is_not_registered(machines):
    """By the reconciler there, say: the run may have written other bytes since."""
    run = start(make_project_with_samples())
    assert see_through(run, tiny("--steps", 20, "--kill-at", 7)) is Outcome.QUEUED_AGAIN
    left = run.directory / "checkpoints" / "step-000010"
    shutil.copytree(run.directory / "checkpoints" / "step-000005", left)
    machines("b")
    again = tiny("--steps", 20, "--kill-at", 7, "--every-attempt")
    assert see_through(run, again) is Outcome.QUEUED_AGAIN
    machines("a")
    ingest.register_found(run)
    assert [c.path.rpartition("-")[2] for c in run.checkpoints.all()] == ["000005"]
    Run.objects.filter(pk=run.pk).update(home=store.home())
    ingest.register_found(run)
    assert run.checkpoints.count() == 2


def test_a_namesake_on_another_machine_is_not_put_for_the_one_registered(
    machines, shared
):
    run = make_run(project=make_project_with_samples())
    checkpoint = make_checkpoint(run)
    machines("b")
    directory = checkpoint.directory
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")
    store.put_checkpoints(run)
    checkpoint.refresh_from_db()
    assert checkpoint.stored_at is None
    assert not (shared / checkpoint.path).exists()
    machines("a")
    store.put_checkpoints(run)
    checkpoint.refresh_from_db()
    assert checkpoint.stored_at


def test_a_gap_in_the_store_ends_what_is_taken_over(machines, shared):
    """A program may need an earlier checkpoint again: the best of all, say."""
    run = make_run(project=make_project_with_samples())
    for step in (5, 10, 15):
        make_checkpoint(run, step=step, is_final=False)
    store.put_checkpoints(run)
    Checkpoint.objects.filter(run=run, step=10).update(stored_at=None)
    machines("b")
    run.directory.mkdir(parents=True)
    assert store.take_over(run) == 1
    assert [p.name for p in (run.directory / "checkpoints").iterdir()] == [
        "step-000005"
    ]


def test_a_checkpoint_written_anew_is_put_anew(shared):
    checkpoint, there = make_stored(shared)
    before = checkpoint.digest
    model = checkpoint.directory / "model.safetensors"
    manifest = checkpoint.directory / "manifest.json"
    document = json.loads(manifest.read_text()) | {"metrics": {"loss": 0.1}}
    manifest.write_text(json.dumps(document))
    again = ingest.register_checkpoint(
        checkpoint.run, verify_checkpoint(checkpoint.directory)
    )
    assert again.digest != before
    again.refresh_from_db()
    assert again.stored_at is None
    store.put_checkpoints(checkpoint.run)
    assert (there / "manifest.json").read_bytes() == manifest.read_bytes()
    assert (there / "model.safetensors").read_bytes() == model.read_bytes()


def test_two_that_fetch_the_same_at_once_both_have_it(machines, shared):
    checkpoint, _ = make_stored(shared)
    machines("b")
    gate, errors = threading.Barrier(4), []

    def work():
        try:
            gate.wait()
            store.fetch(checkpoint)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert verify_checkpoint(checkpoint.directory, digest=checkpoint.digest)
    assert [p.name for p in checkpoint.directory.parent.iterdir()] == ["step-000100"]


def test_checkpoints_are_put_while_the_program_still_runs(shared):
    run = start(make_project_with_samples())

    def work():
        try:
            supervise.supervise(
                run.pk, command=tiny("--steps", 60, "--pause", 0.1), timing=QUICK
            )
        finally:
            connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until(lambda: Checkpoint.objects.filter(stored_at__isnull=False).exists())
        assert Run.objects.get().state == "running"
    finally:
        control.stop_run(project=run.project, run=run, user=None)
        worker.join()


# Beside runs


def test_what_retention_removes_goes_from_the_store_too(shared):
    project = make_project_with_samples()
    run = make_run(project=project, state="finished")
    for step in (5, 10):
        make_checkpoint(run, step=step, is_final=False)
    store.put_checkpoints(run)
    kept = run.checkpoints.get(step=10)
    remove_files(Retention(project=project, keep_last=1, keep_best=0))
    assert (
        retention.plan_removal(
            Retention(project=project, keep_last=1, keep_best=0)
        ).doomed
        == ()
    )
    names = [p.name for p in (shared / "runs" / str(run.pk) / "checkpoints").iterdir()]
    assert names == ["step-000010"]
    assert kept.stored_at
    assert run.checkpoints.get(step=5).stored_at is None


def test_the_page_fetches_a_download_from_the_store(machines, shared, client):
    checkpoint, _ = make_stored(shared, state="finished")
    project = checkpoint.project
    machines("b")
    sign_in(client, make_user("tara"))
    text = client.get(checkpoint.get_absolute_url()).content.decode()
    assert "in the object store" in text
    assert "files are gone" not in text
    assert not checkpoint.directory.exists()
    page = client.get(f"/p/{project.slug}/checkpoints/{checkpoint.pk}/download/")
    assert b"".join(page).count(b"weights of run") == 1
    assert checkpoint.directory.exists()


def test_any_store_that_fsspec_knows_will_do(settings, tmp_path):
    settings.STORE = f"memory://concord-{os.getpid()}"
    checkpoint = make_checkpoint(make_run(project=make_project_with_samples()))
    store.put_checkpoints(checkpoint.run)
    checkpoint.refresh_from_db()
    settings.DATA_DIR = tmp_path / "elsewhere"
    store.fetch(checkpoint)
    assert verify_checkpoint(checkpoint.directory, digest=checkpoint.digest)
    store.remove(checkpoint)
    assert fsspec.filesystem("memory").find(f"/concord-{os.getpid()}") == []


def test_a_program_gets_no_key_to_the_store():
    given = {"AWS_SECRET_ACCESS_KEY": "x", "FSSPEC_S3_SECRET": "y", "HOME": "/home/a"}
    given |= {"CONCORD_STORE": "s3://b", "GOOGLE_APPLICATION_CREDENTIALS": "z"}
    found = program_environment(given)
    assert found["HOME"] == "/home/a"
    assert set(given) & set(found) == {"HOME"}


def test_a_data_directory_has_one_name(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "fresh"
    names = []
    threads = [
        threading.Thread(target=lambda: names.append(store.home())) for _ in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 1
    assert [p.name for p in Path(settings.DATA_DIR).iterdir()] == ["home"]
