"""The history of a sample: what it said before and after every change of its content.

Version 1 is written when a sample first changes, from what it said until then, so that
an import of ten thousand samples writes no history for the many that never change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from django.db.models import Max

from annotation.models import Sample, SampleVersion
from annotation.sample_format import content_hash

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from actions.tags import JSON

WHY_LENGTH: Final = 300
# A sample's status moves without a change of what people wrote.
NO_CONTENT: Final = frozenset({"status"})


def record_change(
    *,
    sample: Sample,
    before: Mapping[str, JSON],
    after: Mapping[str, JSON],
    editor: User | None,
    why: str = "",
) -> SampleVersion | None:
    """Keep a change of a sample's document; None when nothing people wrote has changed.

    The caller has locked the sample, which is what makes the numbers follow each other.
    """
    if _content(before) == _content(after):
        return None
    last = sample.versions.aggregate(last=Max("number"))["last"]
    if last is None:
        last = 1
        first = SampleVersion.objects.create(
            sample=sample, number=1, document=dict(before), editor_id=sample.author_id
        )
        SampleVersion.objects.filter(pk=first.pk).update(created_at=sample.created_at)
    return SampleVersion.objects.create(
        sample=sample,
        number=last + 1,
        document=dict(after),
        editor=editor,
        why=why[:WHY_LENGTH],
    )


def _content(document: Mapping[str, JSON]) -> str:
    return content_hash({k: v for k, v in document.items() if k not in NO_CONTENT})
