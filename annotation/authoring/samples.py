"""The life of a sample up to approval, and the saving of drafts.

draft → submitted → approved. A curator may return a sample to its author with a
comment, or retire it for good. Pairs of a returned or retired sample leave the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from django.db import transaction
from django.db.models import F
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop

from annotation.access import CURATORS, WRITERS, Forbidden, require_role
from annotation.judging.slots import close_slots, open_slots
from annotation.models import Draft, Pair, Project, Role, Sample, SampleStatus, Slot

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from actions.tags import JSON

COMMENT_LENGTH: Final = 5000


class SampleError(Exception):
    """A deed on a sample or a draft is refused; the message says why."""


# Words used in messages; makemessages finds them here.
WORDS: Final = (
    *(gettext_noop("draft"), gettext_noop("submitted"), gettext_noop("approved")),
    *(gettext_noop("returned"), gettext_noop("retired"), gettext_noop("fixed")),
)


class WrongStatus(SampleError):
    """The status of the sample does not allow the deed."""

    def __init__(self, sample: Sample, deed: str, allowed: frozenset[str]) -> None:
        self.sample, self.deed, self.allowed = sample, deed, allowed
        statuses = gettext(" or ").join(
            gettext(status.value) for status in SampleStatus if status in allowed
        )
        super().__init__(
            gettext(
                "Sample %(sample)s is %(status)s; only a %(wanted)s one can be %(deed)s."
            )
            % {
                "sample": sample,
                "status": gettext(sample.status),
                "wanted": statuses,
                "deed": gettext(deed),
            }
        )


class IncompleteSample(SampleError):
    """The sample lacks something it needs before others may see it."""

    def __init__(self, sample: Sample, missing: str) -> None:
        self.sample, self.missing = sample, missing
        super().__init__(
            gettext("Sample %(sample)s has %(missing)s.")
            % {"sample": sample, "missing": missing}
        )


class CommentMissing(SampleError):
    """A sample cannot be returned without a comment to its author."""

    def __init__(self) -> None:
        super().__init__(gettext("Say what the author should change."))


class StaleDraft(SampleError):
    """The draft was saved elsewhere meanwhile; ``draft`` is the server's version."""

    def __init__(self, draft: Draft, version: int) -> None:
        self.draft, self.version = draft, version
        super().__init__(
            gettext(
                "This draft was saved elsewhere: the server has version %(newest)s, "
                "this page began from version %(base)s."
            )
            % {"newest": draft.version, "base": version}
        )


def submit_sample(*, project: Project, sample: Sample, user: User) -> Sample:
    """Submit a draft or returned sample to the curators.

    Raises Forbidden unless the user wrote it or is a curator, WrongStatus, and
    IncompleteSample when a turn has no response.
    """
    with transaction.atomic():
        roles = require_role(project, user, *WRITERS, deed="Submitting a sample")
        sample = _find(project, sample)
        if sample.author_id != user.pk and not roles & CURATORS:
            raise Forbidden("A sample is submitted by its author or a curator.")
        _allow(sample, "submitted", {SampleStatus.DRAFT, SampleStatus.RETURNED})
        responses = list(sample.turns.values_list("position", "response"))
        if not responses:
            raise IncompleteSample(sample, gettext("no turn"))
        for position, response in responses:
            if not response.strip():
                missing = gettext("no response in turn %(number)s")
                raise IncompleteSample(sample, missing % {"number": position + 1})
        return _move(sample, SampleStatus.SUBMITTED)


