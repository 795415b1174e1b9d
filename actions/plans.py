"""Plans and their alignment: which steps match, are missing, extra or swapped.

Steps are compared by their meaning-bearing words (:mod:`actions.words`). A word weighs
``log(1 + N / df)``: N steps in both plans, df of them with the word. A word that only
one step and its partner share weighs most.

Plans of up to 40 × 40 steps get the optimal assignment. Larger plans get a greedy one
in near-linear time, so that aligning a plan of a megabyte costs little more than
reading it.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from actions.words import meaning_words

OPTIMAL_LIMIT: Final = 40 * 40
WORDS_LIMIT: Final = 64
POSTINGS_LIMIT: Final = 8
LISTED_LIMIT: Final = 200

# Steps with less weighted overlap than this do not match.
THRESHOLD: Final = 0.25

_STEP: Final = re.compile(r"[ \t]*(\d{1,6})[.)][ \t]+(\S.*)")


@dataclass(frozen=True)
class Plan:
    """The steps of a plan in their order, without their numbers."""

    steps: tuple[str, ...]


class PlanSpan(NamedTuple):
    """A plan and its span in the text, characters ``start`` to ``end``."""

    plan: Plan
    start: int
    end: int


class Match(NamedTuple):
    """Step ``a`` of one plan matches step ``b`` of the other; ``score`` is 0 to 1.

    A score of 0 marks a leftover: no shared words, but the same place in the order.
    """

    a: int
    b: int
    score: float


@dataclass(frozen=True)
class PlanAlignment:
    """How two plans relate; every number is a step counted from 0.

    ``missing``: steps of the first plan without partner; ``extra``: of the second.
    ``inversions``: pairs of matches ``((i, j), (k, l))`` with i < k and j > l. With more
    than 200 matched steps only inversions between neighbours are listed.
    """

    matched: tuple[Match, ...]
    missing: tuple[int, ...]
    extra: tuple[int, ...]
    inversions: tuple[tuple[tuple[int, int], tuple[int, int]], ...]


def find_plan(text: str) -> PlanSpan | None:
    """Find the first line ``Plan:`` that is followed by numbered lines."""
    position = 0
    start = -1
    end = 0
    steps: list[str] = []
    for line in text.split("\n"):
        step = _STEP.match(line) if start >= 0 else None
        if step:
            steps.append(step[2].rstrip())
            end = position + len(line)
        elif steps:
            break
        else:
            start = position if line.strip().casefold() == "plan:" else -1
        position += len(line) + 1
    return PlanSpan(Plan(tuple(steps)), start, end) if steps else None


def extract_plan(text: str) -> Plan | None:
    """Return the plan in a thinking text, or None: a line ``Plan:``, then ``1. …`` lines.

    The order of the lines counts, not the numbers written in front of them.
    """
    span = find_plan(text)
    return span.plan if span else None


def align_plans(a: Plan, b: Plan) -> PlanAlignment:
    """Match the steps of two plans by meaning; deterministic."""
    words_a = [meaning_words(step)[:WORDS_LIMIT] for step in a.steps]
    words_b = [meaning_words(step)[:WORDS_LIMIT] for step in b.steps]
    weights = word_weights(words_a, words_b)
    if len(words_a) * len(words_b) <= OPTIMAL_LIMIT:
        matched = _match_optimally(words_a, words_b, weights)
    else:
        matched = _match_greedily(words_a, words_b, weights)
    matched = _add_leftovers(matched, len(words_a), len(words_b))
    used_a = {match.a for match in matched}
    used_b = {match.b for match in matched}
    return PlanAlignment(
        matched=tuple(matched),
        missing=tuple(i for i in range(len(words_a)) if i not in used_a),
        extra=tuple(j for j in range(len(words_b)) if j not in used_b),
        inversions=_inversions(matched),
    )


def word_weights(
    one: Sequence[Sequence[str]], other: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return each word's weight: inverse document frequency over both plans' steps."""
    frequency: Counter[str] = Counter()
    for words in (*one, *other):
        frequency.update(set(words))
    total = len(one) + len(other)
    return {word: math.log(1 + total / count) for word, count in frequency.items()}


def step_similarity(
    one: Sequence[str], other: Sequence[str], weights: dict[str, float]
) -> float:
    """Return the weighted Dice overlap of two steps' words, 0 to 1."""
    first, second = set(one), set(other)
    total = sum(weights[w] for w in first) + sum(weights[w] for w in second)
    # Sort the words: the sum of floats depends on their order, and the order of a set
    # changes from run to run.
    shared = sum(weights[word] for word in sorted(first & second))
    return min(1.0, 2 * shared / total) if total else 0.0


