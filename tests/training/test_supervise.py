"""Supervising with real processes: programs that end, crash, hang and are killed."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from django.db import connection, transaction
from django.utils import timezone

from records.checkpoints import verify_checkpoint
from tests.cast import make_user
from tests.training.conftest import (
    QUICK,
    is_alive,
    make_run,
    program_starts,
    start_worker,
    tiny,
    wait_until,
)
from training.models import Checkpoint, Metric, Promotion, Run, RunSample
from training.runs import claim, control, starting_points, supervise
from training.runs.claim import Timing
from training.runs.supervise import Outcome

# Real processes, started, stopped and killed.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def see_through(run, command, **kwargs):
    outcome = supervise.supervise(
        run.pk, command=command, **({"timing": QUICK} | kwargs)
    )
    run.refresh_from_db()
    return outcome


def notes(run):
    return [note.message for note in run.notes.order_by("pk")]


def test_a_run_goes_from_queued_to_finished_and_everything_arrives():
    run = make_run()
    assert see_through(run, tiny("--steps", 20)) is Outcome.FINISHED
    assert (run.state, run.error, run.attempts) == ("finished", "", 1)
    assert (run.step, run.steps_total) == (20, 20)
    assert run.result == {"loss": 0.05}
    assert run.leased_until is None
    assert run.started_at < run.ended_at
    assert run.events_offset == (run.directory / "events.jsonl").stat().st_size
    losses = Metric.objects.filter(run=run, name="loss").order_by("step")
    assert [m.step for m in losses] == list(range(1, 21))
    assert losses[3].value == 0.25
    assert [s.step for s in RunSample.objects.filter(run=run)] == [20, 10]
    kept = run.checkpoints.order_by("step")
    assert [(c.step, c.is_final) for c in kept] == [
        (5, False),
        (10, False),
        (15, False),
        (20, True),
    ]
    assert verify_checkpoint(kept[3].directory).digest == kept[3].digest
    assert "starting at 0" in notes(run)
    assert "starting at 0" in run.log_tail


def test_the_first_sft_model_becomes_the_policy_of_the_project():
    run = make_run()
    see_through(run, tiny("--steps", 5))
    assert starting_points.current_policy(run.project) == run.checkpoints.get(
        is_final=True
    )
    assert starting_points.initial_policy(run.project) == run.checkpoints.get(
        is_final=True
    )
    second = make_run(project=run.project)
    see_through(second, tiny("--steps", 5))
    assert Promotion.objects.filter(project=run.project).count() == 1


def test_a_program_that_is_killed_goes_on_from_its_last_whole_checkpoint():
    run = make_run()
    command = tiny("--steps", 20, "--kill-at", 12)
    assert see_through(run, command) is Outcome.QUEUED_AGAIN
    assert (run.state, run.step) == ("queued", 12)
    assert see_through(run, command) is Outcome.FINISHED
    assert [start for _, start in program_starts(run)] == [
        "attempt 1 from 0",
        "attempt 2 from 10",
    ]
    assert Metric.objects.filter(run=run, name="loss").count() == 20
    assert RunSample.objects.filter(run=run).count() == 2
    assert (
        "The program was killed (signal 9; often the machine was out of memory) "
        "at step 12." in notes(run)
    )
    assert "Resumed from checkpoint 10." in notes(run)


def test_a_program_killed_again_and_again_fails_with_a_readable_reason(settings):
    settings.RUN_ATTEMPTS = 2
    run = make_run()
    command = tiny("--kill-at", 2, "--every-attempt")
    assert see_through(run, command) is Outcome.QUEUED_AGAIN
    assert see_through(run, command) is Outcome.FAILED
    assert run.error == (
        "The program was killed (signal 9; often the machine was out of memory) "
        "at step 2; 2 attempts were made. It had no checkpoint yet."
    )


def test_a_torn_last_line_loses_nothing_but_itself():
    run = make_run()
    command = tiny("--steps", 20, "--kill-at", 12, "--torn-line")
    see_through(run, command)
    assert run.events_offset < (run.directory / "events.jsonl").stat().st_size
    assert see_through(run, command) is Outcome.FINISHED
    assert Metric.objects.filter(run=run, name="loss").count() == 20
    assert not Metric.objects.filter(run=run, step=99).exists()
    assert any("could not be read" in message for message in notes(run))


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before():
    run = make_run()
    command = tiny("--steps", 20, "--kill-at", 12)
    see_through(run, command)
    damaged = run.checkpoints.get(step=10).directory
    (damaged / "model.safetensors").write_bytes(b"weights 1O")
    assert see_through(run, command) is Outcome.FINISHED
    assert program_starts(run)[1][1] == "attempt 2 from 5"
    aside = "Set aside: checkpoint step-000010: model.safetensors was changed after it "
    assert any(message.startswith(aside) for message in notes(run))
    assert verify_checkpoint(run.checkpoints.get(step=10).directory)


def test_an_exception_in_the_program_is_the_reason_the_run_failed():
    run = make_run()
    assert see_through(run, tiny("--crash-at", 3)) is Outcome.FAILED
    assert run.error == "ZeroDivisionError: the loss is nothing"
    assert "Traceback" in run.log_tail


def test_a_program_that_just_exits_is_quoted():
    run = make_run()
    assert see_through(run, tiny("--exit-at", 3)) is Outcome.FAILED
    assert run.error == (
        "The program ended with status 3. "
        "Its last words: cannot go on: no space left on device"
    )


def test_last_words_are_words():
    run = make_run()
    run.directory.mkdir(parents=True)
    (run.directory / "log.txt").write_text("Signal 9 received by PID 7\n======\n")
    assert supervise.run_last_words(run) == (
        "Its last words: Signal 9 received by PID 7"
    )


def test_a_run_directory_that_cannot_be_used_fails_the_run_with_the_reason():
    run = make_run()
    run.directory.parent.mkdir(parents=True)
    run.directory.write_text("in the way")
    assert see_through(run, tiny()) is Outcome.FAILED
    assert run.state == "failed"
    assert run.error.startswith(("NotADirectoryError: ", "FileExistsError: "))
    assert str(run.directory) in run.error


def test_a_disk_that_is_full_at_the_end_is_told_and_the_run_ends(
    settings, tmp_path, monkeypatch
):
    settings.STORE = (tmp_path / "store").as_uri()

    def full(run):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervise.store, "put_outputs", full)
    run = make_run()
    assert see_through(run, tiny("--steps", 2)) is Outcome.FINISHED
    assert any("No space left on device" in note for note in notes(run))


def test_a_program_that_does_not_start_says_why():
    run = make_run()
    assert see_through(run, ["/bin/sh", "-c", "echo no such thing; exit 0"]) is (
        Outcome.FAILED
    )
    assert run.error == (
        "The program ended without a result. Its last words: no such thing"
    )
    missing = make_run(project=run.project)
    assert see_through(missing, ["/nonexistent/program"]) is Outcome.FAILED
    assert "No such file" in missing.error


def test_stop_writes_a_checkpoint_and_resume_goes_on_from_it():
    run = make_run()
    worker = threading.Thread(target=supervise_in_thread, args=(run.pk, 500))
    worker.start()
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 7)
    tara = make_user("tara")
    control.stop_run(project=run.project, run=run, user=tara)
    assert Run.objects.get(pk=run.pk).state == "stopping"
    worker.join(20)
    run.refresh_from_db()
    assert (run.state, run.error) == ("stopped", "")
    stopped_at = run.result["steps"]
    assert run.checkpoints.filter(step=stopped_at).exists()
    control.resume_run(project=run.project, run=run, user=tara)
    assert see_through(run, tiny("--steps", stopped_at + 3)) is Outcome.FINISHED
    assert program_starts(run)[1][1] == f"attempt 1 from {stopped_at}"


def supervise_in_thread(pk, steps, *extra):
    try:
        supervise.supervise(pk, command=tiny("--steps", steps, *extra), timing=QUICK)
    finally:
        connection.close()


def test_a_program_that_will_not_stop_is_killed_after_the_grace():
    run = make_run()
    worker = threading.Thread(
        target=supervise_in_thread, args=(run.pk, 10_000, "--deaf")
    )
    worker.start()
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 7)
    control.stop_run(project=run.project, run=run, user=None)
    worker.join(20)
    run.refresh_from_db()
    assert run.state == "stopped"
    assert not is_alive(program_starts(run)[0][0])
    assert run.checkpoints.exists()


def test_a_stop_during_the_start_ends_the_run_before_its_first_step():
    run = make_run()
    worker = threading.Thread(
        target=supervise_in_thread, args=(run.pk, 10_000, "--slow-start", 30)
    )
    worker.start()
    wait_until(lambda: Run.objects.get(pk=run.pk).state == "starting")
    control.stop_run(project=run.project, run=run, user=None)
    worker.join(20)
    run.refresh_from_db()
    assert (run.state, run.step, run.error) == ("stopped", 0, "")


def test_a_queued_run_stops_at_once_and_is_not_claimed_afterwards():
    run = make_run()
    control.stop_run(project=run.project, run=run, user=None)
    assert see_through(run, tiny()) is None
    assert run.state == "stopped"


def test_a_second_hint_finds_nothing_to_claim():
    run = make_run()
    assert see_through(run, tiny("--steps", 3)) is Outcome.FINISHED
    assert see_through(run, tiny("--steps", 3)) is None
    assert len(program_starts(run)) == 1


def test_of_many_workers_that_race_for_a_run_one_gets_it():
    run = make_run()
    workers = [start_worker(run, tiny("--steps", 40)) for _ in range(4)]
    said = [worker.outcome(60) for worker in workers]
    assert sorted(said) == ["finished", *["nothing to claim"] * 3]
    assert len(program_starts(run)) == 1
    run.refresh_from_db()
    assert (run.state, run.token, run.attempts) == ("finished", 1, 1)


def test_when_the_worker_is_killed_its_program_ends_and_another_worker_goes_on():
    run = make_run()
    command = tiny("--steps", 60, "--pause", 0.1)
    worker = start_worker(run, command, lease=1.5)
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 11)
    pid = program_starts(run)[0][0]
    worker.kill()
    wait_until(lambda: not is_alive(pid), what="the end of the orphan")
    assert Run.objects.get(pk=run.pk).state == "running"
    wait_until(
        lambda: Run.objects.filter(pk=run.pk, leased_until__lt=timezone.now()).exists()
    )
    claim.reconcile()
    assert Run.objects.get(pk=run.pk).state == "queued"
    assert see_through(run, tiny("--steps", 60)) is Outcome.FINISHED
    (_, first), (_, second) = program_starts(run)
    assert first == "attempt 1 from 0"
    resumed = int(second.removeprefix("attempt 2 from "))
    assert resumed >= 10
    steps = Metric.objects.filter(run=run, name="loss").order_by("step")
    assert [m.step for m in steps] == list(range(1, 61))
    assert any("gave no sign of life" in message for message in notes(run))


def test_a_worker_lost_at_its_last_attempt_fails_the_run(settings):
    settings.RUN_ATTEMPTS = 1
    run = make_run()
    worker = start_worker(run, tiny("--steps", 500), lease=1)
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 6)
    worker.kill()
    wait_until(
        lambda: Run.objects.filter(pk=run.pk, leased_until__lt=timezone.now()).exists()
    )
    claim.reconcile()
    run.refresh_from_db()
    assert run.state == "failed"
    assert "Its worker was lost at step" in run.error
    assert "resume to go on from there" in run.error


def test_a_worker_that_shuts_down_hands_its_run_to_the_next():
    run = make_run()
    worker = start_worker(run, tiny("--steps", 2000))
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 6)
    worker.ask_to_end()
    assert worker.outcome() == "queued again"
    run.refresh_from_db()
    assert (run.state, run.attempts) == ("queued", 0)
    done = run.checkpoints.order_by("-step").first().step
    assert see_through(run, tiny("--steps", done + 2)) is Outcome.FINISHED
    assert program_starts(run)[1][1] == f"attempt 1 from {done}"


def test_a_worker_that_lost_its_lease_kills_its_program_and_leaves_the_row_alone():
    run = make_run()
    worker = start_worker(run, tiny("--steps", 5000))
    wait_until(lambda: program_starts(run))
    Run.objects.filter(pk=run.pk).update(token=99, worker="somebody else")
    assert worker.outcome() == "lost"
    assert not is_alive(program_starts(run)[0][0])
    run.refresh_from_db()
    assert (run.token, run.worker) == (99, "somebody else")
    assert run.state in ("starting", "running")


def freeze(worker, run):
    """Stop the worker's process, but not while it holds the run's row locked."""
    while True:
        os.kill(worker.pid, signal.SIGSTOP)
        with transaction.atomic():
            free = Run.objects.select_for_update(skip_locked=True).filter(pk=run.pk)
            if free.exists():
                return
        os.kill(worker.pid, signal.SIGCONT)
        time.sleep(0.02)


def test_a_worker_that_slept_through_its_lease_never_makes_two_programs():
    """The lease runs out while the worker is stopped and its program lives on."""
    run = make_run()
    worker = start_worker(run, tiny("--steps", 5000), lease=1)
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 6)
    first = program_starts(run)[0][0]
    freeze(worker, run)
    try:
        wait_until(
            lambda: Run.objects.filter(
                pk=run.pk, leased_until__lt=timezone.now()
            ).exists()
        )
        assert see_through(run, tiny("--steps", 8)) is Outcome.LEFT_FOR_LATER
        assert (run.state, run.attempts) == ("queued", 1)
        assert is_alive(first)
        assert len(program_starts(run)) == 1
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert worker.outcome() == "lost"
    assert not is_alive(first)
    assert claim.claim_run(run.pk) is not None


def test_a_locked_run_directory_ends_the_program_with_75_and_the_run_waits():
    """The supervisor looks first; here the program itself meets the lock."""
    import fcntl

    run = make_run()
    run.directory.mkdir(parents=True)
    with (run.directory / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert see_through(run, tiny()) is Outcome.LEFT_FOR_LATER
        assert see_through(run, tiny()) is Outcome.LEFT_FOR_LATER
    assert run.state == "queued"
    assert notes(run) == [
        "Another process still holds the run directory; trying again later."
    ]
    other = make_run(project=run.project)
    assert see_through(other, ["/bin/sh", "-c", "exit 75"]) is Outcome.LEFT_FOR_LATER
    assert (other.state, other.attempts) == ("queued", 0)


def test_a_program_that_finished_without_its_worker_is_not_run_again(data_dir):
    run = make_run()
    worker = start_worker(run, tiny("--steps", 80, "--deaf"), lease=1)
    wait_until(lambda: Run.objects.get(pk=run.pk).step >= 6)
    freeze(worker, run)
    wait_until(
        lambda: '"finished"' in (run.directory / "events.jsonl").read_text(),
        seconds=40,
    )
    worker.kill()
    wait_until(
        lambda: Run.objects.filter(pk=run.pk, leased_until__lt=timezone.now()).exists()
    )
    assert see_through(run, ["/bin/false"]) is Outcome.FINISHED
    assert len(program_starts(run)) == 1
    assert run.checkpoints.filter(is_final=True).count() == 1


def test_a_checkpoint_on_disk_that_was_never_announced_is_registered():
    run = make_run()
    see_through(run, tiny("--steps", 20, "--kill-at", 12))
    Checkpoint.objects.filter(run=run).delete()
    assert see_through(run, ["/bin/false"]) is Outcome.FAILED
    assert [c.step for c in run.checkpoints.order_by("step")] == [5, 10]


def test_the_program_gets_no_secrets_of_the_server(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "whispered")
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    run = make_run()
    see_through(run, ["/bin/sh", "-c", "env"])
    assert "CONCORD_LEASH=1" in run.log_tail
    assert "SECRET_KEY" not in (run.directory / "log.txt").read_text()
    assert "DATABASE_URL" not in (run.directory / "log.txt").read_text()


def test_a_directory_of_the_same_number_from_another_database_is_set_aside():
    run = make_run()
    run.directory.mkdir(parents=True)
    (run.directory / "run.json").write_text(json.dumps({"uuid": "other"}))
    (run.directory / "checkpoints").mkdir()
    assert see_through(run, tiny("--steps", 3)) is Outcome.FINISHED
    aside = list(run.directory.parent.glob(f"{run.pk}-of-other-*"))
    assert len(aside) == 1


def test_reconcile_hints_at_runs_that_no_worker_took(monkeypatch):
    fresh, forgotten, old = make_run(), make_run(), make_run()
    long_ago = timezone.now() - timezone.timedelta(minutes=5)
    Run.objects.filter(pk=fresh.pk).update(hinted_at=timezone.now())
    Run.objects.filter(pk=old.pk).update(hinted_at=long_ago)
    sent = []
    monkeypatch.setattr(claim, "send_hint", sent.append)
    assert claim.reconcile() == [forgotten.pk, old.pk]
    assert sent == [forgotten.pk, old.pk]


def test_runs_whose_files_cannot_be_read_are_given_back_all_the_same(monkeypatch):
    ago = timezone.now() - timezone.timedelta(minutes=5)
    runs = [
        make_run(state="running", leased_until=ago, attempts=1, token=1)
        for _ in range(2)
    ]

    def refuse(run):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(claim, "register_found", refuse)
    monkeypatch.setattr(claim, "send_hint", lambda pk: None)
    assert claim.reconcile() == [run.pk for run in runs]
    assert set(Run.objects.values_list("state", flat=True)) == {"queued"}


def test_reconcile_stops_a_run_whose_worker_vanished_while_stopping():
    run = make_run(
        state="stopping",
        stop_requested=True,
        leased_until=timezone.now() - timezone.timedelta(seconds=1),
        token=4,
        worker="gpu-1:7",
    )
    claim.reconcile()
    run.refresh_from_db()
    assert run.state == "stopped"
    assert notes(run) == ["gpu-1:7 vanished while the run was stopping."]


def test_a_run_outlives_the_loss_of_its_worker_s_database_connections():
    run = make_run()
    worker = start_worker(run, tiny("--steps", 120))
    for step in (10, 40):
        wait_until(lambda step=step: Run.objects.get(pk=run.pk).step >= step)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'supervise_once'"
            )
            assert cursor.fetchone()[0] > 0
    assert worker.outcome(60) == "finished"
    run.refresh_from_db()
    assert (run.attempts, run.step) == (1, 120)
    assert Metric.objects.filter(run=run, name="loss").count() == 120


def test_a_short_lease_is_renewed_while_the_run_is_held():
    run = make_run()
    timing = Timing(poll=0.02, lease=0.6, beat=0.1, grace=3)
    assert see_through(run, tiny("--steps", 60), timing=timing) is Outcome.FINISHED
    assert run.attempts == 1


# A run that gets on is not given up


def test_a_run_that_leaves_new_checkpoints_is_never_given_up(settings):
    settings.RUN_ATTEMPTS = 2
    run = make_run()
    for kill_at in (7, 12, 17, 22, 27):
        command = tiny("--steps", 30, "--kill-at", kill_at, "--every-attempt")
        assert see_through(run, command) is Outcome.QUEUED_AGAIN
        assert run.attempts == 1
    assert see_through(run, tiny("--steps", 30)) is Outcome.FINISHED
    assert [start for _, start in program_starts(run)][-1] == "attempt 2 from 25"


def test_attempts_without_a_new_checkpoint_end_a_run_that_had_got_on(settings):
    settings.RUN_ATTEMPTS = 2
    run = make_run()
    assert see_through(run, tiny("--kill-at", 7, "--every-attempt")) is (
        Outcome.QUEUED_AGAIN
    )
    command = tiny("--kill-at", 8, "--every-attempt")
    assert see_through(run, command) is Outcome.FAILED
    assert "2 attempts were made. Its last checkpoint is step 5" in run.error


def test_lost_workers_of_a_run_that_gets_on_do_not_end_it(settings):
    settings.RUN_ATTEMPTS = 2
    run = make_run()
    for number in range(3):
        newest = run.checkpoints.order_by("-step").first()
        reached = newest.step if newest else 0
        worker = start_worker(run, tiny("--steps", 5000, "--pause", 0.05), lease=1)
        new = run.checkpoints.filter(step__gt=reached)
        wait_until(new.exists, 30, f"a checkpoint of attempt {number + 1}")
        worker.kill()
        wait_until(
            lambda: Run.objects.filter(
                pk=run.pk, leased_until__lt=timezone.now()
            ).exists()
        )
        claim.reconcile()
        run.refresh_from_db()
        assert (run.state, run.attempts) == ("queued", 1)


# Programs that do not hear


def supervised(run, command, timing):
    """Supervise in a thread of its own; return it, started."""

    def work():
        try:
            supervise.supervise(run.pk, command=command, timing=timing)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def group_of(pid):
    """Return the states of the processes in a group that are more than zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:  # gone meanwhile
            continue
        if int(group) == pid and state not in "ZX":
            found.append(state)
    return found


