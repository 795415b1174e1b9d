"""Promote the first policy of a project: the result of an SFT run."""

from __future__ import annotations

from django.utils import timezone
from django.utils.translation import gettext as _

from training.models import Checkpoint, Promotion, Run, RunKind, RunNote

# Figures that are numbers wherever a policy's manifest has them.
ALWAYS_NUMBERS = ("loss", "gradient_norm", "held_out_loss")


def broken_figures(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return a sentence for each measured figure that is not a finite number.

    Such a figure is null: the program replaced a NaN.
    """
    metrics = checkpoint.manifest.get("metrics")
    measured = metrics if isinstance(metrics, dict) else {}
    return tuple(
        _("Its %(figure)s is not a finite number.") % {"figure": name.replace("_", " ")}
        for name in ALWAYS_NUMBERS
        if name in measured and measured[name] is None
    )


def promote_the_first(run: Run) -> None:
    """Make the first SFT model the project's policy: there is none to compare with.

    A model with non-finite figures is not promoted; a note says so.
    """
    promotions = Promotion.objects.filter(project=run.project)
    if run.kind != RunKind.SFT or promotions.exists():
        return
    final = Checkpoint.objects.filter(run=run, is_final=True).order_by("-pk").first()
    if final is None:
        return
    broken = broken_figures(final)
    if broken:
        why = " ".join(["Not made the project's policy.", *broken])
        RunNote.objects.create(run=run, level="error", message=why, at=timezone.now())
        return
    Promotion.objects.create(
        project=run.project,
        checkpoint=final,
        promoted_by=run.created_by,
        reason="The first policy of the project.",
    )
