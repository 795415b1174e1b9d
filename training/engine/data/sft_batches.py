"""The order of fine-tuning's data, and the batches made of it.

Everything here depends on the seed and the place alone, so a resumed run learns the same
sequences as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from records.recipes import SftRecipe
from training.engine.data.conversations import (
    IGNORED,
    Encoded,
    Encoder,
    Sample,
    lengths_summary,
    windows,
)
from training.engine.modeling.exactness import packing
from training.engine.modeling.throughput import Work
from training.engine.run.directory import RunDirectory, RunError, step_random


@dataclass(frozen=True)
class LeftOut:
    """A turn that fits no window: it is not learned."""

    sample: str
    turn: int


class Course:
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
        self.packing = recipe.packing
        self.tokens = 0
        self.work: Work | None = None
        self.learned = 0
        self.left_out: list[LeftOut] = []
        # (sample, which window): cut by the labels' lengths once.
        self.sequences: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        for number, sample in enumerate(samples):
            found, out = windows(encoder, sample, longest)
            self.left_out += [LeftOut(sample.id, turn) for turn in out]
            for window, encoded in enumerate(found):
                self.sequences.append((number, window))
                self.lengths.append(len(encoded.ids))
        if not self.sequences:
            found_text = f"none of {len(samples)} samples"
            raise RunError("recipe: `max_tokens`", "room for some turn", found_text)
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
        found, left_out = windows(self.encoder, sample, self.longest)
        if len(found) > 1 or left_out or not any(t.references for t in sample.turns):
            return found[window]  # windows are cut by the labels and stay with them
        random = step_random(self.recipe.seed, "wording", epoch, sample.id)
        responses = [
            random.choice((turn.response, *turn.references)) for turn in sample.turns
        ]
        reworded = self.encoder.encode(sample, responses=responses)
        return reworded if len(reworded.ids) <= self.longest else found[0]

    def measure_packing(
        self, model: PreTrainedModel, at_once: int, log: Callable[[str, str], None]
    ) -> None:
        """Pack no conversations where the model mixes those of a row.

        ``at_once`` is how many conversations a row may have.
        """
        if self.packing:
            ordered = sorted(self.lengths)
            found = packing(model, ordered[-1], sum(ordered[-at_once:]))
            found.tell(log, "each conversation has a row of its own, padded")
            self.packing = found.exact

    def collate(self, rows: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the tensors of one batch of places."""
        batch = [self.at(row["place"]) for row in rows]
        self.tokens += sum(len(encoded.ids) for encoded in batch)
        if self.work is not None:
            self.work.add(len(encoded.ids) for encoded in batch)
        self.learned += sum(
            label != IGNORED for encoded in batch for label in encoded.labels
        )
        if self.packing:
            return packed(batch)
        pad = self.encoder.tokenizer.pad_token_id
        assert isinstance(pad, int)
        return padded(batch, pad)


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
    every model: ``exactness.packing`` measures it.
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


def report_lengths(run: RunDirectory, course: Course, longest: int) -> None:
    """Say how long the sequences are and what does not fit."""
    summary = lengths_summary(course.lengths)
    run.log(
        f"{len(course.samples)} conversations, {summary['count']} sequences of at most "
        f"{longest} tokens: median {summary['median']}, 95 % within {summary['p95']}, "
        f"longest {summary['max']}, {summary['sum']} in all"
    )
    if course.left_out:
        shown = ", ".join(f"{o.sample} turn {o.turn}" for o in course.left_out[:5])
        run.log(
            f"{len(course.left_out)} turns are left out, each longer than {longest} "
            f"tokens with its contexts and its user message: {shown}"
            + (", …" if len(course.left_out) > 5 else ""),
            "warning",
        )


def split(inputs: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    """Return the conversations of a batch in pieces of at most ``size``."""
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