DEAF = {
    "ignores the signal": "trap '' TERM; echo $$ > {mark}; while :; do sleep 1; done",
    "stopped": "echo $$ > {mark}; kill -STOP $$; sleep 1000",
    "helpers": (
        "trap '' TERM; (trap '' TERM; sleep 1000) & (trap '' TERM; sleep 1000) & "
        "echo $$ > {mark}; wait; while :; do sleep 1; done"
    ),
}


@pytest.mark.parametrize("kind", DEAF)
def test_a_deaf_program_is_gone_soon_after_the_click(kind, tmp_path):
    mark = tmp_path / "begun"
    script = DEAF[kind].format(mark=mark) + " # "
    run = make_run()
    timing = Timing(poll=0.02, beat=0.1, grace=1.0)
    worker = supervised(run, ["/bin/sh", "-c", script], timing)
    wait_until(mark.exists)
    pid = int(wait_until(mark.read_text))
    assert group_of(pid)
    control.stop_run(project=run.project, run=run, user=None)
    began = time.monotonic()
    worker.join(20)
    assert time.monotonic() - began < 5
    run.refresh_from_db()
    assert (run.state, run.error) == ("stopped", "")
    wait_until(lambda: not group_of(pid), 2, "the end of the group")


def test_from_the_click_to_the_end_it_takes_at_most_half_a_minute():
    """The parts are tested above; these are the times that a worker really uses."""
    timing = Timing()
    assert timing.beat + timing.grace + timing.pause + 2 * timing.poll <= 30


