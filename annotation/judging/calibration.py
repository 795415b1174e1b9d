"""Calibration: does the side of a response, or its name, influence the judgment?

A share of the pairs is shown as "response A" and "response B", half of them with the
label on the right. A hash of the pair and the person decides which pairs and which
arrangement: a reload, a second tab and the arriving judgment get the same arrangement,
and no form field reveals it. Changing ``Project.calibration_percent`` while a pair is
on a screen only moves that pair in or out of calibration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from django.utils.translation import gettext_lazy as _

from actions.grammar import FormatError, parse
from annotation.judging.pair_view import PairView, view_of_pair
from annotation.models import InputKind, Pair, Project, Reason

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

# A page that does not name the sides offers these reasons by side; its form uses
# "missing step" for a step that only the left side has.
_BY_SIDE: Final = {
    Reason.MISSING_STEP: _("Step only in A"),
    Reason.EXTRA_STEP: _("Step only in B"),
}
_TURNED: Final[dict[str, str]] = {
    Reason.MISSING_STEP: Reason.EXTRA_STEP,
    Reason.EXTRA_STEP: Reason.MISSING_STEP,
}


@dataclass(frozen=True)
class Arrangement:
    """The results of the judgments made in one arrangement.

    ``consistent`` is the share of verdict 1 among ``count`` judgments. ``agreement`` is
    the share that equals the others' verdict among the ``final`` judgments, whose pair
    has an outcome in which others took part. None means that the denominator is 0.
    """

    sides_swapped: bool | None
    count: int
    consistent: float | None
    final: int
    agreement: float | None

    @property
    def consistent_percent(self) -> int | None:
        return None if self.consistent is None else round(100 * self.consistent)

    @property
    def agreement_percent(self) -> int | None:
        return None if self.agreement is None else round(100 * self.agreement)


def sides_swapped(*, project: Project, pair: Pair, user_id: int) -> bool | None:
    """Return whether ``user_id`` sees the label on the right; None outside calibration.

    A pair with a side that breaks the grammar is never in it: that side would be
    recognized as the sampled one.
    """
    digest = hashlib.sha256(f"calibration {pair.pk} {user_id}".encode()).digest()
    number = int.from_bytes(digest[:8])
    if number % 100 >= project.calibration_percent or not _is_well_formed(pair):
        return None
    return bool(number // 100 % 2)


def view_for(*, project: Project, pair: Pair, user_id: int) -> PairView:
    """Return the rows of the pair as this person sees them, left and right."""
    swapped = sides_swapped(project=project, pair=pair, user_id=user_id)
    left, right = pair.label_text, pair.sampled_text
    if swapped:
        left, right = right, left
    return view_of_pair(
        left,
        right,
        inside_thinking=pair.turn.input_kind == InputKind.OBSERVATION,
        is_blind=swapped is not None,
    )


def reason_choices(*, is_blind: bool) -> list[tuple[str, str | _StrPromise]]:
    """Return the reasons of a page; if blind, their labels do not name the sides."""
    by_side = _BY_SIDE if is_blind else {}
    return [(reason.value, by_side.get(reason, reason.label)) for reason in Reason]


def reasons_from_sides(reasons: Iterable[str], *, swapped: bool | None) -> list[str]:
    """Translate reasons by side into reasons by label.

    What only the left side has is extra where the sampled response stands left.
    """
    if not swapped:
        return list(reasons)
    return [_TURNED.get(reason, reason) for reason in reasons]


def arrangements(
    *,
    judgments: Iterable[tuple[bool | None, int]],
    compared: Iterable[tuple[bool | None, bool]],
) -> tuple[Arrangement, ...]:
    """Compare judgments with the sides named, unnamed, and unnamed and swapped.

    ``judgments`` are (sides_swapped, verdict); ``compared`` are those of them
    whose pair is final, as (sides_swapped, whether the others say the same).
    """
    verdicts: dict[bool | None, list[int]] = {}
    for swapped, verdict in judgments:
        verdicts.setdefault(swapped, []).append(verdict)
    agreed: dict[bool | None, list[bool]] = {}
    for swapped, is_agreed in compared:
        agreed.setdefault(swapped, []).append(is_agreed)
    return tuple(
        Arrangement(
            sides_swapped=swapped,
            count=len(verdicts[swapped]),
            consistent=_mean(verdicts[swapped]),
            final=len(agreed.get(swapped, ())),
            agreement=_mean(agreed.get(swapped, ())),
        )
        for swapped in (None, False, True)
        if swapped in verdicts
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _is_well_formed(pair: Pair) -> bool:
    is_inside = pair.turn.input_kind == InputKind.OBSERVATION
    try:
        for text in (pair.label_text, pair.sampled_text):
            parse(text, inside_thinking=is_inside)
    except FormatError:
        return False
    return True
