"""A whole sampled task on one page: its turns in order, each judged by itself.

A post answers htmx with the fragment of that turn's section, and everybody else with a
redirect. As on the Judge page, nothing here shows where the answers came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from annotation.judging.calibration import reason_choices, view_for
from annotation.judging.judgment_checks import InvalidJudgment, OrderNotConfirmed
from annotation.judging.judgments import JudgingError, record_judgment, undo_judgment
from annotation.judging.queue import NothingToDo
from annotation.judging.whole_task import TaskTurn, claim_task, task_of
from annotation.models import Pair, Role
from annotation.views.door import enter, visitor
from annotation.views.forms import BIGGEST, TaskJudgmentForm
from annotation.views.guidelines import guideline_to_read

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest

    from annotation.models import Project

WHY_NOT_YOURS = {
    "identical": gettext_lazy("Equal to the label response, letter by letter"),
    "rule": gettext_lazy(
        "Equal to the label response or a reference, apart from spelling"
    ),
    "malformed": gettext_lazy("Breaks the response grammar; counts as not consistent"),
    "others": gettext_lazy("Other people judge this turn"),
    "skipped": gettext_lazy("You skipped this turn"),
    "unanswered": gettext_lazy("No response was sampled for this turn"),
}


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def task(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the person's task or the next one, or record a judgment of one turn."""
    project = enter(request, slug, Role.LABELER)
    if request.method == "POST":
        return _record(request, project)
    if page := guideline_to_read(request, project):
        return page
    answer = _number(request.GET.get("answer", ""))
    claimed = claim_task(project=project, user=visitor(request), answer=answer)
    if claimed is None and answer is not None:
        return redirect("annotation:judge-task", project.slug)
    if claimed is None or isinstance(claimed, NothingToDo):
        # The Judge page shows the pair, or says why there is none.
        return redirect("annotation:judge", project.slug)
    if answer is None:
        return redirect(_address(project, claimed.answer))
    facts = {
        "task": claimed,
        "turns": [_shown(project, visitor(request), one) for one in claimed.turns],
    }
    return render(request, "annotation/task.html", facts)


@require_POST
@login_required
def undo(request: HttpRequest, slug: str) -> HttpResponse:
    """Take back the decision of the task that ``judgment`` names."""
    project = enter(request, slug, Role.LABELER)
    # 0 is no judgment's key; it stands for a key that is not a number.
    judgment_id = _number(request.POST.get("judgment", "")) or 0
    try:
        claim = undo_judgment(
            project=project, user=visitor(request), judgment_id=judgment_id
        )
    except JudgingError as error:
        return _answer(request, project, problem=str(error))
    return _answer(request, project, pair=claim.pair.pk)


def _record(request: HttpRequest, project: Project) -> HttpResponse:
    form = TaskJudgmentForm(request.POST)
    if not form.is_valid():
        return _again(request, project, form, _problem(form))
    try:
        judgment = record_judgment(
            project=project, user=visitor(request), **form.judgment()
        )
    except OrderNotConfirmed:
        return _again(request, project, form, asks_order=True)
    except InvalidJudgment as error:
        return _again(request, project, form, str(error))
    except JudgingError as error:
        return _answer(request, project, problem=str(error))
    late = _(
        "That judgment came after the pair had passed on. It is kept as an extra "
        "and does not count."
    )
    return _answer(
        request,
        project,
        pair=judgment.pair_id,
        problem=late if judgment.is_extra else "",
    )


def _again(
    request: HttpRequest,
    project: Project,
    form: TaskJudgmentForm,
    problem: str = "",
    *,
    asks_order: bool = False,
) -> HttpResponse:
    """Answer with the turn and the person's input."""
    data = form.cleaned_data
    slot = data.get("slot")
    pair = (
        Pair.objects.filter(project=project, slots=slot)
        .values_list("pk", flat=True)
        .first()
    )
    chosen = {
        "verdict": data.get("verdict"),
        "units": form.units_that_differ(),
        "reasons": data.get("reasons", []),
        "seconds": data.get("seconds", 0.0),
        "asks_order": asks_order,
    }
    return _answer(request, project, pair=pair, problem=problem, chosen=chosen)


def _answer(
    request: HttpRequest,
    project: Project,
    *,
    pair: int | None = None,
    problem: str = "",
    chosen: dict[str, Any] | None = None,
) -> HttpResponse:
    """Answer a deed with its turn's section, the page, or a redirect to it."""
    answer = _number(request.POST.get("answer", ""))
    claimed = (
        task_of(project=project, user=visitor(request), answer=answer)
        if answer
        else None
    )
    if claimed is None:
        if problem:
            messages.warning(request, problem)
        return _go(request, reverse("annotation:judge-task", args=[project.slug]))
    one = next((one for one in claimed.turns if one.pair and one.pair.pk == pair), None)
    facts: dict[str, Any] = {"task": claimed}
    status = 422 if chosen is not None else 200
    if one is not None and request.htmx:  # type: ignore[attr-defined]
        facts["one"] = _shown(project, visitor(request), one, chosen, problem)
        return render(request, "annotation/_task_turn.html", facts, status=status)
    if chosen is not None and one is not None:
        facts["turns"] = [
            _shown(
                project,
                visitor(request),
                other,
                *((chosen, problem) if other is one else ()),
            )
            for other in claimed.turns
        ]
        return render(request, "annotation/task.html", facts, status=status)
    if problem:
        messages.warning(request, problem)
    place = f"#turn-{one.turn.position + 1}" if one else ""
    return _go(request, _address(project, claimed.answer) + place)


def _go(request: HttpRequest, address: str) -> HttpResponse:
    if request.htmx:  # type: ignore[attr-defined]
        return HttpResponse(status=204, headers={"HX-Redirect": address})
    response = redirect(address)
    response.status_code = 303
    return response


def _shown(
    project: Project,
    user: User,
    one: TaskTurn,
    chosen: dict[str, Any] | None = None,
    problem: str = "",
) -> dict[str, Any]:
    """Return what a turn's section shows; rows only where there is a pair."""
    facts: dict[str, Any] = {
        "one": one,
        "turn": one.turn,
        "number": one.turn.position + 1,
        "why": WHY_NOT_YOURS.get(one.state, ""),
        "chosen": chosen or {"units": None, "seconds": 0.0},
        "problem": problem,
    }
    if one.pair is None:
        return facts
    view = view_for(project=project, pair=one.pair, user_id=user.pk)
    picked = view.proposed_reasons if chosen is None else chosen["reasons"]
    return facts | {
        "view": view,
        "asks_order": view.order_differs and project.confirm_step_order,
        "reasons": [
            {"value": value, "label": label, "is_chosen": value in picked}
            for value, label in reason_choices(is_blind=view.is_blind)
        ],
    }


def _problem(form: TaskJudgmentForm) -> str:
    if set(form.errors) == {"verdict"}:
        return _("Choose consistent or not consistent first.")
    return _("Nothing was recorded; these fields are not valid: %(fields)s.") % {
        "fields": ", ".join(form.errors)
    }


def _address(project: Project, answer: int) -> str:
    return f"{reverse('annotation:judge-task', args=[project.slug])}?answer={answer}"


def _number(text: str) -> int | None:
    """Return a key in the form that pages send; None for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text) if 0 < int(text) <= BIGGEST else None
