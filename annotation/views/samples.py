"""The curator's pages of samples: find, read, approve, return, import, export."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery
from django.http import StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from actions.json_values import JSONError, load_json
from annotation.access import WRITERS, Forbidden
from annotation.authoring.anchors import PlacedTurn, put_notes
from annotation.authoring.documents import MAX_DOCUMENT_BYTES
from annotation.authoring.effective_fields import acting_parts
from annotation.authoring.export import FORMATS, export_samples
from annotation.authoring.import_files import import_file
from annotation.authoring.review import placed
from annotation.authoring.samples import (
    SampleError,
    approve_sample,
    retire_sample,
    return_sample,
)
from annotation.models import (
    Pair,
    Project,
    ReferenceResponse,
    Role,
    Sample,
    SampleContext,
    Situation,
    Turn,
)
from annotation.views.bodies import FILE, takes
from annotation.views.door import enter, visit_of, visitor
from annotation.views.forms import ImportForm, ReturnForm, SampleFilterForm
from records.sample_format import SampleError as InvalidSample

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from actions.tags import JSON

PAGE = 50
READERS = (Role.CURATOR, Role.TRAINER)


@require_safe
@login_required
def samples(request: HttpRequest, slug: str) -> HttpResponse:
    """List the newest samples, filtered.

    Paged by key, so that every page costs the same.
    """
    project = enter(request, slug, *READERS)
    form = SampleFilterForm(request.GET)
    rows = _filtered(project, form) if form.is_valid() else Sample.objects.none()
    first_turn = Turn.objects.filter(sample=OuterRef("pk"), position=0)
    page = list(
        rows.select_related("author")
        .annotate(
            turn_count=Subquery(
                Turn.objects.filter(sample=OuterRef("pk"))
                .order_by()
                .values("sample")
                .values(count=Count("pk"))
            ),
            opening=first_turn.values("input_text")[:1],
        )
        .order_by("-pk")[: PAGE + 1]
    )
    facts = {
        "form": form,
        "samples": page[:PAGE],
        "older": _address(form, page[PAGE - 1].pk) if len(page) > PAGE else "",
        "is_first": not form.data.get("before"),
        "newest": _address(form, None),
        "scenarios": _scenarios(project),
        "formats": FORMATS,
        "can_edit": visit_of(request, slug).allows(Role.CURATOR),
    }
    return render(request, "annotation/samples.html", facts)


def _filtered(project: Project, form: SampleFilterForm) -> QuerySet[Sample]:
    rows = Sample.objects.filter(project=project, **form.lookups())
    if before := form.cleaned_data["before"]:
        rows = rows.filter(pk__lt=before)
    if text := form.cleaned_data["text"]:
        turns = Turn.objects.filter(sample=OuterRef("pk")).filter(
            Q(input_text__icontains=text) | Q(response__icontains=text)
        )
        rows = rows.filter(Q(external_id__icontains=text) | Exists(turns))
    return rows


def _address(form: SampleFilterForm, before: int | None) -> str:
    values = {name: form.data.get(name, "") for name in (*form.FILTERS, "text")}
    if before is not None:
        values["before"] = str(before)
    return "?" + urlencode({name: value for name, value in values.items() if value})


def _scenarios(project: Project) -> QuerySet[Sample, str]:
    return (
        Sample.objects.filter(project=project)
        .exclude(scenario="")
        .order_by("scenario")
        .values_list("scenario", flat=True)
        .distinct()[:100]
    )


@require_safe
@login_required
def sample(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    return _sample_page(request, slug, pk)


def _sample_page(
    request: HttpRequest, slug: str, pk: int, error: str = "", status: int = 200
) -> HttpResponse:
    """Show a sample to curators and trainers, and to its author."""
    project = enter(request, slug)
    sample = get_object_or_404(
        Sample.objects.visible_to(request.user).select_related("project", "author"),
        project=project,
        pk=pk,
    )
    visit = visit_of(request, slug)
    if not visit.allows(*READERS) and sample.author_id != request.user.pk:
        raise Forbidden("This page", READERS)
    facts = sample_facts(sample) | {
        "author_revises": sample.author is not None
        and bool(project.roles_of(sample.author) & {*WRITERS, Role.ADMIN}),
        "can_edit": visit.allows(Role.CURATOR),
        "may_resolve": visit.allows(Role.CURATOR)
        or sample.author_id == request.user.pk,
        "sees_counts": visit.allows(*READERS),
        "sees_pairs": visit.allows(Role.CURATOR)
        and sample.author_id != request.user.pk,
        "error": error,
        "comment": request.POST.get("comment", ""),
    }
    return render(request, "annotation/sample.html", facts, status=status)


@dataclass(frozen=True)
class _TurnRow:
    turn: PlacedTurn
    references: list[ReferenceResponse]
    pair_keys: list[int]
    judgments: int

    @property
    def pairs(self) -> int:
        return len(self.pair_keys)


def sample_facts(sample: Sample, *, with_counts: bool = True) -> dict[str, Any]:
    """Return what the sample's page and Review show: five queries for any size.

    Without counts of pairs and judgments, four.
    """
    pairs = _pairs_of(sample) if with_counts else {}
    rows = []
    turns = list(sample.turns.prefetch_related("references"))
    for turn in turns:
        keys, judgments = pairs.get(turn.pk, ([], 0))
        rows.append(_TurnRow(placed(turn), [*turn.references.all()], keys, judgments))
    comments = sample.comments.select_related("author", "resolved_by")
    links = SampleContext.objects.filter(sample=sample).select_related("context")
    document: dict[str, JSON] = {
        "meta": sample.meta,
        "turns": [{"facts": turn.facts, "proposal": turn.proposal} for turn in turns],
    }
    return {
        "sample": sample,
        "acting": acting_parts(document),
        "back": sample.get_absolute_url(),
        "turns": rows,
        "notes": put_notes([row.turn for row in rows], comments),
        "pair_count": sum(row.pairs for row in rows),
        "judgment_count": sum(row.judgments for row in rows),
        "contexts": [link.context for link in links],
    }


def _pairs_of(sample: Sample) -> dict[int, tuple[list[int], int]]:
    """Return by turn the keys of its pairs, and the number of judgments that count."""
    rows = (
        Pair.objects.filter(turn__sample=sample)
        .order_by()
        .values_list("turn")
        .annotate(
            keys=ArrayAgg("pk", distinct=True),
            done=Count("slots__judgment", distinct=True),
        )
    )
    return {turn: (keys, judgments) for turn, keys, judgments in rows}


@require_POST
@login_required
def approve(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    sample = _for_curator(request, slug, pk)
    try:
        approve_sample(project=sample.project, sample=sample, user=visitor(request))
    except SampleError as error:
        return _sample_page(request, slug, pk, str(error), status=422)
    messages.success(request, gettext("%(sample)s is approved.") % {"sample": sample})
    return redirect("annotation:sample", slug, pk)


@require_POST
@login_required
def return_(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    sample = _for_curator(request, slug, pk)
    form = ReturnForm(request.POST)
    if not form.is_valid():
        problem = form.errors["comment"][0]
        return _sample_page(
            request, slug, pk, f"{gettext('Comment')}: {problem}", status=422
        )
    try:
        return_sample(
            project=sample.project,
            sample=sample,
            user=visitor(request),
            comment=form.cleaned_data["comment"],
        )
    except SampleError as error:
        return _sample_page(request, slug, pk, str(error), status=422)
    messages.success(
        request, gettext("%(sample)s is returned to its author.") % {"sample": sample}
    )
    return redirect("annotation:sample", slug, pk)


@require_POST
@login_required
def retire(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Take a sample out of use for good; the page has asked for confirmation."""
    sample = _for_curator(request, slug, pk)
    if request.POST.get("sure") != "yes":
        problem = gettext("Tick the box to retire the sample.")
        return _sample_page(request, slug, pk, problem, status=422)
    try:
        retire_sample(project=sample.project, sample=sample, user=visitor(request))
    except SampleError as error:
        return _sample_page(request, slug, pk, str(error), status=422)
    messages.success(request, gettext("%(sample)s is retired.") % {"sample": sample})
    return redirect("annotation:sample", slug, pk)


