"""Review: submitted samples one at a time, oldest first, or many at once.

A deed answers with the next sample of the same filters. static/js/review.js adds keys;
without it everything is a form or a link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import Count, Max, Min, OuterRef, Q, Subquery
from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext, ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from annotation.access import Forbidden
from annotation.authoring.anchors import Note
from annotation.authoring.effective_fields import acting_parts
from annotation.authoring.export import sample_to_json
from annotation.authoring.review import (
    BULK_LIMIT,
    approve_in_bulk,
    comment_on,
    plan_bulk,
    resolve_comment,
    start_fix,
)
from annotation.authoring.samples import SampleError, approve_sample, return_sample
from annotation.authoring.versions import compare_documents
from annotation.models import (
    Comment,
    Project,
    Role,
    Sample,
    SampleStatus,
    SampleVersion,
)
from annotation.views.door import enter, visit_of, visitor
from annotation.views.forms import (
    CommentForm,
    KeysForm,
    ReturnForm,
    ReviewFilterForm,
    VersionsForm,
)
from annotation.views.samples import READERS, sample_facts

if TYPE_CHECKING:
    from django.http import HttpRequest

LEFT_OUT_SHOWN = 200
VERSIONS = 200


@never_cache
@require_safe
@login_required
def review(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the oldest submitted sample of the filters, or the first from ``at`` on."""
    return _desk(request, enter(request, slug, Role.CURATOR))


def _desk(
    request: HttpRequest,
    project: Project,
    *,
    error: str = "",
    typed: dict[str, str] | None = None,
    status: int = 200,
) -> HttpResponse:
    form = ReviewFilterForm(request.GET)
    lookups = form.lookups()
    waiting = Sample.objects.filter(project=project, status=SampleStatus.SUBMITTED)
    versions = (
        SampleVersion.objects.filter(sample=OuterRef("pk"))
        .order_by()
        .values("sample")
        .annotate(n=Count("pk"))
        .values("n")
    )
    rows = (
        waiting.filter(**lookups)
        .select_related("author", "project")
        .annotate(version_count=Subquery(versions))
        .order_by("pk")
    )
    at = form.cleaned_data.get("at") or 0
    # After the last sample start again at the first, so that none is skipped.
    sample = rows.filter(pk__gte=at).first() or (rows.first() if at else None)
    chosen, key = Q(**lookups), sample.pk if sample else 0
    queue = waiting.aggregate(
        total=Count("pk", filter=chosen),
        before=Count("pk", filter=chosen & Q(pk__lt=key)),
        next=Min("pk", filter=chosen & Q(pk__gt=key)),
        previous=Max("pk", filter=chosen & Q(pk__lt=key)),
        scenarios=ArrayAgg("scenario", distinct=True, default=[]),
        authors=ArrayAgg("author__username", distinct=True, default=[]),
    )
    is_admin = visit_of(request, project.slug).allows(Role.ADMIN)
    facts = {
        "form": form,
        "queue": queue,
        "number": queue["before"] + 1,
        "query": form.query(at=key or None),
        "filters": form.query(),
        "is_filtered": bool(lookups),
        "next": form.query(at=queue["next"]) if queue["next"] else "",
        "previous": form.query(at=queue["previous"]) if queue["previous"] else "",
        "scenarios": [one for one in queue["scenarios"] if one],
        "authors": [one for one in queue["authors"] if one],
        "sample": None,
        "nobody_revises": Sample.objects.filter(project=project)
        .that_nobody_can_revise()
        .exists(),
        "error": error,
        "typed": {"comment": "", "text": "", "place": "", "sheet": ""} | (typed or {}),
    }
    if sample:
        is_own = sample.author_id == request.user.pk
        desk = reverse("annotation:review", args=[project.slug])
        facts |= sample_facts(sample, with_counts=False) | {
            "back": f"{desk}?{facts['query']}",
            "can_comment": True,
            "may_resolve": True,
            "may_approve": is_admin or not is_own,
        }
    return render(request, "annotation/review.html", facts, status=status)


