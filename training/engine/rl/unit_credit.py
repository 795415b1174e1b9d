"""Credit by unit: each token is pushed by the unit it writes, not by the whole response.

A response of forty tokens whose one wrong value makes it inconsistent gives, under
GRPO, forty tokens the same blame. Reward model and oracle say more: which units match.
Here the advantage of a token is that of its unit, compared with the same unit of the
other responses to the same prompt (the baseline is per prompt, turn and unit):

    A(token in unit u of response i) = (m(i, u) − mean over the group) / spread

with m in 0…1 how well the unit matches. Tokens that belong to no unit (tags, the plan's
frame, punctuation of a call) get the advantage of the structure: whether the response
is well formed and has just the label's units.

This departs from GRPO as published, where the advantage is one number per response; it
is the step-grained reward of the paper's section on rewards, with units as the steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from actions.units import Span

STRUCTURE = ""  # the key of tokens that belong to no unit


@dataclass(frozen=True)
class Piece:
    """One response of a completion: its tokens' units, and how well each matches.

    ``turn`` numbers the turn within its sample; ``owners`` has a unit key (or
    ``STRUCTURE``) for each token.
    """

    turn: int
    owners: tuple[str, ...]
    matches: Mapping[str, float]


def token_owners(
    ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    spans: Mapping[str, Sequence[Span]],
) -> tuple[str, ...]:
    """Return the unit that each token writes most of, or ``STRUCTURE``."""
    ends = [len(decode(ids[: end + 1])) for end in range(len(ids))]
    owners: list[str] = []
    start = 0
    for end in ends:
        best, most = STRUCTURE, 0
        for key, places in spans.items():
            shared = sum(max(0, min(end, b) - max(start, a)) for a, b in places)
            if shared > most:
                best, most = key, shared
        owners.append(best)
        start = max(start, end)
    return tuple(owners)


def unit_advantages(
    group: Sequence[Sequence[Piece]], *, least_spread: float
) -> list[list[list[float]]]:
    """Return the advantage of every token of every piece of a group's completions.

    A unit whose matches spread less than ``least_spread`` over the group teaches
    nothing and gets zero.
    """
    seen: dict[tuple[int, str], list[float]] = defaultdict(list)
    for pieces in group:
        for piece in pieces:
            for key, match in piece.matches.items():
                seen[piece.turn, key].append(match)
    middle = {key: sum(values) / len(values) for key, values in seen.items()}
    spread: dict[tuple[int, str], float] = {
        key: (sum((v - middle[key]) ** 2 for v in values) / len(values)) ** 0.5
        for key, values in seen.items()
    }

    def advantage(piece: Piece, owner: str) -> float:
        place = (piece.turn, owner)
        if owner not in piece.matches or spread[place] < least_spread:
            return 0.0
        return (piece.matches[owner] - middle[place]) / (spread[place] + 1e-4)

    return [
        [[advantage(piece, owner) for owner in piece.owners] for piece in pieces]
        for pieces in group
    ]
