"""Calibration: does the side a response stands on, or its name, sway the judgment?

A share of the pairs is shown as "response A" and "response B", half of them with the
label on the right. Which pairs, and how they stand, follows from the pair and the person
by a hash: a reload, a second tab and the judgment that arrives see the same arrangement,
and no form field says it. Changing ``Project.calibration_percent`` while a pair is on
somebody's screen moves only that pair in or out.
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

# On a page that does not name the sides these reasons are told by side; a form that
# comes back from it uses "missing step" for a step that only the left side has.
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
    """How the judgments of one arrangement came out.

    ``consistent`` is the share of 1 among ``count``; ``agreement`` the share that equals
    what others say among the ``final`` judgments: those whose pair has an outcome that
    others had a say in. None means that there is nothing to divide by.
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

    A pair of which a side breaks the grammar is never in it: that side would be known
    for the sampled one.
    """
    digest = hashlib.sha256(f"calibration {pair.pk} {user_id}".encode()).digest()
    number = int.from_bytes(digest[:8])
    if number % 100 >= project.calibration_percent or not _is_well_formed(pair):
        return None
    return bool(number // 100 % 2)


def view_for(*, project: Project, pair: Pair, user_id: int) -> PairView:
    """Return the pair's rows as this person sees them, left and right."""
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
    """Return the reasons of a page, with labels that do not name the sides if blind."""
    by_side = _BY_SIDE if is_blind else {}
    return [(reason.value, by_side.get(reason, reason.label)) for reason in Reason]


def reasons_from_sides(reasons: Iterable[str], *, swapped: bool | None) -> list[str]:
    """Turn the reasons of a page back: what only the left side has may be extra."""
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
