"""Review: comments at a place, a curator's own fix, approval of many samples at once.

:mod:`annotation.authoring.samples` approves, returns and retires one sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext

from actions.format_check import check_text
from annotation.access import CURATORS, Forbidden, require_role, roles_held
from annotation.authoring.anchors import Note, PlacedTurn, place_turn, put_notes
from annotation.authoring.draft_checks import DraftTurn
from annotation.authoring.export import sample_to_json
from annotation.authoring.sample_rows import save_sample
from annotation.authoring.samples import (
    COMMENT_LENGTH,
    CommentMissing,
    SampleError,
    WrongStatus,
    close_queue,
)
from annotation.judging.slots import open_slots
from annotation.models import (
    Comment,
    Draft,
    Pair,
    Project,
    Role,
    Sample,
    SampleStatus,
    Turn,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from actions.tags import JSON

BULK_LIMIT: Final = 1000
BATCH: Final = 100
# Key under which a draft stores the content hash of the sample it fixes.
FIXES: Final = "fixes"
FIXABLE: Final = frozenset({*SampleStatus.values} - {SampleStatus.RETIRED})


class UnknownPlace(SampleError):
    """A comment points at a place that the sample does not have, or no longer has."""

    def __init__(self, sample: Sample, place: str) -> None:
        self.sample, self.place = sample, place
        super().__init__(
            gettext("Sample %(sample)s has no place %(place)s now.")
            % {"sample": sample, "place": place}
        )


class FixOutdated(SampleError):
    """The sample changed while a curator was fixing it; nothing is overwritten."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        super().__init__(
            gettext(
                "Sample %(sample)s was changed by someone else since you began. Your "
                "text is kept in this draft; compare it with the sample's newest version."
            )
            % {"sample": sample}
        )


# --- comments ---------------------------------------------------------------------------


def comment_on(
    *,
    project: Project,
    sample: Sample,
    user: User,
    text: str,
    position: int | None = None,
    anchor: str = "",
) -> Comment:
    """Comment on a place of a sample (a turn, a step, a value) or on the whole sample.

    The text at the place is stored as the quote. Raises Forbidden unless the user is a
    curator, CommentMissing and UnknownPlace.
    """
    text = text.strip()[:COMMENT_LENGTH]
    with transaction.atomic():
        require_role(project, user, Role.CURATOR, deed="Commenting on a sample")
        sample = get_object_or_404(Sample, project=project, pk=sample.pk)
        if not text:
            raise CommentMissing
        quote = ""
        if position is not None:
            turn = sample.turns.filter(position=position).first()
            place = placed(turn).place(anchor) if turn else None
            if place is None:
                raise UnknownPlace(sample, f"{position + 1}/{anchor}")
            quote = place.quote
        return Comment.objects.create(
            sample=sample,
            author=user,
            position=position,
            anchor=anchor if position is not None else "",
            quote=quote,
            text=text,
        )


def notes_of_draft(draft: Draft, turns: Iterable[DraftTurn]) -> dict[int, list[Note]]:
    """Return the comments on a draft's sample by turn number; 0 is the whole sample.

    Each comment is compared with the current text of the draft. A draft without a
    sample costs no query.
    """
    if draft.sample_id is None:
        return {}
    placed_turns = [
        place_turn(turn.number - 1, turn.kind, turn.text, turn.response)
        for turn in turns
    ]
    comments = Comment.objects.filter(sample=draft.sample_id).select_related(
        "author", "resolved_by"
    )
    notes = {0: put_notes(placed_turns, comments)}
    for turn in placed_turns:
        notes[turn.number] = [
            *(note for place in turn.places() for note in place.notes),
            *turn.lost,
        ]
    return notes


def placed(turn: Turn) -> PlacedTurn:
    return place_turn(turn.position, turn.input_kind, turn.input_text, turn.response)


def resolve_comment(
    *, project: Project, comment: Comment, user: User, resolved: bool = True
) -> Comment:
    """Mark a comment as resolved, or as open again.

    Raises Forbidden unless the user wrote the sample or is a curator.
    """
    with transaction.atomic():
        roles = roles_held(project, user)
        here = Comment.objects.filter(sample__project=project, pk=comment.pk)
        sample = get_object_or_404(here.select_related("sample")).sample
        if sample.author_id != user.pk and not roles & CURATORS:
            raise Forbidden(
                "A comment is resolved by the sample's author or a curator."
            )
        here.filter(resolved_at__isnull=resolved).update(
            resolved_at=timezone.now() if resolved else None,
            resolved_by=user if resolved else None,
        )
        return here.select_related("author", "resolved_by").get()


# --- a curator's fix --------------------------------------------------------------------


def start_fix(*, project: Project, sample: Sample, user: User) -> Draft:
    """Open a curator's draft that fixes a sample, or continue the existing one.

    Raises Forbidden unless the user is a curator, and WrongStatus for a retired sample.
    """
    with transaction.atomic():
        require_role(project, user, Role.CURATOR, deed="Fixing a sample")
        sample = get_object_or_404(Sample, project=project, pk=sample.pk)
        if sample.status not in FIXABLE:
            raise WrongStatus(sample, "fixed", FIXABLE)
        draft = Draft.objects.filter(sample=sample, author=user).first()
        if draft is not None:
            return draft
        content: dict[str, JSON] = {
            **sample_to_json(sample),
            FIXES: sample.content_hash,
        }
        content["contexts"] = [
            {"existing": context.pk}
            for context in sample.contexts.order_by("samplecontext__position")
        ]
        return Draft.objects.create(
            project=project, author=user, sample=sample, content=content
        )


