"""The Judge page: one pair at a time, as a plain form that judge.js makes fast.

A deed on a pair (decide, skip, put aside, undo) answers a browser's form with a
redirect to the next pair. It answers judge.js, which holds the next pair already, with
JSON: 200 done, 409 the pair is no longer yours, 422 invalid input; ``notice`` is the
message to show. Nothing here shows where a response came from: the labeler judges
blind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
)

from annotation.judging.calibration import reason_choices, view_for
from annotation.judging.judgment_checks import InvalidJudgment, OrderNotConfirmed
from annotation.judging.judgments import (
    AlreadyJudged,
    Claim,
    JudgingError,
    LeaseLost,
    NothingToDo,
    claim_ahead,
    claim_slot,
    extend_lease,
    leave_slots,
    record_judgment,
    set_aside,
    skip_slot,
    undo_judgment,
)
from annotation.judging.queue import lease_length
from annotation.judging.session import expression, reveal, session_from
from annotation.models import (
    Project,
    Role,
    Sample,
    SampleContext,
    Turn,
)
from annotation.views.context_drawer import row_count
from annotation.views.door import enter, visit_of, visitor
from annotation.views.forms import JudgmentForm, ShownForm, SkipForm, SlotForm
from annotation.views.guidelines import guideline_to_read
from annotation.views.session import closed_notices

if TYPE_CHECKING:
    from django.http import HttpRequest

# Stored in English, shown in the person's language.
SKIP_REASONS = (
    gettext_noop("I cannot tell"),
    gettext_noop("The input or the label response looks wrong"),
    gettext_noop("I lack the background"),
    gettext_noop("It should not be shown to people"),
)

# A page holds two leases, or a few more after it was left and resumed.
LEASES_OF_A_PAGE = 8


@dataclass(frozen=True)
class Notice:
    """A message to the person beside the pair."""

    text: str
    level: str = "warning"


@dataclass(frozen=True)
class Chosen:
    """The person's input, kept when a post is refused."""

    slot: int | None = None
    verdict: int | None = None
    units: list[str] | None = None
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def judge(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the person's pair, or record their decision about one."""
    project = enter(request, slug, Role.LABELER)
    if request.method == "POST":
        return _record(request, project)
    return _show(request, project)


def _record(request: HttpRequest, project: Project) -> HttpResponse:
    form = JudgmentForm(request.POST)
    if not form.is_valid():
        return _refuse(request, project, _problem(form), _chosen(form))
    try:
        judgment = record_judgment(
            project=project, user=visitor(request), **form.judgment()
        )
    except OrderNotConfirmed:
        return _refuse(request, project, None, _chosen(form), asks_order=True)
    except InvalidJudgment as error:
        return _refuse(request, project, Notice(str(error), "error"), _chosen(form))
    except (AlreadyJudged, LeaseLost) as error:
        return _go_on(request, project, Notice(str(error)), status=409)
    if judgment.is_extra:
        late = _(
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
        return _refuse(request, project, _problem(form))
    data = form.cleaned_data
    try:
        skip_slot(
            project=project,
            slot_id=data["slot"],
            token=data["token"],
            user=visitor(request),
            reason=form.words(),
        )
    except JudgingError as error:
        return _go_on(request, project, Notice(str(error)), status=409)
    return _go_on(request, project)


@require_POST
@login_required
def later(request: HttpRequest, slug: str) -> HttpResponse:
    """Put the pair aside: it goes to the back of the queue."""
    project = enter(request, slug, Role.LABELER)
    form = SlotForm(request.POST)
    if not form.is_valid():
        return _refuse(request, project, _problem(form))
    data = form.cleaned_data
    try:
        set_aside(
            project=project,
            slot_id=data["slot"],
            token=data["token"],
            user=visitor(request),
        )
    except LeaseLost as error:
        return _go_on(request, project, Notice(str(error)), status=409)
    return _go_on(request, project)


@require_POST
@login_required
def undo(request: HttpRequest, slug: str) -> HttpResponse:
    """Take back the newest decision, or the one named ``judgment``.

    The next page shows the person's newest lease, which is the pair taken back.
    """
    project = enter(request, slug, Role.LABELER)
    judgment = request.POST.get("judgment", "")
    if judgment and not (
        judgment.isascii() and judgment.isdigit() and len(judgment) < 19
    ):
        return _go_on(
            request, project, Notice(_("There is no such decision.")), status=409
        )
    try:
        undo_judgment(
            project=project,
            user=visitor(request),
            judgment_id=int(judgment) if judgment else None,
        )
    except JudgingError as error:
        return _go_on(request, project, Notice(str(error)), status=409)
    taken_back = Notice(_("Taken back. Here is the pair again."), "info")
    return _go_on(request, project, taken_back)


@require_POST
@login_required
def ahead(request: HttpRequest, slug: str) -> HttpResponse:
    """Lease the pair after the one on screen, and answer with its fragment.

    The lease of the pair on screen is renewed in full; 409 when it is not the person's.
    ``Judge-Since`` says when that lease began.
    """
    project = enter(request, slug, Role.LABELER)
    form = SlotForm(request.POST)
    if not form.is_valid():
        return HttpResponse(_problem(form).text, status=422)
    if guideline_to_read(request, project):
        # When this pair is done, the page asks for the person's pair and gets that one.
        return HttpResponse(status=204)
    try:
        following = claim_ahead(
            project=project,
            user=visitor(request),
            shown=form.cleaned_data["slot"],
            token=form.cleaned_data["token"],
        )
    except LeaseLost as error:
        return HttpResponse(str(error), status=409)
    response = _show(
        request, project, claim=following.claim, template="annotation/_ahead.html"
    )
    response["Judge-Since"] = following.since.isoformat()
    return response


@require_POST
@login_required
def leave(request: HttpRequest, slug: str) -> HttpResponse:
    """End the leases of a closed page; it is a beacon, so nobody reads the answer."""
    project = enter(request, slug, Role.LABELER)
    fields = [request.POST.getlist(name) for name in ("slot", "token", "since")]
    forms = [
        ShownForm({"slot": slot, "token": token, "since": since})
        for slot, token, since in zip(*fields, strict=False)
    ][:LEASES_OF_A_PAGE]
    leave_slots(
        project=project,
        user=visitor(request),
        leases=[form.lease() for form in forms if form.is_valid()],
    )
    return HttpResponse(status=204)


@require_POST
@login_required
def extend(request: HttpRequest, slug: str) -> HttpResponse:
    """Extend the lease of a page in use; 409 when it is lost."""
    project = enter(request, slug, Role.LABELER)
    form = SlotForm(request.POST)
    if not form.is_valid():
        return HttpResponse(_problem(form).text, status=422)
    try:
        extend_lease(
            project=project,
            slot_id=form.cleaned_data["slot"],
            token=form.cleaned_data["token"],
            user=visitor(request),
        )
    except LeaseLost as error:
        return HttpResponse(str(error), status=409)
    return HttpResponse(status=204)


def _problem(form: SlotForm) -> Notice:
    if "verdict" in form.errors and len(form.errors) == 1:
        return Notice(_("Choose consistent or not consistent first."), "error")
    if "reason" in form.errors:
        return Notice(_("Say why you skip the pair."), "error")
    fields = ", ".join(form.errors)
    return Notice(
        _("Nothing was recorded; these fields are not valid: %(fields)s.")
        % {"fields": fields},
        "error",
    )


def _chosen(form: JudgmentForm) -> Chosen:
    data = form.cleaned_data
    return Chosen(
        slot=data.get("slot"),
        verdict=data.get("verdict"),
        units=form.units_that_differ(),
        reasons=data.get("reasons", []),
        seconds=data.get("seconds", 0.0),
    )


def _wants_json(request: HttpRequest) -> bool:
    return request.headers.get("Accept", "").startswith("application/json")


def _json(notice: Notice | None, status: int, **more: object) -> HttpResponse:
    message = {"text": notice.text, "level": notice.level} if notice else None
    return JsonResponse({"notice": message, **more}, status=status)


def _go_on(
    request: HttpRequest,
    project: Project,
    notice: Notice | None = None,
    *,
    status: int = 200,
) -> HttpResponse:
    """Answer a deed that is done, or that is no longer possible."""
    if _wants_json(request):
        return _json(notice, status)
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


def _refuse(
    request: HttpRequest,
    project: Project,
    notice: Notice | None,
    chosen: Chosen | None = None,
    *,
    asks_order: bool = False,
) -> HttpResponse:
    """Answer invalid input: show the pair again with everything typed."""
    if _wants_json(request):
        return _json(notice, 422, asks_order=asks_order)
    return _show(request, project, notice, chosen, asks_order=asks_order, status=422)


def _show(
    request: HttpRequest,
    project: Project,
    notice: Notice | None = None,
    chosen: Chosen | None = None,
    *,
    claim: Claim | NothingToDo | None = None,
    asks_order: bool = False,
    template: str = "",
    status: int = 200,
) -> HttpResponse:
    """Show the person's pair, or why there is none."""
    # Ask before a pair is handed out, never during a decision.
    if claim is None and chosen is None:
        words = notice.text if notice else ""
        if page := guideline_to_read(request, project, words):
            return page
    claim = claim or claim_slot(project=project, user=visitor(request))
    is_fragment = bool(request.htmx or template)  # type: ignore[attr-defined]
    facts: dict[str, Any] = {
        "is_fragment": is_fragment,
        "is_stage": not isinstance(claim, NothingToDo) or not template,
        "notice": notice,
        "nothing": None,
    }
    if isinstance(claim, NothingToDo):
        facts |= {"nothing": claim} | _past(request, project)
        if claim.kind == "no pairs":
            facts |= _first_steps(request, project)
    else:
        # The input belongs to the pair it was typed for.
        same = chosen is not None and chosen.slot == claim.slot.pk
        facts |= _pair_facts(
            claim,
            chosen if chosen and same else Chosen(),
            asks_order=asks_order and same,
        )
        facts |= _past(request, project, claim.pair.turn.sample_id)
    if not template:
        template = "annotation/_stage.html" if is_fragment else "annotation/judge.html"
    return render(request, template, facts, status=status)


def _first_steps(request: HttpRequest, project: Project) -> dict[str, object]:
    """Return what a project without pairs lacks, and whether this person may add it."""
    visit = visit_of(request, project.slug)
    return {
        "has_samples": Sample.objects.filter(project=project).approved().exists(),
        "may_import": visit.allows(Role.CURATOR),
        "may_draw": visit.allows(Role.TRAINER),
    }


def _pair_facts(claim: Claim, chosen: Chosen, *, asks_order: bool) -> dict[str, object]:
    pair, turn = claim.pair, claim.pair.turn
    slot = claim.slot
    assert slot.holder_id is not None
    assert slot.leased_at is not None
    view = view_for(project=slot.project, pair=pair, user_id=slot.holder_id)
    picked = view.proposed_reasons if chosen.units is None else chosen.reasons
    return {
        "claim": claim,
        "since": slot.leased_at.isoformat(),
        # Both times are from the database's clock.
        "lease_left": int((claim.leased_until - slot.leased_at).total_seconds()),
        "extend_seconds": int(
            lease_length(slot.project, ahead=True).total_seconds() / 3
        ),
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
    """Return the person's session and the counts of the sample.

    One query for everything the page shows; one more where the project reveals the
    source of the previous pair.
    """
    here = {"session": expression(project=project, user=visitor(request))}
    row: dict[str, Any]
    if sample_id is None:
        row = dict(Project.objects.filter(pk=project.pk).values(**here).get())
    else:
        row = dict(
            Sample.objects.filter(pk=sample_id)
            .values(
                **here,
                turn_count=row_count(Turn),
                context_count=row_count(SampleContext),
            )
            .get()
        )
    session = session_from(
        row.pop("session"), project=project, closed=closed_notices(request)
    )
    revealed = reveal(project=project, session=session)
    return {**row, "session": session, "revealed": revealed}
