"""The completions of a step as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.engine.rl.rollouts import Episode


@dataclass(frozen=True)
class Batch:
    """B completions of at most T tokens, and what the loss needs to know of each token.

    Prompts of at most P tokens are padded on the left, completions on the right.
    """

    ids: Tensor  # (B, P + T)
    attention_mask: Tensor  # (B, P + T), 0 at padding
    mask: Tensor  # (B, T), 1 at the policy's own tokens
    sampling_logprobs: Tensor  # (B, T), of who sampled; 0 at other tokens than own
    old_logprobs: Tensor | None = None  # (B, T), of the policy that the step began with
    reference_logprobs: Tensor | None = None  # (B, T)
    advantages: Tensor | None = None  # (B, 1) or (B, T)
    weights: Tensor | None = None  # (B, 1), where another engine sampled

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """T, the columns of completions."""
        return self.mask.shape[1]

    def rows(self, which: slice | Sequence[int]) -> Batch:
        """Return some of the completions, at the same width."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        chosen: dict[str, Any] = {
            name: None if value is None else value[which]
            for name, value in fields.items()
        }
        return Batch(**chosen)

    def slices(self, size: int) -> list[slice]:
        """Return which rows stand in each micro-batch of at most ``size``, in order."""
        return [slice(i, i + size) for i in range(0, len(self), size)]

    def chunks(self, size: int) -> list[Batch]:
        """Return the completions in their order, at most ``size`` at once."""
        return [self.rows(rows) for rows in self.slices(size)]

    def micro_batches(self, size: int) -> list[Batch]:
        """Return the completions in micro-batches of at most ``size``.

        Those to one prompt stay together as far as they fit, so that it is computed once.
        """
        prompts = self.ids[:, : -self.width].tolist()
        order = sorted(range(len(self)), key=lambda row: prompts[row])
        return [self.rows(order[i : i + size]) for i in range(0, len(self), size)]


def collate(episodes: Sequence[Episode], pad: int, device: torch.device) -> Batch:
    """Return the completions of ``episodes`` in tensors."""
    before = max(len(episode.prompt.ids) for episode in episodes)
    width = max(len(episode.ids) for episode in episodes)
    ids = torch.full((len(episodes), before + width), pad)
    attention_mask = torch.zeros_like(ids)
    mask = torch.zeros(len(episodes), width)
    logprobs = torch.zeros(len(episodes), width)
    for row, episode in enumerate(episodes):
        start, end = before - len(episode.prompt.ids), before + len(episode.ids)
        ids[row, start:end] = torch.tensor([*episode.prompt.ids, *episode.ids])
        attention_mask[row, start:end] = 1
        mask[row, : len(episode.ids)] = torch.tensor(episode.mask).float()
        logprobs[row, : len(episode.ids)] = torch.tensor(episode.logprobs)
    return Batch(*(t.to(device) for t in (ids, attention_mask, mask, logprobs)))
