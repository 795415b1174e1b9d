"""Texts that a run sampled: their rewards, and their differences from the label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from annotation.judging.pair_view import view_of_pair
from annotation.models import Role
from annotation.text.blocks import blocks_of_text
from annotation.views.door import enter
from training.models import Run, RunSample, run_name
from training.wording.figures import number_text
from training.wording.words import words

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from annotation.judging.pair_view import PairView
    from annotation.text.blocks import Block

PAGE = 30


@dataclass(frozen=True)
class Shown:
    """A sampled text for the page: blocks if it parses, scores, and the label."""

    sample: RunSample
    blocks: tuple[Block, ...]
    scores: list[tuple[str, str, str]]
    view: PairView | None


def shown(sample: RunSample) -> Shown:
    """Return what the page shows of a sampled text."""
    text = sample.text
    inside = _is_inside_thinking(sample.label or text)
    scores = []
    for name in sorted(sample.scores, key=_place_of_score):
        value = sample.scores[name]
        tone = ""
        if isinstance(value, bool) or (value in (0, 1) and "format" in name):
            tone = "good" if value else "bad"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        scores.append((words(name), number_text(value), tone))
    view = (
        view_of_pair(sample.label, text, inside_thinking=inside)
        if sample.label
        else None
    )
    blocks = blocks_of_text(text, inside_thinking=inside)
    return Shown(sample, blocks, scores, view)


def _place_of_score(name: str) -> tuple[bool, bool, str]:
    """Sort key: the format first, the total of all rewards last."""
    return name == "advantage", "format" not in name, name


def _is_inside_thinking(text: str) -> bool:
    """Whether a response continues the thinking of the turn before.

    Responses to an observation do. The label shows it more reliably than a sampled
    text.
    """
    return not text.startswith("<<think>>") and (
        "<</think>>" in text or "<<action>>" in text
    )


@require_safe
@login_required
def run_samples(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """List all texts that a run has shown, newest first; paged by key."""
    project = enter(request, slug, Role.TRAINER)
    run = get_object_or_404(Run.objects.filter(project=project), pk=pk)
    before_text = request.GET.get("before", "")
    rows = RunSample.objects.filter(run=run).order_by("-pk")
    if before_text.isdecimal() and len(before_text) < 19:
        rows = rows.filter(pk__lt=int(before_text))
    page = list(rows[: PAGE + 1])
    facts = {
        "run": run,
        "run_name": run_name(run),
        "samples": [shown(each) for each in page[:PAGE]],
        "older": f"?before={page[PAGE - 1].pk}" if len(page) > PAGE else "",
        "is_first": not before_text,
    }
    return render(request, "training/run_samples.html", facts)
