"""Writing a checkpoint so that it is whole or absent, whenever the machine stops.

It is written aside, hashed, synced and renamed: a crash at any point leaves either no
checkpoint or a whole one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from records.checkpoints import (
    MANIFEST,
    CheckpointError,
    Manifest,
    WholeCheckpoint,
    file_sha256,
    hash_and_sync,
    sync_folder,
    verify_checkpoint,
    write_manifest,
)
from records.finite_files import files_must_be_finite
from records.recipes import Recipe, RecipeError, recipe_from_json

STAGING = ".staging-"


def remove_leftovers(checkpoints: Path) -> None:
    """Remove what a killed attempt left half written."""
    for leftover in checkpoints.glob(f"{STAGING}*"):
        shutil.rmtree(leftover)


def stage(target: Path, write: Callable[[Path], None], place: str) -> Path:
    """Return the folder beside ``target`` that ``write`` filled; none if that fails.

    Raises ``NotFiniteError`` naming ``place`` if a weight is not finite.
    """
    staging = target.with_name(f"{STAGING}{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        write(staging)
        files_must_be_finite(staging, place)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return staging


def write_checkpoint(
    target: Path, write: Callable[[Path], None], manifest: Manifest
) -> WholeCheckpoint:
    """Write a checkpoint with ``write(folder)``; what stands at ``target`` goes.

    ``manifest`` has all but the files.
    """
    staging = stage(target, write, f"checkpoint of step {manifest.step}")
    files = {
        str(path.relative_to(staging)): hash_and_sync(path)
        for path in sorted(staging.rglob("*"))
        if path.is_file()
    }
    manifest = replace(manifest, files=files)
    write_manifest(staging, manifest)
    for folder in [*(path for path in staging.rglob("*") if path.is_dir()), staging]:
        sync_folder(folder)
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)
    sync_folder(target.parent)
    return WholeCheckpoint(target, file_sha256(target / MANIFEST), manifest, {})


def same_checkpoint(
    target: Path, program: str, recipe: Recipe, parents: tuple[str, ...]
) -> WholeCheckpoint | None:
    """Return the whole checkpoint of the same recipe and parents at ``target``."""
    if not target.exists():
        return None
    try:
        checkpoint = verify_checkpoint(target)
        made_with = recipe_from_json(program, checkpoint.manifest.recipe)
    except (CheckpointError, RecipeError):
        return None
    same = made_with == recipe and checkpoint.manifest.parents == parents
    return checkpoint if same else None
