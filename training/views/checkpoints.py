"""Checkpoints and snapshots: lineage in both directions; promotion and download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import Http404, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.text import slugify
from django.utils.translation import gettext, ngettext
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from annotation.counting import Count, count_up_to
from annotation.models import (
    Judgment,
    PairOrigin,
    Project,
    Role,
    SampledResponse,
)
from annotation.views.door import enter, visitor
from records.checkpoints import CheckpointError
from training.iterations.promotion import PromotionRefusedError, promote, standing_of
from training.models import (
    JUDGES,
    LEAVES_A_POLICY,
    Checkpoint,
    Promotion,
    Run,
    RunInput,
    RunKind,
    Snapshot,
    run_name,
)
from training.policies.export import CARD, UNKNOWN_LICENCE, exported_files, model_card
from training.policies.retention import (
    plan_removal,
    remove_files,
    retention_of,
    save_policy,
)
from training.runs.starting_points import (
    current_policy,
    initial_policy,
    policies_that_learned_from,
)
from training.storage import store
from training.storage.archive import Archive
from training.views.forms import (
    CheckpointFilterForm,
    ExportForm,
    PromotionForm,
    RetentionForm,
)
from training.views.iteration_lines import comparison_facts
from training.views.run_facts import all_of, next_kinds, parents_of, recipe_lines
from training.wording.figures import folded_figures, number_text
from training.wording.words import words

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

PAGE = 40
LISTED = 200
ANSWERS_COUNTED = 200
ORIGINS_READ = 2 * ANSWERS_COUNTED  # answers of one text share a pair


@dataclass(frozen=True)
class Line:
    checkpoint: Checkpoint
    run_name: str
    badges: list[str]


@require_safe
@login_required
def checkpoints(request: HttpRequest, slug: str) -> HttpResponse:
    """List checkpoints, by default the finals of finished runs; paged by key."""
    project = enter(request, slug, Role.TRAINER)
    form = CheckpointFilterForm(request.GET)
    rows: QuerySet[Checkpoint] = Checkpoint.objects.none()
    judgment: Judgment | None = None
    if form.is_valid():
        filters = form.cleaned_data
        if filters["judgment"]:
            judgment = get_object_or_404(
                Judgment.objects.filter(project=project), pk=filters["judgment"]
            )
        rows = _filtered(project, filters, judgment)
    page = list(rows.order_by("-pk")[: PAGE + 1])
    query = {n: form.data[n] for n in ("kind", "all", "judgment") if form.data.get(n)}
    older = {**query, "before": str(page[PAGE - 1].pk)} if len(page) > PAGE else {}
    badges = _badges(project)
    facts = {
        "form": form,
        "lines": [
            Line(each, run_name(each.run), badges.get(each.pk, []))
            for each in page[:PAGE]
        ],
        "judgment": judgment,
        "older": f"?{urlencode(older)}" if older else "",
        "newest": f"?{urlencode(query)}",
        "is_first": not form.data.get("before"),
    }
    return render(request, "training/checkpoints.html", facts)


def _filtered(
    project: Project, filters: dict[str, object], judgment: Judgment | None
) -> QuerySet[Checkpoint]:
    rows = Checkpoint.objects.filter(project=project).for_list()
    if judgment is not None:
        learned = policies_that_learned_from(judgment)
        rows = rows.filter(pk__in=learned.values("pk"))
    elif not filters["all"]:
        rows = rows.filter(is_final=True)
    if filters["kind"] == "policy":
        rows = rows.policies()
    elif filters["kind"] == "reward":
        rows = rows.reward_models()
    if filters["before"]:
        rows = rows.filter(pk__lt=filters["before"])
    return rows


def _badges(project: Project) -> dict[int, list[str]]:
    badges: dict[int, list[str]] = {}
    for checkpoint, name in (
        (current_policy(project), gettext("current policy")),
        (initial_policy(project), gettext("initial policy")),
    ):
        if checkpoint is not None:
            badges.setdefault(checkpoint.pk, []).append(name)
    return badges


@require_safe
@login_required
def checkpoint(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    return _checkpoint_page(request, slug, pk, PromotionForm())


def _checkpoint_page(
    request: HttpRequest,
    slug: str,
    pk: int,
    form: PromotionForm,
    refusal: PromotionRefusedError | None = None,
    export_form: ExportForm | None = None,
) -> HttpResponse:
    project = enter(request, slug, Role.TRAINER)
    checkpoint = _checkpoint(project, pk)
    files = checkpoint.manifest.get("files", {})
    badges = _badges(project).get(checkpoint.pk, [])
    facts = {
        "checkpoint": checkpoint,
        "run": checkpoint.run,
        "run_name": run_name(checkpoint.run),
        "badges": badges,
        "is_current": gettext("current policy") in badges,
        "parents": parents_of(checkpoint.run),
        "judgments_learned": _judgments_learned(checkpoint),
        "children": _children(checkpoint),
        "answers": _answers(checkpoint),
        "figures": folded_figures(checkpoint.manifest.get("metrics", {})),
        "recipe": recipe_lines(
            checkpoint.run.kind, checkpoint.manifest.get("recipe", {})
        ),
        "files": [
            _file(checkpoint, name, digest) for name, digest in sorted(files.items())
        ],
        "is_on_disk": store.is_at_hand(checkpoint),
        **_standing(checkpoint),
        "promotions": Promotion.objects.filter(checkpoint=checkpoint).select_related(
            "promoted_by"
        ),
        "form": form,
        "refusal": refusal,
        "export_form": export_form or ExportForm(),
        "next_stages": [
            (kind, role) for kind, role in next_kinds(checkpoint.run) if role
        ],
    }
    return render(
        request,
        "training/checkpoint.html",
        facts,
        status=409 if refusal else 400 if export_form else 200,
    )


def _standing(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the evidence for a promotion: the verdict and its figures in sentences."""
    if checkpoint.run.kind not in LEAVES_A_POLICY:
        return {"can_promote": False}
    standing = standing_of(checkpoint)
    compared, current = standing.comparison, standing.current
    evaluate = reverse(
        "training:run-new", args=[checkpoint.project.slug, RunKind.EVALUATE]
    )
    return {
        "can_promote": True,
        "standing": standing,
        "comparison_facts": comparison_facts(compared) if compared is not None else [],
        "measured_by": run_name(standing.run) if standing.run is not None else "",
        "current_name": run_name(current.run) if current is not None else "",
        "evaluate": f"{evaluate}?policy={checkpoint.pk}&initial={current.pk}"
        if current is not None
        else "",
    }


