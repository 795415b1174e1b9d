"""New tokens of a pretrained base: where their rows start, which they are, how they learn.

A tag that a base does not know is one new row of the input embedding and one of the head.
Under LoRA the layers above hardly move, so that row has to, and far: from the mean of the
whole vocabulary, at the rate that suits adapters, a tag is never written. Therefore

* a new row starts at the mean of its own pieces, the tokens that its text was made of
  before it became one, so that tokens begin apart from each other (compare Hewitt 2021,
  "Initializing new word embeddings for pretrained language models", who takes the mean of
  all);
* new rows are a parameter group of their own, at ``new_token_rate`` times the run's rate;
* what was trained is named in the checkpoint's manifest. Of a directory without that
  note it is measured.

The padding token is never new: nothing reads its row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from actions.tags import TAGS
from records.checkpoints import MANIFEST, read_manifest
from training.engine.run.directory import RunDirectory

NEW_TOKEN_RATE = 10.0  # times the rate of a run that has one rate for everything
MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")  # of our chat template
OURS = (*TAGS, *MARKS)
NEAR = 0.01  # relative distance of rows that are taken for one
BETAS, EPSILON = (0.9, 0.95), 1e-8

# ids of a text and its labels, -100 where nothing is learned
Labelled = tuple[Sequence[int], Sequence[int]]


# Where they start


def fit_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, known: int
) -> None:
    """Give the model rows for the tokens that ``tokenizer`` got since it had ``known``.

    Many models have spare rows beyond the tokenizer's length: those are used first.
    """
    size = len(tokenizer)
    if size > _embeddings(model)[0].shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)
    start_at_pieces(model, tokenizer, range(known, size))
    model.config.pad_token_id = tokenizer.pad_token_id
    # A layer made of a config with pad = eos lets the end's row get no gradient, and one
    # made of what this run saves would: both are told the padding token of now.
    layer = model.get_input_embeddings()
    if isinstance(layer, nn.Embedding):
        layer.padding_idx = tokenizer.pad_token_id


@torch.no_grad()
def start_at_pieces(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]
) -> None:
    """Put the rows of some tokens, of input and head, at the mean of their pieces."""
    for token in ids:
        pieces = own_pieces(tokenizer, token)
        for weight in (*_embeddings(model), *_biases(model)):
            weight[token] = weight[pieces].mean(dim=0)


def own_pieces(tokenizer: PreTrainedTokenizerBase, token: int) -> list[int]:
    """Return the ids that a token's text is made of where it is not one token."""
    text = str(tokenizer.convert_ids_to_tokens(token))
    pieces: list[int] = []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        plain = Tokenizer(backend.model)  # without the added tokens
        plain.normalizer, plain.pre_tokenizer = (
            backend.normalizer,
            backend.pre_tokenizer,
        )
        pieces = plain.encode(text, add_special_tokens=False).ids
    if not pieces or token in pieces:  # a tokenizer in Python, or a word of its own
        halves = text[: len(text) // 2], text[len(text) // 2 :]
        pieces = [
            piece
            for half in halves
            for piece in tokenizer.encode(half, add_special_tokens=False)
        ]
    return pieces


def _embeddings(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the matrices that have a row per token, of input and head; tied ones once."""
    layers = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    weights = [
        cast(nn.Parameter, layer.weight) for layer in layers if layer is not None
    ]
    return list({id(weight): weight for weight in weights}.values())


def _biases(model: PreTrainedModel) -> list[nn.Parameter]:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    bias = getattr(head, "bias", None)
    return [] if bias is None else [bias]


# Which they are


def new_tokens(
    run: RunDirectory,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    start: Path | None,
    names: Collection[str] = OURS,
    texts: Sequence[Labelled] = (),
) -> list[int]:
    """Return the ids of the tokens whose rows this run has to train, and note them.

    ``start`` is the directory that the run started from, ``names`` the tokens that may be
    new, ``texts`` a few that the model is to learn: what it foresees of them is measured.
    A run that goes on has the tokens of its beginning, by its checkpoint's manifest.
    """
    vocabulary, resumed = tokenizer.get_vocab(), run.manifest("resume")
    if start is not None and (start / MANIFEST).exists():
        run.trained_tokens = read_manifest(start).trained_tokens
    if resumed is not None:
        run.new_tokens = resumed.new_tokens
        return [vocabulary[name] for name in run.new_tokens]
    ids = {name: vocabulary[name] for name in names if name in vocabulary}
    unsure = [token for name, token in ids.items() if name not in run.trained_tokens]
    fresh = untrained(model, tokenizer, unsure, texts)
    start_at_pieces(model, tokenizer, fresh)
    losses = _losses(model, {*ids.values()} - {*unsure}, texts)
    new = [*fresh, *(token for token in losses if _unforeseen(model, losses[token]))]
    run.new_tokens = tuple(name for name, token in ids.items() if token in new)
    return [ids[name] for name in run.new_tokens]


@torch.no_grad()
def untrained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    texts: Sequence[Labelled] = (),
) -> list[int]:
    """Return those tokens whose rows nobody has trained.

    Such a row lies where it started: at the mean of its pieces, or beside another of the
    tokens. Or it is a token that the model does not foresee where ``texts`` have it,
    counted as −log p above half of that of a guess.
    """
    ids = [token for token in ids if token != tokenizer.pad_token_id]
    found: set[int] = set()
    for weight in _embeddings(model):
        rows = weight[ids]
        start = [weight[own_pieces(tokenizer, i)].mean(dim=0) for i in ids]
        for number, (token, row) in enumerate(zip(ids, rows, strict=True)):
            others = [*rows[:number], *rows[number + 1 :], start[number]]
            if any((row - other).norm() <= NEAR * other.norm() for other in others):
                found.add(token)
    losses = _losses(model, {*ids} - found, texts)
    found |= {token for token in losses if _unforeseen(model, losses[token])}
    return [token for token in ids if token in found]


def _unforeseen(model: PreTrainedModel, loss: float) -> bool:
    return loss > math.log(_embeddings(model)[0].shape[0]) / 2


def _losses(
    model: PreTrainedModel, ids: Collection[int], texts: Sequence[Labelled]
) -> dict[int, float]:
    """Return the mean of −log p over the places where each token is to be learned."""
    found: dict[int, list[float]] = {}
    training, device = model.training, model.device
    model.train(False)
    for text, labels in texts if ids else ():
        places = [i for i, label in enumerate(labels) if i and label in ids]
        if places:
            logits = model(input_ids=torch.tensor([text], device=device)).logits[0]
            targets = torch.tensor([labels[i] for i in places], device=device)
            before = torch.tensor(places, device=device) - 1
            loss = functional.cross_entropy(
                logits[before].float(), targets, reduction="none"
            )
            for token, value in zip(targets.tolist(), loss.tolist(), strict=True):
                found.setdefault(token, []).append(value)
    model.train(training)
    return {token: sum(values) / len(values) for token, values in found.items()}


# How they learn


@dataclass(frozen=True)
class NewRows:
    """Rows that learn at a rate of their own: ``ids`` of each of the ``weights``.

    ``alone``: the other rows of those weights do not learn.
    """

    weights: Sequence[nn.Parameter]
    ids: Tensor
    rate: float  # times that of the other parameters
    alone: bool


def new_rows(
    model: PreTrainedModel, ids: Sequence[int], rate: float, *, alone: bool = False
) -> NewRows | None:
    """Return the rows of new tokens as ``muon_and_adamw`` takes them; None without any.

    With ``alone`` (LoRA) their weights are let learn, the gradient of other rows is zero.
    """
    if not ids:
        return None
    weights = _embeddings(model)
    if alone:
        for weight in weights:
            mask = torch.zeros(len(weight), 1, device=weight.device)
            mask[list(ids)] = 1.0
            weight.requires_grad_(True)
            weight.register_hook(functools.partial(torch.mul, mask))  # type: ignore[no-untyped-call]
    return NewRows(weights, torch.tensor(ids, device=weights[0].device), rate, alone)


class RowsAdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019), without decay, for some rows of matrices.

    Its moments are of those rows alone. It takes their gradient away, so that the
    optimiser of the whole matrix, stepping after it, leaves them where they are.
    """

    def __init__(self, rows: NewRows, lr: float) -> None:
        super().__init__([{"params": list(rows.weights)}], {"lr": lr})
        self.rows = rows.ids

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Move the rows."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, self.state[weight], group["lr"])

    def _step(self, weight: Tensor, state: dict[str, Tensor], rate: float) -> None:
        assert weight.grad is not None
        gradient = weight.grad[self.rows]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(gradient)
            state["exp_avg_sq"] = torch.zeros_like(gradient)
        state["step"] += 1
        count, (first, second) = float(state["step"]), BETAS
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        mean = state["exp_avg"] / (1 - first**count)
        deviation = (state["exp_avg_sq"] / (1 - second**count)).sqrt_()
        weight[self.rows] -= rate * mean / (deviation + EPSILON)
        weight.grad[self.rows] = 0.0
