"""Supervise a run: claim it, prepare its directory, run its program, record its end.

The row in Postgres is the truth (``claim``): a supervisor writes only while its fencing
token holds the run.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from records.checkpoints import CheckpointError
from records.run_json import LOCKED
from training.models import (
    Run,
    RunKind,
    RunState,
)
from training.runs.claim import (
    Timing,
    attempts_in_vain,
    attempts_made,
    claim_run,
    note_once,
    what_is_kept,
)
from training.runs.command import program_command, program_environment
from training.runs.first_policy import promote_the_first
from training.runs.hardware import Meter
from training.runs.heartbeat import Heart, Porter
from training.runs.ingest import (
    LostRunError,
    OutputError,
    ingest_events,
    read_log_tail,
    receive_outputs,
    register_found,
    update_held,
)
from training.runs.placement import Place, visible_devices
from training.runs.prepare import lock_of, prepare_directory
from training.runs.timeouts import Patience
from training.storage import store

if TYPE_CHECKING:
    from actions.tags import JSON

logger = logging.getLogger(__name__)
Made = TypeVar("Made")

LEAVE_OUTPUTS = (RunKind.DRAW, RunKind.EVALUATE)
SHUTDOWN = threading.Event()
"""Set when this worker process is asked to end: runs are handed back to the queue."""


class Outcome(enum.Enum):
    """How a supervision ended."""

    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    QUEUED_AGAIN = "queued again"
    LEFT_FOR_LATER = "left for later"
    LOST = "lost"


# Supervising


def supervise(
    run_id: int,
    *,
    worker: str = "",
    command: Sequence[str] | None = None,
    timing: Timing | None = None,
    shutdown: threading.Event | None = None,
    place: Place | None = None,
) -> Outcome | None:
    """Claim a run and supervise it to its end; None when there was nothing to claim.

    ``command`` replaces the program (the run directory is appended); tests use it.
    """
    timing = timing or Timing()
    run = claim_run(run_id, worker=worker, timing=timing, place=place)
    if run is None:
        return None
    program = command or program_command(run.kind, run.recipe, run.directory)
    supervision = _Supervision(run, list(program), timing, shutdown or SHUTDOWN)
    with supervision.heart:
        return supervision.see_through()


class _Supervision:
    """One supervision of one run, from its claim to its end."""

    def __init__(
        self,
        run: Run,
        command: list[str],
        timing: Timing,
        shutdown: threading.Event,
    ) -> None:
        self.run = run
        self.command = command
        self.timing = timing
        self.shutdown = shutdown
        self.heart = Heart(run, timing)
        self.porter = Porter(run, timing.beat)
        self.child: subprocess.Popen[bytes] | None = None
        self.fell_silent = False

    def see_through(self) -> Outcome:
        """Run the program and end the run; the program never outlives this call."""
        try:
            if store.is_set() and not self.be_at_home():
                return self.leave_for_later()
            # Read events that an earlier attempt wrote after its supervisor died.
            self.patiently(self.ingest)
            if self.run.program_state != "finished":
                with lock_of(self.run, self.may_wait()) as is_free:
                    if not is_free:
                        return self.leave_for_later()
                    self.patiently(lambda: prepare_directory(self.run))
                if self.heart.stop.is_set():
                    return self.end(RunState.STOPPED)
                outcome = self.judge(self.watch(self.launch()))
                if outcome is not None:
                    return outcome
            return self.complete()
        except (OutputError, CheckpointError, store.StoreError) as error:
            self.kill()
            return self.end(RunState.FAILED, str(error))
        except LostRunError as error:
            logger.warning("%s", error)
            return Outcome.LOST
        except Exception as error:
            logger.exception("Supervising run %s failed.", self.run.pk)
            self.kill()
            try:
                return self.end(RunState.FAILED, f"{type(error).__name__}: {error}")
            except LostRunError:
                return Outcome.LOST
        finally:
            self.kill()
            self.porter.finish()

    def patiently(self, deed: Callable[[], Made]) -> Made:
        """Call ``deed``, and retry while the database is down."""
        while True:
            try:
                return deed()
            except (OperationalError, InterfaceError) as error:
                if self.heart.lost.is_set() or self.shutdown.is_set():
                    raise LostRunError(f"no database to end in: {error}") from error
                logger.warning("Run %s waits for the database: %s", self.run.pk, error)
                connection.close()
                time.sleep(1.0)

    def may_wait(self) -> Callable[[float], bool]:
        """Return the condition, on seconds waited, to keep waiting for the lock."""

        def goes_on(waited: float) -> bool:
            called = self.heart.lost, self.heart.stop, self.shutdown
            return waited < self.timing.lock_wait and not any(
                event.is_set() for event in called
            )

        return goes_on

    def leave_for_later(self) -> Outcome:
        self.queue_again(
            "Another process still holds the run directory; trying again later."
        )
        return Outcome.LEFT_FOR_LATER

    def ingest(self) -> bool:
        return ingest_events(self.run)

    # The object store

    def be_at_home(self) -> bool:
        """Take the run over if its files are elsewhere; False while it is locked."""
        run, here = self.run, store.home()
        if run.home and run.home != here:
            with lock_of(run, self.may_wait()) as is_free:
                if not is_free:
                    return False
                fetched = self.patiently(lambda: store.take_over(run))
            message = f"Taken over from another machine with {fetched} checkpoints."
            self.patiently(lambda: note_once(run, "info", message))
            if run.program_state and run.kind in LEAVE_OUTPUTS:
                # Nobody can know any more whether all its outputs are in the store.
                self.patiently(lambda: update_held(run, program_state="", result={}))
                run.program_state, run.result = "", {}
        self.patiently(lambda: update_held(run, home=here, outputs_stored_at=None))
        run.home = here
        self.porter.start()
        return True

    def put_into_store(self) -> None:
        """Store what the run has left so far; a store that is down is only noted."""
        if not store.is_set() or not self.run.home:
            return
        self.porter.finish()
        try:
            self.patiently(lambda: store.put_checkpoints(self.run))
            self.patiently(lambda: store.put_outputs(self.run))
        except (store.StoreError, OSError) as error:
            message = f"Not everything is in the store, tried again later: {error}"
            self.patiently(lambda: note_once(self.run, "warning", message))

    # During

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the program in its own process group, on a leash.

        The leash is its standard input: when this process dies, even by SIGKILL, the
        pipe ends and the program ends itself. The program gets no secrets of the
        server.
        """
        environment = program_environment(os.environ) | {
            "CONCORD_LEASH": "1",
            # Otherwise the launcher of several processes kills them after half a
            # minute.
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(
                math.ceil(self.timing.grace + self.timing.save)
            ),
        }
        with (self.run.directory / "log.txt").open("ab") as log:
            self.child = subprocess.Popen(
                [*self.command, str(self.run.directory)],
                cwd=settings.BASE_DIR,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.child

    def watch(self, child: subprocess.Popen[bytes]) -> int:
        """Ingest the program's events until it ends; return its exit status."""
        patience = Patience(self.run.directory, self.timing)
        log_size = -1
        visible = visible_devices(settings.WORKER_DEVICE, os.environ)
        self.meter = Meter(child, visible.get("CUDA_VISIBLE_DEVICES"))
        while True:
            # First check whether it has ended, then read, so that its last events are
            # included.
            has_ended = _has_ended(child)
            if self.heart.lost.is_set():
                raise LostRunError(f"run {self.run.pk} was claimed by another worker")
            has_news = self.patiently(self.ingest)
            if has_news:
                patience.hear()
            if has_news and self.run.state == RunState.STARTING:
                self.patiently(self._running)
            size = _size(self.run.directory / "log.txt")
            if size != log_size:
                log_size = size
                self.patiently(self._keep_log)
            if not has_ended and self.meter.is_due():
                self.patiently(self._keep_hardware)
            connection.close()
            if has_ended:
                self.kill()
                return child.returncode
            self.fell_silent = self.fell_silent or patience.is_silent()
            called = self.heart.stop.is_set() or self.shutdown.is_set()
            if called or self.fell_silent:
                if patience.asked_at is None:
                    patience.ask()
                    (self.run.directory / "stop").touch()
                    os.kill(child.pid, signal.SIGTERM)
                elif patience.is_over():
                    os.killpg(child.pid, signal.SIGKILL)
            time.sleep(self.timing.poll)

    def _running(self) -> None:
        Run.objects.filter(
            pk=self.run.pk, token=self.run.token, state=RunState.STARTING
        ).update(state=RunState.RUNNING)
        self.run.state = RunState.RUNNING

    def _keep_log(self) -> None:
        update_held(self.run, log_tail=read_log_tail(self.run))

    def _keep_hardware(self) -> None:
        update_held(self.run, hardware=self.meter.read())

    def kill(self) -> None:
        """Kill the program and all it started, before its exit status is collected."""
        if self.child is not None and self.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            if self.child.stdin:
                self.child.stdin.close()

    # After

    def judge(self, status: int) -> Outcome | None:
        """Return how the program's end ends the run; None when it finished its work."""
        run = self.run
        program_state = run.program_state
        if program_state == "finished":
            return None
        stop = self.heart.stop.is_set() or self.patiently(self._stop_requested)
        if program_state == "failed":
            return self.end(RunState.FAILED, run.error or "The program gave no reason.")
        if status == LOCKED:
            return self.leave_for_later()
        if stop:
            return self.end(RunState.STOPPED)
        if self.shutdown.is_set():
            return self.queue_again(
                f"The worker shut down at step {run.step}; another one goes on."
            )
        if self.fell_silent:
            minutes = f"{self.timing.silence / 60:g} minutes"
            return self.crashed(f"The program wrote no event for {minutes}; ended")
        if program_state == "stopped":
            return self.end(RunState.STOPPED)
        if status < 0:
            return self.crashed(f"The program was killed ({_signal_name(-status)})")
        if program_state == "killed" or (
            not program_state and self.is_one_of_several_gone(status)
        ):
            return self.crashed(
                "One of the program's processes was killed; often the machine was out "
                "of memory,"
            )
        last_words = run_last_words(run)
        if status == 0:
            return self.end(
                RunState.FAILED, f"The program ended without a result. {last_words}"
            )
        return self.end(
            RunState.FAILED, f"The program ended with status {status}. {last_words}"
        )

    def is_one_of_several_gone(self, status: int) -> bool:
        """Whether a process of several died before the program could report a failure.

        The reporting process says why it fails; the launcher ends with 1 whatever
        happened.
        """
        several = int(str(self.run.recipe.get("processes", 1))) > 1
        return several and status > 0 and self.run.state == RunState.RUNNING

    def _stop_requested(self) -> bool:
        return Run.objects.filter(pk=self.run.pk, stop_requested=True).exists()

    def crashed(self, what: str) -> Outcome:
        """Queue a run again whose program was killed; fail it after the last attempt."""
        run = self.run
        where = f"{what} at step {run.step}"
        self.patiently(lambda: register_found(run))
        run.attempts = self.patiently(lambda: attempts_in_vain(run))
        if run.attempts >= settings.RUN_ATTEMPTS:
            message = self.patiently(lambda: what_is_kept(run))
            return self.end(
                RunState.FAILED, f"{where}; {attempts_made(run)} made. {message}"
            )
        return self.queue_again(f"{where}.", counts=True)

    def queue_again(self, why: str, *, counts: bool = False) -> Outcome:
        """Queue the run again; ``counts`` says whether the attempt counts.

        Sends no hint: the task sends one, or the reconciler does later.
        """

        self.patiently(lambda: register_found(self.run))
        self.put_into_store()

        def deed() -> None:
            with transaction.atomic():
                attempts = self.run.attempts if counts else self.run.attempts - 1
                update_held(
                    self.run,
                    state=RunState.QUEUED,
                    leased_until=None,
                    hinted_at=Now(),
                    attempts=attempts,
                )
                note_once(self.run, "warning", why)

        self.patiently(deed)
        return Outcome.QUEUED_AGAIN

    def end(
        self, state: RunState, error: str = "", result: dict[str, JSON] | None = None
    ) -> Outcome:
        """End the run in a final state."""

        self.patiently(lambda: register_found(self.run))
        self.put_into_store()

        def deed() -> None:
            with transaction.atomic():
                fields: dict[str, object] = {
                    "state": state,
                    "leased_until": None,
                    "ended_at": Now(),
                    "error": error,
                    "log_tail": read_log_tail(self.run),
                }
                if result is not None:
                    fields["result"] = result
                update_held(self.run, **fields)
                if error:
                    note_once(self.run, "error", error)
                if state == RunState.FINISHED:
                    # Programs do not report every step, and rarely the last.
                    Run.objects.filter(pk=self.run.pk).update(step=F("steps_total"))
                    promote_the_first(self.run)

        self.patiently(deed)
        return Outcome(state.value)

    def complete(self) -> Outcome:
        """Receive what the finished program left, then mark the run as finished."""
        received = self.patiently(lambda: receive_outputs(self.run))
        return self.end(RunState.FINISHED, result={**self.run.result, **received})


def run_last_words(run: Run) -> str:
    """Return the last meaningful line of the log, as the end of a sentence."""
    lines = [
        line.strip()
        for line in read_log_tail(run).splitlines()
        if any(letter.isalnum() for letter in line)  # skip lines without words
    ]
    return f"Its last words: {lines[-1][:500]}" if lines else "It said nothing."


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Check without collecting: until then the process group's number stays its own."""
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, child.pid, look) is not None


def _signal_name(number: int) -> str:
    name = f"signal {number}"
    if number == signal.SIGKILL:
        return f"{name}; often the machine was out of memory"
    return name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
