"""The guideline that people judge by: publish versions, confirm reading, pin examples.

A judgment stores the version it was given under. A version that asks to be read again
is shown before the next pair to every labeler who has not confirmed it, or a later one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.db import transaction
from django.db.models import Exists, Max, OuterRef
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext

from annotation.access import require_role
from annotation.models import (
    GuidelineExample,
    GuidelineReading,
    GuidelineVersion,
    Judgment,
    Pair,
    Project,
    Role,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

TEXT_LENGTH: Final = 50_000
CHANGE_LENGTH: Final = 300
NOTE_LENGTH: Final = 2000


class GuidelineError(Exception):
    """A deed on a guideline is refused; the message says why."""


class GuidelineConflict(GuidelineError):
    """Another version was published since the editor began; nothing is overwritten."""

    def __init__(self, project: Project, base_version: int) -> None:
        self.project, self.base_version = project, base_version
        super().__init__(
            gettext(
                "Version %(newest)s was published meanwhile; you began from version "
                "%(base)s."
            )
            % {"newest": project.guideline_version, "base": base_version}
        )


class NothingChanged(GuidelineError):
    """The text equals the published one."""

    def __init__(self) -> None:
        super().__init__(gettext("This is word for word the published guideline."))


class InvalidGuideline(GuidelineError):
    """A field has an invalid value."""


class ExampleUnsettled(GuidelineError):
    """The pair is not settled: as an example it would reveal the verdict."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        super().__init__(
            gettext("Pair %(pair)s has no final verdict yet, so it is no example.")
            % {"pair": pair.pk}
        )


def publish_guideline(
    *,
    project: Project,
    author: User,
    text: str,
    base_version: int,
    change: str = "",
    asks_to_reread: bool = True,
) -> GuidelineVersion:
    """Make ``text`` the guideline under the next version number.

    The replaced text is stored as a version too, if it never was. The author counts as
    having read the new text. Raises Forbidden unless the author is a curator,
    InvalidGuideline, NothingChanged, and GuidelineConflict when ``base_version`` is no
    longer the newest.
    """
    if len(text) > TEXT_LENGTH:
        raise InvalidGuideline(
            gettext("The guideline may have %(limit)s characters; this has %(found)s.")
            % {"limit": TEXT_LENGTH, "found": len(text)}
        )
    with transaction.atomic():
        require_role(project, author, Role.CURATOR, deed="Publishing a guideline")
        project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        if project.guideline_version != base_version:
            raise GuidelineConflict(project, base_version)
        if project.guideline == text:
            raise NothingChanged
        GuidelineVersion.objects.get_or_create(
            project=project,
            version=project.guideline_version,
            defaults={"text": project.guideline, "asks_to_reread": False},
        )
        published = GuidelineVersion.objects.create(
            project=project,
            version=project.guideline_version + 1,
            text=text,
            change=change.strip()[:CHANGE_LENGTH],
            asks_to_reread=asks_to_reread,
            author=author,
        )
        project.guideline = text
        project.guideline_version = published.version
        project.save(update_fields=["guideline", "guideline_version"])
        _keep_reading(project, author, published.version)
        return published


def confirm_reading(*, project: Project, user: User, version: int) -> None:
    """Record that a labeler has read a version; repeating it is no error."""
    with transaction.atomic():
        require_role(project, user, Role.LABELER, deed="Judging")
        known = GuidelineVersion.objects.filter(project=project, version=version)
        if not known.exists():
            raise InvalidGuideline(
                gettext("There is no guideline version %(version)s.")
                % {"version": version}
            )
        _keep_reading(project, user, version)


def _keep_reading(project: Project, user: User, version: int) -> None:
    GuidelineReading.objects.get_or_create(project=project, user=user, version=version)


def unread_guideline(*, project: Project, user: User) -> GuidelineVersion | None:
    """Return the newest version that must be read and that ``user`` has not (1 query).

    A later version that need not be read does not replace an earlier one that must;
    having read a later one does.
    """
    readings = GuidelineReading.objects.filter(
        project=project, user=user, version__gte=OuterRef("version")
    )
    return (
        GuidelineVersion.objects.filter(project=project, asks_to_reread=True)
        .exclude(Exists(readings))
        .order_by("-version")
        .first()
    )


def last_known_version(
    *, project: Project, user: User, before: int
) -> GuidelineVersion | None:
    """Return the newest version below ``before`` that the person read or judged by.

    A judgment under ``before`` itself was in progress when that version came out, so
    the person saw the previous one. None when there is no such version, or its text was
    never stored.
    """
    read = GuidelineReading.objects.filter(
        project=project, user=user, version__lt=before
    ).aggregate(last=Max("version"))
    judged = Judgment.objects.filter(labeler=user, project=project).aggregate(
        last=Max("guideline_version")
    )
    known = max(read["last"] or 0, min(judged["last"] or 0, before - 1))
    return GuidelineVersion.objects.filter(project=project, version=known).first()


def pin_example(
    *, project: Project, pair: Pair, curator: User, note: str = ""
) -> GuidelineExample:
    """Pin a settled pair to the guideline; a second pin replaces the note.

    Raises Forbidden unless the user is a curator, and ExampleUnsettled.
    """
    with transaction.atomic():
        require_role(project, curator, Role.CURATOR, deed="Pinning an example")
        pair = get_object_or_404(Pair, project=project, pk=pair.pk)
        settled_pair = Pair.objects.settled().filter(pk=pair.pk).first()
        settled: int | None = getattr(settled_pair, "outcome", None)
        if settled is None:
            raise ExampleUnsettled(pair)
        # Lock, so that two concurrent pins get two positions.
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        last = project.examples.aggregate(last=Max("position"))["last"]
        example, _ = GuidelineExample.objects.update_or_create(
            project=project,
            pair=pair,
            defaults={
                "verdict": settled,
                "note": note.strip()[:NOTE_LENGTH],
                "pinned_by": curator,
            },
            create_defaults={
                "verdict": settled,
                "note": note.strip()[:NOTE_LENGTH],
                "pinned_by": curator,
                "position": 0 if last is None else last + 1,
            },
        )
        return example


def unpin_example(
    *, project: Project, example: GuidelineExample, curator: User
) -> None:
    """Remove an example from the guideline. Raises Forbidden unless a curator asks."""
    with transaction.atomic():
        require_role(project, curator, Role.CURATOR, deed="Unpinning an example")
        here = GuidelineExample.objects.filter(project=project)
        get_object_or_404(here, pk=example.pk).delete()