def finish_fix(
    *,
    project: Project,
    draft: Draft,
    document: Mapping[str, JSON],
    editor: User,
    why: str = "",
) -> Sample:
    """Store a curator's draft as the next version of the sample; its author stays.

    The sample becomes submitted, whatever its status was, so that the change is
    reviewed; its pairs leave the queue until it is approved. Raises Forbidden,
    WrongStatus when the status changed since the draft began, FixOutdated when the
    content did, and the errors of save_sample.
    """
    sample = draft.sample
    assert sample is not None
    with transaction.atomic():
        require_role(project, editor, Role.CURATOR, deed="Fixing a sample")
        rows = Sample.objects.select_for_update(no_key=True, of=["self"])
        sample = get_object_or_404(
            rows.select_related("project"), project=project, pk=sample.pk
        )
        began_as = str(draft.content.get("status") or SampleStatus.SUBMITTED)
        if sample.status != began_as:
            raise WrongStatus(sample, "fixed", frozenset({began_as}))
        if draft.content.get(FIXES) != sample.content_hash:
            raise FixOutdated(sample)
        if sample.status == SampleStatus.APPROVED:
            close_queue(sample)
        Sample.objects.filter(pk=sample.pk).update(return_comment="")
        return save_sample(
            project=sample.project,
            document=document,
            author=editor,
            sample=sample,
            status=SampleStatus.SUBMITTED,
            why=why,
        )


# --- many at once -----------------------------------------------------------------------


@dataclass(frozen=True)
class BulkPlan:
    """What a bulk approval would do; ``left_out`` holds (sample, why)."""

    ready: tuple[int, ...]
    left_out: tuple[tuple[Sample, str], ...]
    beyond: int


@dataclass
class BulkResult:
    approved: int = 0
    left_out: list[tuple[Sample, str]] = field(default_factory=list)


def plan_bulk(*, user: User, samples: QuerySet[Sample]) -> BulkPlan:
    """Return which of ``samples`` would be approved: the oldest thousand at a time."""
    keys = list(samples.order_by("pk").values_list("pk", flat=True)[: BULK_LIMIT + 1])
    beyond = samples.count() - BULK_LIMIT if len(keys) > BULK_LIMIT else 0
    ready: list[int] = []
    left_out: list[tuple[Sample, str]] = []
    for batch in _batches(keys[:BULK_LIMIT]):
        rows = _for_bulk(Sample.objects.filter(pk__in=batch))
        for sample in rows.order_by("pk"):
            if why := _why_not(sample, user):
                left_out.append((sample, why))
            else:
                ready.append(sample.pk)
    return BulkPlan(tuple(ready), tuple(left_out), beyond)


def approve_in_bulk(*, project: Project, user: User, keys: Sequence[int]) -> BulkResult:
    """Approve the samples of a plan in one transaction, a hundred at a time.

    Each sample is checked again under its lock; one that changed since the plan is left
    out with the reason. The user's own samples are left out, even for admins. Raises
    Forbidden unless the user is a curator.
    """
    result = BulkResult()
    with transaction.atomic():
        require_role(project, user, Role.CURATOR, deed="Approving samples")
        for batch in _batches(sorted(set(keys))[:BULK_LIMIT]):
            _approve_batch(project, user, batch, result)
    return result


def _batches(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


def _approve_batch(
    project: Project, user: User, batch: Sequence[int], result: BulkResult
) -> None:
    rows = Sample.objects.select_for_update(no_key=True, of=["self"])
    chosen: list[int] = []
    samples = rows.filter(project=project, pk__in=batch).order_by("pk")
    for sample in _for_bulk(samples):
        if why := _why_not(sample, user):
            result.left_out.append((sample, why))
        else:
            chosen.append(sample.pk)
    Sample.objects.filter(pk__in=chosen).update(
        status=SampleStatus.APPROVED, return_comment="", updated_at=timezone.now()
    )
    pairs = (
        Pair.objects.select_for_update(no_key=True, of=["self"])
        .filter(turn__sample__in=chosen, label_text=F("turn__response"))
        .wanting_slots()
        .order_by("pk")
    )
    open_slots(project=project, pairs=[pair.pk for pair in pairs])
    result.approved += len(chosen)


def _for_bulk(samples: QuerySet[Sample]) -> QuerySet[Sample]:
    comments = Comment.objects.filter(sample=OuterRef("pk"), resolved_at__isnull=True)
    return samples.annotate(has_comments=Exists(comments)).prefetch_related("turns")


def _why_not(sample: Sample, user: User) -> str:
    """Return why a sample cannot be approved in bulk; "" when it can."""
    if sample.status != SampleStatus.SUBMITTED:
        return gettext("no longer submitted")
    if sample.author_id == user.pk:
        return gettext("your own")
    if getattr(sample, "has_comments", False):
        return gettext("has open comments")
    turns = list(sample.turns.all())
    if not turns:
        return gettext("has no turn")
    for turn in turns:
        place = {"number": turn.position + 1}
        if not turn.response.strip():
            return gettext("turn %(number)s has no response") % place
        if error := check_text(turn.response, turn.input_kind == "observation"):
            return gettext("turn %(number)s breaks the response grammar: %(error)s") % {
                **place,
                "error": error,
            }
    return ""
