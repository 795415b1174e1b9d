"""Iterations: the list, a new one, and the page of one from draw to promotion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from annotation.models import Project, Role
from annotation.views.door import enter, visitor
from training.iterations import advance, deeds
from training.iterations.deeds import IterationRefusedError
from training.iterations.metrics import Comparison, Fresh, fresh_figures
from training.iterations.status import STEPS, is_unchanged, run_of
from training.models import RUN_STEPS, Checkpoint, Iteration, Run, StepName, run_name
from training.runs.starting_points import current_policy
from training.views.forms import IterationForm
from training.views.iteration_lines import (
    changes,
    evaluated,
    forecasts,
    page_facts,
    took,
)
from training.views.recipe_form import RecipeForm

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest

    from actions.tags import JSON

LISTED = 40
REASON = 1000  # characters


# The list


@dataclass(frozen=True)
class Line:
    iteration: Iteration
    took: str
    comparison: Comparison | None
    fresh: Fresh | None
    is_unchanged: bool


@require_safe
@login_required
def iterations(request: HttpRequest, slug: str) -> HttpResponse:
    """List the newest iterations, with the figures of reward model and people."""
    project = enter(request, slug, Role.TRAINER)
    before_text = request.GET.get("before", "")
    before = (
        int(before_text) if before_text.isdecimal() and len(before_text) < 10 else 0
    )
    rows = _with_steps(project)
    page = list((rows.filter(number__lt=before) if before else rows)[: LISTED + 1])
    listed = page[:LISTED]
    fresh = _fresh_of(listed)
    facts = {
        "lines": [
            Line(
                each,
                took(each),
                evaluated(each),
                next((f for f in fresh.get(each.pk, []) if f.role == "current"), None),
                is_unchanged(each),
            )
            for each in listed
        ],
        "is_open": any(each.is_open for each in listed) or bool(before),
        "is_first": not before,
        "older": f"?before={listed[-1].number}" if len(page) > LISTED else "",
        "has_policy": bool(listed) or current_policy(project) is not None,
        "layout": _course_layout() if len(listed) > 1 and not before else [],
        "sources": [
            {
                "label": _("Iterations"),
                "url": reverse("training:iterations-series", args=[slug]),
            }
        ],
    }
    return render(request, "training/iterations.html", facts)


def _with_steps(project: Project) -> QuerySet[Iteration]:
    rows = Iteration.objects.filter(project=project).select_related(
        "project", "created_by"
    )
    return rows.prefetch_related(STEPS).order_by("-number")


def _fresh_of(iterations: list[Iteration]) -> dict[int, list[Fresh]]:
    """Return the figures on fresh responses by iteration, in one query."""
    draws = {
        each.pk: run for each in iterations if (run := run_of(each, StepName.DRAW))
    }
    figures = fresh_figures(list(draws.values())) if draws else {}
    return {pk: figures[run.pk] for pk, run in draws.items()}


def _course_layout() -> list[dict[str, object]]:
    """Return the chart of reward model and truth over the iterations."""
    return [
        {
            "title": _("Fresh answers"),
            "unit": _("reward model and people, per drawn policy"),
            "x": _("iteration"),
            "smooth": False,
            "series": [
                {"name": "drawn/rm_score", "label": _("score of the reward model")},
                {"name": "drawn/people", "label": _("share people found consistent")},
            ],
        },
        {
            "title": _("Held-out samples"),
            "unit": _("reward model and truth, per new policy"),
            "x": _("iteration"),
            "smooth": False,
            "series": [
                {"name": "evaluated/rm_score", "label": _("reward model accepts")},
                {"name": "evaluated/truth", "label": _("truth")},
            ],
        },
    ]


@never_cache
@require_safe
@login_required
def series(request: HttpRequest, slug: str) -> JsonResponse:
    """Answer the curves over the iterations, in the form of a run's curves."""
    project = enter(request, slug, Role.TRAINER)
    listed = list(reversed(_with_steps(project)[:LISTED]))
    fresh = _fresh_of(listed)
    curves: dict[str, list[list[float]]] = {}

    def add(name: str, number: int, value: float | None) -> None:
        if value is not None:
            numbers, values = curves.setdefault(name, [[], []])
            numbers.append(number)
            values.append(value)

    for each in listed:
        for figures in fresh.get(each.pk, []):
            if figures.role == "current":
                add("drawn/rm_score", each.number, figures.rm_score)
                add("drawn/people", each.number, figures.people)
                half = figures.half_interval
                add("drawn/people/low", each.number, max(0.0, figures.people - half))
                add("drawn/people/high", each.number, min(1.0, figures.people + half))
        compared = evaluated(each)
        if compared is not None:
            add("evaluated/rm_score", each.number, compared.score_after)
            add("evaluated/truth", each.number, compared.after)
            if compared.after_interval:
                add("evaluated/truth/low", each.number, compared.after_interval[0])
                add("evaluated/truth/high", each.number, compared.after_interval[1])
    newest = max((each.number for each in listed), default=0)
    return JsonResponse({"token": 1, "after": 0, "newest": newest, "series": curves})


