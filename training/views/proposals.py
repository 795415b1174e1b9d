"""A policy's proposal for the next response of a draft: ask, watch, take over.

The buttons belong to the editor's form and post all of it. So the policy reads what was
typed a moment ago, and taking the text over saves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from annotation.authoring.drafts import content_from_post
from annotation.authoring.samples import StaleDraft, save_draft
from annotation.models import Draft, InputKind, Role
from annotation.text.blocks import blocks_of_text
from annotation.views.bodies import LONG_TEXT, takes
from annotation.views.door import enter
from annotation.views.write import show_conflict, version_of
from training.models import Proposal, ProposalState
from training.policies.proposals import (
    ProposalRefused,
    ask_proposal,
    is_overdue,
    take_over,
)

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


@takes(LONG_TEXT)
@require_POST
@login_required
def propose(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Ask the current policy for the response to the turn named ``propose``."""
    draft = _draft(request, slug, pk)
    number_text = request.POST.get("propose", "")
    is_number = (
        number_text.isascii() and number_text.isdigit() and len(number_text) < 10
    )
    turn = int(number_text) - 1 if is_number else -1
    content = content_from_post(request.POST, draft.content)
    assert request.user.is_authenticated
    try:
        proposal = ask_proposal(
            project=draft.project,
            draft=draft,
            content=content,
            turn=turn,
            user=request.user,
        )
    except ProposalRefused as refused:
        return _show(request, draft, turn, None, problem=str(refused))
    return _show(request, draft, turn, proposal)


@never_cache
@require_safe
@login_required
def proposal(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show the progress of a proposal; the fragment polls until it is there."""
    proposal = _proposal(request, slug, pk)
    return _show(request, proposal.draft, proposal.turn, proposal)


@takes(LONG_TEXT)
@require_POST
@login_required
def use(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Put the proposed text into the draft, with everything else in the form."""
    proposal = _proposal(request, slug, pk)
    if proposal.state != ProposalState.READY:
        raise Http404("There is no proposed text.")
    draft = proposal.draft
    content = content_from_post(request.POST, draft.content)
    turns = content["turns"]
    if not isinstance(turns, list) or proposal.turn >= len(turns):
        gone = _("The turn this was proposed for is no longer in the draft.")
        return _show(request, draft, proposal.turn, proposal, problem=gone)
    content = take_over(content, proposal)
    try:
        save_draft(
            project=draft.project,
            user=proposal.draft.author,
            draft=draft,
            version=version_of(request),
            content=content,
        )
    except StaleDraft as conflict:
        return show_conflict(request, draft.project, conflict, content)
    address = reverse("annotation:draft", args=[slug, draft.pk])
    return redirect(f"{address}#turn-{proposal.turn + 1}")


def _draft(request: HttpRequest, slug: str, pk: int) -> Draft:
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    return get_object_or_404(
        Draft.objects.select_related("project"),
        project=project,
        author_id=request.user.pk,
        pk=pk,
    )


def _proposal(request: HttpRequest, slug: str, pk: int) -> Proposal:
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    return get_object_or_404(
        Proposal.objects.select_related("draft__project", "checkpoint"),
        draft__project=project,
        draft__author_id=request.user.pk,
        pk=pk,
    )


def _show(
    request: HttpRequest,
    draft: Draft,
    turn: int,
    proposal: Proposal | None,
    *,
    problem: str = "",
) -> HttpResponse:
    is_ready = proposal is not None and proposal.state == ProposalState.READY
    if proposal is not None and is_overdue(proposal):
        problem = _("No worker took this up. Is one running?")
    elif proposal is not None and proposal.state == ProposalState.FAILED:
        problem = problem or proposal.error
    is_fragment = bool(request.htmx)  # type: ignore[attr-defined]
    facts = {
        "draft": draft,
        "number": turn + 1,
        "proposal": proposal,
        "problem": problem,
        "is_ready": is_ready,
        "is_fragment": is_fragment,
        "blocks": blocks_of_text(
            proposal.text, inside_thinking=_kind(proposal) == InputKind.OBSERVATION
        )
        if proposal is not None and is_ready
        else (),
    }
    template = "training/_proposal.html" if is_fragment else "training/proposal.html"
    return render(request, template, facts)


def _kind(proposal: Proposal) -> str:
    return str(proposal.document["turns"][-1]["input"]["kind"])
