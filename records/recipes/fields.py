"""What is said of a setting beside its type and default, and words that recipes share.

The page form of a new run is made from it. ``help`` is one sentence; ``min`` and ``max``
are inclusive; ``choices``, ``unit``; ``advanced`` settings are shown folded. ``when``
names other settings and the values of theirs with which alone this one is used: the form
then shows it, the program otherwise ignores it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def about(
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[str] = (),
    unit: str = "",
    advanced: bool = False,
    when: Mapping[str, Sequence[str | bool]] | None = None,
) -> dict[str, object]:
    """Return the metadata of one setting, leaving out what was not said."""
    told: dict[str, object] = {"help": help, "advanced": advanced}
    if min is not None:
        told["min"] = min
    if max is not None:
        told["max"] = max
    if choices:
        told["choices"] = list(choices)
    if unit:
        told["unit"] = unit
    if when:
        told["when"] = {name: list(values) for name, values in when.items()}
    return told


# Every run

SEED = about("Seed of everything random in the run.", min=0, max=2**31 - 1)
PRECISION = about(
    "Precision of the matrix products; weights stay in fp32.",
    choices=("bf16", "fp32"),
    advanced=True,
)
ATTENTION = about(
    "How attention is computed; auto leaves it to transformers (SDPA where the "
    "model has it), flash needs flash-attn, a GPU and bf16. On a CPU, eager is faster for "
    "sequences of a few hundred tokens.",
    choices=("auto", "sdpa", "eager", "flash"),
    advanced=True,
)
DEVICE = about(
    "Where to compute; auto takes CUDA when there is one.",
    choices=("auto", "cpu", "cuda"),
    advanced=True,
)
THREADS = about(
    "CPU threads; 0 leaves the choice to torch.", min=0, max=1024, advanced=True
)


# Learning

STEPS = about("Optimiser steps.", min=1, max=10_000_000, unit="steps")
ADAMW_8BIT = about(
    "Keep AdamW's moments in 8 bits: a quarter of their memory (bitsandbytes, when "
    "installed).",
    advanced=True,
)
WEIGHT_DECAY = about("Weight decay.", min=0.0, max=1.0, advanced=True)
WARMUP_STEPS = about(
    "Linear warm-up.", min=0, max=1_000_000, unit="steps", advanced=True
)
DECAY_SHARE = about(
    "Last share of the steps over which the rate falls linearly to zero.",
    min=0.0,
    max=1.0,
    advanced=True,
)
NEW_TOKEN_RATE = about(
    "Times the rate at which new tokens of a pretrained base learn; where Muon trains "
    "the matrices the AdamW part's rate is theirs as it is.",
    min=0.0,
    max=1000.0,
    advanced=True,
)
LORA_RANK = about("Rank of the adapters.", min=1, max=4096, when={"method": ("lora",)})
LORA_ALPHA = about(
    "Scale of the adapters.",
    min=1,
    max=8192,
    advanced=True,
    when={"method": ("lora",)},
)
PROCESSES = about(
    "Processes that share every step, one for each GPU; a step is as large as with one "
    "and learns the same.",
    min=1,
    max=4096,
    advanced=True,
)
SHARING = about(
    "Processes that share the work, one for each GPU; what they find is what one finds.",
    min=1,
    max=4096,
    advanced=True,
)
STRATEGY = about(
    "What several processes share: ddp keeps the whole model in each; fsdp2 and "
    "deepspeed-zero3 cut weights and moments in parts (adamw only, and such a run "
    "cannot be resumed).",
    choices=("ddp", "fsdp2", "deepspeed-zero3"),
    advanced=True,
)


# A model from scratch

WIDTH = about("Width of a from-scratch model.", min=16, max=8192)
LAYERS = about("Layers of a from-scratch model.", min=1, max=128)
HEADS = about("Attention heads of a from-scratch model.", min=1, max=128)


# Drawing responses

NEW_TOKENS = about(
    "Longest response before it is cut (and so fails the format check).",
    min=1,
    max=32768,
    unit="tokens",
)
PROMPT_TOKENS = about(
    "A turn whose prompt is longer is left out, counted and reported.",
    min=16,
    max=1_000_000,
    unit="tokens",
)
BATCH_TOKENS = about(
    "Token positions held by one batch of generation; small batches suit a "
    "CPU's caches, a GPU wants 100,000 and more.",
    min=256,
    max=100_000_000,
    unit="tokens",
    advanced=True,
)
BACKEND = about(
    "Who draws the responses: the own loop, transformers' generate, or its continuous "
    "batching.",
    choices=("own", "generate", "continuous"),
    advanced=True,
)
