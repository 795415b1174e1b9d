"""The page of a new run: a form made from the recipe of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.http import (
    require_http_methods,
)

from annotation.counting import (
    Count,
    count_up_to,
    has_outcome,
    judgments_that_count,
    judgments_wanted,
    pairs_settled_by_rule,
)
from annotation.models import Project, Role, Sample
from annotation.views.door import enter, visitor
from training.models import (
    LEARNS_FROM_JUDGMENTS,
    InputRole,
    RunKind,
)
from training.runs.launch import LaunchRefusedError, start_run
from training.runs.starting_points import default_inputs
from training.views.forms import NewRunForm, chosen_inputs
from training.views.runs import kinds
from training.wording.words import about

if TYPE_CHECKING:
    from django.http import HttpRequest


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def run_new(request: HttpRequest, slug: str, kind: str) -> HttpResponse:
    """Show the form of a recipe; start the run that it describes."""
    project = enter(request, slug, Role.TRAINER)
    if kind not in RunKind.values:
        raise Http404("no such kind of run")
    form = NewRunForm(
        request.POST if request.method == "POST" else None,
        project=project,
        kind=kind,
        chosen=chosen_inputs(project, kind, request.GET.dict()),
    )
    if request.method == "POST" and form.is_valid():
        try:
            run = start_run(
                project=project,
                kind=kind,
                recipe=form.recipe(),
                inputs=form.checkpoints(),
                user=visitor(request),
                draw_next=form.cleaned_data.get("draw_next", False),
                queue=form.cleaned_data.get("queue", ""),
                shares_device=form.cleaned_data.get("shares_device", False),
                ask=form.cleaned_data["ask"],
            )
        except LaunchRefusedError as error:
            form.add_problems(error.problems)
        else:
            return redirect("training:run", slug, run.pk)
    facts = {
        "form": form,
        "kind": kind,
        "kinds": kinds(),
        "label": RunKind(kind).label,
        "about": about(kind),
        "data": _data_available(project),
        "missing": _missing(project, kind),
    }
    status = 422 if form.errors else 200
    return render(request, "training/run_new.html", facts, status=status)


def _data_available(project: Project) -> dict[str, Count]:
    """Count the data that a run could learn from now."""
    approved = Sample.objects.filter(project=project).approved().order_by("pk")
    return {
        "train": count_up_to(approved.filter(split="")),
        "held_out": count_up_to(approved.exclude(split="")),
        "judgments": judgments_that_count(project),
        "wanted": judgments_wanted(project),
        "by_rule": pairs_settled_by_rule(project),
    }


@dataclass(frozen=True)
class Missing:
    what: str
    remedy: str
    url: str


def _missing(project: Project, kind: str) -> list[Missing]:
    """Return what the project lacks for this kind of run, and where to get it."""
    lacking: list[Missing] = []
    if not Sample.objects.filter(project=project, split="").approved().exists():
        lacking.append(
            Missing(
                gettext("There is no approved sample to learn from."),
                gettext("Import or approve samples"),
                reverse("annotation:samples", args=[project.slug]),
            )
        )
    if kind in LEARNS_FROM_JUDGMENTS and not has_outcome(project):
        lacking.append(
            Missing(
                gettext("No pair has been judged to an outcome yet."),
                gettext("Draw responses for labelers to judge"),
                reverse("training:run-new", args=[project.slug, RunKind.DRAW]),
            )
        )
    needs_policy = kind not in (RunKind.SFT,)
    inputs = default_inputs(project, kind)
    if needs_policy and InputRole.POLICY.value not in inputs:
        lacking.append(
            Missing(
                gettext("The project has no policy yet."),
                gettext("Run supervised fine-tuning"),
                reverse("training:run-new", args=[project.slug, RunKind.SFT]),
            )
        )
    if kind == RunKind.POLICY and InputRole.REWARD.value not in inputs:
        lacking.append(
            Missing(
                gettext("The project has no reward model yet."),
                gettext("Train a reward model"),
                reverse("training:run-new", args=[project.slug, RunKind.REWARD]),
            )
        )
    return lacking
