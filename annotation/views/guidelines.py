"""The guideline's pages: read, edit, publish, history and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from annotation.judging.guidelines import (
    GuidelineConflict,
    GuidelineError,
    confirm_reading,
    last_known_version,
    pin_example,
    publish_guideline,
    unpin_example,
    unread_guideline,
)
from annotation.models import (
    GuidelineExample,
    GuidelineVersion,
    InputKind,
    Pair,
    Project,
    Role,
)
from annotation.text.blocks import blocks_of_text
from annotation.text.changes import changes
from annotation.text.markdown import render_markdown
from annotation.views.door import enter, visit_of, visitor
from annotation.views.forms import ExampleForm, GuidelineForm, ReadingForm, VersionsForm

if TYPE_CHECKING:
    from django.http import HttpRequest

EXAMPLES = 30
VERSIONS = 200
CONTEXT_LINES = 3
# The version of each project's guideline that this session knows to be read.
SESSION_KEY = "guideline-read"


@require_safe
@login_required
def guideline(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the guideline and its examples, as a page or inside a drawer."""
    project = enter(request, slug)
    is_fragment = bool(request.htmx)  # type: ignore[attr-defined]
    facts = _guideline_facts(project) | {
        "title": gettext("Guideline, version %(version)s")
        % {"version": project.guideline_version},
        "can_edit": not is_fragment and visit_of(request, slug).allows(Role.CURATOR),
        "is_fragment": is_fragment,
        "frame": "annotation/_drawer.html" if is_fragment else "base.html",
    }
    return render(request, "annotation/guideline.html", facts)


def _guideline_facts(project: Project) -> dict[str, object]:
    examples = GuidelineExample.objects.filter(project=project).select_related(
        "pair__turn"
    )[:EXAMPLES]
    return {
        "text": project.guideline,
        "html": render_markdown(project.guideline),
        "examples": [_example_row(example) for example in examples],
    }


def _example_row(example: GuidelineExample) -> dict[str, object]:
    pair = example.pair
    inside = pair.turn.input_kind == InputKind.OBSERVATION
    return {
        "example": example,
        "turn": pair.turn,
        "note": render_markdown(example.note),
        "label": blocks_of_text(pair.label_text, inside_thinking=inside),
        "sampled": blocks_of_text(pair.sampled_text, inside_thinking=inside),
    }


# --- reading again ----------------------------------------------------------------------


def guideline_to_read(
    request: HttpRequest, project: Project, notice: str = ""
) -> HttpResponse | None:
    """Return the page that asks this person to read the guideline, or None.

    Judge calls it before it hands out a pair. Version 1 is the text before the first
    publication and need not be read. Once a session knows that the newest version is
    read, the check costs no query until another is published.
    """
    if project.guideline_version == 1:
        return None
    known = request.session.get(SESSION_KEY, {})
    if known.get(str(project.pk)) == project.guideline_version:
        return None
    user = visitor(request)
    version = unread_guideline(project=project, user=user)
    if version is None:
        request.session[SESSION_KEY] = known | {
            str(project.pk): project.guideline_version
        }
        return None
    before = last_known_version(project=project, user=user, before=version.version)
    facts = _guideline_facts(project) | {
        "can_edit": False,
        "notice": notice,
        "asked": version,
        "before": before,
        "changed": changes(
            before.text.strip(), project.guideline.strip(), context=CONTEXT_LINES
        )
        if before
        else (),
    }
    is_fragment = bool(request.htmx)  # type: ignore[attr-defined]
    name = "_guideline_ask" if is_fragment else "guideline_ask"
    return render(request, f"annotation/{name}.html", facts)


@require_POST
@login_required
def read(request: HttpRequest, slug: str) -> HttpResponse:
    """Record that the person has read the version on the page; continue judging."""
    project = enter(request, slug, Role.LABELER)
    form = ReadingForm(request.POST)
    if not form.is_valid():
        messages.error(request, gettext("The version that was read is missing."))
        return redirect("annotation:judge", slug)
    try:
        confirm_reading(
            project=project, user=visitor(request), version=form.cleaned_data["version"]
        )
    except GuidelineError as error:
        messages.error(request, str(error))
    response = redirect("annotation:judge", slug)
    response.status_code = 303
    return response


