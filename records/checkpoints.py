"""Checkpoints on disk: a directory is whole when its manifest says so, byte by byte.

A program stages a checkpoint, hashes its files into ``manifest.json`` and renames the
directory into place. The engine reads a checkpoint here before it starts from one, the
web application before it registers, promotes, exports or sends one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from actions.definitions import describe
from actions.tags import JSON
from records.finite import first_not_finite
from records.reading import LARGEST_STEP, Fields, RecordError, parse_object

MANIFEST = "manifest.json"
TRAINER = "trainer"  # the folder of what only going on from a checkpoint needs
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Per file its size and time of change (in nanoseconds), as they were when it was hashed.
Seen: TypeAlias = "dict[str, list[int]]"


class CheckpointError(Exception):
    """A checkpoint directory is not what its manifest says, or has none."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"checkpoint {path.name}: {why}")
        self.path = path
        self.why = why


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` of a checkpoint says.

    ``files`` maps names within the directory to their SHA-256, ``parents`` are the
    digests of the checkpoints it was made from. ``new_tokens`` are the tokens whose rows
    the run trains, ``trained_tokens`` those trained by then, here or before.
    """

    step: int
    program: str
    kind: str
    files: Mapping[str, str]
    recipe: Mapping[str, JSON]
    parents: tuple[str, ...]
    metrics: Mapping[str, JSON]
    new_tokens: tuple[str, ...] = ()
    trained_tokens: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, obj: Mapping[str, JSON]) -> Manifest:
        """Return the manifest in ``obj``; raise ``RecordError``."""
        fields = Fields(obj, MANIFEST)
        metrics = fields.object("metrics")
        bad = first_not_finite(metrics)
        if bad is not None:
            place = f"{MANIFEST}: `metrics.{bad[0]}`"
            raise RecordError(place, "a finite number", str(bad[1]))
        return cls(
            step=fields.number("step", LARGEST_STEP),
            program=fields.text("program"),
            kind=fields.text("kind"),
            files=files_from_json(obj),
            recipe=fields.object("recipe"),
            parents=fields.texts("parents"),
            metrics=metrics,
            new_tokens=fields.texts("new_tokens", ()),
            trained_tokens=fields.texts("trained_tokens", ()),
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the manifest as it stands in the file."""
        return {
            "step": self.step,
            "program": self.program,
            "kind": self.kind,
            "recipe": dict(self.recipe),
            "parents": list(self.parents),
            "new_tokens": list(self.new_tokens),
            "trained_tokens": list(self.trained_tokens),
            "files": dict(self.files),
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True)
class WholeCheckpoint:
    """A verified checkpoint directory; ``digest`` is the SHA-256 of its manifest."""

    path: Path
    digest: str
    manifest: Manifest
    seen: Seen

    @property
    def step(self) -> int:
        return self.manifest.step


def files_from_json(obj: Mapping[str, JSON]) -> dict[str, str]:
    """Return the hash of each file that a manifest names; raise ``RecordError``.

    At least one, each with a name inside the directory and 64 hexadecimal digits.
    """
    fields = Fields(obj, MANIFEST)
    files: dict[str, str] = {}
    for name, digest in fields.object("files").items():
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise RecordError(
                f"{MANIFEST}: `files`", "names inside the checkpoint", repr(name)
            )
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            place = f"{MANIFEST}: `files.{name}`"
            raise RecordError(place, "a SHA-256 in hexadecimal", describe(digest))
        files[name] = digest
    if not files:
        raise RecordError(f"{MANIFEST}: `files`", "at least one file", "none")
    return files


def step_name(step: int) -> str:
    """Return the name of the folder of a step's checkpoint."""
    return f"step-{step:06d}"


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the checkpoint at ``path``; raise ``CheckpointError``."""
    return _read(path, "")[0]


def verify_checkpoint(
    path: Path,
    *,
    digest: str = "",
    seen: Mapping[str, Sequence[int]] | None = None,
) -> WholeCheckpoint:
    """Return the checkpoint in ``path`` after hashing every file of it.

    A file that still has the size and time it has in ``seen`` is not hashed again: many
    gigabytes would keep a page waiting. Every program hashes all of them before it uses
    a checkpoint. Raises ``CheckpointError`` when the manifest is missing or damaged
    (``Manifest.from_json``), when a file is missing or has another hash, or when
    ``digest`` is given and is not the manifest's.
    """
    manifest, digest = _read(path, digest)
    seen_now: Seen = {}
    for name, expected in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(path, f"{name} is missing")
        now = file.stat()  # before it is hashed: what changes meanwhile is seen later
        seen_now[name] = [now.st_size, now.st_mtime_ns]
        if seen is not None and list(seen.get(name, ())) == seen_now[name]:
            continue
        try:
            hashed = file_sha256(file)
        except OSError as error:
            why = f"{name} cannot be read: {error.strerror}"
            raise CheckpointError(path, why) from error
        if hashed != expected:
            raise CheckpointError(
                path,
                f"{name} was changed after it was written: "
                f"expected the hash {expected[:12]}, found {hashed[:12]}",
            )
    return WholeCheckpoint(path, digest, manifest, seen_now)


def whole_checkpoints(
    run_directory: Path, broken: list[CheckpointError] | None = None
) -> list[WholeCheckpoint]:
    """Return the whole checkpoints of a run directory, newest step first.

    The others are appended to ``broken`` where it is given; what a program is still
    staging (``.staging-…``) is neither.
    """
    whole: list[WholeCheckpoint] = []
    for path in (run_directory / "checkpoints").glob("[!.]*"):
        try:
            whole.append(verify_checkpoint(path))
        except CheckpointError as error:
            if broken is not None:
                broken.append(error)
    return sorted(whole, key=lambda checkpoint: checkpoint.step, reverse=True)


def newest_to_resume(
    run_directory: Path, broken: list[CheckpointError] | None = None
) -> WholeCheckpoint | None:
    """Return the newest whole checkpoint that holds a trainer's state, or None."""
    for checkpoint in whole_checkpoints(run_directory, broken):
        if (checkpoint.path / TRAINER).is_dir():
            return checkpoint
    return None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest into a directory whose other files are complete; sync it."""
    obj = manifest.to_json()
    text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False)
    (path / MANIFEST).write_text(text + "\n", encoding="utf-8")
    hash_and_sync(path / MANIFEST)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_and_sync(path: Path) -> str:
    """Return the SHA-256 of a file once its bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_sha256(path)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path, digest: str) -> tuple[Manifest, str]:
    """Return a manifest and its SHA-256, which must be ``digest`` where that is set."""
    try:
        raw = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"no {MANIFEST}") from error
    actual = hashlib.sha256(raw).hexdigest()
    if digest and digest != actual:
        why = f"the manifest's hash is {actual[:12]}, expected {digest[:12]}"
        raise CheckpointError(path, why)
    try:
        return Manifest.from_json(parse_object(raw, MANIFEST)), actual
    except RecordError as error:
        raise CheckpointError(path, str(error)) from error
