"""Sampling by Concord's own loop or by vLLM, behind one interface.

``respond`` takes what ``sampler.sample_responses`` takes and returns what it returns; the
``backend`` of the ``Sampling`` names who does the work:

* ``own``: the loop of ``sampler``; the same seed gives the same responses in any batching;
* ``vllm``: vLLM in this process, or a server of TRL's (``trl vllm-serve``); for policy
  runs only, since TRL hands the newest weights over (``Sampling.engine``).

Both stop at the same ids. Log-probabilities are at the sampling temperature and before
``top_p`` cuts: where vLLM returns others, one forward pass of the model computes them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from records.recipes import RecipeError
from training.engine.modeling.policies import Place
from training.engine.sampling.sampler import (
    Sampled,
    Sampling,
    Seed,
    sample_responses,
)

LOGITS = 1 << 26  # numbers that one pass of log-probabilities may hold


def check_backend(name: str) -> None:
    """Raise ``RecipeError`` when the backend cannot run here."""
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise RecipeError("backend", "vllm to be installed for this one", repr(name))


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

    ``seed`` is the own loop's; vLLM has one of its own.
    """
    if sampling.backend == "own" or not prompts:
        return sample_responses(
            model, prompts, sampling, place=place, seed=seed, per_prompt=per_prompt
        )
    rows = [list(prompt) for prompt in prompts for _ in range(per_prompt)]
    was_training = model.training
    model.train(False)
    try:
        ids, logprobs = _vllm(rows, sampling, per_prompt)
        # What vLLM returns is of the cut distribution.
        if sampling.top_p < 1 or not sampling.temperature:
            logprobs = logprobs_of(model, rows, ids, sampling.temperature or 1.0, place)
    finally:
        model.train(was_training)
    drawn = [
        Sampled(row, of_row, bool(row) and row[-1] in sampling.stop_ids)
        for row, of_row in zip(ids, logprobs, strict=True)
    ]
    return [drawn[i : i + per_prompt] for i in range(0, len(drawn), per_prompt)]


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
