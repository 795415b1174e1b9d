"""Fine-tuning's data: the wordings of a turn, the order of the conversations, batches.

Everything here depends on the seed and the place alone, so a resumed run learns the same
sequences as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from records.judgments import JudgedPair
from records.recipes import SftRecipe
from training.engine.data.conversations import (
    IGNORED,
    Encoded,
    Encoder,
    Sample,
    lengths_summary,
    read_samples,
    windows,
)
from training.engine.modeling.exactness import packing
from training.engine.run.directory import RunDirectory, RunError, step_random
from training.engine.run.distributed import process_rank, world_size
from training.engine.run.rows import read_records

Log = Callable[[str, str], None]
Approved = Mapping[tuple[str, int], Sequence[str]]  # texts by sample and turn


# Samples and the wordings of their turns


def read_data(
    run: RunDirectory, recipe: SftRecipe
) -> tuple[list[Sample], list[Sample]]:
    """Return the samples to learn, with the wordings the recipe wants, and held-out ones.

    Raises ``RunError`` where there is nothing to learn.
    """
    approved = approved_answers(run) if recipe.judged_answers else {}
    samples = with_wordings(read_samples(run.need_data("train")), recipe, approved)
    if not samples:
        raise RunError("data.train", "at least one sample", "an empty file")
    held_out = read_samples(run.data["held_out"]) if "held_out" in run.data else []
    return samples, held_out


def approved_answers(run: RunDirectory) -> Approved:
    """Return the sampled answers that people judged consistent, but for those of the
    held-out split.
    """
    approved: dict[tuple[str, int], list[str]] = {}
    for pair in read_records(run.need_data("judgments"), JudgedPair.from_json):
        if pair.consistent and pair.source == "people" and not pair.is_held_out:
            approved.setdefault((pair.sample, pair.turn), []).append(pair.sampled)
    count = sum(map(len, approved.values()))
    run.log(f"{count} answers judged consistent are learned as further wordings")
    return approved


def with_wordings(
    samples: Sequence[Sample], recipe: SftRecipe, approved: Approved
) -> list[Sample]:
    """Return the samples with just those references that are learned: the written ones
    where the recipe wants them, and the approved answers.
    """

    def wordings(sample: Sample, number: int) -> tuple[str, ...]:
        written = sample.turns[number].references if recipe.references else ()
        return (*written, *approved.get((sample.id, number), ()))

    return [
        replace(
            sample,
            turns=tuple(
                replace(turn, references=wordings(sample, number))
                for number, turn in enumerate(sample.turns)
            ),
        )
        for sample in samples
    ]


def texts_of(samples: Sequence[Sample]) -> list[str]:
    """Return every text of the samples, which a tokenizer should know."""
    return [
        text
        for sample in samples
        for text in (
            sample.context,
            *(
                text
                for turn in sample.turns
                for text in (turn.text, turn.response, *turn.references)
            ),
        )
    ]


# The order they are learned in


@dataclass(frozen=True)
class LeftOut:
    """A turn that fits no window: it is not learned."""

    sample: str
    turn: int


class EpochOrder:
    """Which conversation is learned at which place, and in which wording.

    Places are numbered through the whole run: ``conversations_per_step`` to a step. A
    pass over the data takes the sequences in a new order, batches made of similar
    lengths so that little is padding. Nothing here depends on what ran before.
    """

    def __init__(
        self,
        encoder: Encoder,
        samples: Sequence[Sample],
        recipe: SftRecipe,
        longest: int,
    ) -> None:
        self.encoder = encoder
        self.recipe = recipe
        self.samples = samples
        self.longest = longest
        self.left_out: list[LeftOut] = []
        # (sample, which window): cut by the labels' lengths once.
        self.sequences: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        for number, sample in enumerate(samples):
            encodings, out = windows(encoder, sample, longest)
            self.left_out += [LeftOut(sample.id, turn) for turn in out]
            for window, encoded in enumerate(encodings):
                self.sequences.append((number, window))
                self.lengths.append(len(encoded.ids))
        if not self.sequences:
            none = f"none of {len(samples)} samples"
            raise RunError("recipe: `max_tokens`", "room for some turn", none)
        self._order: dict[int, list[int]] = {}

    def order(self, epoch: int) -> list[int]:
        """Return the sequences of one pass, in the order they are learned."""
        if epoch not in self._order:
            random = step_random(self.recipe.seed, "order", epoch)
            size = self.recipe.conversations_per_step
            mixed = list(range(len(self.sequences)))
            random.shuffle(mixed)
            batches: list[list[int]] = []
            for start in range(0, len(mixed), size * 16):
                chunk = sorted(
                    mixed[start : start + size * 16], key=lambda i: self.lengths[i]
                )
                batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
            random.shuffle(batches)
            self._order = {epoch: [i for batch in batches for i in batch]}
        return self._order[epoch]

    def at(self, place: int) -> Encoded:
        """Return the sequence learned at ``place``."""
        epoch, position = divmod(place, len(self.sequences))
        number, window = self.sequences[self.order(epoch)[position]]
        sample = self.samples[number]
        encodings, left_out = windows(self.encoder, sample, self.longest)
        rewords = any(turn.references for turn in sample.turns)
        if len(encodings) > 1 or left_out or not rewords:
            # Windows are cut by the labels and stay with them.
            return encodings[window]
        random = step_random(self.recipe.seed, "wording", epoch, sample.id)
        responses = [
            random.choice((turn.response, *turn.references)) for turn in sample.turns
        ]
        reworded = self.encoder.encode(sample, responses=responses)
        return reworded if len(reworded.ids) <= self.longest else encodings[0]

    def step(self, step: int) -> list[Encoded]:
        """Return this process's part of the conversations of a step, counted from 0."""
        per_rank = self.recipe.conversations_per_step // world_size()
        start = step * self.recipe.conversations_per_step + process_rank() * per_rank
        return [self.at(place) for place in range(start, start + per_rank)]

    def report(self, log: Log) -> None:
        """Say how long the sequences are and what does not fit."""
        summary = lengths_summary(self.lengths)
        log(
            f"{len(self.samples)} conversations, {summary['count']} sequences of at most "
            f"{self.longest} tokens: median {summary['median']}, "
            f"95 % within {summary['p95']}, longest {summary['max']}, "
            f"{summary['sum']} in all",
            "info",
        )
        if self.left_out:
            shown = ", ".join(f"{o.sample} turn {o.turn}" for o in self.left_out[:5])
            log(
                f"{len(self.left_out)} turns are left out, each longer than "
                f"{self.longest} tokens with its contexts and its user message: {shown}"
                + (", …" if len(self.left_out) > 5 else ""),
                "warning",
            )


