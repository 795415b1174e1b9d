"""Runs: the list, a new one, one of them live, several compared."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Max, Min, Q
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext, ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
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
from records.recipes import RECIPES
from training.models import (
    LEARNS_FROM_JUDGMENTS,
    Checkpoint,
    InputRole,
    Iteration,
    Metric,
    Run,
    RunInput,
    RunKind,
    RunNote,
    RunSample,
    RunState,
    run_name,
)
from training.runs.control import RunStateError, change_place, resume_run, stop_run
from training.runs.launch import LaunchRefusedError, start_run
from training.runs.placement import announced_queues, holders
from training.runs.starting_points import default_inputs
from training.views import charts
from training.views.forms import NewRunForm, PlaceForm, RunFilterForm, chosen_inputs
from training.views.run_samples import shown
from training.wording.figures import (
    capitalized,
    duration_text,
    evaluation_tables,
    folded_figures,
    hardware_figures,
    number_text,
    setting_text,
)
from training.wording.words import about, words

if TYPE_CHECKING:
    from django.http import HttpRequest

    from records.events import Json

PAGE = 40
SAMPLES_SHOWN = 6
NOTES_SHOWN = 12
# What usually comes after a kind of run: (kind, the role its checkpoint takes there).
NEXT_STAGES: dict[str, tuple[tuple[RunKind, InputRole | None], ...]] = {
    RunKind.SFT: (
        (RunKind.DRAW, InputRole.POLICY),
        (RunKind.EVALUATE, InputRole.POLICY),
    ),
    RunKind.DRAW: ((RunKind.REWARD, None),),
    RunKind.REWARD: ((RunKind.POLICY, InputRole.REWARD),),
    RunKind.POLICY: (
        (RunKind.EVALUATE, InputRole.POLICY),
        (RunKind.DRAW, InputRole.POLICY),
    ),
    RunKind.PREFERENCE: (
        (RunKind.EVALUATE, InputRole.POLICY),
        (RunKind.DRAW, InputRole.POLICY),
    ),
    RunKind.EVALUATE: (),
}


@dataclass(frozen=True)
class Setting:
    name: str
    value: str
    is_advanced: bool
    is_default: bool


def recipe_lines(kind: str, recipe: dict[str, Json]) -> list[Setting]:
    """Return the settings of a recipe in the order of its dataclass.

    Without those that do nothing beside the values of others (``when``), and with those
    that only earlier versions had.
    """
    fields = {field.name: field for field in dataclasses.fields(RECIPES[kind])}

    def is_used(name: str) -> bool:
        when: Mapping[str, Sequence[Json]] = fields[name].metadata.get("when", {})
        return all(
            recipe.get(other, fields[other].default) in values and is_used(other)
            for other, values in when.items()
        )

    known = [name for name in fields if name in recipe and is_used(name)]
    return [
        Setting(
            capitalized(words(name)),
            setting_text(recipe[name]),
            name in fields and bool(fields[name].metadata.get("advanced")),
            name in fields and fields[name].default == recipe[name],
        )
        for name in [*known, *(name for name in recipe if name not in fields)]
    ]


# The list


@require_safe
@login_required
def runs(request: HttpRequest, slug: str) -> HttpResponse:
    """List the newest runs, filtered; paged by key."""
    project = enter(request, slug, Role.TRAINER)
    form = RunFilterForm(request.GET)
    rows = Run.objects.filter(project=project).for_list()
    if form.is_valid():
        asked = form.cleaned_data
        for name in ("kind", "state"):
            if asked[name]:
                rows = rows.filter(**{name: asked[name]})
        if asked["before"]:
            rows = rows.filter(pk__lt=asked["before"])
    else:
        rows = rows.none()
    page = list(rows.order_by("-pk")[: PAGE + 1])
    kept = {n: form.data[n] for n in ("kind", "state") if form.data.get(n)}
    older = {**kept, "before": str(page[PAGE - 1].pk)} if len(page) > PAGE else {}
    facts = {
        "form": form,
        "lines": [line_of(run) for run in page[:PAGE]],
        "any_active": any(not run.is_final for run in page[:PAGE]),
        "here": request.get_full_path(),
        "older": f"?{urlencode(older)}" if older else "",
        "newest": f"?{urlencode(kept)}",
        "is_first": not form.data.get("before"),
        "kinds": _kinds(),
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
    """Return the one figure that says most about a finished run."""
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


def _kinds() -> list[Kind]:
    return [
        Kind(
            kind.value,
            str(kind.label),
            about(kind)[0].rstrip(".。"),
        )
        for kind in RunKind
    ]


# A new run


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def run_new(request: HttpRequest, slug: str, kind: str) -> HttpResponse:
    """Show the form of a recipe; start the run it describes."""
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
        "kinds": _kinds(),
        "label": RunKind(kind).label,
        "about": about(kind),
        "data": _data_available(project),
        "missing": _missing(project, kind),
    }
    status = 422 if form.errors else 200
    return render(request, "training/run_new.html", facts, status=status)


def _data_available(project: Project) -> dict[str, Count]:
    """Count what a run could learn from now."""
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
    given = default_inputs(project, kind)
    if needs_policy and InputRole.POLICY.value not in given:
        lacking.append(
            Missing(
                gettext("The project has no policy yet."),
                gettext("Run supervised fine-tuning"),
                reverse("training:run-new", args=[project.slug, RunKind.SFT]),
            )
        )
    if kind == RunKind.POLICY and InputRole.REWARD.value not in given:
        lacking.append(
            Missing(
                gettext("The project has no reward model yet."),
                gettext("Train a reward model"),
                reverse("training:run-new", args=[project.slug, RunKind.REWARD]),
            )
        )
    return lacking


# One run


@require_safe
@login_required
def run(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show a run; its live parts are polled while it is not final."""
    project = enter(request, slug, Role.TRAINER)
    found = run_of_project(project, pk)
    names = charts.metric_names(found)
    facts = _live_facts(found) | {
        "recipe": recipe_lines(found.kind, found.recipe),
        "layout": charts.layout(found.kind, names),
        "sources": [
            {
                "label": run_name(found),
                "url": reverse("training:run-series", args=[slug, pk]),
            }
        ],
        "step_times": _step_times(found),
        "compare": _comparable(found),
    }
    return render(request, "training/run.html", facts)


