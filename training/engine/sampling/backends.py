"""Other machines for drawing the same responses, behind the interface of our own loop.

``respond`` takes what ``generation.sample_responses`` takes and returns what it returns; the
``backend`` of the ``Sampling`` names who does the work:

* ``own``: the loop of ``generation``; the same seed gives the same responses in any batching;
* ``generate``: transformers' ``generate``;
* ``continuous``: transformers' continuous batching over a paged cache;
* ``vllm``, ``vllm server``: vLLM in this process, or a server of TRL's (``trl vllm-serve``);
  for policy runs only, since TRL hands the newest weights over (``Sampling.engine``).

All stop at the same ids. Log-probabilities are at the sampling temperature and before
``top_p`` cuts, whoever drew: where a backend tells other ones or none, one forward pass of
the model computes them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from records.recipes import RecipeError
from training.engine.modeling.policies import Place
from training.engine.sampling.sampler import (
    PartOf,
    Sampled,
    Sampling,
    Seed,
    sample_responses,
)

PAGE = 64  # positions of a page of the cache, on a CPU
LOGITS = 1 << 26  # numbers that one pass of log-probabilities may hold


def check_backend(name: str) -> None:
    """Raise ``RecipeError`` when the backend cannot run here."""
    if name.startswith("vllm") and importlib.util.find_spec("vllm") is None:
        raise RecipeError("backend", "vllm to be installed for this one", repr(name))
    if name == "continuous" and not hasattr(PreTrainedModel, "generate_batch"):
        raise RecipeError("backend", "a transformers with generate_batch", repr(name))


def respond(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    place: Place,
    seed: Seed,
    per_prompt: int = 1,
) -> list[list[Sampled]]:
    """Return ``per_prompt`` sampled responses for each prompt, in the given order.

    What ``own`` takes from several seeds the others make of the first.
    """
    if sampling.backend == "own" or not prompts:
        return sample_responses(
            model, prompts, sampling, place=place, seed=seed, per_prompt=per_prompt
        )
    rows = [list(prompt) for prompt in prompts for _ in range(per_prompt)]
    logprobs: list[list[float]] | None = None
    if isinstance(seed, PartOf):
        seed = seed.seed + seed.first
    if not isinstance(seed, int):
        seed = seed[0]
    was_training = model.training
    model.train(False)
    try:
        if sampling.backend == "generate":
            ids = _generate(model, rows, sampling, place, seed)
        elif sampling.backend == "continuous":
            ids, logprobs = _continuous(model, rows, sampling, place, seed)
        else:
            ids, logprobs = _vllm(rows, sampling, per_prompt)
        # What a backend tells is of the cut distribution.
        if logprobs is None or sampling.top_p < 1 or not sampling.temperature:
            logprobs = logprobs_of(model, rows, ids, sampling.temperature or 1.0, place)
    finally:
        model.train(was_training)
    drawn = [
        Sampled(row, told, bool(row) and row[-1] in sampling.stop_ids)
        for row, told in zip(ids, logprobs, strict=True)
    ]
    return [drawn[i : i + per_prompt] for i in range(0, len(drawn), per_prompt)]


def settings(sampling: Sampling) -> GenerationConfig:
    """Return the same settings in the words of transformers."""
    warm = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=sampling.temperature > 0,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(sampling.stop_ids),
        pad_token_id=sampling.pad_id,
        **(warm if sampling.temperature else {}),
    )


def _generate(
    model: PreTrainedModel,
    rows: Sequence[list[int]],
    sampling: Sampling,
    place: Place,
    seed: int,
) -> list[list[int]]:
    """Draw with ``generate``, rows of like length together."""
    found: list[list[int]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    devices = [place.device] if place.device.type == "cuda" else []
    with torch.random.fork_rng(devices), place.autocast(), torch.inference_mode():
        torch.manual_seed(seed)
        while order:
            longest = len(rows[order[-1]])
            width = longest + sampling.max_new_tokens
            size = max(1, sampling.batch_tokens // width)
            batch, order = order[-size:], order[:-size]
            padding = [longest - len(rows[i]) for i in batch]
            ids = torch.tensor(
                [
                    [sampling.pad_id] * p + rows[i]
                    for i, p in zip(batch, padding, strict=True)
                ]
            ).to(place.device)
            lacking = torch.tensor(padding, device=place.device)[:, None]
            mask = torch.arange(longest, device=place.device) >= lacking
            out = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask.long(),
                generation_config=settings(sampling),
            )
            for i, row in zip(batch, out[:, longest:].tolist(), strict=True):
                found[i] = _until_stop(row, sampling.stop_ids)
    return found


def _continuous(
    model: PreTrainedModel,
    rows: Sequence[list[int]],
    sampling: Sampling,
    place: Place,
    seed: int,
) -> tuple[list[list[int]], list[list[float]]]:
    """Draw with ``generate_batch``, which keeps its own log-probabilities."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    room: dict[str, Any] = {}
    if place.device.type == "cpu":
        # Else it fills the memory, and computes at the full width at every step.
        pages = [-(-(len(row) + sampling.max_new_tokens) // PAGE) for row in rows]
        room = {
            "page_size": PAGE,
            "num_blocks": sum(pages) + 1,
            "max_batch_tokens": max(map(len, rows)) + len(rows),
        }
    # It works in a thread of its own, which does not inherit inference mode.
    with torch.no_grad():
        out = model.generate_batch(  # type: ignore[operator]
            [list(row) for row in rows],
            generation_config=settings(sampling),
            continuous_batching_config=ContinuousBatchingConfig(
                return_logprobs=True,
                # torch's generator takes less than Python's integers hold.
                seed=seed % 2**31,
                use_cuda_graph=False,
                **room,
            ),
            warmup=False,
        )
    by_number = sorted(
        out.values(), key=lambda each: int(each.request_id.split("_")[1])
    )
    if wrong := next((each.error for each in by_number if each.error), None):
        raise RuntimeError(f"continuous batching: {wrong}")
    return (
        [_until_stop(each.generated_tokens, sampling.stop_ids) for each in by_number],
        [
            each.logprobs[: len(_until_stop(each.generated_tokens, sampling.stop_ids))]
            for each in by_number
        ],
    )


def _vllm(
    rows: Sequence[list[int]], sampling: Sampling, per_prompt: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Draw with the engine that TRL keeps at the newest weights.

    It was set up with the temperature, the stop ids and the longest response of the run.
    """
    if sampling.engine is None:
        raise RecipeError("backend", "a policy run, for vllm", repr(sampling.backend))
    sampling.engine.sync_weights()
    _, ids, logprobs, _ = sampling.engine.generate(
        prompts=[list(row) for row in rows], images=None, num_generations=per_prompt
    )
    return ids, [[first for first, *_ in row] for row in logprobs]


def _until_stop(row: Sequence[int], stops: Sequence[int]) -> list[int]:
    end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
    return list(row[:end])


def logprobs_of(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    temperature: float,
    place: Place,
) -> list[list[float]]:
    """Return the log-probability of each token of each response after its prompt."""
    found: list[list[float]] = [[] for _ in prompts]
    rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    vocabulary = int(model.config.get_text_config().vocab_size)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        longest = len(rows[order[-1]])
        size = max(1, LOGITS // (longest * vocabulary))
        batch, order = order[-size:], order[:-size]
        # Padding on the right comes after all that is read.
        padded = [rows[i] + [0] * (longest - len(rows[i])) for i in batch]
        ids = torch.tensor(padded, device=place.device)
        with place.autocast(), torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            normal = (logits.float() / temperature).log_softmax(-1)
            chosen = normal.gather(2, ids[:, 1:, None]).squeeze(2).tolist()
        for i, row in zip(batch, chosen, strict=True):
            start = len(prompts[i]) - 1
            found[i] = row[start : start + len(responses[i])]
    return found