SAVE_SLOWLY = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
run = pathlib.Path(sys.argv[-1])
folder = run / "checkpoints" / ".staging-step-000001"
folder.mkdir(parents=True)
(run / "events.jsonl").touch()
with (folder / "weights").open("wb") as file:
    for _ in range({times}):
        file.write(b"x")
        file.flush()
        time.sleep(0.1)
(run / "saved").touch()
folder.rename(folder.with_name("renamed"))
time.sleep({then})
"""


def test_a_checkpoint_that_is_being_written_is_waited_for():
    run = make_run()
    script = SAVE_SLOWLY.format(times=30, then=0)
    timing = Timing(poll=0.02, beat=0.05, grace=0.5, pause=1.5)
    worker = supervised(run, [sys.executable, "-c", script], timing)
    wait_until((run.directory / "events.jsonl").exists)
    control.stop_run(project=run.project, run=run, user=None)
    worker.join(20)
    assert (run.directory / "saved").exists()


def test_a_checkpoint_that_does_not_grow_is_not_waited_for():
    run = make_run()
    script = SAVE_SLOWLY.replace("0.1", "100").format(times=2, then=0)
    timing = Timing(poll=0.02, beat=0.05, grace=0.5, pause=0.5)
    worker = supervised(run, [sys.executable, "-c", script], timing)
    wait_until((run.directory / "events.jsonl").exists)
    control.stop_run(project=run.project, run=run, user=None)
    began = time.monotonic()
    worker.join(20)
    assert time.monotonic() - began < 5
    run.refresh_from_db()
    assert run.state == "stopped"


# Programs that hang


def test_a_program_that_hangs_is_ended_and_goes_on_from_its_checkpoint():
    run = make_run()
    timing = Timing(poll=0.02, beat=0.1, grace=0.5, silence=1.0)
    hangs = tiny("--steps", 20, "--hang-at", 12)
    assert see_through(run, hangs, timing=timing) is Outcome.QUEUED_AGAIN
    assert "The program wrote no event for 0.0166667 minutes; ended at step 12." in (
        notes(run)
    )
    assert see_through(run, tiny("--steps", 20), timing=timing) is Outcome.FINISHED
    assert [start for _, start in program_starts(run)] == [
        "attempt 1 from 0",
        "attempt 2 from 10",
    ]


def test_a_program_that_hangs_again_and_again_fails_with_the_reason(settings):
    settings.RUN_ATTEMPTS = 2
    run = make_run()
    timing = Timing(poll=0.02, beat=0.1, grace=0.2, silence=0.6)
    hangs = tiny("--steps", 20, "--hang-at", 2)
    assert see_through(run, hangs, timing=timing) is Outcome.QUEUED_AGAIN
    assert see_through(run, hangs, timing=timing) is Outcome.FAILED
    assert run.error.startswith("The program wrote no event for 0.01 minutes; ended at")


def test_a_program_that_is_slow_but_speaks_is_left_alone():
    run = make_run()
    timing = Timing(poll=0.02, beat=0.1, grace=1, silence=1.5)
    slow = tiny("--steps", 6, "--pause", 0.5)
    assert see_through(run, slow, timing=timing) is Outcome.FINISHED


def test_a_long_save_is_no_silence():
    run = make_run()
    timing = Timing(poll=0.02, beat=0.1, grace=0.5, silence=0.5)
    script = SAVE_SLOWLY.format(times=25, then=0)
    see_through(run, [sys.executable, "-c", script], timing=timing)
    assert (run.directory / "saved").exists()
