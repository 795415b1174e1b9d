"""The Write pages: a person's drafts, and the editor that keeps one on the server.

The editor is one form. Its buttons post it whole, so it works without JavaScript; with
it, htmx posts the same form while the person types and gets back what is wrong where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from actions.definitions import DefinitionError
from actions.json_values import JSONError
from annotation.contexts import context_to_json
from annotation.drafting import (
    Content,
    change_content,
    check_turns,
    content_from_post,
    definitions_of,
    document_of,
    empty_content,
    existing_contexts,
    read_definitions,
    typed_contexts,
)
from annotation.interchange import sample_to_json, save_sample
from annotation.models import (
    Draft,
    Project,
    Role,
    Sample,
    SampleStatus,
    Scope,
    Situation,
    ThinkingContext,
)
from annotation.reviewing import FIXES, finish_fix, notes_of_draft
from annotation.sample_format import SampleError as InvalidSample
from annotation.samples import SampleError, StaleDraft, save_draft, submit_sample
from annotation.views.door import enter

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.http import HttpRequest

    from actions.tags import JSON

DRAFTS = 100
CONTEXTS = 50


@require_safe
@login_required
def drafts(request: HttpRequest, slug: str) -> HttpResponse:
    """List the person's drafts, and their samples that came back or wait."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    mine = Sample.objects.filter(project=project, author_id=request.user.pk)
    facts = {
        "drafts": [
            (draft, check_turns(draft.content, {}))
            for draft in Draft.objects.filter(
                project=project, author_id=request.user.pk
            ).select_related("sample")[:DRAFTS]
        ],
        "returned": mine.filter(status=SampleStatus.RETURNED).order_by("-pk")[:DRAFTS],
        "submitted": mine.exclude(
            status__in=[SampleStatus.RETURNED, SampleStatus.DRAFT]
        ).order_by("-pk")[:20],
    }
    return render(request, "annotation/write.html", facts)


@require_POST
@login_required
def new(request: HttpRequest, slug: str) -> HttpResponse:
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    draft = Draft.objects.create(
        project=project, author=_user(request), content=empty_content()
    )
    return redirect("annotation:draft", slug, draft.pk)