def _match_optimally(
    one: Sequence[Sequence[str]],
    other: Sequence[Sequence[str]],
    weights: dict[str, float],
) -> list[Match]:
    scores = [[step_similarity(x, y, weights) for y in other] for x in one]
    longest = max(len(one), len(other), 1)
    # The bonus for the same place is concave in the distance: of two equally good
    # assignments the one without crossings wins.
    gains = [
        [
            score + 0.02 * (1 - ((i - j) / longest) ** 2) if score >= THRESHOLD else 0.0
            for j, score in enumerate(row)
        ]
        for i, row in enumerate(scores)
    ]
    return [
        Match(i, j, round(scores[i][j], 4))
        for i, j in _assign(gains)
        if scores[i][j] >= THRESHOLD
    ]


def _assign(gains: list[list[float]]) -> list[tuple[int, int]]:
    """Return the assignment of rows to columns with the largest total gain.

    The Hungarian algorithm with potentials, O(rows² × columns).
    """
    if not gains or not gains[0]:
        return []
    if len(gains) > len(gains[0]):
        turned = [list(column) for column in zip(*gains, strict=True)]
        return sorted((i, j) for j, i in _assign(turned))
    rows, columns = len(gains), len(gains[0])
    row_potential = [0.0] * (rows + 1)
    column_potential = [0.0] * (columns + 1)
    row_of = [0] * (columns + 1)  # 1-based; column 0 holds the new row
    for row in range(1, rows + 1):
        row_of[0] = row
        column = 0
        slack = [math.inf] * (columns + 1)
        came_from = [0] * (columns + 1)
        visited = [False] * (columns + 1)
        while row_of[column]:
            visited[column] = True
            at = row_of[column]
            smallest, following = math.inf, 0
            for c in range(1, columns + 1):
                if visited[c]:
                    continue
                cost = -gains[at - 1][c - 1] - row_potential[at] - column_potential[c]
                if cost < slack[c]:
                    slack[c], came_from[c] = cost, column
                if slack[c] < smallest:
                    smallest, following = slack[c], c
            for c in range(columns + 1):
                if visited[c]:
                    row_potential[row_of[c]] += smallest
                    column_potential[c] -= smallest
                else:
                    slack[c] -= smallest
            column = following
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    return sorted((row_of[c] - 1, c - 1) for c in range(1, columns + 1) if row_of[c])


def _match_greedily(
    one: Sequence[Sequence[str]],
    other: Sequence[Sequence[str]],
    weights: dict[str, float],
) -> list[Match]:
    """Match equal steps first, then each step with the best that shares a rare word."""
    equal: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for j in reversed(range(len(other))):
        equal[tuple(other[j])].append(j)
    matched: list[Match] = []
    free_a: list[int] = []
    used: set[int] = set()
    for i, words in enumerate(one):
        same = equal.get(tuple(words))
        if same:
            j = same.pop()
            used.add(j)
            matched.append(Match(i, j, 1.0))
        else:
            free_a.append(i)
    postings: dict[str, list[int]] = defaultdict(list)
    for j, words in enumerate(other):
        if j not in used:
            for word in set(words):
                if len(postings[word]) < POSTINGS_LIMIT:
                    postings[word].append(j)
    for i in free_a:
        rare = sorted(set(one[i]), key=lambda word: (-weights[word], word))[:8]
        best = Match(i, -1, 0.0)
        for word in rare:
            for j in postings.get(word, ()):
                if j not in used:
                    score = step_similarity(one[i], other[j], weights)
                    if score > best.score:
                        best = Match(i, j, score)
        if best.score >= THRESHOLD:
            used.add(best.b)
            matched.append(Match(i, best.b, round(best.score, 4)))
    return sorted(matched)


def _add_leftovers(matched: list[Match], count_a: int, count_b: int) -> list[Match]:
    """Pair unmatched steps between the same two matched neighbours, in order.

    Only where both sides have equally many; otherwise the pairing would be a guess.
    """
    crossing_free = all(x.b < y.b for x, y in pairwise(matched))
    if not crossing_free:
        return matched
    result: list[Match] = []
    previous = Match(-1, -1, 0.0)
    for match in [*matched, Match(count_a, count_b, 0.0)]:
        gap = match.a - previous.a - 1
        if gap == match.b - previous.b - 1:
            result += [
                Match(previous.a + k, previous.b + k, 0.0) for k in range(1, gap + 1)
            ]
        result.append(match)
        previous = match
    return result[:-1]


def _inversions(
    matched: Sequence[Match],
) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    if len(matched) > LISTED_LIMIT:
        pairs = list(pairwise(matched))
    else:
        pairs = [(x, y) for k, x in enumerate(matched) for y in matched[k + 1 :]]
    return tuple(((x.a, x.b), (y.a, y.b)) for x, y in pairs if x.b > y.b)
