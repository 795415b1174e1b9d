"""Log-probabilities of a group's responses with their common prompt computed once.

GRPO answers each prompt G times. Laid out as G rows the prompt is computed G times, and
where responses are short that is most of the work. Here the responses of one prompt
share a row:

    [ prompt | response 1 | response 2 | … ]

with positions that start again after the prompt for each response, and a mask by which a
response sees the prompt and itself only. The numbers are those of G separate rows.
Equal responses to one prompt are computed once, and their gradients summed.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Settings of a configuration by which logits are more than hidden states times weights.
_SPECIAL_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def can_share(model: PreTrainedModel) -> bool:
    """Whether the model takes the mask and has a plain head: dense attention by SDPA or
    eager, every layer seeing everything.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        config._attn_implementation in ("sdpa", "eager")
        and layers == {"full_attention"}
        and not any(getattr(config, name, None) for name in _SPECIAL_LOGITS)
    )


def shared_logprobs(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    keep: int,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies of the last ``keep`` columns, (B, keep).

    ``input_ids`` and ``attention_mask`` are (B, P + keep): prompts padded on the left,
    responses on the right. Padding gets zeros.
    """
    hidden, where = shared_states(model, input_ids, attention_mask, keep)
    of, before, owner, column, token = where
    # Equal responses share their places: the head computes each place once.
    places, which = torch.unique(
        torch.stack([of, before, token]), dim=1, return_inverse=True
    )
    of, before, token = places.unbind(0)
    head = cast(nn.Module, model.get_output_embeddings())  # type: ignore[no-untyped-call]
    logits = head(hidden[of, before]).float() / temperature
    normal = logits.log_softmax(-1)
    chosen = normal.gather(1, token[:, None]).squeeze(1)
    entropy = -(normal.exp() * normal).sum(-1)
    empty = torch.zeros((input_ids.shape[0], keep), device=input_ids.device)
    return (
        empty.index_put((owner, column), chosen[which]),
        empty.index_put((owner, column), entropy[which]),
    )


def shared_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, keep: int
) -> tuple[Tensor, Tensor]:
    """Return the hidden states of the shared rows, (rows, length, H), and where each
    response token is, (5, tokens): its row and the position it is predicted from there;
    its line and column among the last ``keep`` columns; and its id.
    """
    rows, owners = _share(input_ids, attention_mask, keep)
    length = max(len(row.ids) for row in rows)
    device = input_ids.device
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        positions[number, : len(row.ids)] = torch.tensor(row.positions)
        segments[number, : len(row.ids)] = torch.tensor(row.segments)
    ids, positions, segments = ids.to(device), positions.to(device), segments.to(device)
    causal = torch.ones((length, length), dtype=torch.bool, device=device).tril()
    own = segments[:, :, None] == segments[:, None, :]
    prompt = (segments == 0)[:, None, :]
    mask: Tensor = (causal & (own | prompt))[:, None]
    if model.config.get_text_config()._attn_implementation == "eager":
        lowest = torch.finfo(torch.float32).min
        mask = torch.zeros(mask.shape, device=device).masked_fill(~mask, lowest)
    hidden = model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden, torch.tensor(owners, device=device).T


class _Row:
    """A prompt and its responses, laid end to end."""

    def __init__(self, prompt: list[int]) -> None:
        self.prompt = prompt
        self.ids = list(prompt)
        self.positions = list(range(len(prompt)))
        self.segments = [0] * len(prompt)
        self.responses = 0
        self.places: dict[tuple[int, ...], list[int]] = {}

    def add(self, response: list[int]) -> list[int]:
        """Append a response; return where each of its tokens is predicted from.

        One that is there already is not appended again.
        """
        if found := self.places.get(tuple(response)):
            return found
        self.responses += 1
        start, first = len(self.ids), len(self.prompt)
        self.ids += response
        self.positions += range(first, first + len(response))
        self.segments += [self.responses] * len(response)
        places = [first - 1, *range(start, start + len(response) - 1)]
        self.places[tuple(response)] = places
        return places


def _share(
    input_ids: Tensor, attention_mask: Tensor, keep: int
) -> tuple[list[_Row], list[tuple[int, int, int, int, int]]]:
    """Return the rows, and for every response token: row, the position it is predicted
    from, its line and column in the (B, keep) result, and itself.
    """
    rows: list[_Row] = []
    number_of: dict[tuple[int, ...], int] = {}
    owners: list[tuple[int, int, int, int, int]] = []
    for line, (all_ids, all_mask) in enumerate(
        zip(input_ids.tolist(), attention_mask.tolist(), strict=True)
    ):
        split = len(all_ids) - keep
        prompt = [
            i for i, m in zip(all_ids[:split], all_mask[:split], strict=True) if m
        ]
        response = [
            i for i, m in zip(all_ids[split:], all_mask[split:], strict=True) if m
        ]
        number = number_of.setdefault(tuple(prompt), len(rows))
        if number == len(rows):
            rows.append(_Row(prompt))
        for column, (before, token) in enumerate(
            zip(rows[number].add(response), response, strict=True)
        ):
            owners.append((number, before, line, column, token))
    return rows, owners
