"""Which checkpoints keep their files, and the removal of the others' files.

The row and the manifest of a checkpoint stay for ever, and with them lineage, figures
and hashes; only files are removed. Of every run these are kept:

* its final checkpoint, and every checkpoint ever promoted;
* the last ``keep_last`` by step (at least one, so that a run can be resumed);
* the best ``keep_best`` by the figure of its kind;
* everything that an unfinished run reads or writes: it may be resumed;
* the parents of anything kept, so that a kept model can be made again.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from annotation.models import Project
from training.access import require_trainer
from training.models import (
    Checkpoint,
    Promotion,
    Retention,
    Run,
    RunInput,
    RunKind,
    RunState,
)
from training.storage import store

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger(__name__)

# The figure in a manifest that ranks checkpoints, by kind of run, and whether more is
# better.
MEASURES: dict[str, tuple[tuple[str, bool], ...]] = {
    RunKind.SFT: (("held_out_loss", False), ("loss", False)),
    RunKind.REWARD: (
        ("judged/auc", True),
        ("quads/unseen/accuracy", True),
        ("accuracy", True),
    ),
    RunKind.POLICY: (("truth", True), ("rm_score", True)),
    RunKind.PREFERENCE: (("truth", True), ("held_out/accuracy", True)),
}
# The measures of any other kind, whichever it has.
ANY_MEASURE = (("truth", True), ("held_out_loss", False), ("loss", False))


@dataclass(frozen=True)
class Doomed:
    """A checkpoint whose files would be removed, and their bytes."""

    checkpoint: Checkpoint
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a policy would remove, and the number kept for each reason.

    A checkpoint with several reasons counts for the first.
    """

    doomed: tuple[Doomed, ...]
    kept_by_reason: tuple[tuple[str | Promise, int], ...]

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.doomed)


def retention_of(project: Project) -> Retention:
    """Return the project's saved policy, else the defaults.

    The defaults remove nothing automatically.
    """
    return Retention.objects.filter(project=project).first() or Retention(
        project=project
    )


def plan_removal(policy: Retention) -> Plan:
    """Return what would be removed now: a dry run that changes nothing."""
    rows = _with_files(policy.project)
    reasons = _kept(policy, rows)
    doomed = tuple(
        Doomed(row, _bytes(row.directory)) for row in rows if row.pk not in reasons
    )
    counts: dict[str | Promise, int] = defaultdict(int)
    for reason in reasons.values():
        counts[reason] += 1
    return Plan(doomed, tuple(counts.items()))


def save_policy(*, policy: Retention, user: User, **chosen: Any) -> Retention:
    """Save what a trainer chose of ``keep_last``, ``keep_best`` and ``is_automatic``."""
    with transaction.atomic():
        require_trainer(policy.project, user, deed="Choosing what is kept")
        saved, _is_new = Retention.objects.update_or_create(
            project=policy.project, defaults=chosen
        )
        return saved


def remove_files(policy: Retention, *, user: User | None = None) -> Plan:
    """Remove the files of the checkpoints that ``policy`` does not keep; return them.

    The rows are locked before their readers are checked. A starting run locks its
    inputs when it names them, so it is either seen here or sees that they are gone
    (``launch.start_run``). Rows are marked first: the next call removes what a crash
    leaves on disk. ``user`` is the trainer who asks; none for automatic removal.
    """
    project = policy.project
    with transaction.atomic():
        require_trainer(project, user, deed="Removing files")
        locked = Checkpoint.objects.filter(project=project).select_for_update()
        list(locked.order_by("pk").values_list("pk"))
        plan = plan_removal(policy)
        numbers = [each.checkpoint.pk for each in plan.doomed]
        Checkpoint.objects.filter(pk__in=numbers).update(
            files_removed_at=timezone.now()
        )
    for row in Checkpoint.objects.filter(
        project=project, files_removed_at__isnull=False
    ).defer("manifest"):
        _remove(row.directory)
        try:
            store.remove(row)
        except store.StoreError as error:
            logger.warning("Not removed, the next time again: %s", error)
    return plan


def remove_where_automatic() -> None:
    """Apply the policies of the projects with automatic removal."""
    for policy in Retention.objects.filter(is_automatic=True).select_related("project"):
        remove_files(policy)


def _with_files(project: Project) -> list[Checkpoint]:
    rows = Checkpoint.objects.filter(project=project, files_removed_at__isnull=True)
    return list(rows.select_related("project", "run").order_by("pk"))


def _kept(policy: Retention, rows: Iterable[Checkpoint]) -> dict[int, str | Promise]:
    """Return the checkpoints to keep, each with its first reason."""
    promoted = set(
        Promotion.objects.filter(project=policy.project).values_list(
            "checkpoint_id", flat=True
        )
    )
    in_use = set(
        RunInput.objects.filter(run__project=policy.project)
        .exclude(run__state=RunState.FINISHED)
        .values_list("checkpoint_id", flat=True)
    )
    reasons: dict[int, str | Promise] = {}
    by_run: dict[Run, list[Checkpoint]] = defaultdict(list)
    for row in rows:
        by_run[row.run].append(row)
        if row.pk in promoted:
            reasons[row.pk] = _("promoted")
        elif row.is_final:
            reasons[row.pk] = _("final")
        elif row.pk in in_use or not row.run.is_final:
            reasons[row.pk] = _("used by a run that has not finished")
    for run, its in by_run.items():
        last = sorted(its, key=lambda row: -row.step)[: max(1, policy.keep_last)]
        for row in last:
            reasons.setdefault(row.pk, _("among the last of its run"))
        for row in _best(run.kind, its, policy.keep_best):
            reasons.setdefault(row.pk, _("among the best of its run"))
    _keep_parents(reasons, by_run)
    return reasons


def _best(kind: str, rows: list[Checkpoint], count: int) -> list[Checkpoint]:
    """Return the best checkpoints by the first figure of their kind that any has."""
    for name, more_is_better in MEASURES.get(kind, ANY_MEASURE):
        measured = [
            (value if more_is_better else -value, -row.step, row)
            for row in rows
            if isinstance(
                value := row.manifest.get("metrics", {}).get(name), int | float
            )
        ]
        if measured:
            ranked = sorted(measured, key=lambda each: each[:2], reverse=True)
            return [row for _value, _step, row in ranked[:count]]
    return []


def _keep_parents(
    reasons: dict[int, str | Promise], by_run: dict[Run, list[Checkpoint]]
) -> None:
    run_of = {row.pk: run.pk for run, its in by_run.items() for row in its}
    parents: dict[int, list[int]] = defaultdict(list)
    inputs = RunInput.objects.filter(run__in=by_run)
    for run_id, checkpoint_id in inputs.values_list("run_id", "checkpoint_id"):
        parents[run_id].append(checkpoint_id)
    waiting = list(reasons)
    while waiting:
        for parent in parents[run_of.get(waiting.pop(), 0)]:
            if parent not in reasons and parent in run_of:
                reasons[parent] = _("a parent of one that is kept")
                waiting.append(parent)


def _bytes(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())


def _remove(directory: Path) -> None:
    """Remove a checkpoint's directory; it gets a leading dot until it is gone."""
    if not directory.is_dir():
        return
    aside = directory.with_name(f".removed-{uuid.uuid4().hex[:8]}")
    try:
        directory.rename(aside)
    except FileNotFoundError:
        return  # another process has removed it
    shutil.rmtree(aside)