def _children(checkpoint: Checkpoint) -> list[tuple[Run, str, str]]:
    """Return the newest runs that started from a checkpoint, with its role there."""
    roles: dict[Run, list[str]] = {}
    rows = RunInput.objects.filter(checkpoint=checkpoint).select_related("run")
    for each in rows.order_by("-run_id", "pk")[:60]:
        roles.setdefault(each.run, []).append(each.get_role_display().lower())
    return [(run, run_name(run), all_of(names)) for run, names in roles.items()]


def _judgments_learned(checkpoint: Checkpoint) -> int:
    """Count the judgments that a checkpoint, or its reward model, learned from."""
    of_reward_models = RunInput.objects.filter(
        run=checkpoint.run, role__in=JUDGES
    ).values_list("checkpoint__run__snapshot", flat=True)
    snapshots = {checkpoint.run.snapshot_id, *of_reward_models} - {None}
    if len(snapshots) == 1 and checkpoint.run.snapshot is not None:
        return int(checkpoint.run.snapshot.counts.get("judgments", 0))
    links = Snapshot.judgments.through.objects.filter(snapshot__in=snapshots)
    return links.values("judgment").distinct().count()


def _answers(checkpoint: Checkpoint) -> dict[str, Count]:
    answers = SampledResponse.objects.filter(producer__checkpoint_id=checkpoint.pk)
    pairs = PairOrigin.objects.filter(
        sampled_response__producer__checkpoint_id=checkpoint.pk
    )
    judged_pairs = pairs.values("pair")[: ANSWERS_COUNTED + 1]
    judgments = Judgment.objects.filter(pair__in=judged_pairs)
    # Count in Python: with DISTINCT the database would read all responses first.
    read = pairs.values_list("pair", flat=True)[: ORIGINS_READ + 1]
    different = len(set(read))
    counted = Count(
        min(different, ANSWERS_COUNTED),
        different > ANSWERS_COUNTED or len(read) > ORIGINS_READ,
    )
    judged = count_up_to(judgments, ANSWERS_COUNTED)
    return {
        "responses": count_up_to(answers, ANSWERS_COUNTED),
        "pairs": counted,
        "judged": Count(judged.value, judged.is_more or counted.is_more),
    }


def _file(checkpoint: Checkpoint, name: str, digest: str) -> dict[str, object]:
    path = checkpoint.directory / name
    size = path.stat().st_size if path.is_file() else None
    in_store = size is None and store.is_at_hand(checkpoint)
    return {"name": name, "digest": digest, "size": size, "in_store": in_store}


def _fetched(checkpoint: Checkpoint) -> None:
    """Make the files of a checkpoint present and complete, from the store if needed."""
    if not store.is_at_hand(checkpoint):
        raise Http404("the files of this checkpoint are gone")
    try:
        store.fetch(checkpoint)
        store.check(checkpoint)
    except (CheckpointError, store.StoreError) as error:
        raise Http404(str(error)) from error