@never_cache
@require_safe
@login_required
def live(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Answer the live parts of a run's page, or 304 when nothing has changed.

    The version is computed from a few columns before anything else is read. How old
    the heartbeat is travels in a header, so that it can tick without a change.
    """
    project = enter(request, slug, Role.TRAINER)
    found = run_of_project(project, pk)
    version = _version(found)
    response: HttpResponse
    if request.headers.get("If-None-Match") == version:
        response = HttpResponse(status=304)
    else:
        response = render(request, "training/_live.html", _live_facts(found, version))
    response["ETag"] = version
    response["Concord-Heartbeat"] = _heartbeat(found)
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
        _is_silent(run),
        run.queue,
        run.shares_device,
        _waiting(run),
        _waits_long(run),
    )
    return f'"{hashlib.sha256(repr(facts).encode()).hexdigest()[:20]}"'


def _heartbeat(run: Run) -> str:
    if not run.is_active or run.heartbeat_at is None:
        return ""
    age = (timezone.now() - run.heartbeat_at).total_seconds()
    return gettext("heartbeat %(age)s ago") % {"age": duration_text(age)}


def _is_silent(run: Run) -> bool:
    """Tell whether the worker has given no sign of life for too long."""
    return (
        run.is_active
        and run.leased_until is not None
        and run.leased_until < timezone.now()
    )


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
        "pace": _pace(run),
        "percent": min(100, 100 * run.step // run.steps_total)
        if run.steps_total
        else 0,
        "heartbeat": _heartbeat(run),
        "is_silent": _is_silent(run),
        "parents": parents_of(run),
        "children": [(each, run_name(each)) for each in children],
        "notes": RunNote.objects.filter(run=run).order_by("-pk")[:NOTES_SHOWN],
        "samples": [shown(each) for each in samples],
        "checkpoints": checkpoints[:12],
        "more_checkpoints": max(0, len(checkpoints) - 12),
        "figures": folded_figures(run.result if run.is_final else {}),
        "hardware": hardware_figures(run.hardware | {"device": run.device}),
        "waiting": _waiting(run),
        "iteration": Iteration.objects.filter(steps__run=run).first(),
        "tables": tables,
        "next_stages": _next_stages(run, checkpoints),
        "place_form": _place_form(run),
        "is_waiting_long": _waits_long(run),
    }


def _waits_long(run: Run) -> bool:
    """Tell whether a run without a wish has waited longer than a free worker takes."""
    return (
        run.state == RunState.QUEUED
        and not run.queue
        and (timezone.now() - run.created_at).total_seconds() > 60
    )


def _place_form(run: Run) -> PlaceForm | None:
    """Return the form to change where a queued run will run, if there is a choice."""
    if run.state != RunState.QUEUED:
        return None
    form = PlaceForm(run=run, prefix="place")
    return form if form.has_choice else None


@dataclass(frozen=True)
class Waiting:
    """What a queued run waits for, and the run that holds it, if that may be shown."""

    queue: str
    is_away: bool
    seen_at: datetime | None
    is_held: bool
    holder: Run | None
    holder_name: str


def _waiting(run: Run) -> Waiting | None:
    """Return what a run with a wish waits for; None for any other run."""
    if run.state != RunState.QUEUED or not run.queue:
        return None
    known = next((q for q in announced_queues() if q.name == run.queue), None)
    is_away = known is None or known.is_away
    held = holders(run).first()
    own = held if held is not None and held.project_id == run.project_id else None
    return Waiting(
        run.queue,
        is_away,
        known.seen_at if known is not None and is_away else None,
        held is not None,
        own,
        run_name(own) if own else "",
    )


@dataclass(frozen=True)
class Parent:
    """A checkpoint a run started from, and what for."""

    checkpoint: Checkpoint
    run_name: str
    roles: str


def parents_of(run: Run) -> list[Parent]:
    """Return the checkpoints a run started from, each once with all its roles."""
    roles: dict[Checkpoint, list[str]] = {}
    rows = RunInput.objects.filter(run=run).select_related("checkpoint__run")
    for each in rows.order_by("pk"):
        roles.setdefault(each.checkpoint, []).append(each.get_role_display().lower())
    return [
        Parent(checkpoint, run_name(checkpoint.run), all_of(names))
        for checkpoint, names in roles.items()
    ]


def all_of(names: list[str]) -> str:
    """Return names as one: ``policy and initial policy``."""
    return gettext(" and ").join(names)


def _pace(run: Run) -> dict[str, str]:
    """Return seconds per step and what is left, from the newest steps' times."""
    if run.is_final:
        if run.started_at and run.ended_at:
            took = (run.ended_at - run.started_at).total_seconds()
            return {"took": duration_text(took)}
        return {}
    recent = Metric.objects.filter(run=run, step__gt=run.step - 40).aggregate(
        first=Min("at"), last=Max("at"), low=Min("step"), high=Max("step")
    )
    if not recent["last"] or recent["high"] == recent["low"]:
        return {}
    seconds = (recent["last"] - recent["first"]).total_seconds()
    each = seconds / (recent["high"] - recent["low"])
    left = each * max(0, run.steps_total - run.step)
    if each >= 0.1:
        text = gettext("%(seconds)s s a step") % {"seconds": f"{each:.1f}"}
    else:
        count = round(1 / max(each, 1e-6))
        text = gettext("%(count)d steps a second") % {"count": count}
    ends = timezone.localtime(timezone.now() + timedelta(seconds=left))
    is_today = ends.date() == timezone.localdate()
    return {
        "each": text,
        "left": duration_text(left),
        "ends": date_format(ends, "TIME_FORMAT" if is_today else "DATETIME_FORMAT"),
    }


def _step_times(run: Run) -> list[dict[str, object]]:
    """Return the parts of a step's time as rectangles of a 100-wide drawing."""
    parts: list[dict[str, object]] = []
    x = 0.0
    for place, (name, share) in enumerate(charts.step_times(run)):
        parts.append(
            {
                "name": name,
                "percent": round(100 * share),
                "x": f"{x:.2f}",
                "width": f"{100 * share:.2f}",
                "tone": place % 5,
            }
        )
        x += 100 * share
    return parts


def next_kinds(run: Run) -> tuple[tuple[RunKind, InputRole | None], ...]:
    """Return what usually comes after a run: kinds, and what its checkpoint is there."""
    if run.kind == RunKind.REWARD and run.recipe.get("judges") == "preference":
        return ((RunKind.POLICY, InputRole.PREFERENCE),)
    return NEXT_STAGES[run.kind]


def _next_stages(run: Run, checkpoints: list[Checkpoint]) -> list[dict[str, str]]:
    final = next((c for c in checkpoints if c.is_final), None)
    if not run.is_final or (final is None and run.state != RunState.FINISHED):
        return []
    stages: list[dict[str, str]] = []
    for kind, role in next_kinds(run):
        url = reverse("training:run-new", args=[run.project.slug, kind])
        if role is not None and final is not None:
            url += f"?{role}={final.pk}"
        stages.append({"label": str(kind.label), "url": url})
    return stages


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
    found = run_of_project(project, pk)
    form = PlaceForm(request.POST, run=found, prefix="place")
    try:
        if form.is_valid():
            change_place(
                project=project, run=found, user=visitor(request), **form.cleaned_data
            )
        else:
            messages.error(
                request, " ".join(str(each) for each in form.errors["queue"])
            )
    except (RunStateError, LaunchRefusedError) as error:
        messages.warning(request, str(error))
    return redirect("training:run", slug, pk)


def run_of_project(project: Project, pk: int) -> Run:
    """Return a run of the project that :func:`enter` has let the visitor into."""
    return get_object_or_404(Run.objects.for_list().filter(Q(project=project)), pk=pk)
