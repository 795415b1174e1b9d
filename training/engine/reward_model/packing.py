"""How a label response and a sampled response become one prompt of the reward model.

* layout ``sequential`` (the paper's): the whole label, then the whole sample;
* layout ``interleaved``: unit by unit, each unit's label text beside its sampled text.
  With ``differences`` a unit whose texts are equal is written as ``<<same>>``, and two
  texts that differ are followed by the words that only one of them has. A small model is
  slow to see that both sides name the same value; told so, it can learn which
  differences matter.

With ``history_tokens`` the end of the conversation so far stands ahead of the pair: the
question can decide which differences matter. Without, the model compares the two
responses alone.

The two outputs are read at ``<<match>>`` marks: with labels ``final`` (the paper's) at one
mark at the very end, with labels ``unit`` at a mark after every unit.

A mark is a special token of the reward model's own tokenizer, and responses are encoded
without special tokens, so nothing that a policy writes can be taken for one.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from actions.format_check import check_text
from actions.grammar import parse
from actions.units import UnitPair, align_units
from records.recipes import RewardRecipe

Layout = Literal["sequential", "interleaved"]
Labels = Literal["final", "unit"]

LABEL, SAMPLED, MATCH = "<<label>>", "<<sampled>>", "<<match>>"
SAME = "<<same>>"
HISTORY = "<<history>>"
ONLY_LABEL, ONLY_SAMPLED = "<<only label>>", "<<only sampled>>"
KINDS = (
    "thinking",
    "plan step",
    "action name",
    "parameter",
    "use of result",
    "answer",
)
REWARD_MARKS = (
    *(LABEL, SAMPLED, MATCH, SAME, ONLY_LABEL, ONLY_SAMPLED),
    *(f"<<{kind}>>" for kind in KINDS),
)
PAD = "<<pad>>"
WHOLE = "whole"  # the key of the one read of labels="final"
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    """A label response, a sampled response, and the kind of input both answer.

    ``history`` is what stands before both; read only by models that want it.
    """

    label: str
    sampled: str
    input_kind: str = "user"
    history: str = field(default="", repr=False)


@dataclass(frozen=True)
class RewardSettings:
    """How a checkpoint packs and reads; saved beside its weights."""

    layout: Layout
    labels: Labels
    differences: bool = True
    history_tokens: int = 0  # of what stands before both responses, ahead of the pair
    threshold: float = 0.5  # probability from which a pair counts as consistent
    temperature: float = 1.0  # divides the log-odds, so that they are calibrated

    @classmethod
    def of(cls, recipe: RewardRecipe) -> RewardSettings:
        """Return what a recipe asks for, before anything is chosen on held-out pairs."""
        return cls(
            cast(Layout, recipe.layout),
            cast(Labels, recipe.labels),
            history_tokens=recipe.history_tokens,
        )


@dataclass(frozen=True)
class Packed:
    """One prompt: token ids, positions of the marks read, and what each read judges."""

    ids: tuple[int, ...]
    reads: tuple[int, ...]
    keys: tuple[str, ...]


def units_of(pair: Pair) -> tuple[UnitPair, ...] | None:
    """Return the aligned units, or None when the sampled response is not well formed.

    Raises ``FormatError`` when the label does not parse: that is wrong data.
    """
    inside = pair.input_kind == "observation"
    label = parse(pair.label, inside_thinking=inside)
    if check_text(pair.sampled, inside, may_trail=True) is not None:
        return None
    return align_units(label, parse(pair.sampled, inside_thinking=inside))


class Packer:
    """Turns pairs into prompts for one tokenizer. Adds the marks the tokenizer lacks.

    After making one on a new tokenizer, the model needs rows for what was added
    (``fit_vocabulary``).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: RewardSettings
    ) -> None:
        if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
            # With pad = eos a classifier takes a closing eos for padding and reads one
            # token too early.
            tokenizer.add_special_tokens({"pad_token": PAD})
        marks = [*REWARD_MARKS]
        if settings.history_tokens:
            marks.append(HISTORY)
        tokenizer.add_tokens(marks, special_tokens=True)
        ids = cast(list[int], tokenizer.convert_tokens_to_ids(marks))
        self._mark = dict(zip(marks, ids, strict=True))
        self.pad_id = cast(int, tokenizer.pad_token_id)
        self.settings = settings
        self._encode: Callable[[str], tuple[int, ...]] = functools.lru_cache(65536)(
            lambda text: tuple(
                tokenizer.encode(
                    text, add_special_tokens=False, split_special_tokens=True
                )
            )
        )

    def pack(self, pair: Pair, units: Sequence[UnitPair]) -> Packed:
        """Return the prompt of ``pair``, whose aligned units are ``units``."""
        ids: list[int] = []
        reads: list[int] = []
        keys: list[str] = []
        if self.settings.history_tokens:
            before = self._encode(pair.history)[-self.settings.history_tokens :]
            ids += [self._mark[HISTORY], *before]
        interleaved = self.settings.layout == "interleaved"
        by_unit = self.settings.labels == "unit"
        if not interleaved:
            ids += self._side(LABEL, pair.label) + self._side(SAMPLED, pair.sampled)
        for unit in units if by_unit or interleaved else ():
            ids.append(self._mark[f"<<{unit.kind}>>"])
            if unit.kind == "parameter":
                ids += self._encode(unit.key.split("/parameters/", 1)[1])
            if not interleaved:
                ids += self._side(SAMPLED, unit.sampled)
            elif self.settings.differences and unit.label == unit.sampled:
                ids.append(self._mark[SAME])
            else:
                ids += self._side(LABEL, unit.label) + self._side(SAMPLED, unit.sampled)
                if self.settings.differences:
                    ids += self._only(ONLY_LABEL, unit.label, unit.sampled)
                    ids += self._only(ONLY_SAMPLED, unit.sampled, unit.label)
            if by_unit:
                reads.append(len(ids))
                keys.append(unit.key)
                ids.append(self._mark[MATCH])
        if not by_unit:
            reads.append(len(ids))
            keys.append(WHOLE)
            ids.append(self._mark[MATCH])
        return Packed(tuple(ids), tuple(reads), tuple(keys))

    def _side(self, mark: str, text: str | None) -> list[int]:
        # A unit that one side lacks has nothing after its mark.
        return [self._mark[mark], *self._encode(text or "")]

    def _only(self, mark: str, text: str | None, other: str | None) -> list[int]:
        """Return the words of ``text`` that ``other`` has not, or not so often.

        Words, not tokens: 23 and 32 may be made of the same two tokens.
        """
        rest = Counter(_WORD.findall(other or ""))
        words: list[str] = []
        for word in _WORD.findall(text or ""):
            if rest[word]:
                rest[word] -= 1
            else:
                words.append(word)
        return [self._mark[mark], *self._encode(" ".join(words))]


@dataclass(frozen=True)
class Batch:
    """Padded prompts. B prompts of at most L tokens with R reads in all."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64
    rows: Tensor  # (R,) the prompt a read belongs to
    positions: Tensor  # (R,) where in it


def collate(
    prompts: Sequence[Packed], pad: int, side: Literal["left", "right"] = "right"
) -> Batch:
    """Pad ``prompts`` to one length."""
    length = max(len(prompt.ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), length), pad, dtype=torch.long)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    rows: list[int] = []
    positions: list[int] = []
    for row, prompt in enumerate(prompts):
        start = length - len(prompt.ids) if side == "left" else 0
        input_ids[row, start : start + len(prompt.ids)] = torch.tensor(prompt.ids)
        mask[row, start : start + len(prompt.ids)] = 1
        rows += [row] * len(prompt.reads)
        positions += [start + read for read in prompt.reads]
    return Batch(input_ids, mask, torch.tensor(rows), torch.tensor(positions))
