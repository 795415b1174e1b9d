"""The pairs that the consistency reward model learns from: judged ones, and each step's.

Judged pairs are what people said of sampled answers (``judgments.jsonl``). A step takes a
``judged_share`` of them, half of each verdict, and draws the rest (``augmentation``);
which, depends on the seed and the step's number alone, so a resumed run repeats an
uninterrupted one.

The pairs of a step are dealt to the ranks, and cut into micro-batches, by *clusters*: what
a term of the loss compares (rivals, the answers to one label) stays together.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from actions.grammar import FormatError
from records.judgments import HELD_OUT, JudgedPair
from records.recipes import RewardRecipe
from training.engine.data.conversations import Sample, read_samples
from training.engine.reward_model.augmentation import UNKNOWN, Example, Source, example
from training.engine.reward_model.loss import count_terms, rival_pairs
from training.engine.reward_model.packing import Packer, Pair
from training.engine.run.directory import RunDirectory, RunError, step_random
from training.engine.run.distributed import process_rank, world_size
from training.engine.run.rows import read_records

# Judged pairs


@dataclass(frozen=True)
class RuledOut:
    """A judged answer that is not well formed: not consistent, whatever a model says."""

    sample: str
    held_out: bool
    consistent: bool  # what people said


@dataclass(frozen=True)
class Judged:
    """What the judgments gave: examples to train on and to test on, and the rest."""

    train: list[Example]
    held_out: list[Example]
    ruled_out: list[RuledOut]
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
    ruled_out: list[RuledOut] = []
    counts: Counter[str] = Counter()
    for judged in read_records(path, JudgedPair.from_json):
        consistent, differs = judged.consistent, judged.differs
        history = (histories or {}).get((judged.sample, judged.turn), "")
        pair = Pair(judged.label, judged.sampled, judged.input_kind, history)
        try:
            made = example(pair, consistent, differs, judged.source, _kinds_of(differs))
        except FormatError:
            counts["label unreadable"] += 1
            continue
        split = HELD_OUT if judged.is_held_out else "train"
        counts[f"{judged.source}/{split}/{'1' if consistent else '0'}"] += 1
        if made is None:
            name = judged.sample or judged.label
            ruled_out.append(RuledOut(name, judged.is_held_out, consistent))
        else:
            if not consistent and set(made.targets) == {UNKNOWN}:
                counts["units unknown"] += 1
            made = replace(made, sample=judged.sample or judged.label)
            (held_out if judged.is_held_out else train).append(made)
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


# All pairs of a run


@dataclass(frozen=True)
class PairData:
    """What a run learns from and is tested on.

    ``train`` are judged pairs, ``derived`` draws others from ``samples``, ``held_out``
    are samples that nothing is learned from.
    """

    judged: Judged
    train: list[Example]
    derived: Source
    samples: list[Sample]
    held_out: list[Sample]


def read_pairs(run: RunDirectory, recipe: RewardRecipe) -> PairData:
    """Read ``train``, ``held_out`` and ``judgments``, each where the run has it.

    Raises ``RunError`` where there is no pair to learn from.
    """
    samples, held_out = (
        read_samples(run.data[name]) if name in run.data else []
        for name in ("train", "held_out")
    )
    judged = Judged([], [], [], {})
    if "judgments" in run.data:
        histories = {
            (sample.id, number): turn.history
            for sample in (*samples, *held_out)
            for number, turn in enumerate(sample.turns)
        }
        judged = read_judgments(run.data["judgments"], histories)
    train = judged.train if recipe.judged_share else []
    derived = Source(samples, recipe.derived)
    if not train and not derived.can_draw:
        raise RunError("run.json: `data`", "judgments or train samples", "no pair")
    if not train:
        run.log("no judged pair to train on: derived pairs only", "warning")
    return PairData(judged, train, derived, samples, held_out)


# The pairs of a step


@dataclass(frozen=True)
class PairBatch:
    """The share that one rank has of the pairs of a step.

    ``clusters`` are pairs that a term of the loss compares. ``counts`` (3,) are the known
    units, pairs and rivals of the whole step over the number of ranks: ranks average
    their gradients, so each divides its sums by its part of the count. ``lengths`` are
    those of this rank's prompts, in tokens.
    """

    clusters: list[list[Example]]
    counts: Tensor
    lengths: list[int]

    def split(self, size: int) -> list[list[Example]]:
        """Return micro-batches of at most ``size`` pairs, or of one whole cluster."""
        micro_batches: list[list[Example]] = []
        for cluster in self.clusters:
            if micro_batches and len(micro_batches[-1]) + len(cluster) <= size:
                micro_batches[-1] += cluster
            else:
                micro_batches.append(list(cluster))
        return micro_batches


class PairSampler:
    """Draws the pairs of each step; which, depends on the seed and the step alone.

    Counts over all ranks what was ``used`` and ``left_out`` by source, and ``lengths``.
    """

    def __init__(
        self,
        recipe: RewardRecipe,
        judged: Sequence[Example],
        derived: Source,
        packer: Packer,
    ) -> None:
        self.recipe = recipe
        self.consistent = [item for item in judged if item.consistent]
        self.inconsistent = [item for item in judged if not item.consistent]
        self.by_label: dict[str, list[Example]] = {}
        for item in self.consistent:
            self.by_label.setdefault(item.pair.label, []).append(item)
        self.derived = derived
        self.packer = packer
        self.used: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.lengths: list[int] = []

    def batch(self, step: int) -> PairBatch:
        """Return this rank's share of the pairs of ``step``, counted from 0."""
        examples = self.examples(step)
        with_rivals = bool(self.recipe.pairwise_weight)
        counts = count_terms(
            torch.tensor([target for item in examples for target in item.targets]),
            torch.empty(len(examples)),
            rival_pairs(examples) if with_rivals else torch.empty(0),
        )
        ranks = world_size()
        share = deal(clusters_of(examples, with_rivals), ranks)[process_rank()]
        if not share:
            # This rank has no pairs: run one with zero gradient (its sums are divided
            # by infinity) so that the all-reduce of the others does not hang.
            return PairBatch([examples[:1]], torch.full_like(counts, math.inf), [])
        lengths = [self.length(item) for cluster in share for item in cluster]
        return PairBatch(share, counts / ranks, lengths)

    def examples(self, step: int) -> list[Example]:
        """Return the pairs of a step: judged ones, half of each verdict, and derived."""
        rng = step_random(self.recipe.seed, "reward", step)
        share = self.recipe.judged_share if self.derived.can_draw else 1.0
        pools = [pool for pool in (self.consistent, self.inconsistent) if pool]
        number = round(share * self.recipe.pairs_per_step) if pools else 0
        drawn = [rng.choice(pools[i % len(pools)]) for i in range(number)]
        if self.recipe.pairwise_weight:
            drawn = self._with_rivals(drawn, rng)
        drawn += self.derived.draw(rng, self.recipe.pairs_per_step - number)
        kept: list[Example] = []
        for item in drawn:
            length = self.length(item)
            if length > self.recipe.max_tokens:
                self.left_out[item.source] += 1
            else:
                kept.append(item)
                self.used[item.source] += 1
                self.lengths.append(length)
        if not kept:
            raise RunError("recipe: `max_tokens`", "room for some pair", "none fits")
        return kept

    def length(self, item: Example) -> int:
        """Return how many tokens the prompt of a pair has."""
        return len(self.packer.pack(item.pair, item.units).ids)

    def _with_rivals(
        self, drawn: Sequence[Example], rng: random.Random
    ) -> list[Example]:
        """Return the judged pairs, each consistent one replaced by one to the label of
        the inconsistent one that follows it, where there is one.
        """
        pairs = list(drawn)
        for i, (one, other) in enumerate(itertools.pairwise(drawn)):
            partners = self.by_label.get(other.pair.label, [])
            if one.consistent and not other.consistent and partners:
                pairs[i] = rng.choice(partners)
        return pairs

    def report(self, run: RunDirectory, judged: Judged) -> None:
        """Log what was learned from and what was left out, derived or judged."""
        used = ", ".join(f"{name} {n}" for name, n in sorted(self.used.items()))
        run.log(f"pairs learned from (with repeats): {used}")
        if judged.ruled_out:
            run.log(
                f"{len(judged.ruled_out)} judged responses are not well formed: "
                "not consistent by rule, not learned from"
            )
        if unreadable := judged.counts.get("label unreadable"):
            run.log(
                f"{unreadable} judged pairs are left out: their label response breaks "
                "the response grammar",
                "warning",
            )
        if self.left_out:
            run.log(
                f"pairs longer than {self.recipe.max_tokens} tokens were left out: "
                f"{dict(self.left_out)}",
                "warning",
            )


def clusters_of(examples: Sequence[Example], by_label: bool) -> list[list[Example]]:
    """Return the examples that must stay together: with rivals those of a label."""
    clusters: dict[object, list[Example]] = {}
    for number, item in enumerate(examples):
        clusters.setdefault(item.pair.label if by_label else number, []).append(item)
    return list(clusters.values())


def deal(clusters: Sequence[list[Example]], ranks: int) -> list[list[list[Example]]]:
    """Return the clusters of each rank, about as much text for each."""

    def size(cluster: Sequence[Example]) -> int:
        return sum(len(i.pair.label) + len(i.pair.sampled) for i in cluster)

    hands: list[list[list[Example]]] = [[] for _ in range(ranks)]
    sizes = [0] * ranks
    for cluster in sorted(clusters, key=size, reverse=True):
        least = sizes.index(min(sizes))
        hands[least].append(cluster)
        sizes[least] += size(cluster)
    return hands
