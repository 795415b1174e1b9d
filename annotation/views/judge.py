"""The Judge page: one pair at a time, as a plain form that htmx makes quick.

A post answers with the next pair: as a fragment to htmx, by a redirect to everybody else.
Nothing here tells where a response came from; the labeler judges blind.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, OuterRef, Subquery, Value
from django.db.models.functions import Coalesce
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from annotation.blocks import Block, blocks_of_text
from annotation.calibration import reason_choices, view_for
from annotation.forms import JudgmentForm, SkipForm, SlotForm
from annotation.judging import (
    AlreadyJudged,
    Claim,
    InvalidJudgment,
    JudgingError,
    LeaseLost,
    NothingToDo,
    OrderNotConfirmed,
    claim_slot,
    extend_lease,
    record_judgment,
    release_slot,
    skip_slot,
    undo_judgment,
)
from annotation.models import (
    InputKind,
    Pair,
    Project,
    Role,
    Sample,
    SampleContext,
    Touch,
    Turn,
)
from annotation.sessions import expression, reveal, session_from
from annotation.views.door import enter
from annotation.views.guidelines import guideline_to_read
from annotation.views.session import closed_notices

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest

SKIP_REASONS = (
    "I cannot tell",
    "The input or the label response looks wrong",
    "I lack the background",
    "It should not be shown to people",
)


@dataclass(frozen=True)
class Notice:
    text: str
    level: str = "warning"


@dataclass(frozen=True)
class Chosen:
    """What the person had filled in when a post came back to them."""

    slot: int | None = None
    verdict: int | None = None
    units: list[str] | None = None
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def judge(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the person's pair, or record what they decided about one."""
    project = enter(request, slug, Role.LABELER)
    if request.method == "POST":
        return _record(request, project)
    return _show(request, project)


def _record(request: HttpRequest, project: Project) -> HttpResponse:
    form = JudgmentForm(request.POST)
    if not form.is_valid():
        return _show(request, project, _problem(form), _chosen(form), status=422)
    data = form.cleaned_data
    try:
        judgment = record_judgment(
            slot_id=data["slot"],
            token=data["token"],
            user=_user(request),
            verdict=data["verdict"],
            reasons=data["reasons"],
            units_that_differ=form.units(),
            seconds_spent=data["seconds"],
            order_confirmed=data["order_confirmed"],
        )
    except OrderNotConfirmed:
        return _show(request, project, None, _chosen(form), asks_order=True, status=422)
    except InvalidJudgment as error:
        return _show(
            request, project, Notice(str(error), "error"), _chosen(form), status=422
        )
    except (AlreadyJudged, LeaseLost) as error:
        return _go_on(request, project, Notice(str(error)))
    if judgment.is_extra:
        late = (
            "That judgment came after the pair had passed on. It is kept as an extra "
            "and does not count."
        )
        return _go_on(request, project, Notice(late))
    return _go_on(request, project)


@require_POST
@login_required
def skip(request: HttpRequest, slug: str) -> HttpResponse:
    project = enter(request, slug, Role.LABELER)
    form = SkipForm(request.POST)
    if not form.is_valid():
        return _show(request, project, _problem(form), status=422)
    data = form.cleaned_data
    try:
        skip_slot(
            slot_id=data["slot"],
            token=data["token"],
            user=_user(request),
            reason=form.words(),
        )
    except JudgingError as error:
        return _go_on(request, project, Notice(str(error)))
    return _go_on(request, project)


@require_POST
@login_required
def undo(request: HttpRequest, slug: str) -> HttpResponse:
    """Take back the newest decision, or the one named ``judgment``."""
    project = enter(request, slug, Role.LABELER)
    named = request.POST.get("judgment", "")
    if named and not (named.isascii() and named.isdigit() and len(named) < 19):
        return _go_on(request, project, Notice("There is no such decision."))
    try:
        claim = undo_judgment(
            project=project,
            user=_user(request),
            judgment_id=int(named) if named else None,
        )
    except JudgingError as error:
        return _go_on(request, project, Notice(str(error)))
    taken_back = Notice("Taken back. Here is the pair again.", "info")
    if not request.htmx:  # type: ignore[attr-defined]
        # The page shows the newest lease, which is this one.
        return _go_on(request, project, taken_back)
    return _show(request, project, taken_back, found=claim)


@require_POST
@login_required
def release(request: HttpRequest, slug: str) -> HttpResponse:
    """Give the pair back without a word."""
    project = enter(request, slug, Role.LABELER)
    form = SlotForm(request.POST)
    if not form.is_valid():
        return _show(request, project, _problem(form), status=422)
    # A lost lease means that somebody else has the pair, which is what was asked for.
    with suppress(LeaseLost):
        release_slot(
            slot_id=form.cleaned_data["slot"],
            token=form.cleaned_data["token"],
            user=_user(request),
        )
    return redirect("annotation:home")


@require_POST
@login_required
def extend(request: HttpRequest, slug: str) -> HttpResponse:
    """Prolong the lease of a page somebody is working on; 409 when it is lost."""
    enter(request, slug, Role.LABELER)
    form = SlotForm(request.POST)
    if not form.is_valid():
        return HttpResponse("slot and token are needed", status=422)
    try:
        extend_lease(
            slot_id=form.cleaned_data["slot"],
            token=form.cleaned_data["token"],
            user=_user(request),
        )
    except LeaseLost as error:
        return HttpResponse(str(error), status=409)
    return HttpResponse(status=204)


