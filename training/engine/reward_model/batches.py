"""The pairs that the consistency reward model learns from: judged ones, and each step's.

Judged pairs are what people said of sampled answers (``judgments.jsonl``). A step takes a
``judged_share`` of them, half of each verdict, and draws the rest from ``derived``; which,
depends on the seed and the step's number alone, so a resumed run repeats an uninterrupted
one.

The pairs of a step are dealt to several processes, and cut into pieces where they do not
fit at once, by *clusters*: what a term of the loss compares (``pair_loss``: rivals, the
answers to one label) stays in one part.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch.utils.data import Dataset

from actions.grammar import FormatError
from records.recipes import RewardRecipe
from training.engine.reward_model.augmentation import UNKNOWN, Example, Source, example
from training.engine.reward_model.loss import counted, rivals
from training.engine.reward_model.packing import Packer, Pair
from training.engine.run.directory import RunError, read_rows, step_random
from training.engine.run.distributed import process_count, process_rank

# Judged pairs


@dataclass(frozen=True)
class Judged:
    """What the judgments gave: examples to train on and to test on, and the rest."""

    train: list[Example]
    held_out: list[Example]
    ruled_out: list[tuple[bool, bool]]  # (held out, consistent) of ill-formed samples
    counts: dict[str, int]


def read_judgments(
    path: Path, histories: Mapping[tuple[str, int], str] | None = None
) -> Judged:
    """Read ``judgments.jsonl``; raise ``RunError`` naming a line that is wrong.

    ``histories`` has what stands before the responses, by sample and turn.

    A sampled response that is not well formed is never learned from (it is not
    consistent by rule), but it counts in the held-out figures. A pair whose label is not
    well formed is left out and counted: there is nothing to compare with.
    """
    train: list[Example] = []
    held_out: list[Example] = []
    ruled_out: list[tuple[bool, bool]] = []
    counts: Counter[str] = Counter()
    for number, row in enumerate(read_rows(path), start=1):
        try:
            label, sampled = str(row["label"]), str(row["sampled"])
            place = (str(row.get("sample")), int(str(row.get("turn") or 0)))
            history = (histories or {}).get(place, "")
            pair = Pair(label, sampled, str(row.get("input_kind", "user")), history)
            consistent = bool(row["consistent"])
            held = row.get("split") == "held-out"
            source = str(row.get("source", "people"))
            differs = cast(list[str], row.get("differs") or [])
            made = example(pair, consistent, differs, source, _kinds_of(differs))
        except FormatError:
            counts["label unreadable"] += 1
            continue
        except (KeyError, TypeError) as error:
            where = f"{path.name}, line {number}"
            raise RunError(where, "a judged pair", f"{error}") from error
        split = "held-out" if held else "train"
        counts[f"{source}/{split}/{'1' if consistent else '0'}"] += 1
        if made is None:
            ruled_out.append((held, consistent))
        else:
            if not consistent and set(made.targets) == {UNKNOWN}:
                counts["units unknown"] += 1
            (held_out if held else train).append(made)
    return Judged(train, held_out, ruled_out, dict(counts))


def _kinds_of(differs: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of the units named by ``differs``."""
    names = {"plan": "plan step", "result": "use of result"}
    kinds: list[str] = []
    for key in differs:
        first, *rest = key.split("/")
        if first == "action":
            first = "parameter" if "parameters" in rest else "action name"
        kinds.append(names.get(first, first))
    return tuple(dict.fromkeys(kinds))


# The pairs of a step


