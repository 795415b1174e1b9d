"""The logits of each next token while responses grow: with a cache, or without.

``CachedForward`` reads a prompt once and then one token a step. ``PlainForward`` reads
every row from its start at every step: many times slower, and right for every model. It
is used where the cache of a model is measured to be wrong (``exactness``), or where it
has one of a kind of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from training.engine.modeling.exactness import (
    SHORT,
    USUAL,
    Bench,
    Finding,
    base_of,
    largest,
    measured,
)

Forward: TypeAlias = Callable[..., Any]


class Growing(Protocol):
    """Rows of token ids that grow by one token a step. ``logits`` are (rows, V)."""

    logits: Tensor

    def repeat(self, times: int) -> None:
        """Put ``times`` copies in place of each row."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""

    def grow(self, tokens: Tensor) -> None:
        """Append one token to each row, (rows,), and compute the next logits."""


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer that keeps room for the tokens to come.

    The layer of transformers makes a new tensor for every token; at a hundred rows on a
    CPU nine tenths of a step went into that. Keys and values here are views of larger
    tensors, written in place.
    """

    room = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (batch, heads, new, width) tensors; return all that is held."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self.owned: tuple[Tensor, Tensor] | None = None
            self.seen: Tensor | None = None
            return self.keys, self.values
        assert self.keys is not None
        assert self.values is not None
        held, added = self.keys.shape[-2], key_states.shape[-2]
        # Rows that were repeated or picked are new tensors, without room.
        if (
            self.owned is None
            or self.seen is not self.keys
            or self.owned[0].shape[-2] < held + added
        ):
            self.owned = (
                self._moved(self.keys, added),
                self._moved(self.values, added),
            )
        for owned, new in zip(self.owned, (key_states, value_states), strict=True):
            owned[:, :, held : held + added] = new
        self.keys, self.values = (owned[:, :, : held + added] for owned in self.owned)
        self.seen = self.keys
        return self.keys, self.values

    def _moved(self, held: Tensor, added: int) -> Tensor:
        length = held.shape[-2]
        size = (*held.shape[:2], length + max(added, self.room), held.shape[-1])
        owned = held.new_empty(size)
        owned[:, :, :length] = held
        return owned


def roomy_cache(model: PreTrainedModel, room: int) -> DynamicCache:
    """Return an empty cache; layers that keep everything get ``room`` to grow into."""
    cache = DynamicCache(config=model.config)
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            roomy = RoomyLayer()  # type: ignore[no-untyped-call]
            roomy.room = room
            cache.layers[number] = roomy
    return cache


class CachedForward:
    """Prompts padded on the left, and a cache of all that was read."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        *,
        pad: int,
        room: int,
        device: torch.device,
        forward: Forward | None = None,
    ) -> None:
        self.forward = forward or model
        longest = max(len(prompt) for prompt in prompts)
        padded = [[pad] * (longest - len(p)) + list(p) for p in prompts]
        self.lengths = torch.tensor([len(p) for p in prompts], device=device)
        columns = torch.arange(longest, device=device)
        self.mask = (columns >= longest - self.lengths[:, None]).long()
        self.cache = roomy_cache(model, room)
        # Models without attention take the same cache under another name; what they
        # keep is of no length, and a mask as long as the text would be taken for one of
        # the new tokens.
        takes = inspect.signature(type(base_of(model)).forward).parameters
        self.recurrent = "cache_params" in takes
        name = "cache_params" if self.recurrent else "past_key_values"
        self.cached = {name: self.cache, "use_cache": True}
        self.logits: Tensor = self.forward(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=self.mask,
            position_ids=(self.mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=1,
            **self.cached,
        ).logits[:, -1]

    def repeat(self, times: int) -> None:
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        self._pick(rows.repeat_interleave(times))
        self.logits = self.logits.repeat_interleave(times, 0)

    def keep(self, rows: Tensor) -> None:
        self._pick(rows)

    def _pick(self, rows: Tensor) -> None:
        # The one way of picking rows that recurrent layers have as well.
        self.cache.reorder_cache(cast(torch.LongTensor, rows))
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]

    def grow(self, tokens: Tensor) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(tokens), 1))], 1)
        self.logits = self.forward(
            input_ids=tokens[:, None],
            attention_mask=None if self.recurrent else self.mask,
            position_ids=self.lengths[:, None],
            **self.cached,
        ).logits[:, -1]
        self.lengths = self.lengths + 1


class PlainForward:
    """Every row from its start at every step, padded on the right, without a mask.

    What a causal model reads comes before the padding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        *,
        pad: int,
        device: torch.device,
    ) -> None:
        self.model, self.pad, self.device = model, pad, device
        self.rows = [list(prompt) for prompt in prompts]
        self.logits = self._logits()

    def repeat(self, times: int) -> None:
        self.rows = [list(row) for row in self.rows for _ in range(times)]
        self.logits = self.logits.repeat_interleave(times, 0)

    def keep(self, rows: Tensor) -> None:
        self.rows = [self.rows[i] for i in rows.tolist()]

    def grow(self, tokens: Tensor) -> None:
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        self.logits = self._logits()

    def _logits(self) -> Tensor:
        longest, shortest = max(map(len, self.rows)), min(map(len, self.rows))
        padded = [row + [self.pad] * (longest - len(row)) for row in self.rows]
        logits: Tensor = self.model(
            input_ids=torch.tensor(padded, device=self.device),
            logits_to_keep=longest - shortest + 1,
            use_cache=False,
        ).logits
        last = torch.tensor([len(row) - 1 for row in self.rows], device=self.device)
        # Not every model keeps to ``logits_to_keep``.
        last = last - (longest - logits.shape[1])
        return logits[torch.arange(len(last), device=self.device), last]


WITHOUT_CACHE = "rows are read from their start for each token, which is far slower"


def caching(model: nn.Module, longest: int = USUAL) -> Finding:
    """Measure whether growing rows with a cache have the logits of rows read whole.

    Prompts of unequal lengths, repeated, grown, some dropped, and grown on. ``longest``
    is the longest prompt with its answer.
    """

    def measure(bench: Bench, reach: int) -> float:
        texts = [bench.text(1, max(SHORT, reach - 4)), bench.text(2, 5)]
        rows = CachedForward(
            bench.model,
            texts,
            pad=bench.vocabulary[0],
            room=SHORT,
            device=bench.device,
            forward=bench.forward,
        )
        rows.repeat(2)
        texts = [list(text) for text in texts for _ in range(2)]
        read = [
            (bench.alone(text)[-1], row)
            for text, row in zip(texts, rows.logits, strict=True)
        ]
        for step in range(6):
            if step == 3:
                kept = torch.tensor([0, 3], device=bench.device)
                rows.keep(kept)
                texts = [texts[0], texts[3]]
            tokens = [bench.text(5 + i, step + 1)[step] for i in range(len(texts))]
            rows.grow(torch.tensor(tokens, device=bench.device))
            texts = [[*text, token] for text, token in zip(texts, tokens, strict=True)]
        for text, row in zip(texts, rows.logits, strict=True):
            read.append((bench.alone(text)[-1], row))
        return largest(read)

    return measured(model, "a cache while sampling", measure, longest)
