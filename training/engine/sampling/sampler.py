"""Sampling responses in batches, with the prompt's cache shared by a group.

A loop of its own over the model's forward, rather than ``generate``: the prompt of a
group of responses is computed once and its cache repeated, rows that ended leave the
batch, and the noise of a response depends on its place in the request only, so the same
seed gives the same responses however the batches fall (up to rounding). On a CPU it is
also a little faster than ``generate`` (docs/experiments.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from records.finite import must_be_finite
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.policies import Place
from training.engine.sampling.decoding import (
    CachedForward,
    Growing,
    PlainForward,
    caching,
)

# Token positions of one batch of sampling.
BATCH_TOKENS, GPU_BATCH_TOKENS = 16384, 131072


@dataclass(frozen=True)
class Sampling:
    """How to sample. ``temperature`` 0 takes the likeliest token.

    ``engine`` is vLLM's where that samples (``backends``), else Concord's sampler does.
    ``parts`` remembers how much of ``batch_tokens`` there is room for.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    pad_id: int
    batch_tokens: int = BATCH_TOKENS
    engine: Engine | None = None
    parts: MicroBatch | None = None


def room(place: Place, tell: Callable[[str, str], None]) -> MicroBatch:
    """Return what ``Sampling.parts`` takes: batches shrink when memory runs out.

    They begin at what suits the device: a CPU has caches, a GPU wants many rows.

    For the own loop, whose noise does not depend on the batches; a process can begin a
    batch again without the others.
    """
    batch_tokens = BATCH_TOKENS if place.device.type == "cpu" else GPU_BATCH_TOKENS
    return MicroBatch(batch_tokens, tell, "token positions", synchronized=False)


@dataclass(frozen=True)
class PartOf:
    """The noise of ``count`` prompts drawn with ``seed``, from the ``first`` on."""

    seed: int
    first: int
    count: int


Seed: TypeAlias = int | PartOf | Sequence[int]


class Engine(Protocol):
    """What is used of ``trl.generation.vllm_generation.VLLMGeneration``."""

    def sync_weights(self) -> None: ...
    def generate(
        self, prompts: list[list[int]], images: None, num_generations: int
    ) -> tuple[object, list[list[int]], list[list[list[float]]], object]: ...


@dataclass(frozen=True)
class Sampled:
    """One sampled response.

    ``ids`` includes the stop token; ``logprobs`` are the policy's log-probabilities of
    ``ids`` at the sampling temperature, before ``top_p`` cuts; ``ended`` is False where
    ``max_new_tokens`` cut it off. Raises ``NotFiniteError`` for a log-probability that
    is not finite: with it the token chosen means nothing.
    """

    ids: list[int]
    logprobs: list[float]
    ended: bool

    def __post_init__(self) -> None:
        for logprob in self.logprobs:
            must_be_finite(logprob, "log-probability of a sampled token")


