"""A policy beside the reference it is compared with: log-probabilities of whole answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from training.engine.modeling.exactness import base_of
from training.engine.modeling.place import Place
from training.engine.modeling.shared_prompt import shared_logprobs

Row: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # a prompt and an answer
Model: TypeAlias = PreTrainedModel | PeftModel


def answer_logprobs(
    model: Model, rows: Sequence[Row], pad: int, place: Place, chunk: int = 0
) -> Tensor:
    """Return log π(answer | prompt) of each row, (B,): the sum over the answer's tokens.

    Answers to one prompt share its row (``shared_prompt``). ``chunk`` rows are computed
    at once; 0 computes all.
    """
    if chunk:
        parts = [rows[i : i + chunk] for i in range(0, len(rows), chunk)]
        return torch.cat([answer_logprobs(model, part, pad, place) for part in parts])
    before = max(len(prompt) for prompt, _ in rows)
    after = max(len(answer) for _, answer in rows)
    ids = torch.full((len(rows), before + after), pad)
    mask = torch.zeros_like(ids)
    for line, (prompt, answer) in enumerate(rows):
        start, end = before - len(prompt), before + len(answer)
        ids[line, start:end] = torch.tensor([*prompt, *answer])
        mask[line, start:end] = 1
    ids, mask = ids.to(place.device), mask.to(place.device)
    with place.autocast():
        logprobs, _ = shared_logprobs(base_of(model), ids, mask, after, 1.0)
    return logprobs.sum(1)


@dataclass(frozen=True)
class WithReference:
    """The policy π in training and its reference π_ref.

    Without a ``reference`` of its own the policy has adapters, and π_ref is the policy
    with them off.
    """

    policy: Model
    reference: Model | None
    pad: int
    place: Place

    def logprobs(self, rows: Sequence[Row], chunk: int = 0) -> Tensor:
        """Return log π of each row's answer, (B,)."""
        return answer_logprobs(self.policy, rows, self.pad, self.place, chunk)

    @torch.no_grad()
    def reference_logprobs(self, rows: Sequence[Row], chunk: int = 0) -> Tensor:
        """Return log π_ref of each row's answer, (B,)."""
        if self.reference is not None:
            return answer_logprobs(self.reference, rows, self.pad, self.place, chunk)
        assert isinstance(self.policy, PeftModel)
        with self.policy.disable_adapter():
            return answer_logprobs(self.policy, rows, self.pad, self.place, chunk)

    @torch.no_grad()
    def log_ratios(self, rows: Sequence[Row], chunk: int) -> Tensor:
        """Return log π/π_ref of each row's answer, (B,), without a gradient."""
        return self.logprobs(rows, chunk) - self.reference_logprobs(rows, chunk)
