"""Curves of runs: as JSON for charts, as CSV to download, of several runs together."""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from annotation.models import Role
from annotation.views.door import enter
from records.recipes import RECIPES, to_show
from training.models import Metric, Run, run_name
from training.views import charts
from training.views.runs import line_of, run_of_project
from training.wording.figures import headline_figures, setting_text
from training.wording.words import words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from actions.tags import JSON


# A page requests the curves of each run separately; more runs than this cannot be told
# apart in a chart.
MOST_COMPARED = 100


@never_cache
@require_safe
@login_required
def series(request: HttpRequest, slug: str, pk: int) -> HttpResponseBase:
    """Answer a run's curves after row ``after`` as JSON, or all of them as CSV.

    ``token`` tells the page whether its curves are of the same attempt; after a resume
    it gets all of them again, with ``after`` 0.
    """
    project = enter(request, slug, Role.TRAINER)
    run = run_of_project(project, pk)
    if request.GET.get("format") == "csv":
        return _csv([run], f"run-{run.pk}-curves")
    after_text = request.GET.get("after", "")
    after = int(after_text) if after_text.isdecimal() and len(after_text) < 19 else 0
    if request.GET.get("token") != str(run.token):
        after = 0
    newest, curves = charts.series_after(run, after)
    return JsonResponse(
        {"token": run.token, "after": after, "newest": newest, "series": curves}
    )


class _Echo:
    def write(self, text: str) -> str:
        return text


def _csv(runs: list[Run], name: str) -> StreamingHttpResponse:
    """Answer all curves of runs as CSV: one line per number."""
    writer = csv.writer(_Echo())
    names = {run.pk: run_name(run) for run in runs}
    rows = (
        Metric.objects.filter(run__in=names)
        .order_by("run", "name", "step")
        .values_list("run", "step", "at", "name", "value")
        .iterator(chunk_size=5000)
    )

    def lines() -> Iterator[str]:
        yield writer.writerow(["run", "step", "time", "metric", "value"])
        for run, step, at, metric, value in rows:
            row = [names[run], step, at.isoformat(), metric, value]
            yield writer.writerow([_harmless(each) for each in row])

    response = StreamingHttpResponse(lines(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return response


def _harmless(value: object) -> object:
    """Keep a text from being read as a formula: programs choose metric names freely."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


# Comparing


@require_safe
@login_required
def compare(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Draw the curves of several runs, one chart per metric; or answer them as CSV."""
    project = enter(request, slug, Role.TRAINER)
    values = request.GET.getlist("run")
    every = list(dict.fromkeys(pk for pk in values if pk.isdecimal() and len(pk) < 19))
    keys = every[:MOST_COMPARED]
    rows = Run.objects.filter(project=project).for_list()
    chosen = list(rows.filter(pk__in=keys).order_by("pk"))
    if len(chosen) < len({int(pk) for pk in keys}):
        raise Http404("no such run")
    if chosen and request.GET.get("format") == "csv":
        return _csv(chosen, f"{project.slug}-{len(chosen)}-runs-curves")
    if len(chosen) < 2:
        messages.info(
            request, gettext("Tick two runs or more to compare their curves.")
        )
        return redirect("training:runs", slug)
    layout = charts.layout(chosen[0].kind, charts.metric_names(*chosen))
    single = [
        {**chart, "title": _title(chart, each), "series": [each]}
        for chart in layout
        for each in chart["series"]  # type: ignore[attr-defined]
    ]
    facts = {
        "lines": [line_of(run) for run in chosen],
        "results": _results(chosen),
        "differences": _recipe_differences(chosen),
        "names": [run_name(run) for run in chosen],
        "left_out": len(every) - len(keys),
        "csv": "?"
        + urlencode([*(("run", run.pk) for run in chosen), ("format", "csv")]),
        "layout": single,
        "sources": [
            {
                "label": run_name(run),
                "url": reverse("training:run-series", args=[slug, run.pk]),
            }
            for run in chosen
        ],
    }
    return render(request, "training/compare.html", facts)


def _title(chart: dict[str, object], series: dict[str, str]) -> str:
    several = len(chart["series"]) > 1  # type: ignore[arg-type]
    if not several:
        return str(chart["title"])
    return gettext("%(chart)s: %(series)s") % {
        "chart": chart["title"],
        "series": series["label"],
    }


def _results(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Return the final figures that any of the runs has, with the value of each run."""
    figures = [headline_figures(run.result) for run in runs]
    names = dict.fromkeys(name for each in figures for name in each)
    return [(name, [each.get(name, "") for each in figures]) for name in names]


def _recipe_differences(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Return the settings in which the runs differ, with the value of each run.

    A recipe older than a setting means the setting's present default.
    """
    recipes = [_defaults(run.kind) | to_show(run.kind, run.recipe) for run in runs]
    settings = dict.fromkeys(name for recipe in recipes for name in recipe)
    return [
        (words(name), [setting_text(recipe.get(name)) for recipe in recipes])
        for name in settings
        if len({repr(recipe.get(name)) for recipe in recipes}) > 1
    ]


def _defaults(kind: str) -> dict[str, JSON]:
    return {
        each.name: list(each.default)
        if isinstance(each.default, tuple)
        else each.default
        for each in dataclasses.fields(RECIPES[kind])
        if each.default is not dataclasses.MISSING
    }