@require_POST
@login_required
def approve(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    sample = _sample(request, slug, pk)
    try:
        approve_sample(project=sample.project, sample=sample, user=visitor(request))
    except (SampleError, Forbidden) as error:
        messages.error(request, str(error))
        return _to_desk(request, slug, pk)
    messages.success(request, gettext("%(sample)s is approved.") % {"sample": sample})
    return _to_desk(request, slug, pk + 1)


@require_POST
@login_required
def return_(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    sample = _sample(request, slug, pk)
    form = ReturnForm(request.POST)
    typed = {"comment": request.POST.get("comment", ""), "sheet": "return"}
    if not form.is_valid():
        return _desk(
            request,
            sample.project,
            error=str(form.errors["comment"][0]),
            typed=typed,
            status=422,
        )
    try:
        return_sample(
            project=sample.project,
            sample=sample,
            user=visitor(request),
            comment=form.cleaned_data["comment"],
        )
    except SampleError as error:
        return _desk(request, sample.project, error=str(error), typed=typed, status=422)
    messages.success(
        request, gettext("%(sample)s is returned to its author.") % {"sample": sample}
    )
    return _to_desk(request, slug, pk + 1)


@require_POST
@login_required
def comment(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Comment on a place; answer with the page at that place."""
    sample = _sample(request, slug, pk)
    form = CommentForm(request.POST)
    typed = {
        "text": request.POST.get("text", ""),
        "place": request.POST.get("place", ""),
        "sheet": "comment",
    }
    error = ""
    if form.is_valid():
        position, anchor = form.position_and_anchor()
        try:
            note = comment_on(
                project=sample.project,
                sample=sample,
                user=visitor(request),
                text=form.cleaned_data["text"],
                position=position,
                anchor=anchor,
            )
        except SampleError as refused:
            error = str(refused)
        else:
            to = _to_desk(request, slug, pk)
            to["Location"] += f"#comment-{note.pk}"
            return to
    else:
        error = str(next(iter(form.errors.values()))[0])
    return _desk(request, sample.project, error=error, typed=typed, status=422)


@require_POST
@login_required
def fix(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Open the curator's own draft of a submitted sample."""
    sample = _sample(request, slug, pk)
    try:
        draft = start_fix(project=sample.project, sample=sample, user=visitor(request))
    except SampleError as error:
        messages.error(request, str(error))
        return _to_desk(request, slug, pk)
    return redirect("annotation:draft", slug, draft.pk)


@require_POST
@login_required
def resolve(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Mark a comment resolved, or open again: for the sample's author and curators."""
    project = enter(request, slug)
    comment = get_object_or_404(
        Comment.objects.select_related("sample__project", "author"),
        sample__project=project,
        pk=pk,
    )
    changed = resolve_comment(
        project=project,
        comment=comment,
        user=visitor(request),
        resolved=request.POST.get("resolved") != "0",
    )
    if request.htmx:  # type: ignore[attr-defined]
        facts = {"note": Note(changed), "is_live": True}
        return render(request, "annotation/_note.html", facts)
    to = request.POST.get("next", "")
    # Not redirect(): it takes a text without a slash for the name of a page.
    if not (
        to.startswith("/") and url_has_allowed_host_and_scheme(to, allowed_hosts=None)
    ):
        to = reverse("annotation:sample", args=[slug, comment.sample_id])
    return HttpResponseRedirect(f"{to}#comment-{pk}")


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def bulk(request: HttpRequest, slug: str) -> HttpResponse:
    """Show what approving all matches would do; a post does what was shown."""
    project = enter(request, slug, Role.CURATOR)
    form = ReviewFilterForm(request.GET)
    facts: dict[str, object] = {
        "filters": form.query(),
        "lookups": list(form.lookups().values()),
        "limit": BULK_LIMIT,
        "plan": None,
        "result": None,
    }
    status = 200
    confirmed = KeysForm(request.POST)
    if request.method == "POST" and confirmed.is_valid():
        result = approve_in_bulk(
            project=project, user=visitor(request), keys=confirmed.numbers()
        )
        facts |= {
            "result": result,
            "left_out": result.left_out[:LEFT_OUT_SHOWN],
            "left_out_count": len(result.left_out),
            "title": ngettext(
                "%(count)s sample is approved.",
                "%(count)s samples are approved.",
                result.approved,
            )
            % {"count": result.approved},
        }
    else:
        status = 422 if request.method == "POST" else 200
        rows = Sample.objects.filter(
            project=project, status=SampleStatus.SUBMITTED, **form.lookups()
        )
        plan = plan_bulk(user=visitor(request), samples=rows)
        facts |= {
            "plan": plan,
            "keys": ",".join(map(str, plan.ready)),
            "left_out": plan.left_out[:LEFT_OUT_SHOWN],
            "left_out_count": len(plan.left_out),
            "title": gettext("Approve many samples"),
        }
    return render(request, "annotation/review_bulk.html", facts, status=status)


@require_safe
@login_required
def history(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show every version of a sample, and the changes between two of them."""
    project = enter(request, slug)
    sample = get_object_or_404(
        Sample.objects.visible_to(request.user).select_related("author"),
        project=project,
        pk=pk,
    )
    visit = visit_of(request, slug)
    if not visit.allows(*READERS) and sample.author_id != request.user.pk:
        raise Forbidden("This page", READERS)
    versions = list(
        sample.versions.select_related("editor")
        .defer("document")
        .order_by("-number")[:VERSIONS]
    )
    old, new = VersionsForm(request.GET).chosen([one.number for one in versions])
    documents = dict(
        sample.versions.filter(number__in=[old, new]).values_list("number", "document")
    )
    facts = {
        "sample": sample,
        "versions": versions,
        "old": old,
        "new": new,
        "changed": compare_documents(documents[old], documents[new])
        if old in documents and new in documents
        else [],
        "sees_counts": visit.allows(*READERS),
        "acting": acting_parts(documents.get(new) or sample_to_json(sample)),
    }
    return render(request, "annotation/sample_history.html", facts)


def _sample(request: HttpRequest, slug: str, pk: int) -> Sample:
    project = enter(request, slug, Role.CURATOR)
    return get_object_or_404(
        Sample.objects.visible_to(request.user).select_related("project"),
        project=project,
        pk=pk,
    )


def _to_desk(request: HttpRequest, slug: str, at: int) -> HttpResponse:
    form = ReviewFilterForm(request.GET)
    response = redirect(
        f"{reverse('annotation:review', args=[slug])}?{form.query(at=at)}"
    )
    response.status_code = 303
    return response
