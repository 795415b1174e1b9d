"""The run directory: how a program talks to whoever started it.

A program gets one folder and nothing else. It reads ``run.json`` and ``data/``, appends
events, leaves checkpoints and outputs, and watches for a wish to stop
(``docs/run-directory.md`` describes every file). Plain Python, no torch.

Three promises are kept here for all programs:

* One process per run directory: the lock is held for life, a second process exits 75.
* An event is one whole line: it is written with a single ``write`` to a file opened for
  appending, so a reader never sees half an event except after a power cut.
* A checkpoint is whole or absent: written aside, hashed, synced, renamed, and only then
  announced. A whole checkpoint is never rewritten.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

from actions.tags import JSON
from records import events
from records.checkpoints import (
    MANIFEST,
    CheckpointError,
    Manifest,
    WholeCheckpoint,
    step_name,
    verify_checkpoint,
)
from records.finite import NotFiniteError, figures_must_be_finite
from records.reading import RecordError, parse_object
from records.recipes import (
    Recipe,
    RecipeError,
    brought_up_to_date,
    recipe_from_json,
    recipe_to_json,
)
from records.run_json import LOCKED, RUN_JSON, RunJson
from training.engine.run.checkpoint_writer import (
    remove_leftovers,
    same_checkpoint,
    stage,
    write_checkpoint,
)
from training.engine.run.ending import has_lost_another, leave
from training.engine.run.errors import RunError as RunError
from training.engine.run.leash import close_stdin, listen
from training.engine.run.tensorboard import EventFile

FAILED = "failed.txt"  # why a process failed that does not speak for the run

RecipeT = TypeVar("RecipeT", bound=Recipe)


@dataclass(frozen=True)
class Ending:
    """How a program ended, and the figures it ends with."""

    state: Literal["finished", "stopped"]
    values: Mapping[str, object]


class RunDirectory:
    """One open run directory: what came in, and the ways to report.

    Made by ``run_program``; tests may open one themselves. Raises ``RunError`` or
    ``RecipeError`` when ``run.json`` cannot be used, ``BlockingIOError`` when another
    process holds the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not self.path.is_dir():
            raise RunError(str(path), "a run directory", "no such folder")
        # Of several processes (accelerate launch) the first speaks for all.
        self.speaks = os.environ.get("RANK", "0") == "0"
        self._lock = (self.path / "lock").open("a")
        try:
            if self.speaks:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise
        self._stop = threading.Event()
        self._events = os.open(
            self.path / "events.jsonl" if self.speaks else os.devnull,
            os.O_CREAT | os.O_RDWR | os.O_APPEND,
            0o644,
        )
        self._events_lock = threading.Lock()
        self._mend_last_line()
        self.checkpoints = self.path / "checkpoints"
        self.outputs = self.path / "outputs"
        self.checkpoints.mkdir(exist_ok=True)
        self.outputs.mkdir(exist_ok=True)
        if self.speaks:
            (self.path / FAILED).unlink(missing_ok=True)
            remove_leftovers(self.checkpoints)
        self._checkpoints: dict[str, WholeCheckpoint] = {}
        self.program = ""
        self.settings: JSON = {}
        self.inputs: dict[str, Path] = {}
        self.data: dict[str, Path] = {}
        self.resume: Path | None = None
        self.last_kept: int | None = None  # the step of the newest whole checkpoint
        # Tokens that a base lacked: whose rows this run trains, and others before it.
        self.new_tokens: tuple[str, ...] = ()
        self.trained_tokens: tuple[str, ...] = ()
        self._curves: EventFile | None = None
        self._draws_curves = True

    def read(self) -> None:
        """Read ``run.json``; raise ``RunError`` naming the field that is wrong."""
        task = _read_task(self.path / RUN_JSON)
        self.program = task.program
        self.settings = task.recipe
        self.inputs = {
            role: self._existing(f"inputs.{role}", value, Path.exists)
            for role, value in task.inputs.items()
        }
        self.data = {
            name: self._existing(f"data.{name}", value, Path.is_file)
            for name, value in task.data.items()
        }
        if task.resume:
            self.resume = self._existing("resume", task.resume, Path.is_dir)
            resumed = _whole("resume", self.resume)
            self._checkpoints["resume"] = resumed
            self.last_kept = resumed.step
        for role, path in self.inputs.items():
            # A plain Hugging Face directory has no manifest and is taken as it is.
            if (path / MANIFEST).exists():
                self._checkpoints[role] = _whole(f"inputs.{role}", path)
        policy = self.manifest("policy")
        if policy is not None:
            self.trained_tokens = policy.trained_tokens

    def _existing(self, name: str, value: str, test: Callable[[Path], bool]) -> Path:
        path = self.path / value
        if not test(path):
            raise RunError(f"run.json: `{name}`", "an existing path", _shown(value))
        return path

    def recipe(self, recipe_type: type[RecipeT]) -> RecipeT:
        """Return the checked settings; raise ``RecipeError`` or ``RunError``.

        What became of settings of earlier versions is said in the log.
        """
        recipe = recipe_from_json(self.program, self.settings)
        if isinstance(self.settings, dict):
            _, messages = brought_up_to_date(self.program, self.settings)
            for message in messages:
                self.log(message, "warning")
        if not isinstance(recipe, recipe_type):
            wanted = f"the program of {recipe_type.__name__}"
            raise RunError("run.json: `program`", wanted, _shown(self.program))
        return recipe

    def need_data(self, name: str) -> Path:
        """Return the data file ``name``; raise ``RunError`` when it was not given."""
        if name not in self.data:
            raise RunError(f"run.json: `data.{name}`", "a file", "nothing")
        return self.data[name]

    def need_input(self, role: str) -> Path:
        """Return the checkpoint of ``role``; raise ``RunError`` when not given."""
        if role not in self.inputs:
            raise RunError(f"run.json: `inputs.{role}`", "a checkpoint", "nothing")
        return self.inputs[role]

    def manifest(self, role: str) -> Manifest | None:
        """Return the manifest of an input (or of ``resume``), if it has one."""
        checkpoint = self._checkpoints.get(role)
        return checkpoint.manifest if checkpoint else None

    @property
    def parents(self) -> tuple[str, ...]:
        """Digests of the checkpoints this run starts from, by role name."""
        return tuple(
            checkpoint.digest
            for role, checkpoint in sorted(self._checkpoints.items())
            if role != "resume"
        )

    # Stopping

    @property
    def stop_requested(self) -> bool:
        """Whether the starter wishes the program to checkpoint and end."""
        return self._stop.is_set() or (self.path / "stop").exists()

    def request_stop(self) -> None:
        """Ask the program to end at the next step, as SIGTERM does."""
        self._stop.set()

    # Events

    def progress(self, step: int, of: int) -> None:
        """Say how far the run is."""
        self._emit(events.Progress(step, of))

    def metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Report figures of one step; one without a value is None.

        Raises ``NotFiniteError`` for NaN and infinities.
        """
        figures_must_be_finite(values, f"step {step}")
        if self._draws_curves:
            self._draw(step, values)
        self._emit(events.Metrics(step, _json(values)))

    def _draw(self, step: int, values: Mapping[str, object]) -> None:
        """Append the figures to the TensorBoard file; a run does not fail for it."""
        try:
            if self._curves is None:
                resumed = self.manifest("resume")
                first = resumed.step + 1 if resumed else 0
                self._curves = EventFile(self.path / "tensorboard", first=first)
            self._curves.add(step, values)
        except OSError as error:
            self._draws_curves = False
            self.log(f"no curves for TensorBoard: {error}", "warning")

    def sample(
        self,
        step: int,
        *,
        prompt: str,
        text: str,
        label: str,
        scores: Mapping[str, object] | None = None,
    ) -> None:
        """Show one sampled text beside its label."""
        scored = _json(scores or {})
        figures_must_be_finite(scored, f"step {step}: sample")
        self._emit(events.ShownSample(step, prompt, text, label, scored))

    def log(self, message: str, level: str = "info") -> None:
        """Say something to the person who reads the run's page, and to the log."""
        if self.speaks:
            print(f"{level}: {message}", flush=True)  # noqa: T201 - stdout is log.txt
        self._emit(events.Log(level, message))

    def result(self, state: str, values: Mapping[str, object], error: str = "") -> None:
        """Write the last event."""
        if error and not self.speaks:
            rank = os.environ.get("RANK", "")
            (self.path / FAILED).write_text(f"process {rank}: {error}\n")
        self._emit(events.Result(state, _json(values), error))

    def _emit(self, event: events.Written) -> None:
        line = events.event_line(event, time.time())
        with self._events_lock:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._events, rest) :]

    def _mend_last_line(self) -> None:
        """End a line that a killed attempt left torn, so that the next one is whole."""
        size = os.fstat(self._events).st_size
        if size and os.pread(self._events, 1, size - 1) != b"\n":
            os.write(self._events, b"\n")

    # Checkpoints

    def save_checkpoint(
        self,
        step: int,
        write: Callable[[Path], None],
        *,
        kind: Literal["policy", "reward"],
        recipe: Recipe,
        metrics: Mapping[str, object] | None = None,
        final: bool = False,
        name: str = "",
    ) -> WholeCheckpoint | None:
        """Write a checkpoint with ``write(folder)``, make it whole and announce it.

        Stage, hash, sync, rename, announce: a crash at any point leaves either no
        checkpoint or a whole one. Where a whole one of the same recipe and parents
        already has the name (a crash came between rename and announcement), it is kept
        and announced, since others may refer to its digest. Of several processes the
        first writes; the others return None at once. Raises ``NotFiniteError`` if a
        weight or a figure is not finite: such a checkpoint is not left.
        """
        if not self.speaks:
            return None
        figures_must_be_finite(metrics or {}, f"checkpoint of step {step}")
        target = self.checkpoints / (name or step_name(step))
        checkpoint = same_checkpoint(target, self.program, recipe, self.parents)
        if checkpoint is None:
            trained = {*self.trained_tokens, *(self.new_tokens if step else ())}
            manifest = Manifest(
                step=step,
                program=self.program,
                kind=kind,
                files={},
                recipe=_json(recipe_to_json(recipe)),
                parents=self.parents,
                metrics=_json(metrics or {}),
                new_tokens=self.new_tokens,
                trained_tokens=tuple(sorted(trained)),
            )
            checkpoint = write_checkpoint(target, write, manifest)
        path = str(target.relative_to(self.path))
        self._emit(events.CheckpointWritten(step, path, checkpoint.digest, final, kind))
        self.last_kept = max(step, self.last_kept or 0)
        return checkpoint

    def rehearse_checkpoint(self, write: Callable[[Path], None]) -> None:
        """Write a checkpoint aside and remove it, before the first step is learned.

        What cannot be written (no room, a generation config that is not valid, tied
        weights) ends the run now and not after hours: raises ``RunError``.
        """
        if not self.speaks:
            return
        place = "checkpoint before the first step"
        try:
            staging = stage(self.checkpoints / "rehearsal", write, place)
        except (NotFiniteError, RunError):
            raise
        except Exception as error:
            traceback.print_exc()
            expected, found = "a model that can be saved", str(error)
            if isinstance(error, OSError):  # without its path
                found = error.strerror or found
            raise RunError(place, expected, found) from error
        shutil.rmtree(staging)

    def has_checkpoint(self, step: int, recipe: Recipe) -> bool:
        """Say whether a whole checkpoint of a step, made with ``recipe``, is there.

        ``save_checkpoint`` announces that one; any other it writes anew.
        """
        target = self.checkpoints / step_name(step)
        same = same_checkpoint(target, self.program, recipe, self.parents)
        return same is not None

    def close(self) -> None:
        """Release the lock and the event file."""
        if self._curves is not None:
            self._curves.close()
        os.close(self._events)
        self._lock.close()


