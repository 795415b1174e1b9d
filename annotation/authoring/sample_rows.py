"""Write a checked sample form as rows: insert it, or replace the rows of a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.shortcuts import get_object_or_404

from actions.tags import JSON
from annotation.access import WRITERS, require_role
from annotation.authoring.export import (
    for_export,
    sample_to_json,
)
from annotation.authoring.versions import record_change
from annotation.models import (
    Project,
    ReferenceResponse,
    Sample,
    SampleContext,
    ThinkingContext,
    Turn,
)
from records.sample_format import (
    STATUSES,
    SampleError,
    check_sample,
)
from records.samples import (
    DEFAULT_STATUS,
)
from records.samples import (
    Sample as SampleRecord,
)
from records.samples import (
    Turn as TurnRecord,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def save_sample(
    *,
    project: Project,
    document: Mapping[str, JSON],
    author: User | None = None,
    status: str | None = None,
    sample: Sample | None = None,
    why: str = "",
) -> Sample:
    """Check a Concord document and store it; raise :class:`SampleError`.

    ``status`` overrides the status in the document; the default is "submitted". With
    ``sample`` the content of that sample is replaced: its author stays, ``author`` is
    the editor of the new version, and ``why`` is stored with it. A turn with judgments
    can be reworded, because pairs hold copies, but not removed.
    """
    form = check_sample(dict(document))
    if status is not None and status not in STATUSES:
        raise SampleError("status", "one of " + ", ".join(STATUSES), repr(status))
    with transaction.atomic():
        if author is not None:
            require_role(project, author, *WRITERS, deed="Writing a sample")
        if sample is None:
            try:
                with transaction.atomic():
                    return insert(project, [form], author, status, "")[0]
            except IntegrityError:
                raise SampleError(
                    "id", "an id that is not in use", f'"{form.id}"'
                ) from None
        # Lock the sample: concurrent changes, versions included, follow each other.
        locked = Sample.objects.select_for_update(no_key=True, of=["self"])
        sample = get_object_or_404(
            for_export(locked.select_related("project")),
            project=project,
            pk=sample.pk,
        )
        before = sample_to_json(sample)
        changed = _replace(sample, form, status)
        after = {**form.to_json(), "status": changed.status}
        record_change(
            sample=changed, before=before, after=after, editor=author, why=why
        )
        return changed


def _replace(sample: Sample, form: SampleRecord, status: str | None) -> Sample:
    taken = Sample.objects.filter(project=sample.project_id, external_id=form.id)
    if taken.exclude(pk=sample.pk).exists():
        raise SampleError("id", "an id that is not in use", f'"{form.id}"')
    for name, value in _sample_fields(form, status or sample.status, "").items():
        setattr(sample, name, value)
    sample.save()
    contexts = _contexts(sample.project, [form])
    sample.samplecontext_set.all().delete()
    SampleContext.objects.bulk_create(_context_rows(sample, form, contexts))

    turns = {turn.position: turn for turn in sample.turns.all()}
    try:
        for position, turn in turns.items():
            if position >= len(form.turns):
                turn.delete()
    except ProtectedError:
        raise SampleError(
            "turns",
            f"at least the {len(turns)} turns there were, as some have been judged",
            str(len(form.turns)),
        ) from None
    for position, turn_form in enumerate(form.turns):
        turn = turns.get(position) or Turn(sample=sample, position=position)
        turn.input_kind = turn_form.kind
        turn.input_text = turn_form.text
        turn.response = turn_form.response
        turn.facts = turn_form.facts
        turn.proposal = turn_form.proposal
        turn.save()
        turn.references.all().delete()
        ReferenceResponse.objects.bulk_create(
            _reference_rows(turn, turn_form, sample.author_id)
        )
    # Discard rows prefetched before the change.
    return Sample.objects.get(pk=sample.pk)


def _sample_fields(
    form: SampleRecord, status: str | None, split: str
) -> dict[str, object]:
    return {
        "external_id": form.id,
        "scenario": form.scenario,
        "situation": form.situation,
        "status": status or form.status or DEFAULT_STATUS,
        "split": split or form.split,
        "meta": form.meta,
        "content_hash": form.content_hash,
    }


def _context_rows(
    sample: Sample, form: SampleRecord, contexts: Mapping[str, int]
) -> list[SampleContext]:
    return [
        SampleContext(
            sample=sample,
            context_id=contexts[context.content_hash],
            position=position,
        )
        for position, context in enumerate(form.contexts)
    ]


def _reference_rows(
    turn: Turn, form: TurnRecord, author: int | None
) -> list[ReferenceResponse]:
    return [
        ReferenceResponse(turn=turn, author_id=author, position=position, text=text)
        for position, text in enumerate(form.references)
    ]


def _contexts(project: Project, forms: Iterable[SampleRecord]) -> dict[str, int]:
    """Return the row of each context by its content hash; create missing ones."""
    by_hash = {c.content_hash: c for form in forms for c in form.contexts}

    def known() -> dict[str, int]:
        rows = ThinkingContext.objects.filter(
            project=project, content_hash__in=list(by_hash)
        )
        return dict(rows.values_list("content_hash", "pk"))

    contexts = known()
    missing = {key: form for key, form in by_hash.items() if key not in contexts}
    if not missing:
        return contexts
    ThinkingContext.objects.bulk_create(
        [
            ThinkingContext(
                project=project,
                scope=form.scope,
                title=form.title,
                background=form.background,
                guideline=form.guideline,
                actions=form.actions,
                content_hash=key,
            )
            for key, form in missing.items()
        ],
        ignore_conflicts=True,  # a concurrent import may create the same row
    )
    return known()


def insert(
    project: Project,
    forms: list[SampleRecord],
    author: User | None,
    status: str | None,
    split: str,
) -> list[Sample]:
    """Insert new samples with all their parts: five statements for any number."""
    author_id = author.pk if author else None
    contexts = _contexts(project, forms)
    samples = Sample.objects.bulk_create(
        Sample(
            project=project,
            author_id=author_id,
            **_sample_fields(form, status, split),
        )
        for form in forms
    )
    pairs = list(zip(samples, forms, strict=True))
    SampleContext.objects.bulk_create(
        row for sample, form in pairs for row in _context_rows(sample, form, contexts)
    )
    turn_forms = [turn for form in forms for turn in form.turns]
    turns = Turn.objects.bulk_create(
        Turn(
            sample=sample,
            position=position,
            input_kind=turn.kind,
            input_text=turn.text,
            response=turn.response,
            facts=turn.facts,
            proposal=turn.proposal,
        )
        for sample, form in pairs
        for position, turn in enumerate(form.turns)
    )
    ReferenceResponse.objects.bulk_create(
        row
        for turn, form in zip(turns, turn_forms, strict=True)
        for row in _reference_rows(turn, form, author_id)
    )
    return samples
