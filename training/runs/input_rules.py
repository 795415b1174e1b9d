"""Which checkpoints each kind of run takes, and in which role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.translation import gettext_lazy as _

from training.models import (
    InputRole,
    RunKind,
)

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise


@dataclass(frozen=True)
class Takes:
    """A checkpoint role that a kind of run takes; required or not."""

    role: InputRole
    required: bool
    help: _StrPromise


INPUTS: dict[str, tuple[Takes, ...]] = {
    RunKind.SFT: (
        Takes(
            InputRole.POLICY, False, _("Go on from this one instead of from scratch.")
        ),
    ),
    RunKind.DRAW: (
        Takes(InputRole.POLICY, True, _("The policy whose answers people will judge.")),
        Takes(InputRole.INITIAL, False, _("Also answers, for comparison.")),
        Takes(
            InputRole.REWARD,
            False,
            _("Scores the answers, to be compared with what people say of them."),
        ),
    ),
    RunKind.REWARD: (
        Takes(InputRole.POLICY, True, _("The language model that learns to judge.")),
    ),
    RunKind.POLICY: (
        Takes(InputRole.POLICY, True, _("The policy to improve.")),
        Takes(
            InputRole.INITIAL,
            False,
            _("The reference of the KL term; without one, the policy as it starts."),
        ),
        Takes(
            InputRole.REWARD,
            False,
            _(
                "Scores the answers; needed where the consistency source is the reward "
                "model."
            ),
        ),
        Takes(
            InputRole.REWARD_2,
            False,
            _("Judges beside the first: the lowest score of all counts."),
        ),
        Takes(InputRole.REWARD_3, False, _("Judges beside the first two.")),
        Takes(
            InputRole.PREFERENCE,
            False,
            _(
                "Scores answers of tasks that are neither action nor reasoning tasks; "
                "a reward run that judges “preference” makes one."
            ),
        ),
    ),
    RunKind.PREFERENCE: (
        Takes(
            InputRole.POLICY,
            True,
            _("The policy to improve; also what it is held to."),
        ),
    ),
    RunKind.EVALUATE: (
        Takes(InputRole.POLICY, True, _("The policy to measure.")),
        Takes(
            InputRole.INITIAL, False, _("A second policy to measure, for comparison.")
        ),
        Takes(InputRole.REWARD, False, _("Scores consistency besides the oracle.")),
    ),
}