def run_program(
    program: str,
    recipe_type: type[RecipeT],
    body: Callable[[RunDirectory, RecipeT], Ending],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run ``body`` on the run directory named on the command line; return the status.

    0: finished or stopped, 1: failed (the reason is in the result event and the
    traceback in the log), 2: wrong usage, 75: another process has the run directory. One
    of several processes ends here, with that status.
    """
    if arguments is None:
        close_stdin()
    status = _run_once(program, recipe_type, body, arguments)
    leave(status)
    return status


def _run_once(
    program: str,
    recipe_type: type[RecipeT],
    body: Callable[[RunDirectory, RecipeT], Ending],
    arguments: Sequence[str] | None,
) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        print(f"usage: python -m training.engine.{program} RUN_DIR", file=sys.stderr)  # noqa: T201
        return 2
    try:
        run = RunDirectory(Path(given[0]))
    except BlockingIOError:
        print(f"{given[0]}: another process has this run directory", file=sys.stderr)  # noqa: T201
        return LOCKED
    except (RunError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    previous = listen(run.request_stop)
    try:
        run.read()
        if run.program != program:
            raise RunError("run.json: `program`", repr(program), _shown(run.program))
        ending = body(run, run.recipe(recipe_type))
        figures_must_be_finite(ending.values, "result")
    except NotFiniteError as error:
        why = f"{error}. {_what_is_kept(run)}"
        print(why, file=sys.stderr)  # noqa: T201
        run.result("failed", {}, why)
        return 1
    except (RunError, RecipeError, CheckpointError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        run.result("failed", {}, str(error))
        return 1
    except Exception as error:
        # The last resort of a program: whatever it was, the run ends with a reason.
        traceback.print_exc()
        run.result(*_end_of(run, error))
        return 1
    else:
        run.result(ending.state, ending.values)
        return 0
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        run.close()


def _what_is_kept(run: RunDirectory) -> str:
    if run.last_kept is None:
        return "The run stopped before its first checkpoint."
    return f"The run stopped; its last good checkpoint is step {run.last_kept}."


def _end_of(run: RunDirectory, error: Exception) -> tuple[str, dict[str, object], str]:
    """Return what to say of an error: another process may have ended before, by it."""
    if run.speaks and has_lost_another(error):
        try:
            why = (run.path / FAILED).read_text().strip()
        except OSError:
            return "killed", {}, "another process of this run was killed"
        return "failed", {}, f"another process of this run ended: {why}"
    return "failed", {}, f"{type(error).__name__}: {error}"


def step_random(seed: int, *place: int | str) -> random.Random:
    """Return a generator that depends on the seed and the place only.

    Programs draw from one generator per step rather than from one that runs on, so a
    resumed run needs no saved generator state to repeat an uninterrupted one.
    """
    return random.Random(":".join(str(part) for part in (seed, *place)))


def _whole(name: str, path: Path) -> WholeCheckpoint:
    """Return a whole checkpoint that ``run.json`` names; raise ``RunError``."""
    try:
        return verify_checkpoint(path)
    except CheckpointError as error:
        found = f"{path}: {error.why}"
        raise RunError(f"run.json: `{name}`", "a whole checkpoint", found) from error


def _read_task(path: Path) -> RunJson:
    """Return what ``run.json`` says; raise ``RunError``."""
    try:
        return RunJson.from_json(parse_object(path.read_bytes(), RUN_JSON))
    except OSError as error:
        found = error.strerror or "nothing"
        raise RunError(RUN_JSON, "a readable file", found) from error
    except RecordError as error:
        raise RunError(error.place, error.expected, error.found) from error


def _json(values: Mapping[str, object]) -> dict[str, JSON]:
    """Return figures or settings as JSON, which they are whatever their type says."""
    return cast(dict[str, JSON], dict(values))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