def sample_responses(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    place: Place,
    seed: Seed,
    per_prompt: int = 1,
) -> list[list[Sampled]]:
    """Return ``per_prompt`` sampled responses for each prompt, in the given order.

    ``seed`` is one for all, one for each prompt, whose responses then do not depend on
    the other prompts, or that of a larger request which these prompts are a part of.
    Nothing is cached for a model whose cache is measured to be wrong (``decoding``).
    """
    longest = max(map(len, prompts), default=0) + sampling.max_new_tokens
    cached = caching(model, longest).exact
    was_training = model.training
    model.train(False)
    noise = _noise(seed, len(prompts), per_prompt, sampling)
    parts = sampling.parts or MicroBatch(sampling.batch_tokens, lambda *_: None)
    results: list[list[Sampled]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))

    def answer_longest(
        order: Sequence[int], width: int, tokens: int
    ) -> tuple[Sequence[int], list[Sampled]]:
        """Answer the longest prompts, as many as ``tokens`` hold."""
        size = max(1, tokens // (width * per_prompt))
        batch = order[-size:]
        # A group is cut only when memory ran out: its prompt is computed again.
        rows = per_prompt
        if parts.fell and size == 1:
            rows = max(1, min(per_prompt, tokens // width))
        drawn: list[Sampled] = []
        for start in range(0, per_prompt, rows):
            of_rows = noise[batch, start : start + rows]
            drawn += _sample_batch(
                model,
                [prompts[i] for i in batch],
                sampling,
                of_rows.flatten(0, 1).to(place.device),
                place,
                of_rows.shape[1],
                cached,
            )
        return batch, drawn

    while order:
        # The longest remaining prompt sets the width.
        width = len(prompts[order[-1]]) + sampling.max_new_tokens
        attempt = functools.partial(answer_longest, order, width)
        batch, answers = parts.run(attempt, least=width)
        order = order[: -len(batch)]
        for position, i in enumerate(batch):
            start = position * per_prompt
            results[i] = answers[start : start + per_prompt]
    model.train(was_training)
    return results


def _noise(seed: Seed, prompts: int, per_prompt: int, sampling: Sampling) -> Tensor:
    """Return numbers in [0, 1), (prompts, per_prompt, new tokens); none when greedy."""
    length = sampling.max_new_tokens if sampling.temperature else 0
    if isinstance(seed, int):
        seed = PartOf(seed, 0, prompts)
    if isinstance(seed, PartOf):
        generator = torch.Generator().manual_seed(seed.seed)
        noise = torch.rand((seed.count, per_prompt, length), generator=generator)
        return noise[seed.first : seed.first + prompts]
    noise = torch.empty((prompts, per_prompt, length))
    for row, own in zip(noise, seed, strict=True):
        row.uniform_(generator=torch.Generator().manual_seed(own))
    return noise


@torch.inference_mode()
def _sample_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    noise: torch.Tensor,
    place: Place,
    per_prompt: int,
    cached: bool,
) -> list[Sampled]:
    """Return the responses of one batch; ``noise`` is (rows, new tokens) in [0, 1)."""
    with place.autocast():
        growing: Growing
        if cached:
            growing = CachedForward(
                model,
                prompts,
                pad=sampling.pad_id,
                room=sampling.max_new_tokens,
                device=place.device,
            )
        else:
            growing = PlainForward(
                model, prompts, pad=sampling.pad_id, device=place.device
            )
    if per_prompt > 1:
        growing.repeat(per_prompt)
    rows = len(prompts) * per_prompt
    stops = torch.tensor(sampling.stop_ids, device=place.device)
    alive = torch.arange(rows, device=place.device)
    chosen_ids = torch.full((rows, sampling.max_new_tokens), -1, device=place.device)
    chosen_logprobs = torch.zeros((rows, sampling.max_new_tokens), device=place.device)
    ended = torch.zeros(rows, dtype=torch.bool, device=place.device)
    for step in range(sampling.max_new_tokens):
        drawn = noise[alive, step] if sampling.temperature else None
        token, logprob = _choose(growing.logits.float(), sampling, drawn)
        chosen_ids[alive, step] = token
        chosen_logprobs[alive, step] = logprob
        stopped = torch.isin(token, stops)
        ended[alive[stopped]] = True
        going = ~stopped
        if step + 1 == sampling.max_new_tokens or not bool(going.any()):
            break
        # Ended rows leave the batch once they are a quarter of it: moving the cache
        # costs about as much as a step.
        if int(going.sum()) <= 0.75 * len(alive):
            kept = going.nonzero().squeeze(1)
            growing.keep(kept)
            alive, token = alive[kept], token[kept]
        with place.autocast():
            growing.grow(token)
    return _collect(chosen_ids, chosen_logprobs, ended, sampling.stop_ids)


def _choose(
    logits: torch.Tensor, sampling: Sampling, noise: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one token and its log-probability for each row of (rows, vocabulary)."""
    if noise is None:
        logprobs = logits.log_softmax(-1)
        token = logits.argmax(-1)
    else:
        logprobs = (logits / sampling.temperature).log_softmax(-1)
        probabilities = logprobs.exp()
        if sampling.top_p < 1:
            probabilities = _nucleus(probabilities, sampling.top_p)
        # The token at which the cumulated probability passes the noise.
        passed = probabilities.cumsum(-1)
        target = noise[:, None] * passed[:, -1:]
        token = torch.searchsorted(passed, target, right=True).squeeze(1)
        token = token.clamp(max=logits.shape[-1] - 1)
    return token, logprobs.gather(1, token[:, None]).squeeze(1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the probabilities with all but the likeliest ``top_p`` share set to 0."""
    ordered, places = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, places, ordered)


def _collect(
    ids: torch.Tensor, logprobs: torch.Tensor, ended: torch.Tensor, stops: Sequence[int]
) -> list[Sampled]:
    """Cut each row after its stop token, or at the end of what was sampled."""
    sampled: list[Sampled] = []
    for row, row_logprobs, done in zip(
        ids.tolist(), logprobs.tolist(), ended.tolist(), strict=True
    ):
        end = next((i + 1 for i, t in enumerate(row) if t in stops or t < 0), len(row))
        if not done and end <= len(row) and row[end - 1] < 0:
            end -= 1
        sampled.append(Sampled(row[:end], row_logprobs[:end], done))
    return sampled


def response_text(
    tokenizer: PreTrainedTokenizerBase, sampled: Sampled, end_of_turn: int
) -> str:
    """Return the text of a sampled response, without the token that ends the turn."""
    ids = sampled.ids
    if ids and ids[-1] == end_of_turn:
        ids = ids[:-1]
    text = tokenizer.decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text
