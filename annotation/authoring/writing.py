"""Drafts from start to submission: begin, revise, derive, delete, submit.

:func:`annotation.authoring.samples.save_draft` saves a draft in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.db import transaction
from django.shortcuts import get_object_or_404

from annotation.access import CURATORS, WRITERS, Forbidden, require_role
from annotation.authoring.contexts import context_to_json
from annotation.authoring.drafts import Content, document_of, existing_contexts
from annotation.authoring.effective_fields import without_acting
from annotation.authoring.export import sample_to_json
from annotation.authoring.review import FIXES, finish_fix
from annotation.authoring.sample_rows import save_sample
from annotation.authoring.samples import submit_sample
from annotation.models import (
    Draft,
    Project,
    Role,
    Sample,
    SampleStatus,
    ThinkingContext,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from actions.tags import JSON


def start_draft(
    *, project: Project, user: User, content: Content
) -> tuple[Draft, list[str]]:
    """Begin a draft with ``content``; return it, and the places of what was removed.

    Only a curator may bring fields that have an effect
    (``annotation.authoring.effective_fields``).
    """
    with transaction.atomic():
        roles = require_role(project, user, *WRITERS, deed="Writing")
        left_out: list[str] = []
        if not roles & CURATORS:
            content, left_out = without_acting(content)
        draft = Draft.objects.create(project=project, author=user, content=content)
    return draft, left_out


def revise_sample(*, project: Project, user: User, sample: Sample) -> Draft:
    """Open a draft of one's own returned sample, or continue the existing one."""
    with transaction.atomic():
        require_role(project, user, *WRITERS, deed="Writing")
        sample = get_object_or_404(
            Sample,
            project=project,
            author=user,
            status__in=[SampleStatus.RETURNED, SampleStatus.DRAFT],
            pk=sample.pk,
        )
        draft = Draft.objects.filter(sample=sample, author=user).first()
        return draft or Draft.objects.create(
            project=project, author=user, sample=sample, content=content_of(sample)
        )


def derive_sample(
    *, project: Project, user: User, sample: Sample, content: Content
) -> tuple[Draft, list[str]]:
    """Begin a draft made from a sample: the user's own, or any for a curator.

    As in ``start_draft``, only a curator keeps fields that have an effect.
    """
    with transaction.atomic():
        roles = require_role(project, user, *WRITERS, deed="Writing")
        sample = get_object_or_404(Sample, project=project, pk=sample.pk)
        if sample.author_id != user.pk and not roles & CURATORS:
            raise Forbidden("A sample of another author", (Role.CURATOR,))
        content = content | {"contexts": _existing(sample)}
        return start_draft(project=project, user=user, content=content)


def content_of(sample: Sample) -> Content:
    """Return a sample as the content of a draft."""
    content: Content = {**sample_to_json(sample)}
    return content | {"contexts": _existing(sample)}


def _existing(sample: Sample) -> list[JSON]:
    links = sample.samplecontext_set.order_by("position")
    return [{"existing": pk} for pk in links.values_list("context_id", flat=True)]


def delete_draft(*, project: Project, user: User, draft: Draft) -> None:
    """Delete one's own draft."""
    with transaction.atomic():
        require_role(project, user, *WRITERS, deed="Writing")
        get_object_or_404(Draft, project=project, author=user, pk=draft.pk).delete()


def submit_draft(
    *, project: Project, user: User, draft: Draft, why: str = ""
) -> tuple[Sample, list[str]]:
    """Submit a draft: its sample is stored and submitted, and the draft is deleted.

    A curator's fix becomes the next version of a sample that is already submitted, with
    ``why``. Returns the sample and the places of the fields with an effect that were
    removed, because the user is no curator and the sample did not have them. Raises the
    errors of save_sample, submit_sample and finish_fix, and JSONError and
    DefinitionError for typed actions that cannot be read; the draft is then unchanged.
    """
    with transaction.atomic():
        roles = require_role(project, user, *WRITERS, deed="Submitting a sample")
        draft = get_object_or_404(
            Draft.objects.select_related("sample"),
            project=project,
            author=user,
            pk=draft.pk,
        )
        document = _document(project, draft)
        left_out: list[str] = []
        if not roles & CURATORS:
            before: Mapping[str, JSON] = (
                sample_to_json(draft.sample) if draft.sample else {}
            )
            document, left_out = without_acting(
                document, known=before, keeps_proposals=True
            )
        if FIXES in draft.content:
            sample = finish_fix(
                project=project, draft=draft, document=document, editor=user, why=why
            )
        else:
            sample = save_sample(
                project=project,
                document=document,
                author=user,
                status=None if draft.sample else SampleStatus.DRAFT,
                sample=draft.sample,
            )
            sample = submit_sample(project=project, sample=sample, user=user)
        draft.delete()
        return sample, left_out


def _document(project: Project, draft: Draft) -> dict[str, JSON]:
    external_id = draft.sample.external_id if draft.sample else f"written-{draft.pk}"
    known = {
        context.pk: context_to_json(context)
        for context in ThinkingContext.objects.filter(
            project=project, pk__in=existing_contexts(draft.content)
        )
    }
    return document_of(draft.content, known, external_id)