# Batches


def packs_exactly(
    model: PreTrainedModel, lengths: Sequence[int], at_once: int, log: Log
) -> bool:
    """Measure whether conversations packed into a row stay what they are; say so.

    ``lengths`` are those of all conversations, of which a row has at most ``at_once``.
    """
    ordered = sorted(lengths)
    measured = packing(model, ordered[-1], sum(ordered[-at_once:]))
    measured.tell(log, "each conversation has a row of its own, padded")
    return measured.exact


def collate(
    batch: Sequence[Encoded], pad: int, packs: bool, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return the tensors of some conversations: in one row, or in padded rows."""
    tensors = packed(batch) if packs else padded(batch, pad)
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def padded(batch: Sequence[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Return (batch, longest) tensors, padded on the right, where it costs no position."""
    longest = max(len(encoded.ids) for encoded in batch)
    rows = [(e.ids, e.labels, longest - len(e.ids)) for e in batch]
    return {
        "input_ids": torch.tensor([ids + [pad] * fill for ids, _, fill in rows]),
        "labels": torch.tensor([labels + [IGNORED] * fill for _, labels, fill in rows]),
        "attention_mask": torch.tensor(
            [[1] * len(ids) + [0] * fill for ids, _, fill in rows]
        ),
    }


def packed(batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Return one row of conversations end to end, as (1, sum of lengths) tensors.

    Positions start again at 0 with each conversation; from that, transformers makes the
    block mask (or flash attention's sequence borders), so none sees another. Not for
    every model: ``packs_exactly`` measures it.
    """
    ids = [token for encoded in batch for token in encoded.ids]
    # The first token of a conversation is not predicted from the one before it.
    labels = [token for e in batch for token in (IGNORED, *e.labels[1:])]
    positions = [position for e in batch for position in range(len(e.ids))]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
    }


def split(inputs: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    """Return the conversations of a batch in micro-batches of at most ``size``."""
    if "position_ids" in inputs:  # packed: each starts again at 0
        places = inputs["position_ids"][0]
        starts = (places == 0).nonzero().flatten().tolist()[::size]
        ends = [*starts[1:], len(places)]
        return [
            {name: tensor[:, a:b] for name, tensor in inputs.items()}
            for a, b in zip(starts, ends, strict=True)
        ]
    pieces: list[dict[str, torch.Tensor]] = []
    for start in range(0, len(inputs["input_ids"]), size):
        rows = {name: t[start : start + size] for name, t in inputs.items()}
        longest = int(rows["attention_mask"].sum(1).max())
        pieces.append({name: t[:, :longest] for name, t in rows.items()})
    return pieces
