"""The list of a person's drafts, and how a draft begins and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from annotation.access import Forbidden
from annotation.authoring.draft_checks import check_turns
from annotation.authoring.drafts import (
    Content,
    contexts_of,
    empty_content,
    texts_of,
    turns_of,
    typed_contexts,
)
from annotation.authoring.effective_fields import without_acting
from annotation.authoring.export import sample_to_json
from annotation.authoring.paste import PasteError, read_pasted
from annotation.authoring.situations import NoPlace, derive
from annotation.authoring.writing import (
    delete_draft,
    derive_sample,
    revise_sample,
    start_draft,
)
from annotation.models import Draft, Role, Sample, SampleStatus, Situation
from annotation.views.bodies import LONG_TEXT, takes
from annotation.views.door import enter, visit_of, visitor
from annotation.views.write import left_out_in_words, tell_left_out

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from actions.tags import JSON

DRAFTS = 100
HANDED_IN = 20


@require_safe
@login_required
def drafts(request: HttpRequest, slug: str) -> HttpResponse:
    """List the person's drafts, and their returned and submitted samples."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    mine = Sample.objects.filter(project=project, author_id=request.user.pk)
    facts = {
        "drafts": [
            (draft, _opening(draft.content), _situation(draft.content))
            for draft in Draft.objects.filter(
                project=project, author_id=request.user.pk
            ).select_related("sample")[:DRAFTS]
        ],
        "returned": mine.filter(status=SampleStatus.RETURNED)
        .with_open_comments()
        .order_by("-pk")[:DRAFTS],
        "submitted": mine.exclude(
            status__in=[SampleStatus.RETURNED, SampleStatus.DRAFT]
        ).order_by("-pk")[:HANDED_IN],
    }
    return render(request, "annotation/write.html", facts)


def _opening(content: Content) -> str:
    return next((texts_of(turn).text for turn in turns_of(content)), "")


def _situation(content: Content) -> str:
    labels = dict(Situation.choices)
    value = str(content.get("situation", ""))
    return str(labels.get(value, value))


@require_POST
@login_required
def new(request: HttpRequest, slug: str) -> HttpResponse:
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    draft, _left_out = start_draft(
        project=project, user=visitor(request), content=empty_content()
    )
    return redirect("annotation:draft", slug, draft.pk)


@require_POST
@login_required
def revise(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Open a draft of one's own returned sample, or continue the existing one."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    sample = get_object_or_404(
        Sample.objects.visible_to(request.user),
        project=project,
        author_id=request.user.pk,
        status__in=[SampleStatus.RETURNED, SampleStatus.DRAFT],
        pk=pk,
    )
    draft = revise_sample(project=project, user=visitor(request), sample=sample)
    return redirect("annotation:draft", slug, draft.pk)


@require_POST
@login_required
def duplicate(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Make a draft of another situation from a sample that the person may read."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    sample = get_object_or_404(
        Sample.objects.visible_to(request.user), project=project, pk=pk
    )
    curates = visit_of(request, slug).allows(Role.CURATOR)
    if not curates and sample.author_id != request.user.pk:
        raise Forbidden("A sample of another author", (Role.CURATOR,))
    document: dict[str, JSON] = {**sample_to_json(sample)}
    try:
        derived = derive(document, request.POST.get("situation", ""))
    except NoPlace as problem:
        messages.warning(request, str(problem))
        return redirect("annotation:sample", slug, pk)
    draft, left_out = derive_sample(
        project=project, user=visitor(request), sample=sample, content=derived.content
    )
    tell_left_out(request, left_out)
    address = reverse("annotation:draft", args=[slug, draft.pk])
    return redirect(f"{address}#turn-{derived.turn}")


@takes(LONG_TEXT)
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def paste(request: HttpRequest, slug: str) -> HttpResponse:
    """Preview a pasted conversation; then make it a draft."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    text = request.POST.get("text", "")
    facts: dict[str, object] = {
        "text": text,
        "error": None,
        "turns": None,
        "left_out": "",
    }
    if request.method != "POST":
        return render(request, "annotation/paste.html", facts)
    try:
        content = read_pasted(text)
    except PasteError as error:
        facts["error"] = error
        return render(request, "annotation/paste.html", facts, status=422)
    if request.POST.get("do") == "make":
        draft, left_out = start_draft(
            project=project, user=visitor(request), content=content
        )
        tell_left_out(request, left_out)
        return redirect("annotation:draft", slug, draft.pk)
    if not visit_of(request, slug).allows(Role.CURATOR):
        content, places = without_acting(content)
        facts["left_out"] = left_out_in_words(places) if places else ""
    typed = typed_contexts(content)
    facts |= {"turns": check_turns(content, contexts_of([], typed)), "typed": typed}
    return render(request, "annotation/paste.html", facts)


@require_POST
@login_required
def delete(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    draft = get_object_or_404(Draft, project=project, author_id=request.user.pk, pk=pk)
    delete_draft(project=project, user=visitor(request), draft=draft)
    messages.info(request, _("The draft is deleted."))
    return redirect("annotation:write", slug)
