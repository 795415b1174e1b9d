"""Checks of a judgment before it is recorded: units, reasons, time, order of steps."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from django.utils.translation import gettext as _

from actions.grammar import FormatError, parse
from actions.plans import Plan, align_plans, extract_plan
from actions.units import unit_pairs_of_text
from annotation.judging.queue import (
    JudgingError,
)
from annotation.models import (
    InputKind,
    Pair,
    Reason,
)

if TYPE_CHECKING:
    pass


# A policy may give a parameter any name: empty, very long, or with line breaks. The
# database refuses only a zero byte.
UNIT_KEY: Final = re.compile(
    r"thinking|result|answer|format|plan/[1-9][0-9]{0,3}"
    r"|action/[1-9][0-9]{0,3}/(name|parameters/[^\x00]*)"
)


UNITS_LIMIT: Final = 500


class InvalidJudgment(JudgingError):
    """A field of a decision has an invalid value."""

    def __init__(self, field: str, expected: str, found: object) -> None:
        self.field, self.expected, self.found = field, expected, found
        super().__init__(
            _("%(field)s: expected %(expected)s, found %(found)s.")
            % {"field": field, "expected": expected, "found": repr(found)}
        )


class OrderNotConfirmed(JudgingError):
    """'Consistent' was chosen although the plan steps have another order.

    ``steps`` are the pairs of label steps, counted from 1, whose order is reversed.
    """

    def __init__(self, steps: tuple[tuple[int, int], ...]) -> None:
        self.steps = steps
        numbers = ", ".join(
            _("%(first)s and %(second)s") % {"first": first, "second": second}
            for first, second in steps[:5]
        )
        super().__init__(
            _(
                "The plan steps come in another order (steps %(steps)s), which makes a "
                "pair inconsistent. Confirm that it is consistent all the same."
            )
            % {"steps": numbers}
        )


def steps_turned_round(pair: Pair) -> tuple[tuple[int, int], ...]:
    """Return the pairs of label plan steps, from 1, that the response reverses."""
    is_inside = pair.turn.input_kind == InputKind.OBSERVATION
    label = _plan_of(pair.label_text, is_inside)
    sampled = _plan_of(pair.sampled_text, is_inside)
    if label is None or sampled is None:
        return ()
    return tuple(
        (first[0] + 1, second[0] + 1)
        for first, second in align_plans(label, sampled).inversions
    )


def _plan_of(text: str, is_inside: bool) -> Plan | None:
    try:
        return parse(text, inside_thinking=is_inside).plan
    except FormatError:
        return extract_plan(text)


def check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidJudgment("seconds", _("0 or more"), seconds)


def reasons_of_units(pair: Pair, units: Collection[str]) -> list[str]:
    """Return the reasons that the alignment proposes for ``units``.

    A unit without a proposed reason gets that of its kind.
    """
    is_inside = pair.turn.input_kind == InputKind.OBSERVATION
    try:
        label = parse(pair.label_text, inside_thinking=is_inside)
    except FormatError:
        proposed = {}
    else:
        proposed = {
            unit.key: unit.reason
            for unit in unit_pairs_of_text(
                label, pair.sampled_text, inside_thinking=is_inside
            )
        }
    reasons = {proposed.get(unit) or _reason_of_kind(unit) for unit in units}
    return [reason for reason in Reason.values if reason in reasons]


def _reason_of_kind(unit: str) -> str:
    kind, _, rest = unit.partition("/")
    if kind == "action":
        is_name = rest.endswith("/name") and rest.count("/") == 1
        return Reason.ACTION_NAME if is_name else Reason.PARAMETER
    if kind == "result":
        return Reason.USE_OF_RESULT
    return Reason.LOGIC if kind == "thinking" else Reason.CONTENT