def _for_curator(request: HttpRequest, slug: str, pk: int) -> Sample:
    project = enter(request, slug, Role.CURATOR)
    return get_object_or_404(
        Sample.objects.visible_to(request.user).select_related("project"),
        project=project,
        pk=pk,
    )


@require_safe
@login_required
def coverage(request: HttpRequest, slug: str) -> HttpResponse:
    """Count samples by scenario and situation: approved, other and held-out."""
    project = enter(request, slug, *READERS)
    counts: dict[str, dict[str, object]] = defaultdict(dict)
    rows = (
        Sample.objects.filter(project=project)
        .order_by("scenario")
        .values("scenario", "situation")
        .annotate(
            approved=Count("pk", filter=Q(status="approved", split="")),
            held_out=Count("pk", filter=Q(status="approved") & ~Q(split="")),
            other=Count("pk", filter=~Q(status__in=["approved", "retired"])),
        )
    )
    for row in rows:
        counts[row["scenario"]][row["situation"]] = row
    table = [
        (scenario, [cells.get(situation) for situation in Situation.values])
        for scenario, cells in counts.items()
    ]
    facts = {"table": table, "situations": Situation.choices}
    return render(request, "annotation/coverage.html", facts)


@require_safe
@login_required
def export(request: HttpRequest, slug: str) -> StreamingHttpResponse | HttpResponse:
    """Stream the filtered samples as a file, in one of the two formats."""
    project = enter(request, slug, *READERS)
    form = SampleFilterForm(request.GET)
    chosen = request.GET.get("format", "concord")
    if chosen not in FORMATS or not form.is_valid():
        messages.error(request, gettext("There is no such export."))
        return redirect("annotation:samples", slug)
    name = f"{slug}.{chosen}.jsonl"
    return StreamingHttpResponse(
        export_samples(
            project=project, format=chosen, samples=_filtered(project, form)
        ),
        content_type="application/jsonl; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@takes(FILE)
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def import_(request: HttpRequest, slug: str) -> HttpResponse:
    """Import a file of samples; keep the good lines and report the others."""
    project = enter(request, slug, Role.CURATOR)
    is_sent = request.method == "POST"
    form = ImportForm(request.POST, request.FILES) if is_sent else ImportForm()
    report = None
    if is_sent and form.is_valid():
        try:
            report = import_file(
                project=project,
                format=form.cleaned_data["format"],
                file=form.cleaned_data["file"],
                tools=_tools(form),
                author=None,
                user=visitor(request),
            )
        except InvalidSample as error:
            form.add_error("tools", str(error))
    facts = {
        "form": form,
        "report": report,
    }
    status = 422 if is_sent and form.errors else 200
    return render(request, "annotation/import.html", facts, status=status)


def _tools(form: ImportForm) -> JSON:
    """Read the uploaded tools; raises SampleError naming the place."""
    file = form.cleaned_data["tools"]
    if not file:
        return None
    if file.size > MAX_DOCUMENT_BYTES:
        expected = f"at most {MAX_DOCUMENT_BYTES} bytes"
        raise InvalidSample("tools", expected, f"{file.size}")
    try:
        return load_json(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidSample(
            "tools", "UTF-8", f"byte {error.start} that is not"
        ) from None
    except JSONError as error:
        place = f"tools: character {error.position}"
        raise InvalidSample(place, error.expected, error.found) from None
