"""The object store: one machine stores files there, another fetches them.

Workers on several machines share runs through Postgres, the broker and, with
``CONCORD_STORE``, a store that fsspec reaches (``s3://bucket/prefix``,
``file:///mnt/x``). Each machine has its own data directory. Snapshots, checkpoints and
outputs are stored under their path in the data directory.

A store cannot rename a folder. So ``manifest.json`` is stored last: a stored folder
with a manifest is complete. Fetching works like writing a checkpoint: into a temporary
folder, with every file compared with its hash and synced, and only then renamed.

``Run.home`` says in which data directory a run's files are. A worker with another one
takes the run over: its older files of the run are put aside, and the registered
checkpoints are fetched, from the first to the last that is available without a gap (a
program may need an earlier one again). Events are not fetched: they are in Postgres.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from django.conf import settings
from django.utils import timezone

from records.checkpoints import (
    MANIFEST,
    CheckpointError,
    file_sha256,
    files_from_json,
    hash_and_sync,
    verify_checkpoint,
)
from records.reading import RecordError, parse_object
from training.models import FINAL_STATES, Checkpoint, Run, Snapshot

AT_ONCE = 3  # checkpoints, and outputs, stored later per call
KEPT = ("lock", "accelerate.json")  # files the supervision has already written


class StoreError(Exception):
    """The store refused or lacks something; the message says what and why."""


def is_set() -> bool:
    """Whether there is a store besides the data directory."""
    return bool(settings.STORE)


def home() -> str:
    """Return the name of this data directory, the same for all that share it."""
    path = Path(settings.DATA_DIR) / "home"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_name(f".home-{uuid.uuid4().hex}")
        mine.write_text(uuid.uuid4().hex)
        try:
            os.link(mine, path)  # of two concurrent calls one wins; both read its name
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    return path.read_text().strip()


# Files


def _reach(what: Path, deed: Callable[[Any, str], None]) -> None:
    """Call ``deed`` with the file system and the path of ``what`` in it."""
    relative = what.relative_to(settings.DATA_DIR).as_posix()
    try:
        files, root = fsspec.url_to_fs(settings.STORE)
        deed(files, f"{root.rstrip('/')}/{relative}")
    except (OSError, ValueError, ImportError) as error:
        why = str(error) or type(error).__name__
        raise StoreError(f"the object store, {relative}: {why}") from error


def _put(path: Path) -> None:
    def deed(files: Any, there: str) -> None:
        files.makedirs(there.rpartition("/")[0], exist_ok=True)
        files.put_file(str(path), there)

    _reach(path, deed)


def _put_folder(folder: Path, names: Iterable[str]) -> None:
    """Store the named files of a folder, then its manifest."""
    for name in [*names, MANIFEST]:
        _put(folder / name)


def _fetch_folder(folder: Path, *, digest: str = "") -> None:
    """Fetch a missing folder; it appears in place only when it is complete.

    ``digest`` is the required SHA-256 of its manifest.
    """
    staging = folder.with_name(f".fetching-{folder.name}-{uuid.uuid4().hex[:8]}")
    staging.mkdir(parents=True)

    def get(name: str) -> None:
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)

        def deed(files: Any, there: str) -> None:
            files.get_file(there, str(target))

        _reach(folder / name, deed)

    try:
        get(MANIFEST)
        raw = (staging / MANIFEST).read_bytes()
        if digest and hashlib.sha256(raw).hexdigest() != digest:
            raise CheckpointError(folder, "its manifest in the store has another hash")
        for name, expected in _named_files(folder, raw).items():
            get(name)
            if hash_and_sync(staging / name) != expected:
                raise CheckpointError(folder, f"{name} has another hash in the store")
        hash_and_sync(staging / MANIFEST)
        try:
            staging.rename(folder)
        except OSError:
            if not (folder / MANIFEST).is_file():  # else another process has fetched it
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _named_files(folder: Path, raw: bytes) -> dict[str, str]:
    """Return the files of a manifest in the store: a checkpoint's or the outputs'."""
    try:
        return files_from_json(parse_object(raw, MANIFEST))
    except RecordError as error:
        raise CheckpointError(folder, f"in the store: {error}") from error


# Snapshots


def put_snapshot(snapshot: Snapshot) -> None:
    """Store the files of a snapshot that the store lacks."""
    for name in snapshot.files:
        path = snapshot.directory / f"{name}.jsonl"

        def deed(files: Any, there: str, path: Path = path) -> None:
            if not files.exists(there) or files.size(there) != path.stat().st_size:
                files.makedirs(there.rpartition("/")[0], exist_ok=True)
                files.put_file(str(path), there)

        _reach(path, deed)


def fetch_snapshot(snapshot: Snapshot) -> None:
    """Fetch the missing files of a snapshot; raise CheckpointError."""
    snapshot.directory.mkdir(parents=True, exist_ok=True)
    for name, facts in snapshot.files.items():
        path = snapshot.directory / f"{name}.jsonl"
        if path.is_file():
            continue
        staged = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")

        def deed(files: Any, there: str, staged: Path = staged) -> None:
            files.get_file(there, str(staged))

        try:
            _reach(path, deed)
            if hash_and_sync(staged) != facts["sha256"]:
                raise CheckpointError(path, "it has another hash in the store")
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)


# Checkpoints


def is_at_hand(checkpoint: Checkpoint) -> bool:
    """Whether the files of a checkpoint are here or can be fetched."""
    return _is_here(checkpoint) or _is_stored(checkpoint)


def _is_here(checkpoint: Checkpoint) -> bool:
    return (checkpoint.directory / MANIFEST).is_file()


def _is_stored(checkpoint: Checkpoint) -> bool:
    return is_set() and checkpoint.stored_at is not None


def check(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the checkpoint is complete here or in the store.

    Files in the store are hashed when they are fetched.
    """
    if _is_here(checkpoint) or not _is_stored(checkpoint):
        verify_checkpoint(
            checkpoint.directory, digest=checkpoint.digest, seen=checkpoint.seen
        )


