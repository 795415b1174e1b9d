"""Runs: the list, and the page of one run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Max, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext, ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_POST,
    require_safe,
)

from annotation.models import Project, Role
from annotation.views.door import enter, visitor
from training.models import (
    Checkpoint,
    Iteration,
    Run,
    RunKind,
    RunNote,
    RunSample,
    RunState,
    run_name,
)
from training.runs.control import RunStateError, change_place, resume_run, stop_run
from training.runs.launch import LaunchRefusedError
from training.views import charts
from training.views.forms import PlaceForm, RunFilterForm
from training.views.run_facts import (
    heartbeat_of,
    is_silent,
    next_stages,
    pace_of,
    parents_of,
    recipe_lines,
    step_times,
    waiting_of,
    waits_long,
)
from training.views.run_samples import shown
from training.wording.figures import (
    duration_text,
    evaluation_tables,
    folded_figures,
    hardware_figures,
    number_text,
)
from training.wording.words import about

if TYPE_CHECKING:
    from django.http import HttpRequest


PAGE = 40
SAMPLES_SHOWN = 6
NOTES_SHOWN = 12


# The list


@require_safe
@login_required
def runs(request: HttpRequest, slug: str) -> HttpResponse:
    """List the newest runs, filtered; paged by key."""
    project = enter(request, slug, Role.TRAINER)
    form = RunFilterForm(request.GET)
    rows = Run.objects.filter(project=project).for_list()
    if form.is_valid():
        filters = form.cleaned_data
        for name in ("kind", "state"):
            if filters[name]:
                rows = rows.filter(**{name: filters[name]})
        if filters["before"]:
            rows = rows.filter(pk__lt=filters["before"])
    else:
        rows = rows.none()
    page = list(rows.order_by("-pk")[: PAGE + 1])
    query = {n: form.data[n] for n in ("kind", "state") if form.data.get(n)}
    older = {**query, "before": str(page[PAGE - 1].pk)} if len(page) > PAGE else {}
    facts = {
        "form": form,
        "lines": [line_of(run) for run in page[:PAGE]],
        "any_active": any(not run.is_final for run in page[:PAGE]),
        "here": request.get_full_path(),
        "older": f"?{urlencode(older)}" if older else "",
        "newest": f"?{urlencode(query)}",
        "is_first": not form.data.get("before"),
        "kinds": kinds(),
    }
    return render(request, "training/runs.html", facts)


@dataclass(frozen=True)
class Line:
    run: Run
    name: str
    took: str
    headline: str


def line_of(run: Run) -> Line:
    end = run.ended_at or timezone.now()
    took = (end - run.started_at).total_seconds() if run.started_at else None
    return Line(
        run,
        run_name(run),
        duration_text(took) if took is not None else "",
        _headline(run),
    )


def _headline(run: Run) -> str:
    """Return the most informative figure of a finished run."""
    result = run.result
    for name, label in (
        ("truth", gettext("held-out truth %(value)s")),
        ("held_out_turns_right", gettext("held-out turns right %(value)s")),
        ("held_out_loss", gettext("held-out loss %(value)s")),
        ("judged/accuracy", gettext("judged accuracy %(value)s")),
        ("loss", gettext("loss %(value)s")),
    ):
        if isinstance(result.get(name), int | float):
            return label % {"value": number_text(result[name])}
    policy = result.get("policies", {}).get("policy", {}).get("tasks_complete")
    if isinstance(policy, dict):
        value = number_text(policy.get("value"))
        return gettext("tasks complete %(value)s") % {"value": value}
    received = result.get("received")
    if isinstance(received, dict):
        slots = sum(each.get("slots", 0) for each in received.values())
        return ngettext(
            "%(count)s judgment asked for", "%(count)s judgments asked for", slots
        ) % {"count": number_text(slots)}
    return ""


@dataclass(frozen=True)
class Kind:
    value: str
    label: str
    about: str


def kinds() -> list[Kind]:
    return [
        Kind(
            kind.value,
            str(kind.label),
            about(kind)[0].rstrip(".。"),
        )
        for kind in RunKind
    ]


# One run


@require_safe
@login_required
def run(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show a run; its live parts are polled while it is not final."""
    project = enter(request, slug, Role.TRAINER)
    run = run_of_project(project, pk)
    names = charts.metric_names(run)
    facts = _live_facts(run) | {
        "recipe": recipe_lines(run.kind, run.recipe),
        "layout": charts.layout(run.kind, names),
        "sources": [
            {
                "label": run_name(run),
                "url": reverse("training:run-series", args=[slug, pk]),
            }
        ],
        "step_times": step_times(run),
        "compare": _comparable(run),
    }
    return render(request, "training/run.html", facts)