@require_safe
@login_required
def context(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show the turns before a pair, and the thinking contexts, of a pair once met."""
    project = enter(request, slug, Role.LABELER)
    met = Touch.objects.filter(user=_user(request)).values("pair_id")
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
        "title": "Background of this pair",
    }
    return _drawer(request, "annotation/judge_context.html", facts)


def _drawer(
    request: HttpRequest, template: str, given: Mapping[str, object]
) -> HttpResponse:
    """Answer with a drawer's content, or with a page of its own around it."""
    is_fragment = bool(request.htmx)  # type: ignore[attr-defined]
    frame = "annotation/_drawer.html" if is_fragment else "base.html"
    facts = {**given, "is_fragment": is_fragment, "frame": frame}
    return render(request, template, facts)


def blocks_of_turn(turn: Turn) -> tuple[Block, ...]:
    return blocks_of_text(
        turn.response, inside_thinking=turn.input_kind == InputKind.OBSERVATION
    )


def _user(request: HttpRequest) -> User:
    assert request.user.is_authenticated
    return request.user


def _problem(form: SlotForm) -> Notice:
    if "verdict" in form.errors and len(form.errors) == 1:
        return Notice("Choose consistent or not consistent first.", "error")
    if "reason" in form.errors:
        return Notice("Say why you skip the pair.", "error")
    fields = ", ".join(form.errors)
    return Notice(
        f"Nothing was recorded: the form was not understood ({fields}).", "error"
    )


def _chosen(form: JudgmentForm) -> Chosen:
    data = form.cleaned_data
    return Chosen(
        slot=data.get("slot"),
        verdict=data.get("verdict"),
        units=form.units(),
        reasons=data.get("reasons", []),
        seconds=data.get("seconds", 0.0),
    )


def _go_on(
    request: HttpRequest, project: Project, notice: Notice | None = None
) -> HttpResponse:
    """Answer a deed with the next pair."""
    if request.htmx:  # type: ignore[attr-defined]
        return _show(request, project, notice)
    if notice:
        messages.add_message(
            request,
            {"warning": messages.WARNING, "error": messages.ERROR}.get(
                notice.level, messages.INFO
            ),
            notice.text,
        )
    response = redirect("annotation:judge", project.slug)
    response.status_code = 303
    return response


def _show(
    request: HttpRequest,
    project: Project,
    notice: Notice | None = None,
    chosen: Chosen | None = None,
    *,
    found: Claim | NothingToDo | None = None,
    asks_order: bool = False,
    status: int = 200,
) -> HttpResponse:
    """Show the pair in the person's hands, or why there is none."""
    # Before a pair is handed out, and never in the middle of a decision.
    if found is None and chosen is None:
        words = notice.text if notice else ""
        if page := guideline_to_read(request, project, words):
            return page
    found = found or claim_slot(project=project, user=_user(request))
    facts: dict[str, Any] = {
        "is_fragment": bool(request.htmx),  # type: ignore[attr-defined]
        "is_stage": True,
        "notice": notice,
        "nothing": None,
    }
    if isinstance(found, NothingToDo):
        facts |= {"nothing": found} | _past(request, project)
    else:
        # What was filled in belongs to the pair it was filled in for.
        same = chosen is not None and chosen.slot == found.slot.pk
        facts |= _pair_facts(
            found,
            chosen if chosen and same else Chosen(),
            asks_order=asks_order and same,
        )
        facts |= _past(request, project, found.pair.turn.sample_id)
    template = (
        "annotation/_stage.html" if facts["is_fragment"] else "annotation/judge.html"
    )
    return render(request, template, facts, status=status)


def _pair_facts(claim: Claim, chosen: Chosen, *, asks_order: bool) -> dict[str, object]:
    pair, turn = claim.pair, claim.pair.turn
    slot = claim.slot
    assert slot.holder_id is not None
    view = view_for(project=slot.project, pair=pair, user_id=slot.holder_id)
    picked = view.proposed_reasons if chosen.units is None else chosen.reasons
    return {
        "claim": claim,
        "pair": pair,
        "turn": turn,
        "sample": turn.sample,
        "view": view,
        "chosen": chosen,
        "asks_order": asks_order,
        "reasons": [
            {"value": value, "label": label, "is_chosen": value in picked}
            for value, label in reason_choices(is_blind=view.is_blind)
        ],
        "skip_reasons": SKIP_REASONS,
    }


def _past(
    request: HttpRequest, project: Project, sample_id: int | None = None
) -> dict[str, object]:
    """Return the person's session and the sample's counts.

    One query for all of it, whatever the page shows; one more where the project
    reveals what the pair before came from.
    """
    here = {"found": expression(project=project, user=_user(request))}
    row: dict[str, Any]
    if sample_id is None:
        row = dict(Project.objects.filter(pk=project.pk).values(**here).get())
    else:
        row = dict(
            Sample.objects.filter(pk=sample_id)
            .values(
                **here,
                turn_count=_count(Turn),
                context_count=_count(SampleContext),
            )
            .get()
        )
    session = session_from(
        row.pop("found"), project=project, closed=closed_notices(request)
    )
    revealed = reveal(project=project, session=session)
    return {**row, "session": session, "revealed": revealed}


def _count(model: type[Turn] | type[SampleContext]) -> Coalesce:
    """Count the rows of ``model`` that belong to the sample of the outer query."""
    rows = (
        model.objects.filter(sample=OuterRef("pk"))
        .order_by()
        .values("sample")
        .annotate(n=Count("pk"))
        .values("n")
    )
    return Coalesce(Subquery(rows), Value(0))
