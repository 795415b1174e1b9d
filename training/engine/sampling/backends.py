"""vLLM in place of Concord's own sampler, for policy runs.

vLLM runs beside the trainer or on a server (``trl vllm-serve``); TRL's client hands it the
newest weights. It stops at the same ids and returns what ``sample_responses`` does. Its
probabilities differ a little from the trainer's: ``rl/loss.py`` weighs responses for it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator  # type: ignore[import-untyped]
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from records.recipes import RecipeError
from training.engine.sampling.sampler import (
    Engine,
    Sampled,
    Sampling,
)

VLLM_MEMORY = 0.3  # share of the GPU's memory that vLLM may take beside the trainer


def check_backend(name: str) -> None:
    """Raise ``RecipeError`` when the backend cannot run here."""
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise RecipeError("backend", "vllm to be installed for this one", repr(name))


def vllm_engine(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    sampling: Sampling,
    *,
    server: str,
    sequences: int,
) -> Engine:
    """Return vLLM beside the trainer, or at the address of a ``server``.

    TRL's client hands it the newest weights of ``model``. It samples as ``sampling`` says,
    at most ``sequences`` responses at once beside the trainer.
    """
    generation: Any = importlib.import_module("trl.generation")
    engine: Engine = generation.VLLMGeneration(
        model=model,
        accelerator=accelerator,
        processing_class=tokenizer,
        mode="server" if server else "colocate",
        server_base_url=server or None,
        gpu_memory_utilization=VLLM_MEMORY,
        max_num_seqs=sequences,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_completion_length=sampling.max_new_tokens,
        generation_kwargs={"stop_token_ids": list(sampling.stop_ids)},
    )
    return engine


def vllm_responses(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    per_prompt: int,
) -> list[list[Sampled]]:
    """Return what ``sample_responses`` does, sampled by vLLM with a seed of its own.

    Log-probabilities are at the sampling temperature; ``sampling.top_p`` has to be 1.
    """
    engine.sync_weights()
    rows = [list(prompt) for prompt in prompts for _ in range(per_prompt)]
    _, ids, logprobs, _ = engine.generate(
        prompts=rows, images=None, num_generations=per_prompt
    )
    responses = [
        Sampled(
            row,
            [first for first, *_ in of_row],
            bool(row) and row[-1] in sampling.stop_ids,
        )
        for row, of_row in zip(ids, logprobs, strict=True)
    ]
    return [responses[i : i + per_prompt] for i in range(0, len(rows), per_prompt)]