@never_cache
@require_safe
@login_required
def live(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Answer the live parts of a run's page, or 304 when nothing has changed.

    A few columns give the version before anything else is read. A header carries the
    age of the heartbeat, so that it can tick without a change.
    """
    project = enter(request, slug, Role.TRAINER)
    run = run_of_project(project, pk)
    version = _version(run)
    response: HttpResponse
    if request.headers.get("If-None-Match") == version:
        response = HttpResponse(status=304)
    else:
        response = render(request, "training/_live.html", _live_facts(run, version))
    response["ETag"] = version
    response["Concord-Heartbeat"] = heartbeat_of(run)
    return response


def _version(run: Run) -> str:
    newest = (
        Run.objects.filter(pk=run.pk)
        .values_list(Max("shown_samples"), Max("notes"), Max("checkpoints"))
        .get()
    )
    facts = (
        run.pk,
        run.state,
        run.step,
        run.steps_total,
        run.attempts,
        run.token,
        run.stop_requested,
        run.events_offset,
        run.log_tail,
        run.hardware,
        run.error,
        newest,
        is_silent(run),
        run.queue,
        run.shares_device,
        waiting_of(run),
        waits_long(run),
    )
    return f'"{hashlib.sha256(repr(facts).encode()).hexdigest()[:20]}"'


def _live_facts(run: Run, version: str = "") -> dict[str, object]:
    samples = list(RunSample.objects.filter(run=run).order_by("-pk")[:SAMPLES_SHOWN])
    checkpoints = list(
        Checkpoint.objects.filter(run=run).defer("manifest").order_by("-step", "-pk")
    )
    children = list(
        Run.objects.filter(run_inputs__checkpoint__run=run)
        .distinct()
        .order_by("-pk")[:6]
    )
    tables = evaluation_tables(run.result)
    return {
        "run": run,
        "run_name": run_name(run),
        "version": version or _version(run),
        "pace": pace_of(run),
        "percent": min(100, 100 * run.step // run.steps_total)
        if run.steps_total
        else 0,
        "heartbeat": heartbeat_of(run),
        "is_silent": is_silent(run),
        "parents": parents_of(run),
        "children": [(each, run_name(each)) for each in children],
        "notes": RunNote.objects.filter(run=run).order_by("-pk")[:NOTES_SHOWN],
        "samples": [shown(each) for each in samples],
        "checkpoints": checkpoints[:12],
        "more_checkpoints": max(0, len(checkpoints) - 12),
        "figures": folded_figures(run.result if run.is_final else {}),
        "hardware": hardware_figures(run.hardware | {"device": run.device}),
        "waiting": waiting_of(run),
        "iteration": Iteration.objects.filter(steps__run=run).first(),
        "tables": tables,
        "next_stages": next_stages(run, checkpoints),
        "place_form": _place_form(run),
        "is_waiting_long": waits_long(run),
    }


def _place_form(run: Run) -> PlaceForm | None:
    """Return the form that moves a queued run, if there is a choice."""
    if run.state != RunState.QUEUED:
        return None
    form = PlaceForm(run=run, prefix="place")
    return form if form.has_choice else None


def _comparable(run: Run) -> list[tuple[int, str]]:
    """Return the newest other runs of the same kind, for the compare button."""
    others = (
        Run.objects.filter(project=run.project_id, kind=run.kind)
        .exclude(pk=run.pk)
        .order_by("-pk")[:10]
    )
    return [(other.pk, run_name(other)) for other in others]


@require_POST
@login_required
def stop(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    project = enter(request, slug, Role.TRAINER)
    try:
        stop_run(
            project=project, run=run_of_project(project, pk), user=visitor(request)
        )
    except RunStateError as error:
        messages.warning(request, str(error))
    return redirect("training:run", slug, pk)


@require_POST
@login_required
def resume(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    project = enter(request, slug, Role.TRAINER)
    try:
        resume_run(
            project=project, run=run_of_project(project, pk), user=visitor(request)
        )
    except RunStateError as error:
        messages.warning(request, str(error))
    return redirect("training:run", slug, pk)


@require_POST
@login_required
def place(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Change which workers a queued run waits for."""
    project = enter(request, slug, Role.TRAINER)
    run = run_of_project(project, pk)
    form = PlaceForm(request.POST, run=run, prefix="place")
    try:
        if form.is_valid():
            change_place(
                project=project, run=run, user=visitor(request), **form.cleaned_data
            )
        else:
            messages.error(
                request, " ".join(str(each) for each in form.errors["queue"])
            )
    except (RunStateError, LaunchRefusedError) as error:
        messages.warning(request, str(error))
    return redirect("training:run", slug, pk)


def run_of_project(project: Project, pk: int) -> Run:
    """Return a run of a project that the visitor has entered."""
    return get_object_or_404(Run.objects.for_list().filter(Q(project=project)), pk=pk)