# --- editing ----------------------------------------------------------------------------


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def edit(request: HttpRequest, slug: str) -> HttpResponse:
    """Edit the guideline; the form keeps the typed text whatever happens."""
    project = enter(request, slug, Role.CURATOR)
    if request.method != "POST":
        start = {
            "text": project.guideline,
            "base_version": project.guideline_version,
            "asks_to_reread": True,
        }
        return _editor(request, project, GuidelineForm(initial=start))
    form = GuidelineForm(request.POST)
    if not form.is_valid():
        return _editor(request, project, form, status=422)
    if request.POST.get("do") == "preview":
        return _editor(request, project, form)
    try:
        published = publish_guideline(
            project=project, author=visitor(request), **form.cleaned_data
        )
    except GuidelineConflict as conflict:
        return _editor(request, conflict.project, form, conflict=conflict, status=409)
    except GuidelineError as error:
        form.add_error(None, str(error))
        return _editor(request, project, form, status=422)
    messages.success(
        request,
        gettext("Version %(version)s of the guideline is published.")
        % {"version": published.version},
    )
    return redirect("annotation:guideline", slug)


def _editor(
    request: HttpRequest,
    project: Project,
    form: GuidelineForm,
    *,
    conflict: GuidelineConflict | None = None,
    status: int = 200,
) -> HttpResponse:
    text = form["text"].value() or ""
    facts: dict[str, Any] = {
        "form": form,
        "html": render_markdown(text),
        "newest": project,
        "conflict": conflict,
    }
    if conflict:
        base = GuidelineVersion.objects.filter(
            project=project, version=conflict.base_version
        ).first()
        facts["theirs"] = changes(
            base.text if base else "", project.guideline, context=CONTEXT_LINES
        )
        facts["mine"] = changes(project.guideline, text, context=CONTEXT_LINES)
    return render(request, "annotation/guideline_edit.html", facts, status=status)


@require_POST
@login_required
def preview(request: HttpRequest, slug: str) -> HttpResponse:
    """Answer with a preview of the text being typed."""
    enter(request, slug, Role.CURATOR)
    text = request.POST.get("text", "")[: GuidelineForm.LONGEST]
    facts = {"html": render_markdown(text.replace("\0", ""))}
    return render(request, "annotation/_guideline_preview.html", facts)


@require_safe
@login_required
def history(request: HttpRequest, slug: str) -> HttpResponse:
    """List the versions, and show the changes between two of them."""
    project = enter(request, slug)
    versions = list(
        GuidelineVersion.objects.filter(project=project)
        .select_related("author")
        .defer("text")
        .order_by("-version")[:VERSIONS]
    )
    form = VersionsForm(request.GET)
    numbers = form.chosen([one.version for one in versions])
    texts = dict(
        GuidelineVersion.objects.filter(
            project=project, version__in=numbers
        ).values_list("version", "text")
    )
    old, new = numbers
    facts = {
        "versions": versions,
        "old": old,
        "new": new,
        "changed": changes(texts.get(old, ""), texts.get(new, "")),
        "can_edit": visit_of(request, slug).allows(Role.CURATOR),
    }
    return render(request, "annotation/guideline_history.html", facts)


# --- examples ---------------------------------------------------------------------------


@require_POST
@login_required
def pin(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Pin a pair to the guideline, with a note."""
    project = enter(request, slug, Role.CURATOR)
    pair = get_object_or_404(
        Pair.objects.visible_to(request.user), project=project, pk=pk
    )
    form = ExampleForm(request.POST)
    if not form.is_valid():
        messages.error(request, f"{gettext('Note')}: {form.errors['note'][0]}")
        return redirect("annotation:pair", slug, pk)
    try:
        pin_example(
            project=project,
            pair=pair,
            curator=visitor(request),
            note=form.cleaned_data["note"],
        )
    except GuidelineError as error:
        messages.error(request, str(error))
    else:
        messages.success(
            request, gettext("The pair is pinned to the guideline as an example.")
        )
    return redirect("annotation:pair", slug, pk)


@require_POST
@login_required
def unpin(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    project = enter(request, slug, Role.CURATOR)
    example = get_object_or_404(
        GuidelineExample.objects.select_related("project"), project=project, pk=pk
    )
    unpin_example(project=project, example=example, curator=visitor(request))
    messages.info(request, gettext("The example is removed from the guideline."))
    return redirect("annotation:guideline", slug)
