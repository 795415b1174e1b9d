"""Checkpoints on disk: a directory is whole when its manifest says so, byte by byte.

A program stages a checkpoint, hashes its files into ``manifest.json`` and renames the
directory into place. What a crash or a full disk leaves behind is told apart here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from records.finite import first_not_finite

if TYPE_CHECKING:
    from records.events import Json

CHUNK = 1 << 20
# Per file its size and time of change (in nanoseconds), as they were when it was hashed.
Seen: TypeAlias = "dict[str, list[int]]"


class NotWholeError(Exception):
    """A checkpoint directory is not what its manifest says."""

    def __init__(self, directory: Path, why: str) -> None:
        self.directory = directory
        self.why = why
        super().__init__(f"checkpoint {directory.name}: {why}")


@dataclass(frozen=True)
class WholeCheckpoint:
    """A verified checkpoint directory; ``digest`` is the SHA-256 of its manifest."""

    directory: Path
    step: int
    digest: str
    manifest: dict[str, Json]
    seen: Seen


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_whole(
    directory: Path,
    *,
    digest: str = "",
    seen: Mapping[str, Sequence[int]] | None = None,
) -> WholeCheckpoint:
    """Return the checkpoint in ``directory`` after hashing every file of it.

    A file that still has the size and time it has in ``seen`` is not hashed again: many
    gigabytes would keep a page waiting. Every program hashes all of them before it uses
    a checkpoint. Raises NotWholeError when the manifest is missing or not readable,
    when a file is missing or has another hash, or when ``digest`` is given and is not
    the manifest's, and for a figure that is NaN or infinite.
    """
    try:
        raw = (directory / "manifest.json").read_bytes()
    except OSError as error:
        raise NotWholeError(directory, "no manifest.json") from error
    found = hashlib.sha256(raw).hexdigest()
    if digest and digest != found:
        raise NotWholeError(
            directory, f"the manifest's hash is {found[:12]}, expected {digest[:12]}"
        )
    try:
        manifest: Json = json.loads(raw)
    except ValueError as error:
        raise NotWholeError(directory, "manifest.json is not JSON") from error
    if not isinstance(manifest, dict):
        raise NotWholeError(directory, "manifest.json is not a JSON object")
    files, step = manifest.get("files"), manifest.get("step")
    if not isinstance(files, dict) or not files or not isinstance(step, int):
        raise NotWholeError(directory, "manifest.json names no files or no step")
    wrong = first_not_finite(manifest.get("metrics"))
    if wrong is not None:
        raise NotWholeError(directory, "its figure {} is {}".format(*wrong))
    found_now: Seen = {}
    for name, expected in files.items():
        path = directory / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise NotWholeError(directory, f"{name} lies outside the checkpoint")
        if not path.is_file():
            raise NotWholeError(directory, f"{name} is missing")
        now = path.stat()  # before it is hashed: what changes meanwhile is seen later
        found_now[name] = [now.st_size, now.st_mtime_ns]
        if seen is not None and list(seen.get(name, ())) == found_now[name]:
            continue
        if file_sha256(path) != expected:
            raise NotWholeError(directory, f"{name} has another hash")
    return WholeCheckpoint(directory, step, found, manifest, found_now)


def whole_checkpoints(
    run_directory: Path, broken: list[NotWholeError] | None = None
) -> list[WholeCheckpoint]:
    """Return the whole checkpoints of a run directory, newest step first.

    The others are appended to ``broken`` where it is given; what a program is still
    staging (``.staging-…``) is neither.
    """
    found: list[WholeCheckpoint] = []
    for directory in (run_directory / "checkpoints").glob("[!.]*"):
        try:
            found.append(read_whole(directory))
        except NotWholeError as error:
            if broken is not None:
                broken.append(error)
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def newest_to_resume(
    run_directory: Path, broken: list[NotWholeError] | None = None
) -> WholeCheckpoint | None:
    """Return the newest whole checkpoint that holds a trainer's state, or None."""
    for checkpoint in whole_checkpoints(run_directory, broken):
        if (checkpoint.directory / "trainer").is_dir():
            return checkpoint
    return None
