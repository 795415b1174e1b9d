"""The models that supervised fine-tuning may start from: those in the models folder.

Whoever may start runs names a model, and a program reads it. A base is therefore a
directory below ``settings.MODELS_DIR``: no link leads out of it, and it never lies
where Concord keeps its data, which includes other projects' checkpoints. A checkpoint
of the run's own project is an input of the run (``input_rules.INPUTS``), with its
lineage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.utils.translation import gettext as _

from training.models import Checkpoint

if TYPE_CHECKING:
    from annotation.models import Project

CONFIG: Final = "config.json"
LISTED: Final = 20
DEEPEST: Final = 3  # as in owner/name/revision


class BaseRefusedError(Exception):
    """The text names no model that a run may start from; the message lists those."""


def base_directory(name: str) -> Path:
    """Return the directory of the model ``name``, with all links followed.

    ``name`` is relative to the models folder, or an absolute path into it. Raises
    BaseRefusedError, with the same message whatever else is there: nobody learns about
    files they may not read.
    """
    directory = _directory_of(name)
    if directory is None:
        raise BaseRefusedError(_refusal(name))
    return directory


def base_name(name: str) -> str:
    """Return ``name`` as a recipe stores it: relative to the models folder.

    The folder may be elsewhere on other machines. Raises BaseRefusedError.
    """
    directory, folder = base_directory(name), Path(settings.MODELS_DIR)
    path = Path(os.path.normpath(folder / name.strip()))
    if path.is_relative_to(folder):
        return str(path.relative_to(folder))
    return str(directory.relative_to(folder.resolve()))


def own_checkpoint(project: Project, name: str) -> Checkpoint | None:
    """Return the project's checkpoint whose directory is ``name``, if there is one."""
    path = Path(name.strip())
    data = Path(settings.DATA_DIR)
    if not path.is_absolute() or not path.is_relative_to(data):
        return None
    matches = Checkpoint.objects.filter(
        project=project,
        path=str(path.relative_to(data)),
        files_removed_at__isnull=True,
    )
    return matches.select_related("run").first()


def known_bases() -> list[str]:
    """Return the names of the models in the folder, sorted; at most ``LISTED``."""
    folder = Path(settings.MODELS_DIR)
    every = (str(one.relative_to(folder)) for one in _directories(folder, DEEPEST))
    return list(islice((name for name in sorted(every) if _directory_of(name)), LISTED))


def _directory_of(name: str) -> Path | None:
    folder = Path(settings.MODELS_DIR)
    try:
        root, directory = folder.resolve(), (folder / name.strip()).resolve()
        if directory == root or not _is_inside(root, directory):
            return None
        if not (directory / CONFIG).is_file():
            return None
        # The files of a model may be links too, as in a cache of the Hugging Face Hub.
        return (
            directory
            if all(_is_inside(root, one) for one in _files(directory))
            else None
        )
    except (OSError, ValueError, RuntimeError):  # a NUL, a loop of links, no permission
        return None


def _refusal(name: str) -> str:
    return _(
        "Expected the name of a model directory in the models folder %(folder)s "
        "(CONCORD_MODELS), or a path into it; found “%(name)s”. There are: %(known)s. A "
        "checkpoint of this project is chosen as the policy to go on from."
    ) % {
        "folder": settings.MODELS_DIR,
        "name": name,
        "known": ", ".join(known_bases()) or _("none"),
    }


def _holds_data(path: Path) -> bool:
    """Whether ``path`` is inside Concord's own data, or contains some of it."""
    data_directories = [
        Path(settings.DATA_DIR).resolve(),
        Path(settings.STATE.home).resolve(),
    ]
    return any(
        path.is_relative_to(one) or one.is_relative_to(path) for one in data_directories
    )


def _is_inside(root: Path, path: Path) -> bool:
    resolved = path.resolve()
    return resolved.is_relative_to(root) and not _holds_data(resolved)


def _files(directory: Path) -> Iterator[Path]:
    """Yield all files of a model directory."""
    for place, directories, files in os.walk(directory):
        for name in (*directories, *files):
            yield Path(place) / name


def _directories(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the directories with a model configuration, at most ``depth`` deep."""
    try:
        inside = [one for one in folder.iterdir() if one.is_dir()]
    except OSError:
        return
    for one in inside:
        if (one / CONFIG).is_file():
            yield one
        elif depth > 1:
            yield from _directories(one, depth - 1)