@require_POST
@login_required
def revise(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Open a draft of one's own returned sample; an open one is gone on with."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    sample = get_object_or_404(
        Sample.objects.visible_to(request.user),
        project=project,
        author_id=request.user.pk,
        status__in=[SampleStatus.RETURNED, SampleStatus.DRAFT],
        pk=pk,
    )
    draft = Draft.objects.filter(sample=sample, author_id=request.user.pk).first()
    if draft is None:
        content: dict[str, JSON] = {**sample_to_json(sample)}
        content["contexts"] = [
            {"existing": context.pk}
            for context in sample.contexts.order_by("samplecontext__position")
        ]
        draft = Draft.objects.create(
            project=project, author=_user(request), sample=sample, content=content
        )
    return redirect("annotation:draft", slug, draft.pk)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def draft(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Edit a draft; a post is one of the form's buttons."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    draft = _mine(request, project, pk)
    if request.method != "POST":
        return _editor(request, project, draft, draft.content)
    content = content_from_post(request.POST, draft.content)
    deed = request.POST.get("do", "save")
    content = change_content(content, deed)
    try:
        draft = save_draft(draft=draft, version=version_of(request), content=content)
    except StaleDraft as conflict:
        return show_conflict(request, project, conflict, content)
    if deed == "submit":
        return _submit(request, project, draft)
    place = deed.partition(":")[0]
    anchor = {"add-context": "#contexts", "remove-context": "#contexts"}.get(place, "")
    if place.startswith("add-") and not anchor:
        anchor = f"#turn-{len(content['turns'])}"  # type: ignore[arg-type]
    return redirect(reverse("annotation:draft", args=[slug, draft.pk]) + anchor)


@require_POST
@login_required
def save(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Keep what is being typed, and answer with what is wrong and where."""
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    draft = _mine(request, project, pk)
    content = content_from_post(request.POST, draft.content)
    conflict = None
    try:
        draft = save_draft(draft=draft, version=version_of(request), content=content)
    except StaleDraft as stale:
        conflict, draft = stale, stale.draft
    facts = _facts(project, draft, content) | {
        "conflict": conflict,
        "is_fragment": True,
    }
    return render(request, "annotation/_draft_checks.html", facts)


@require_POST
@login_required
def delete(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    project = enter(request, slug, Role.LABELER, Role.CURATOR)
    _mine(request, project, pk).delete()
    messages.info(request, "The draft is deleted.")
    return redirect("annotation:write", slug)


def _submit(request: HttpRequest, project: Project, draft: Draft) -> HttpResponse:
    user = _user(request)
    external_id = draft.sample.external_id if draft.sample else f"written-{draft.pk}"
    known = {
        context.pk: context_to_json(context)
        for context in ThinkingContext.objects.filter(
            project=project, pk__in=existing_contexts(draft.content)
        )
    }
    try:
        with transaction.atomic():
            document = document_of(draft.content, known, external_id)
            if FIXES in draft.content:
                why = request.POST.get("why", "")
                finish_fix(draft=draft, document=document, editor=user, why=why)
            else:
                sample = save_sample(
                    project=project,
                    document=document,
                    author=user,
                    status=None if draft.sample else SampleStatus.DRAFT,
                    sample=draft.sample,
                )
                submit_sample(sample=sample, user=user)
            draft.delete()
    except (InvalidSample, SampleError, JSONError, DefinitionError) as error:
        return _editor(request, project, draft, draft.content, error=error, status=422)
    if FIXES in draft.content and draft.sample:
        messages.success(request, gettext("The fix is stored; the author stays."))
        review = reverse("annotation:review", args=[project.slug])
        return redirect(f"{review}?at={draft.sample.pk}")
    messages.success(request, "Submitted: a curator looks at it next.")
    return redirect("annotation:write", project.slug)


def _mine(request: HttpRequest, project: Project, pk: int) -> Draft:
    return get_object_or_404(
        Draft.objects.select_related("sample"),
        project=project,
        author_id=request.user.pk,
        pk=pk,
    )


def version_of(request: HttpRequest) -> int:
    """Return the version the page began from; nonsense is older than everything."""
    text = request.POST.get("version", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def show_conflict(
    request: HttpRequest, project: Project, conflict: StaleDraft, content: Content
) -> HttpResponse:
    """Show what was posted and what the server has, when another save came between."""
    return _editor(
        request, project, conflict.draft, content, conflict=conflict, status=409
    )


def _editor(
    request: HttpRequest,
    project: Project,
    draft: Draft,
    content: Content,
    *,
    error: Exception | None = None,
    conflict: StaleDraft | None = None,
    status: int = 200,
) -> HttpResponse:
    facts = _facts(project, draft, content) | {
        "error": error,
        "why": request.POST.get("why", ""),
        "conflict": conflict,
        "is_fragment": False,
        "situations": Situation.choices,
        "scopes": Scope.choices,
        "scenarios": Sample.objects.filter(project=project)
        .exclude(scenario="")
        .order_by("scenario")
        .values_list("scenario", flat=True)
        .distinct()[:50],
    }
    return render(request, "annotation/draft.html", facts, status=status)


def _facts(project: Project, draft: Draft, content: Content) -> dict[str, object]:
    chosen = existing_contexts(content)
    # The newest contexts, and every one the draft uses, however old it is.
    contexts = list(
        ThinkingContext.objects.filter(project=project).order_by("-pk")[:CONTEXTS]
    )
    listed = {context.pk for context in contexts}
    contexts += ThinkingContext.objects.filter(
        project=project, pk__in=set(chosen) - listed
    )
    typed = typed_contexts(content)
    actions: list[JSON] = [
        action
        for context in contexts
        if context.pk in chosen
        for action in context.actions
    ]
    for context in typed:
        if not context.problem:
            actions += read_definitions(context.actions)
    definitions = definitions_of(actions)
    turns = check_turns(content, definitions)
    return {
        "draft": draft,
        "content": content,
        "turns": turns,
        "notes": notes_of_draft(draft, turns),
        "typed": typed,
        # The draft's own come first, so that a long list hides none of them.
        "contexts": sorted(
            ((context, context.pk in chosen) for context in contexts),
            key=lambda pair: not pair[1],
        ),
        "actions": [
            {
                "name": one.name,
                "parameters": [parameter.name for parameter in one.parameters],
            }
            for one in definitions.values()
        ],
    }


def _user(request: HttpRequest) -> User:
    assert request.user.is_authenticated
    return request.user
