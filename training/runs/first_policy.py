"""The first policy of a project: what a run of SFT leaves, when there is none before it."""

from __future__ import annotations

from django.utils import timezone
from django.utils.translation import gettext as _

from training.models import Checkpoint, Promotion, Run, RunKind, RunNote

# Figures of a policy's manifest that have a value wherever they stand.
ALWAYS_NUMBERS = ("loss", "gradient_norm", "held_out_loss")


def broken_figures(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return a sentence for each figure that was measured and is no finite number:
    null where a program hid a NaN.
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

    Not one with figures that are no numbers: a note says so.
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
