"""Checkpoints on disk: a folder is one when its manifest says so, byte by byte.

``rundir`` writes them; here they are read. Plain Python, no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from records.finite import first_not_finite

MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint that is not whole: a file missing, changed, or no manifest."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"checkpoint {path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` of a checkpoint says. ``digest`` is its own SHA-256."""

    path: Path
    digest: str
    step: int
    program: str
    kind: str
    files: Mapping[str, str]
    recipe: Mapping[str, object]
    parents: tuple[str, ...]
    metrics: Mapping[str, object]
    new_tokens: tuple[str, ...] = ()
    trained_tokens: tuple[str, ...] = ()


def step_name(step: int) -> str:
    """Return the name of the folder of a step's checkpoint."""
    return f"step-{step:06d}"


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the checkpoint at ``path``; raise ``CheckpointError``."""
    try:
        raw = (path / MANIFEST).read_bytes()
        obj = json.loads(raw)
        found = first_not_finite(obj["metrics"])
        if found is not None:
            raise CheckpointError(path, "its figure {} is {}".format(*found))
        return Manifest(
            path=path,
            digest=hashlib.sha256(raw).hexdigest(),
            step=int(obj["step"]),
            program=str(obj["program"]),
            kind=str(obj["kind"]),
            files=dict(obj["files"]),
            recipe=dict(obj["recipe"]),
            parents=tuple(obj["parents"]),
            metrics=dict(obj["metrics"]),
            new_tokens=tuple(obj.get("new_tokens", ())),
            trained_tokens=tuple(obj.get("trained_tokens", ())),
        )
    except OSError as error:
        raise CheckpointError(path, f"no readable {MANIFEST}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"{MANIFEST} is damaged: {error!r}") from error


def verify_checkpoint(path: Path) -> Manifest:
    """Return the manifest after checking every file against its hash."""
    manifest = read_manifest(path)
    for name, expected in manifest.files.items():
        try:
            found = _hash(path / name)
        except OSError as error:
            raise CheckpointError(path, f"{name} is missing") from error
        if found != expected:
            raise CheckpointError(path, f"{name} was changed after it was written")
    return manifest


def last_checkpoint(run_directory: Path) -> Manifest | None:
    """Return the newest whole checkpoint a run can resume from, or None."""
    found: list[Manifest] = []
    for path in (run_directory / "checkpoints").glob("*/trainer"):
        try:
            found.append(verify_checkpoint(path.parent))
        except CheckpointError:
            continue
    return max(found, key=lambda manifest: manifest.step, default=None)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_and_sync(path: Path) -> str:
    """Return the SHA-256 of a file once its bytes are on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
