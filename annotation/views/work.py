"""My work: what the person judged, the results, and what was returned to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.shortcuts import render
from django.views.decorators.http import require_safe

from annotation.judging.judgments import UNDO_DEPTH
from annotation.judging.progress import (
    COMPARED,
    DAYS,
    final_verdict,
    progress_of,
    totals_of,
)
from annotation.models import (
    Comment,
    Draft,
    Judgment,
    Role,
    Sample,
    SampleStatus,
)
from annotation.views.door import enter
from annotation.views.forms import BIGGEST

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

SHOWN = 50


@require_safe
@login_required
def work(request: HttpRequest, slug: str) -> HttpResponse:
    project = enter(request, slug, Role.LABELER)
    assert request.user.is_authenticated
    mine = Judgment.objects.given_by(request.user, project)
    before = _before(request)
    older = mine.filter(pk__lt=before) if before else mine
    history = list(
        older.with_votes()
        .select_related("pair__turn__sample")
        .order_by("-pk")[: SHOWN + 1]
    )
    undoable = set() if before else {one.pk for one in history[:UNDO_DEPTH]}
    progress = progress_of(project=project, user=request.user)
    comments = Comment.objects.filter(resolved_at__isnull=True)
    facts = {
        "counts": totals_of(project=project, user=request.user),
        "progress": progress,
        "days": DAYS,
        "compared": COMPARED,
        "arrangements": progress.arrangements
        if any(one.sides_swapped is not None for one in progress.arrangements)
        else [],
        "judgments": [
            (
                judgment,
                final_verdict(judgment),
                judgment.pk in undoable and not judgment.is_extra,
            )
            for judgment in history[:SHOWN]
        ],
        "older": history[SHOWN - 1].pk if len(history) > SHOWN else None,
        "is_first": before is None,
        "returned": Sample.objects.filter(
            project=project, author=request.user, status=SampleStatus.RETURNED
        )
        .prefetch_related(Prefetch("comments", comments, to_attr="open_comments"))
        .order_by("-pk")[:SHOWN],
        "drafts": Draft.objects.filter(project=project, author=request.user).count(),
    }
    return render(request, "annotation/work.html", facts)


def _before(request: HttpRequest) -> int | None:
    """Return the key below which the page starts; bad input means the first page."""
    text = request.GET.get("before", "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return min(int(text), BIGGEST)