def fetch(checkpoint: Checkpoint) -> None:
    """Fetch a checkpoint if it is not here; raise CheckpointError, StoreError."""
    if not _is_here(checkpoint) and _is_stored(checkpoint):
        _fetch_folder(checkpoint.directory, digest=checkpoint.digest)


def put_checkpoints(run: Run) -> None:
    """Store the registered checkpoints of a run that the store lacks, oldest first."""
    waiting = Checkpoint.objects.filter(
        run=run, stored_at__isnull=True, files_removed_at__isnull=True
    )
    for checkpoint in waiting.order_by("step", "pk"):
        _put_checkpoint(checkpoint)


def _put_checkpoint(checkpoint: Checkpoint) -> None:
    try:
        if file_sha256(checkpoint.directory / MANIFEST) != checkpoint.digest:
            return  # an older one, left here before the run moved
    except FileNotFoundError:
        return  # another machine has stored it
    _put_folder(checkpoint.directory, checkpoint.manifest["files"])
    Checkpoint.objects.filter(pk=checkpoint.pk, digest=checkpoint.digest).update(
        stored_at=timezone.now()
    )


def put_what_is_missing() -> list[str]:
    """Store what the store did not take of ended runs; return why it fails again.

    A few per call, chosen at random, so that one that always fails delays none.
    """
    if not is_set():
        return []
    checkpoints = Checkpoint.objects.filter(
        run__home=home(),
        run__state__in=FINAL_STATES,
        stored_at__isnull=True,
        files_removed_at__isnull=True,
    )
    runs = Run.objects.filter(
        home=home(), state__in=FINAL_STATES, outputs_stored_at__isnull=True
    )
    deeds = [
        *(
            partial(_put_checkpoint, each)
            for each in checkpoints.order_by("?")[:AT_ONCE]
        ),
        *(partial(put_outputs, each) for each in runs.order_by("?")[:AT_ONCE]),
    ]
    problems: list[str] = []
    for deed in deeds:
        try:
            deed()
        except (StoreError, OSError) as error:
            problems.append(str(error))
    return problems


def remove(checkpoint: Checkpoint) -> None:
    """Remove a checkpoint from the store; its manifest goes first."""
    if not _is_stored(checkpoint):
        return

    def deed(files: Any, there: str) -> None:
        if files.exists(f"{there}/{MANIFEST}"):
            files.rm(f"{there}/{MANIFEST}")
        if files.exists(there):
            files.rm(there, recursive=True)

    _reach(checkpoint.directory, deed)
    Checkpoint.objects.filter(pk=checkpoint.pk).update(stored_at=None)


# Runs


def lies_elsewhere(run: Run) -> bool:
    """Whether the run has continued with another data directory than this one.

    The files here are then old: nobody may register them, neither the reconciler nor a
    supervision that has lost the run without noticing.
    """
    if not is_set():
        return False
    now = Run.objects.values_list("home", flat=True).get(pk=run.pk)
    return bool(now) and now != home()


def put_outputs(run: Run) -> None:
    """Store the present ``outputs/`` of a program, with a manifest of their own."""
    folder = run.directory / "outputs"
    names = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST]
    files = {p.relative_to(folder).as_posix(): file_sha256(p) for p in names}
    if files:
        (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n")
        _put_folder(folder, files)
    Run.objects.filter(pk=run.pk, token=run.token).update(
        outputs_stored_at=timezone.now()
    )


def take_over(run: Run) -> int:
    """Continue a run directory from another machine's files; return the number fetched.

    The caller holds the lock of the run directory.
    """
    _put_aside(run)
    fetched = 0
    rows = Checkpoint.objects.filter(run=run, files_removed_at__isnull=True)
    for checkpoint in rows.order_by("step", "pk"):
        if not _is_stored(checkpoint):
            break  # later checkpoints are written again
        fetch(checkpoint)
        fetched += 1
    folder = run.directory / "outputs"
    if _has(folder / MANIFEST):
        _fetch_folder(folder)
    # The events so far are in Postgres; only the length of their file counts.
    (run.directory / "events.jsonl").write_bytes(b"\n" * run.events_offset)
    return fetched


def _has(path: Path) -> bool:
    exists = False

    def deed(files: Any, there: str) -> None:
        nonlocal exists
        exists = files.exists(there)

    _reach(path, deed)
    return exists


def _put_aside(run: Run) -> None:
    """Move away what this machine has of the run, except its lock."""
    aside = run.directory / f".before-{uuid.uuid4().hex[:8]}"
    for path in list(run.directory.iterdir()):
        if path.name in KEPT or path.name.startswith(".before-"):
            continue
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
