"""My work: what the person judged lately, and what came back to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.db.models import Avg, Count, Q
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from annotation.judging import UNDO_DEPTH
from annotation.models import Draft, Judgment, Role, Sample, SampleStatus, Verdict
from annotation.views.door import enter

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

SHOWN = 50


@require_safe
@login_required
def work(request: HttpRequest, slug: str) -> HttpResponse:
    project = enter(request, slug, Role.LABELER)
    mine = Judgment.objects.current().filter(
        labeler_id=request.user.pk, pair__project=project
    )
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    recent = list(mine.select_related("pair__turn__sample").order_by("-pk")[:SHOWN])
    undoable = {judgment.pk for judgment in recent[:UNDO_DEPTH]}
    facts = {
        "counts": mine.aggregate(
            total=Count("pk"),
            today=Count("pk", filter=Q(created_at__gte=midnight)),
            consistent=Count("pk", filter=Q(verdict=Verdict.CONSISTENT)),
            extras=Count("pk", filter=Q(is_extra=True)),
            seconds=Avg("seconds_spent", filter=Q(seconds_spent__gt=0)),
        ),
        "judgments": [
            (judgment, judgment.pk in undoable and not judgment.is_extra)
            for judgment in recent
        ],
        "returned": Sample.objects.filter(
            project=project,
            author_id=request.user.pk,
            status=SampleStatus.RETURNED,
        ).order_by("-pk")[:SHOWN],
        "drafts": Draft.objects.filter(
            project=project, author_id=request.user.pk
        ).count(),
    }
    return render(request, "annotation/work.html", facts)