def approve_sample(*, project: Project, sample: Sample, user: User) -> Sample:
    """Approve a submitted sample for training; its pairs return to the queue.

    Open comments are resolved by it. Raises Forbidden unless the user is a curator and,
    except for admins, did not write it, and WrongStatus.
    """
    with transaction.atomic():
        roles = require_role(project, user, Role.CURATOR, deed="Approving a sample")
        sample = _find(project, sample)
        if sample.author_id == user.pk and Role.ADMIN not in roles:
            raise Forbidden("A curator does not approve a sample they wrote.")
        _allow(sample, "approved", {SampleStatus.SUBMITTED})
        sample = _move(sample, SampleStatus.APPROVED)
        sample.comments.filter(resolved_at__isnull=True).update(
            resolved_at=timezone.now(), resolved_by=user
        )
        pairs = (
            Pair.objects.select_for_update(no_key=True, of=["self"])
            .filter(turn__sample=sample, label_text=F("turn__response"))
            .wanting_slots()
            .order_by("pk")
        )
        open_slots(project=sample.project, pairs=[pair.pk for pair in pairs])
        return sample


def return_sample(
    *, project: Project, sample: Sample, user: User, comment: str
) -> Sample:
    """Return a sample to its author with a comment; its pairs leave the queue.

    The comment may be empty when the sample has open comments. Raises Forbidden unless
    the user is a curator, WrongStatus, and CommentMissing.
    """
    comment = comment.strip()[:COMMENT_LENGTH]
    with transaction.atomic():
        require_role(project, user, Role.CURATOR, deed="Returning a sample")
        sample = _find(project, sample)
        if not comment and not sample.comments.filter(resolved_at=None).exists():
            raise CommentMissing
        _allow(sample, "returned", {SampleStatus.SUBMITTED, SampleStatus.APPROVED})
        close_queue(sample)
        return _move(sample, SampleStatus.RETURNED, comment)


def retire_sample(*, project: Project, sample: Sample, user: User) -> Sample:
    """Take a sample out of use for good; its judgments stay.

    Raises Forbidden unless the user is a curator, and WrongStatus.
    """
    with transaction.atomic():
        require_role(project, user, Role.CURATOR, deed="Retiring a sample")
        sample = _find(project, sample)
        _allow(sample, "retired", {*SampleStatus.values} - {SampleStatus.RETIRED})
        close_queue(sample)
        return _move(sample, SampleStatus.RETIRED)


def save_draft(
    *,
    project: Project,
    user: User,
    draft: Draft,
    version: int,
    content: Mapping[str, JSON],
) -> Draft:
    """Save a draft that the page loaded at ``version``; return it with its new version.

    The content may be invalid: a draft is unfinished work. Raises StaleDraft with the
    server's version when another save came in between. A save repeated because its
    answer was lost is no conflict. Raises Http404 for a draft of somebody else.
    """
    with transaction.atomic():
        require_role(project, user, *WRITERS, deed="Writing")
        mine = Draft.objects.filter(project=project, author=user, pk=draft.pk)
        saved = mine.filter(version=version).update(
            content=dict(content), version=F("version") + 1, updated_at=timezone.now()
        )
        draft = get_object_or_404(mine)
    if not saved and draft.content != dict(content):
        raise StaleDraft(draft, version)
    return draft


def _find(project: Project, sample: Sample) -> Sample:
    """Lock the project's sample and return it in its current state."""
    rows = Sample.objects.select_for_update(no_key=True, of=["self"])
    return get_object_or_404(
        rows.select_related("project"), project=project, pk=sample.pk
    )


def _allow(sample: Sample, deed: str, allowed: set[str]) -> None:
    if sample.status not in allowed:
        raise WrongStatus(sample, deed, frozenset(allowed))


def _move(sample: Sample, status: SampleStatus, comment: str = "") -> Sample:
    sample.status = status
    sample.return_comment = comment
    sample.save(update_fields=["status", "return_comment", "updated_at"])
    return sample


def close_queue(sample: Sample) -> None:
    """Close the waiting slots of a sample; lock its pairs first, as everywhere."""
    pairs = (
        Pair.objects.select_for_update(no_key=True, of=["self"])
        .filter(turn__sample=sample)
        .order_by("pk")
    )
    close_slots(Slot.objects.filter(pair__in=[pair.pk for pair in pairs]))