class Steps(Dataset[dict[str, object]]):
    """The examples of every step from ``first`` on; a step depends on its number only.

    Processes take turns at the items, one for each of them and step, and each item
    holds what is the share of the process that takes it.
    """

    def __init__(
        self,
        recipe: RewardRecipe,
        judged: Sequence[Example],
        derived: Source,
        packer: Packer,
        pad: int,
        first: int,
    ) -> None:
        self.recipe = recipe
        self.consistent = [item for item in judged if item.consistent]
        self.inconsistent = [item for item in judged if not item.consistent]
        self.by_label: dict[str, list[Example]] = {}
        for item in self.consistent:
            self.by_label.setdefault(item.pair.label, []).append(item)
        self.derived = derived
        self.packer, self.pad, self.first = packer, pad, first
        self.used: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return (self.recipe.steps - self.first) * process_count()

    def __getitem__(self, index: int) -> dict[str, object]:
        """Return this process's ``clusters`` of a step and the ``counts`` of the whole.

        Of several processes the mean of the gradients is taken, not the sum, so the
        counts are divided by their number.
        """
        processes = process_count()
        examples = self.examples(self.first + index // processes)
        rivalry = bool(self.recipe.pairwise_weight)
        counts = counted(
            torch.tensor([target for item in examples for target in item.targets]),
            torch.empty(len(examples)),
            rivals(examples) if rivalry else torch.empty(0),
        )
        share = dealt(clusters(examples, rivalry), processes)[process_rank()]
        if not share:  # it has to take part, and to push nothing
            return {
                "clusters": [examples[:1]],
                "counts": torch.full_like(counts, math.inf),
            }
        return {"clusters": share, "counts": counts / processes}

    def _with_rivals(
        self, chosen: Sequence[Example], rng: random.Random
    ) -> list[Example]:
        """Return the judged pairs, each consistent one replaced by one to the label of
        the inconsistent one that follows it, where there is one.
        """
        found = list(chosen)
        for i, (one, other) in enumerate(itertools.pairwise(chosen)):
            partners = self.by_label.get(other.pair.label, [])
            if one.consistent and not other.consistent and partners:
                found[i] = rng.choice(partners)
        return found

    def examples(self, step: int) -> list[Example]:
        """Return the pairs of a step: judged ones, half of each verdict, and derived."""
        rng = step_random(self.recipe.seed, "reward", step)
        share = self.recipe.judged_share if self.derived.can_draw else 1.0
        pools = [pool for pool in (self.consistent, self.inconsistent) if pool]
        number = round(share * self.recipe.pairs_per_step) if pools else 0
        chosen = [rng.choice(pools[i % len(pools)]) for i in range(number)]
        if self.recipe.pairwise_weight:
            chosen = self._with_rivals(chosen, rng)
        chosen += self.derived.draw(rng, self.recipe.pairs_per_step - number)
        kept: list[Example] = []
        for item in chosen:
            length = len(self.packer.pack(item.pair, item.units).ids)
            if length > self.recipe.max_tokens:
                self.left_out[item.source] += 1
            else:
                kept.append(item)
                self.used[item.source] += 1
                self.lengths.append(length)
        if not kept:
            raise RunError("recipe: `max_tokens`", "room for some pair", "none fits")
        return kept


def clusters(examples: Sequence[Example], by_label: bool) -> list[list[Example]]:
    """Return the examples that must stay in one part: with rivals those of a label."""
    found: dict[object, list[Example]] = {}
    for number, item in enumerate(examples):
        found.setdefault(item.pair.label if by_label else number, []).append(item)
    return list(found.values())


def dealt(found: Sequence[list[Example]], hands: int) -> list[list[list[Example]]]:
    """Return the clusters dealt to so many hands, about as much text to each."""

    def size(cluster: Sequence[Example]) -> int:
        return sum(len(i.pair.label) + len(i.pair.sampled) for i in cluster)

    given: list[list[list[Example]]] = [[] for _ in range(hands)]
    held = [0] * hands
    for cluster in sorted(found, key=size, reverse=True):
        least = held.index(min(held))
        given[least].append(cluster)
        held[least] += size(cluster)
    return given


def pieces_of(found: Sequence[list[Example]], size: int) -> list[list[Example]]:
    """Return the clusters in pieces of at most ``size`` examples, or of one cluster."""
    pieces: list[list[Example]] = []
    for cluster in found:
        if pieces and len(pieces[-1]) + len(cluster) <= size:
            pieces[-1] += cluster
        else:
            pieces.append(list(cluster))
    return pieces