# A new one


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def iteration_new(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the form of an iteration and the recipes of its runs; begin it."""
    project = enter(request, slug, Role.TRAINER)
    data = request.POST if request.method == "POST" else None
    last = _with_steps(project).first()
    form = IterationForm(data, initial=_settings_of(last))
    known = _known_recipes(project, last)
    recipes = {
        name: RecipeForm(data, kind=name, known=known.get(name), prefix=name)
        for name in RUN_STEPS
    }
    refusal = ""
    # Validate every form, not only the first one that is wrong.
    if data is not None and all(
        [form.is_valid(), *(f.is_valid() for f in recipes.values())]
    ):
        try:
            iteration = deeds.start_iteration(
                project=project,
                user=visitor(request),
                recipes={name: each.recipe() for name, each in recipes.items()},
                wanted_judgments=form.cleaned_data["wanted_judgments"],
                wanted_settled=form.cleaned_data["wanted_settled"],
                margin=form.cleaned_data["margin"],
                automatic=tuple(form.cleaned_data["automatic"]),
            )
        except IterationRefusedError as error:
            refusal = str(error)
            for name, problems in error.problems.items():
                recipes[name].add_problems(problems)
        else:
            advance.advance(iteration_id=iteration.pk)
            return redirect("training:iteration", slug, iteration.number)
    wrong = bool(refusal or form.errors or any(f.errors for f in recipes.values()))
    facts = {
        "form": form,
        "recipes": [(StepName(name).label, each) for name, each in recipes.items()],
        "refusal": refusal,
        "is_wrong": wrong,
        "policy": current_policy(project),
        "open": last if last is not None and last.is_open else None,
    }
    status = 422 if wrong else 200
    return render(request, "training/iteration_new.html", facts, status=status)


def _settings_of(last: Iteration | None) -> dict[str, object]:
    if last is None:
        return {}
    return {
        "wanted_judgments": last.wanted_judgments,
        "wanted_settled": last.wanted_settled,
        "margin": last.margin,
        "automatic": [
            each.name
            for each in sorted(last.steps.all(), key=lambda step: step.pk)
            if each.is_automatic and each.name != StepName.JUDGE
        ],
    }


def _known_recipes(
    project: Project, last: Iteration | None
) -> Mapping[str, Mapping[str, JSON]]:
    """Return the recipes of the last iteration; before the first, of past runs."""
    if last is not None:
        recipes: dict[str, dict[str, JSON]] = last.recipes
        return recipes
    rows = Run.objects.filter(project=project, kind__in=RUN_STEPS)
    newest = rows.order_by("kind", "-pk").distinct("kind")
    return {run.kind: {**run.recipe, "gate_override": ""} for run in newest}


# One of them


@require_safe
@login_required
def iteration(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Show an iteration; its steps are polled while it is open."""
    project = enter(request, slug, Role.TRAINER)
    return _page(request, _iteration(project, number))


def _page(
    request: HttpRequest,
    iteration: Iteration,
    typed: Mapping[str, str] | None = None,
    refusal: str = "",
    form: IterationForm | None = None,
) -> HttpResponse:
    policy = run_of(iteration, StepName.POLICY)
    facts = _live_facts(iteration, typed) | {
        "refusal": refusal,
        "form": form or IterationForm(initial=_settings_of(iteration)),
        "seen": deeds.newest_change(iteration, ""),
        "forecasts": forecasts(iteration),
        "reward_models": Checkpoint.objects.filter(project=iteration.project)
        .consistency_models()
        .final()
        .count(),
        "changes": changes(iteration),
        "layout": _policy_layout() if policy is not None else [],
        "sources": [
            {
                "label": run_name(policy),
                "url": reverse(
                    "training:run-series", args=[iteration.project.slug, policy.pk]
                ),
            }
        ]
        if policy is not None
        else [],
    }
    status = (422 if form is not None else 409) if refusal else 200
    return render(request, "training/iteration.html", facts, status=status)


def _policy_layout() -> list[dict[str, object]]:
    return [
        {
            "title": _("Reward model and truth"),
            "unit": _("held out, at every checkpoint of the policy run"),
            "smooth": False,
            "series": [
                {"name": "held_out/rm_score", "label": _("score of the reward model")},
                {"name": "held_out/truth", "label": _("truth")},
            ],
        }
    ]


@never_cache
@require_safe
@login_required
def live(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Answer the steps of an iteration, or 304 when they look the same as before."""
    project = enter(request, slug, Role.TRAINER)
    facts = _live_facts(_iteration(project, number))
    version = str(facts["version"])
    response = (
        HttpResponse(status=304)
        if request.headers.get("If-None-Match") == version
        else render(request, "training/_iteration_steps.html", facts)
    )
    response["ETag"] = version
    return response


def _live_facts(
    iteration: Iteration, typed: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Return what the steps show; their version is a hash of the rendered page."""
    facts = page_facts(iteration) | {"typed": typed or {}, "version": ""}
    text = render_to_string("training/_iteration_steps.html", facts)
    return facts | {"version": f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"'}


# What people do


@require_POST
@login_required
def iteration_do(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Do a deed on an iteration as a whole or on its current step."""
    project = enter(request, slug, Role.TRAINER)
    iteration = _iteration(project, number)
    deed, name = request.POST.get("deed", ""), request.POST.get("step", "")
    reason, user = request.POST.get("reason", ""), visitor(request)
    reason = reason.replace("\r\n", "\n")  # count a line end once, as the page does
    of_iteration: dict[str, Callable[[], None]] = {
        "pause": lambda: deeds.pause_iteration(
            project=project, iteration=iteration, user=user
        ),
        "resume": lambda: deeds.resume_iteration(
            project=project, iteration=iteration, user=user, reason=reason
        ),
        "stop": lambda: deeds.stop_iteration(
            project=project, iteration=iteration, user=user, reason=reason
        ),
        "approve": lambda: deeds.approve_step(
            project=project, iteration=iteration, name=name, user=user, reason=reason
        ),
        "skip": lambda: deeds.skip_step(
            project=project, iteration=iteration, name=name, user=user, reason=reason
        ),
        "retry": lambda: deeds.retry_step(
            project=project, iteration=iteration, name=name, user=user
        ),
        "back": lambda: deeds.go_back(
            project=project, iteration=iteration, name=name, user=user
        ),
    }
    typed = {"deed": deed, "step": name, "reason": reason}
    if deed not in of_iteration:
        return _page(request, iteration, typed, _("There is no such deed."))
    if "\x00" in reason:
        refusal = _("Reason: expected text, found a null character.")
        return _page(request, iteration, typed, refusal)
    if len(reason) > REASON:
        refusal = _("Reason: expected at most %(limit)d characters, found %(n)d.")
        facts = {"limit": REASON, "n": len(reason)}
        return _page(request, iteration, typed, refusal % facts)
    try:
        of_iteration[deed]()
    except IterationRefusedError as error:
        return _page(request, _iteration(project, number), typed, str(error))
    advance.advance(iteration_id=iteration.pk)
    return redirect("training:iteration", slug, number)


@require_POST
@login_required
def iteration_change(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Change what an iteration waits for and which steps are automatic."""
    project = enter(request, slug, Role.TRAINER)
    iteration = _iteration(project, number)
    form = IterationForm(request.POST)
    refusal = ""
    if form.is_valid():
        try:
            deeds.change_iteration(
                project=project,
                iteration=iteration,
                user=visitor(request),
                wanted_judgments=form.cleaned_data["wanted_judgments"],
                wanted_settled=form.cleaned_data["wanted_settled"],
                margin=form.cleaned_data["margin"],
                automatic=tuple(form.cleaned_data["automatic"]),
                newest_seen=_seen(request),
            )
        except IterationRefusedError as error:
            refusal = str(error)
        else:
            advance.advance(iteration_id=iteration.pk)
            messages.success(request, _("The iteration waits for this now."))
            return redirect("training:iteration", slug, number)
    return _page(
        request, iteration, refusal=refusal or _("A setting is not right."), form=form
    )


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def recipe_edit(
    request: HttpRequest, slug: str, number: int, step: str
) -> HttpResponse:
    """Show and change the recipe of a step that has not begun."""
    project = enter(request, slug, Role.TRAINER)
    iteration = _iteration(project, number)
    if step not in RUN_STEPS:
        raise Http404("a step without a recipe")
    data = request.POST if request.method == "POST" else None
    recipe = RecipeForm(data, kind=step, known=iteration.recipes.get(step))
    refusal = ""
    if data is not None and recipe.is_valid():
        try:
            changed = deeds.change_recipe(
                project=project,
                iteration=iteration,
                name=step,
                user=visitor(request),
                recipe=recipe.recipe(),
                newest_seen=_seen(request),
            )
        except IterationRefusedError as error:
            refusal = str(error)
            recipe.add_problems(error.problems.get(step, {}))
        else:
            messages.success(
                request,
                _("The step will run with this recipe.")
                if changed
                else _("Nothing was changed."),
            )
            return redirect("training:iteration", slug, number)
    facts = {
        "iteration": iteration,
        "label": StepName(step).label,
        "recipe": recipe,
        "seen": deeds.newest_change(iteration, step),
        "refusal": refusal,
        "may_change": step in deeds.changeable_recipes(iteration),
        "is_wrong": bool(refusal or recipe.errors),
    }
    status = 422 if facts["is_wrong"] else 200
    return render(request, "training/iteration_recipe.html", facts, status=status)


def _seen(request: HttpRequest) -> int | None:
    """Return the newest change that the sender of a form has seen, if it says so."""
    text = request.POST.get("seen", "")
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _iteration(project: Project, number: int) -> Iteration:
    return get_object_or_404(_with_steps(project), number=number)
