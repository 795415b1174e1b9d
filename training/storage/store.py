"""The object store: what one machine leaves there, another takes up.

Workers on several machines share runs through Postgres, the broker and, with
``CONCORD_STORE``, a store that fsspec reaches (``s3://bucket/prefix``, ``file:///mnt/x``).
Each machine keeps a data directory of its own. Snapshots, checkpoints and outputs are
put into the store under the path that they have in the data directory.

A store cannot rename a folder. So ``manifest.json`` is put last: a folder in the store
that has one is whole. Fetching is the reverse of writing a checkpoint: into a folder
aside, every file compared with its hash and synced, and renamed only then.

``Run.home`` says in which data directory a run's files lie. A worker with another one
takes the run over: what it may have of it from before is put aside, and the registered
checkpoints are fetched, from the first to the last that can be had without a gap (a
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

AT_ONCE = 3  # checkpoints, and outputs, that are put later, per look
KEPT = ("lock", "accelerate.json")  # what the supervision has written already


class StoreError(Exception):
    """The store did not take or give something; the text says what and why."""


def is_set() -> bool:
    """Say whether there is a store besides the data directory."""
    return bool(settings.STORE)


def home() -> str:
    """Return the name of this data directory, the same for all that share it."""
    path = Path(settings.DATA_DIR) / "home"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_name(f".home-{uuid.uuid4().hex}")
        mine.write_text(uuid.uuid4().hex)
        try:
            os.link(mine, path)  # of two at once one wins, and both read the same
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    return path.read_text().strip()


# Files


def _reach(what: Path, deed: Callable[[Any, str], None]) -> None:
    """Call ``deed`` with the file system and where ``what`` is there."""
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
    """Put the named files of a folder, then its manifest."""
    for name in [*names, MANIFEST]:
        _put(folder / name)


def _fetch_folder(folder: Path, *, digest: str = "") -> None:
    """Fetch a folder that is not here; nothing is in its place unless all of it is.

    ``digest`` is what the SHA-256 of its manifest must be.
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
            if not (folder / MANIFEST).is_file():  # else another was quicker
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
    """Put the files of a snapshot that the store lacks."""
    for name in snapshot.files:
        path = snapshot.directory / f"{name}.jsonl"

        def deed(files: Any, there: str, path: Path = path) -> None:
            if not files.exists(there) or files.size(there) != path.stat().st_size:
                files.makedirs(there.rpartition("/")[0], exist_ok=True)
                files.put_file(str(path), there)

        _reach(path, deed)


def fetch_snapshot(snapshot: Snapshot) -> None:
    """Fetch the files of a snapshot that are not here; raise CheckpointError."""
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
    """Say whether the files of a checkpoint are here, or can be fetched."""
    return _is_here(checkpoint) or _is_stored(checkpoint)


def _is_here(checkpoint: Checkpoint) -> bool:
    return (checkpoint.directory / MANIFEST).is_file()


def _is_stored(checkpoint: Checkpoint) -> bool:
    return is_set() and checkpoint.stored_at is not None


def check(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the checkpoint is whole here, or lies in the store.

    What lies in the store is hashed when it is fetched.
    """
    if _is_here(checkpoint) or not _is_stored(checkpoint):
        verify_checkpoint(
            checkpoint.directory, digest=checkpoint.digest, seen=checkpoint.seen
        )


def fetch(checkpoint: Checkpoint) -> None:
    """Bring a checkpoint here if it is not; raise CheckpointError, StoreError."""
    if not _is_here(checkpoint) and _is_stored(checkpoint):
        _fetch_folder(checkpoint.directory, digest=checkpoint.digest)


def put_checkpoints(run: Run) -> None:
    """Put the registered checkpoints of a run that are not in the store, oldest first."""
    waiting = Checkpoint.objects.filter(
        run=run, stored_at__isnull=True, files_removed_at__isnull=True
    )
    for checkpoint in waiting.order_by("step", "pk"):
        _put_checkpoint(checkpoint)


def _put_checkpoint(checkpoint: Checkpoint) -> None:
    try:
        if file_sha256(checkpoint.directory / MANIFEST) != checkpoint.digest:
            return  # of the same name, left here before the run went on elsewhere
    except FileNotFoundError:
        return  # another machine has it
    _put_folder(checkpoint.directory, checkpoint.manifest["files"])
    Checkpoint.objects.filter(pk=checkpoint.pk, digest=checkpoint.digest).update(
        stored_at=timezone.now()
    )


def put_what_is_missing() -> list[str]:
    """Put what the store did not take of ended runs at the time; return why not again.

    A few per look, drawn by lot, so that one that never succeeds keeps none waiting.
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
    """Say whether the run has gone on with another data directory than this one.

    What still lies here is then old: nobody may register it, neither the reconciler nor
    a supervision that has lost the run without knowing.
    """
    if not is_set():
        return False
    now = Run.objects.values_list("home", flat=True).get(pk=run.pk)
    return bool(now) and now != home()


def put_outputs(run: Run) -> None:
    """Put what a program has left in ``outputs/`` so far, with a manifest of its own."""
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
    """Make the run directory here go on from what another machine left; count fetched.

    The caller holds the lock of the run directory.
    """
    _put_aside(run)
    fetched = 0
    rows = Checkpoint.objects.filter(run=run, files_removed_at__isnull=True)
    for checkpoint in rows.order_by("step", "pk"):
        if not _is_stored(checkpoint):
            break  # what comes after it is written again
        fetch(checkpoint)
        fetched += 1
    folder = run.directory / "outputs"
    if _has(folder / MANIFEST):
        _fetch_folder(folder)
    # The events until here are in Postgres; of their file only the length counts.
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
