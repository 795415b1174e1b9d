"""Disagreements: the pairs that labelers leave to a curator, one at a time.

The page of one pair shows the same, and can pin the pair to the guideline.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from annotation.access import Forbidden
from annotation.judging.adjudication import adjudicate
from annotation.judging.guidelines import pin_example
from annotation.judging.judgments import JudgingError
from annotation.judging.pair_view import PairView, view_of_pair
from annotation.models import (
    InputKind,
    Judgment,
    Pair,
    PairQuerySet,
    Project,
    Reason,
    Role,
    Skip,
    Slot,
)
from annotation.views.door import enter, visitor
from annotation.views.forms import DisputeForm, SettleForm

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


@dataclass(frozen=True)
class Vote:
    """One labeler's verdict on the pair, in words."""

    judgment: Judgment
    reasons: list[str]
    units: list[str]


@never_cache
@require_safe
@login_required
def disputes(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the first pair that waits for a curator, or the first from ``at`` on."""
    project = enter(request, slug, Role.CURATOR)
    kind, at = DisputeForm(request.GET).chosen()
    waiting = _waiting(request, project, kind).order_by("pk")
    keys = list(waiting.values_list("pk", flat=True))
    # After the last pair start again at the first, so that none is skipped.
    place = bisect_left(keys, at) % max(1, len(keys))
    pairs = Pair.objects.select_related("turn__sample__author")
    pair = pairs.get(pk=keys[place]) if keys else None
    facts: dict[str, Any] = {
        "kind": kind,
        "total": len(keys),
        "number": place + 1,
        "query": urlencode({"kind": kind}),
        "next": _query(kind, keys[place + 1] if place + 1 < len(keys) else None),
        "previous": _query(kind, keys[place - 1] if place else None),
        "pair": None,
        "is_queue": True,
    }
    if pair:
        facts |= _pair_facts(pair) | {"may_settle": True}
    return render(request, "annotation/dispute.html", facts)


@never_cache
@require_safe
@login_required
def pair(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    return _pair_page(request, slug, pk)


@require_POST
@login_required
def settle(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Record the curator's verdict, then show the next pair of the same queue."""
    form = SettleForm(request.POST)
    pair = _pair(request, slug, pk)
    if not form.is_valid():
        problem = str(next(iter(form.errors.values()))[0])
        return _pair_page(request, slug, pk, form, problem, status=422)
    data = form.cleaned_data
    if not _is_waiting(request, pair) and not _outcome_known(pair):
        problem = gettext("Labelers are still to judge this pair.")
        return _pair_page(request, slug, pk, form, problem, status=422)
    try:
        adjudicate(
            project=pair.project,
            pair=pair,
            curator=visitor(request),
            verdict=data["verdict"],
            reasons=data["reasons"],
            units_that_differ=form.units_that_differ(),
            comment=data["comment"],
        )
    except JudgingError as error:
        return _pair_page(request, slug, pk, form, str(error), status=422)
    if data["pin"]:
        pin_example(
            project=pair.project,
            pair=pair,
            curator=visitor(request),
            note=data["comment"],
        )
    messages.success(
        request,
        gettext("Pair %(pair)s is settled and pinned to the guideline.")
        % {"pair": pair.pk}
        if data["pin"]
        else gettext("Pair %(pair)s is settled.") % {"pair": pair.pk},
    )
    if "kind" not in request.GET:
        return redirect("annotation:pair", slug, pk)
    kind, _ = DisputeForm(request.GET).chosen()
    response = redirect(
        f"{reverse('annotation:disputes', args=[slug])}?{_query(kind, pk + 1)}"
    )
    response.status_code = 303
    return response


def _pair_page(
    request: HttpRequest,
    slug: str,
    pk: int,
    form: SettleForm | None = None,
    error: str = "",
    status: int = 200,
) -> HttpResponse:
    pair = _pair(request, slug, pk)
    settled = Pair.objects.settled().filter(pk=pk).first()
    kind = request.GET.get("kind", "")
    facts = _pair_facts(pair, form) | {
        "kind": kind if kind in DisputeForm.KINDS else "",
        "query": urlencode({"kind": kind}) if kind in DisputeForm.KINDS else "",
        "next": "",
        "previous": "",
        "is_queue": False,
        "may_settle": _is_waiting(request, pair),
        "outcome": getattr(settled, "outcome", None),
        "adjudication": getattr(pair, "adjudication", None),
        "example": pair.examples.first(),
        "error": error,
    }
    return render(request, "annotation/dispute.html", facts, status=status)


def _waiting(
    request: HttpRequest, project: Project, kind: str, pair: Pair | None = None
) -> PairQuerySet:
    """Return the pairs that this curator may settle, of all or only ``pair``.

    Pairs of samples that the curator wrote are never among them.
    """
    pairs, slots = Pair.objects.filter(project=project), Slot.objects.all()
    if pair is None:
        slots = slots.filter(project=project)
    else:
        pairs, slots = pairs.filter(pk=pair.pk), slots.filter(pair=pair)
    chosen = pairs.disputed(slots) if kind == "disputed" else pairs.skipped_by_all()
    return chosen.not_written_by(request.user)


def _is_waiting(request: HttpRequest, pair: Pair) -> bool:
    return any(
        _waiting(request, pair.project, kind, pair).exists()
        for kind in DisputeForm.KINDS
    )


def _outcome_known(pair: Pair) -> bool:
    return Pair.objects.settled().filter(pk=pair.pk).exists()


def _pair(request: HttpRequest, slug: str, pk: int) -> Pair:
    project = enter(request, slug, Role.CURATOR)
    pair = get_object_or_404(
        Pair.objects.visible_to(request.user).select_related(
            "project", "turn__sample__author", "adjudication__curator"
        ),
        project=project,
        pk=pk,
    )
    if pair.turn.sample.author_id == request.user.pk:
        raise Forbidden("Nobody judges a sample they wrote.")
    return pair


def _pair_facts(pair: Pair, form: SettleForm | None = None) -> dict[str, Any]:
    view = view_of_pair(
        pair.label_text,
        pair.sampled_text,
        inside_thinking=pair.turn.input_kind == InputKind.OBSERVATION,
    )
    judgments = (
        Judgment.objects.current()
        .filter(pair=pair)
        .select_related("labeler")
        .order_by("pk")
    )
    verdict = str(form["verdict"].value() or "") if form else ""
    units = form.units_that_differ() if form and verdict == "0" else None
    picked = form["reasons"].value() if form else view.proposed_reasons
    return {
        "pair": pair,
        "turn": pair.turn,
        "sample": pair.turn.sample,
        "view": view,
        "votes": [_vote(judgment, view) for judgment in judgments],
        "skips": Skip.objects.filter(pair=pair).select_related("user"),
        "chosen": {"units": units, "verdict": verdict},
        "comment": form["comment"].value() if form else "",
        "pin": bool(form and form["pin"].value()),
        "reasons": [
            {"value": value, "label": label, "is_chosen": value in (picked or ())}
            for value, label in Reason.choices
        ],
        "outcome": None,
        "adjudication": None,
        "example": None,
        "error": "",
    }


def _vote(judgment: Judgment, view: PairView) -> Vote:
    titles = {unit.key: unit.title for unit in view.units}
    labels = dict(Reason.choices)
    return Vote(
        judgment,
        [str(labels.get(reason, reason)) for reason in judgment.reasons],
        [titles.get(unit, unit) for unit in judgment.units_that_differ],
    )


def _query(kind: str, at: int | None) -> str:
    return urlencode({"kind": kind, "at": at}) if at else ""