@require_POST
@login_required
def promote_(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    project = enter(request, slug, Role.TRAINER)
    form = PromotionForm(request.POST)
    if not form.is_valid():
        return _checkpoint_page(request, slug, pk, form)
    try:
        promote(
            project=project,
            checkpoint=_checkpoint(project, pk),
            user=visitor(request),
            reason=form.cleaned_data["reason"],
            force=form.cleaned_data["force"],
        )
    except PromotionRefusedError as error:
        return _checkpoint_page(request, slug, pk, form, error)
    messages.success(request, gettext("This is now the current policy of the project."))
    return redirect("training:checkpoint", slug, pk)


@require_safe
@login_required
def download(request: HttpRequest, slug: str, pk: int) -> HttpResponseBase:
    """Stream a checkpoint as a tar archive, file by file, without a copy on disk."""
    project = enter(request, slug, Role.TRAINER)
    checkpoint = _checkpoint(project, pk)
    _fetched(checkpoint)
    name = f"{slugify(project.slug)}-run-{checkpoint.run_id}-step-{checkpoint.step}"
    files = [*checkpoint.manifest["files"], "manifest.json"]
    return _sent(Archive(checkpoint.directory, files, name), name)


@require_safe
@login_required
def export(request: HttpRequest, slug: str, pk: int) -> HttpResponseBase:
    """Stream the model as a plain Hugging Face directory with its model card."""
    project = enter(request, slug, Role.TRAINER)
    checkpoint = _checkpoint(project, pk)
    form = ExportForm(request.GET)
    if not form.is_valid():
        return _checkpoint_page(request, slug, pk, PromotionForm(), export_form=form)
    _fetched(checkpoint)
    card = model_card(checkpoint, form.cleaned_data["licence"] or UNKNOWN_LICENCE)
    name = f"{slugify(project.slug)}-{checkpoint.run.kind}-{checkpoint.run_id}-{checkpoint.step}"
    files = exported_files(checkpoint)
    return _sent(Archive(checkpoint.directory, files, name, {CARD: card}), name)


def _sent(archive: Archive, name: str) -> StreamingHttpResponse:
    response = StreamingHttpResponse(archive, content_type="application/x-tar")
    response["Content-Disposition"] = f'attachment; filename="{name}.tar"'
    response["Content-Length"] = str(archive.size)
    response["Content-Encoding"] = "identity"  # weights do not compress
    return response


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def retention(request: HttpRequest, slug: str) -> HttpResponse:
    """Show what a retention policy would remove; save it; remove the files."""
    project = enter(request, slug, Role.TRAINER)
    policy = retention_of(project)
    if "remove" in request.POST:
        gone = remove_files(policy, user=visitor(request))
        messages.success(
            request,
            ngettext(
                "The files of %(n)d checkpoint were removed: %(size)s.",
                "The files of %(n)d checkpoints were removed: %(size)s.",
                len(gone.doomed),
            )
            % {"n": len(gone.doomed), "size": filesizeformat(gone.bytes)},
        )
        return redirect("training:checkpoints-retention", slug)
    form = RetentionForm(request.POST or None, instance=policy)
    if form.is_valid():
        save_policy(policy=policy, user=visitor(request), **form.cleaned_data)
        return redirect("training:checkpoints-retention", slug)
    if form.is_bound:
        policy = retention_of(project)  # the saved one: the input is invalid
    plan = plan_removal(policy)
    facts = {
        "form": form,
        "plan": plan,
        "lines": [(d, run_name(d.checkpoint.run)) for d in plan.doomed[:LISTED]],
        "unlisted": max(0, len(plan.doomed) - LISTED),
    }
    status = 400 if form.errors else 200
    return render(request, "training/retention.html", facts, status=status)


@require_safe
@login_required
def snapshot(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show the content of a snapshot and the runs that learned from it."""
    project = enter(request, slug, Role.TRAINER)
    snapshot = get_object_or_404(
        Snapshot.objects.filter(project=project).select_related("created_by"), pk=pk
    )
    facts = {
        "snapshot": snapshot,
        "counts": [(words(n), number_text(v)) for n, v in snapshot.counts.items()],
        "runs": [
            (each, run_name(each))
            for each in Run.objects.filter(snapshot=snapshot).order_by("-pk")[:100]
        ],
    }
    return render(request, "training/snapshot.html", facts)


def _checkpoint(project: Project, pk: int) -> Checkpoint:
    return get_object_or_404(
        Checkpoint.objects.filter(project=project).select_related(
            "project", "run__snapshot"
        ),
        pk=pk,
    )
