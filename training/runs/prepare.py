"""Prepare a run directory before its program starts (docs/run-directory.md).

On disk the program's ``flock`` also shows who holds a run: even a supervisor that lost
its lease without noticing cannot have two programs in one run directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from django.db import transaction

from records.checkpoints import CheckpointError, file_sha256, newest_to_resume
from records.run_json import RUN_JSON, RunJson
from training.models import Metric, Run, RunSample
from training.runs.bases import BaseRefusedError, base_directory
from training.runs.claim import note_once
from training.runs.ingest import OutputError, update_held
from training.storage import store

if TYPE_CHECKING:
    from actions.tags import JSON


def prepare_directory(run: Run) -> None:
    """Write the run directory for this attempt; the caller holds its lock.

    Data files are linked from the snapshot. The newest complete checkpoint is resumed
    from; broken ones are moved aside so that the program can write them again.
    """
    directory = run.directory
    _set_aside_a_namesake(run)
    for name in ("data", "checkpoints", "outputs"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    data = _link_data(run)
    broken: list[CheckpointError] = []
    resumed_from = newest_to_resume(directory, broken)
    for error in broken:
        aside = directory / "checkpoints" / f".broken-{uuid.uuid4().hex[:8]}"
        error.path.rename(aside)
        note_once(run, "warning", f"Set aside: {error}.")
    start = resumed_from.step if resumed_from else 0
    task = RunJson(
        program=run.kind,
        recipe=_recipe(run),
        run_id=run.pk,
        uuid=str(run.uuid),
        attempt=run.attempts,
        token=run.token,
        inputs=_fetch_inputs(run),
        data=data,
        resume=str(resumed_from.path.relative_to(directory)) if resumed_from else None,
    )
    _write_whole(directory / RUN_JSON, json.dumps(task.to_json(), indent=1) + "\n")
    (directory / "stop").unlink(missing_ok=True)
    with transaction.atomic():
        update_held(run, step=start, program_state="", error="", result={})
        run.program_state, run.error, run.result = "", "", {}
        # Steps after the resumed one are repeated, perhaps with other results.
        Metric.objects.filter(run=run, step__gt=start).delete()
        RunSample.objects.filter(run=run, step__gt=start).delete()
        if resumed_from:
            note_once(run, "info", f"Resumed from checkpoint {start}.")
        elif run.attempts > 1:
            note_once(run, "info", "Started again from the beginning.")


def _recipe(run: Run) -> dict[str, JSON]:
    """Return the recipe for the program: a base by its path on this machine.

    The base is resolved again, because the name may mean another model since the start.
    """
    recipe: dict[str, JSON] = dict(run.recipe)
    if base := recipe.get("base"):
        try:
            recipe["base"] = str(base_directory(str(base)))
        except BaseRefusedError as error:
            raise OutputError(f"base: {error}") from error
    return recipe


def _fetch_inputs(run: Run) -> dict[str, str]:
    inputs: dict[str, str] = {}
    for each in run.run_inputs.select_related("checkpoint"):
        store.fetch(each.checkpoint)
        inputs[each.role] = str(each.checkpoint.directory)
    return inputs


def _link_data(run: Run) -> dict[str, str]:
    snapshot = run.snapshot
    data: dict[str, str] = {}
    if snapshot is None:
        return data
    if store.is_set():
        store.fetch_snapshot(snapshot)
    for name, facts in snapshot.files.items():
        source = snapshot.directory / f"{name}.jsonl"
        target = run.directory / "data" / f"{name}.jsonl"
        if not source.is_file() or file_sha256(source) != facts["sha256"]:
            raise OutputError(f"{snapshot}: {name}.jsonl is missing or was changed")
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
        data[name] = f"data/{name}.jsonl"
    return data


def _set_aside_a_namesake(run: Run) -> None:
    """Move away a directory with the same number from another database."""
    try:
        written = json.loads((run.directory / RUN_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    other = str(written.get("uuid", "")) if isinstance(written, dict) else ""
    if other != str(run.uuid):
        name = f"{run.pk}-of-{other or 'unknown'}-{uuid.uuid4().hex[:8]}"
        run.directory.rename(run.directory.with_name(name))


def _write_whole(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.staging")
    with staged.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


@contextlib.contextmanager
def lock_of(run: Run, goes_on: Callable[[float], bool]) -> Iterator[bool]:
    """Hold the lock that programs hold; yield False if a program keeps it.

    While it is held no program writes in the run directory. A program whose supervisor
    died ends itself within seconds, so it is worth waiting a little.
    """
    run.directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (run.directory / "lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not goes_on(time.monotonic() - started):
                    yield False
                    return
                time.sleep(0.2)
        try:
            yield True
        finally:
            # Unlock explicitly: a process forked by another thread may still hold a
            # copy of this file for a moment, so closing is not enough.
            fcntl.flock(lock, fcntl.LOCK_UN)
