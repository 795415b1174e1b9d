"""Log-probabilities of a group's responses with their common prompt computed once.

GRPO answers each prompt G times. Laid out as G rows the prompt is computed G times, and
where responses are short that is most of the work. Here the responses of one prompt
share a row:

    [ prompt | response 1 | response 2 | … ]

with positions that start again after the prompt for each response, and a mask by which a
response sees the prompt and itself only. The numbers are those of G separate rows.
Equal responses to one prompt are computed once, and their gradients summed.

Where a model takes the mask otherwise (``sharing`` measures it) each response has a row
of its own instead.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.engine.modeling.exactness import (
    SHORT,
    USUAL,
    Bench,
    Finding,
    largest,
    measured,
)

# Settings of a configuration by which logits are more than hidden states times weights.
# A cap bites on large logits only, which made-up texts may not have.
_SPECIAL_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


ROWS_OF_THEIR_OWN = "each answer has a row of its own, with its prompt"


def sharing(model: nn.Module, longest: int = USUAL) -> Finding:
    """Measure whether answers that share their prompt have the numbers of rows alone.

    ``longest`` is the longest prompt with one of its answers.
    """

    def measure(bench: Bench, reach: int) -> float:
        prompt = bench.text(1, max(SHORT, reach - 4))
        answers = [bench.text(2, 8), bench.text(3, 9)]
        ids = torch.tensor([[*prompt, *a, 0][: len(prompt) + 9] for a in answers])
        mask = torch.ones_like(ids)
        mask[0, -1] = 0
        ids, mask = ids.to(bench.device), mask.to(bench.device)
        rows, where = _laid_out(bench.model, ids, mask, 9, share=True)
        outputs = bench.outputs(**rows)
        alone = [bench.alone(prompt + answer) for answer in answers]
        return largest(
            (outputs[of, before], alone[line][len(prompt) - 1 + column])
            for of, before, line, column, _ in where.T.tolist()
        )

    return measured(model, "answers that share their prompt", measure, longest)


def can_share(model: nn.Module, longest: int = USUAL) -> bool:
    """Say whether answers of prompts may share a row; ``longest`` as in ``sharing``."""
    return sharing(model, longest).exact


def shared_logprobs(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    keep: int,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies of the last ``keep`` columns, (B, keep).

    ``input_ids`` and ``attention_mask`` are (B, P + keep): prompts padded on the left,
    responses on the right. Padding gets zeros. Answers share their prompt's row where
    that is exact for the model; else each has a row of its own.
    """
    share = can_share(model, int(attention_mask.sum(1).max()))
    inputs, where = _laid_out(model, input_ids, attention_mask, keep, share)
    of, before, owner, column, token = where
    # Equal responses share their places: the head computes each place once.
    places, which = torch.unique(
        torch.stack([of, before, token]), dim=1, return_inverse=True
    )
    of, before, token = places.unbind(0)
    if _has_plain_head(model):
        head = cast(nn.Module, model.get_output_embeddings())  # type: ignore[no-untyped-call]
        logits = head(model.base_model(**inputs).last_hidden_state[of, before])
    else:
        # Logits of all places from the first that is read.
        first = int(before.min())
        kept = inputs["input_ids"].shape[1] - first
        logits = model(**inputs, logits_to_keep=kept).logits
        logits = logits[of, before - (inputs["input_ids"].shape[1] - logits.shape[1])]
    logits = logits.float() / temperature
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
    """Return the hidden states of the rows, (rows, length, H), and where each
    response token is, (5, tokens): its row and the position it is predicted from there;
    its line and column among the last ``keep`` columns; and its id.
    """
    share = can_share(model, int(attention_mask.sum(1).max()))
    inputs, where = _laid_out(model, input_ids, attention_mask, keep, share)
    return model.base_model(**inputs).last_hidden_state, where


def _has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are the last hidden states times the head's weights."""
    config = model.config.get_text_config()
    if any(getattr(config, name, None) for name in _SPECIAL_LOGITS):
        return False

    def measure(bench: Bench, _: int) -> float:
        row = torch.tensor([bench.text(1, SHORT)], device=bench.device)
        head = cast(nn.Module, bench.model.get_output_embeddings())  # type: ignore[no-untyped-call]
        hidden = bench.model.base_model(input_ids=row, use_cache=False)
        return largest([(head(hidden.last_hidden_state), bench.outputs(input_ids=row))])

    return measured(model, "the head by itself", measure, 0).exact


def _laid_out(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    keep: int,
    share: bool,
) -> tuple[dict[str, Any], Tensor]:
    """Return what the model is given, and where response tokens are (``shared_states``).

    Rows are padded on the right. Without ``share`` each has one response and needs no
    mask: padding comes after all that is read.
    """
    rows, owners = _rows(input_ids, attention_mask, keep, share)
    length = max(len(row.ids) for row in rows)
    device = input_ids.device
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        positions[number, : len(row.ids)] = torch.tensor(row.positions)
        segments[number, : len(row.ids)] = torch.tensor(row.segments)
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "use_cache": False}
    if share:
        segments = segments.to(device)
        causal = torch.ones((length, length), dtype=torch.bool, device=device).tril()
        own = segments[:, :, None] == segments[:, None, :]
        prompt = (segments == 0)[:, None, :]
        mask: Tensor = (causal & (own | prompt))[:, None]
        if model.config.get_text_config()._attn_implementation == "eager":
            lowest = torch.finfo(torch.float32).min
            mask = torch.zeros(mask.shape, device=device).masked_fill(~mask, lowest)
        inputs |= {"attention_mask": mask, "position_ids": positions.to(device)}
    return inputs, torch.tensor(owners, device=device).T


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


def _rows(
    input_ids: Tensor, attention_mask: Tensor, keep: int, share: bool
) -> tuple[list[_Row], list[tuple[int, int, int, int, int]]]:
    """Return the rows, and for every response token: row, the position it is predicted
    from, its line and column in the (B, keep) result, and itself.

    A row is a prompt with its responses, or without ``share`` with one of them.
    """
    rows: list[_Row] = []
    number_of: dict[tuple[tuple[int, ...], ...], int] = {}
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
        row = (tuple(prompt),) if share else (tuple(prompt), tuple(response))
        number = number_of.setdefault(row, len(rows))
        if number == len(rows):
            rows.append(_Row(prompt))
        for column, (before, token) in enumerate(
            zip(rows[number].add(response), response, strict=True)
        ):
            owners.append((number, before, line, column, token))
    return rows, owners
