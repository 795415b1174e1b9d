"""The drawer beside a pair: its conversation and its thinking contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.db.models import Count, OuterRef, Subquery, Value
from django.db.models.functions import Coalesce
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils.translation import gettext as _
from django.views.decorators.http import (
    require_safe,
)

from annotation.models import (
    InputKind,
    Pair,
    Role,
    SampleContext,
    Touch,
    Turn,
)
from annotation.text.blocks import Block, blocks_of_text
from annotation.views.door import enter, visitor

if TYPE_CHECKING:
    from django.http import HttpRequest


@require_safe
@login_required
def context(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show the turns before a pair, and the thinking contexts, of a pair once met."""
    project = enter(request, slug, Role.LABELER)
    met = Touch.objects.filter(user=visitor(request)).values("pair_id")
    pair = get_object_or_404(
        Pair.objects.visible_to(request.user).select_related("turn"),
        project=project,
        pk__in=met,
        pk=pk,
    )
    turns = Turn.objects.filter(
        sample_id=pair.turn.sample_id, position__lt=pair.turn.position
    )
    contexts = SampleContext.objects.filter(
        sample_id=pair.turn.sample_id
    ).select_related("context")
    facts = {
        "turns": [(turn, blocks_of_turn(turn)) for turn in turns],
        "contexts": [link.context for link in contexts],
        "title": _("Background of this pair"),
    }
    return _drawer(request, "annotation/judge_context.html", facts)


def _drawer(
    request: HttpRequest, template: str, content: Mapping[str, object]
) -> HttpResponse:
    """Answer with the content of a drawer, or with a whole page around it."""
    is_fragment = bool(request.htmx)  # type: ignore[attr-defined]
    frame = "annotation/_drawer.html" if is_fragment else "base.html"
    facts = {**content, "is_fragment": is_fragment, "frame": frame}
    return render(request, template, facts)


def blocks_of_turn(turn: Turn) -> tuple[Block, ...]:
    return blocks_of_text(
        turn.response, inside_thinking=turn.input_kind == InputKind.OBSERVATION
    )


def row_count(model: type[Turn] | type[SampleContext]) -> Coalesce:
    """Count the rows of ``model`` that belong to the sample of the outer query."""
    rows = (
        model.objects.filter(sample=OuterRef("pk"))
        .order_by()
        .values("sample")
        .annotate(n=Count("pk"))
        .values("n")
    )
    return Coalesce(Subquery(rows), Value(0))
