"""Make a checkpoint the current policy: what speaks against it, and the deed.

A person decides, on the same evidence as iterations: the newest evaluation in which the
checkpoint and the policy it would replace answered the same held-out samples, and the
interval of the gain (:mod:`training.iterations.metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import transaction
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _

from records.checkpoints import CheckpointError
from training.access import require_trainer
from training.iterations.metrics import (
    Comparison,
    comparison,
    own_comparison,
    speaks_against,
)
from training.models import (
    LEAVES_A_POLICY,
    Checkpoint,
    InputRole,
    Iteration,
    Promotion,
    Run,
    RunKind,
    RunState,
)
from training.runs.first_policy import broken_figures
from training.runs.starting_points import current_policy
from training.storage import store

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from annotation.models import Project


class PromotionRefusedError(Exception):
    """The checkpoint must not become the current policy.

    ``can_force``: a person may overrule it with a reason.
    """

    def __init__(self, message: str, *, can_force: bool) -> None:
        self.can_force = can_force
        super().__init__(message)


@dataclass(frozen=True)
class Standing:
    """The evidence on a checkpoint beside ``current``, the policy it would replace.

    ``run`` is the source of ``comparison``: an evaluation of both, else the run that
    made the checkpoint and compared it with its start. ``against`` lists in sentences
    what a person has to overrule.
    """

    current: Checkpoint | None = None
    comparison: Comparison | None = None
    run: Run | None = None
    against: tuple[str, ...] = ()

    @property
    def is_evaluated(self) -> bool:
        return self.run is not None and self.run.kind == RunKind.EVALUATE


def standing_of(checkpoint: Checkpoint) -> Standing:
    """Return the standing of a checkpoint.

    Against the first policy, or the current one itself, only non-finite figures speak.
    """
    current = current_policy(checkpoint.project)
    broken = broken_figures(checkpoint)
    if current is None or current == checkpoint:
        return Standing(current, against=broken)
    margin = _margin_of(checkpoint.project)
    unchanged = (
        [_("Its run found nothing better: this is the policy that it started from.")]
        if checkpoint.is_unchanged
        else []
    )
    for run in _evaluations(checkpoint, current):
        compared = comparison(run.result, margin=margin)
        if compared is not None:
            against = (*broken, *unchanged, *speaks_against(compared))
            return Standing(current, compared, run, against)
    compared = own_comparison(checkpoint.run, margin=margin)
    return Standing(
        current,
        compared,
        checkpoint.run if compared is not None else None,
        (*broken, *unchanged, *speaks_against(compared)),
    )


def _evaluations(new: Checkpoint, current: Checkpoint) -> list[Run]:
    """Return the newest evaluations of a policy together with the current one."""
    rows = Run.objects.filter(
        project=new.project_id, kind=RunKind.EVALUATE, state=RunState.FINISHED
    )
    for role, checkpoint in ((InputRole.POLICY, new), (InputRole.INITIAL, current)):
        rows = rows.filter(run_inputs__role=role, run_inputs__checkpoint=checkpoint)
    return list(rows.order_by("-pk")[:5])


def _margin_of(project: Project) -> float:
    """Return the loss that counts as none, from the newest iteration."""
    newest = Iteration.objects.filter(project=project).order_by("-number").first()
    return (newest or Iteration()).margin


def promote(
    *,
    project: Project,
    checkpoint: Checkpoint,
    user: User | None,
    reason: str = "",
    force: bool = False,
    against: Sequence[str] | None = None,
    by_itself: bool = False,
) -> Promotion:
    """Make a checkpoint the current policy of its project.

    Raises PromotionRefusedError for a reward model, for incomplete files, and, unless
    forced with a reason, for a policy that is worse than the current one or not known
    to be as good. ``against`` replaces the known objections. ``by_itself``: an
    iteration promotes, on behalf of the person who let it come this far.
    """
    checkpoint = get_object_or_404(
        Checkpoint.objects.select_related("project", "run"),
        project=project,
        pk=checkpoint.pk,
    )
    if checkpoint.run.kind not in LEAVES_A_POLICY:
        raise PromotionRefusedError(
            _("Only a policy can be promoted, this is a reward model."),
            can_force=False,
        )
    try:
        store.check(checkpoint)
    except CheckpointError as error:
        raise PromotionRefusedError(
            _("The checkpoint is not intact on disk: %(why)s.") % {"why": error.why},
            can_force=False,
        ) from error
    if against is None:
        against = standing_of(checkpoint).against
    if against and not force:
        raise PromotionRefusedError(
            _("%(against)s To promote it all the same, tick the box and say why.")
            % {"against": " ".join(against)},
            can_force=True,
        )
    if against and not reason.strip():
        raise PromotionRefusedError(
            _("A promotion in spite of this needs a reason."), can_force=True
        )
    with transaction.atomic():
        require_trainer(project, None if by_itself else user, deed="Promoting a policy")
        promotion = Promotion.objects.create(
            project=project,
            checkpoint=checkpoint,
            promoted_by=user,
            reason=reason.strip(),
            is_forced=bool(against),
        )
        # The new row locks the checkpoint's row: retention either sees it, or came
        # first.
        if Checkpoint.objects.filter(
            pk=checkpoint.pk, files_removed_at__isnull=False
        ).exists():
            raise PromotionRefusedError(
                _("Its files were removed to free space."), can_force=False
            )
    return promotion
