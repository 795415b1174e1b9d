"""The settings of every training program, one frozen dataclass each.

Plain Python (no torch), so that the web application can import it: the page form of a
new run is generated from the fields and their metadata, and a run directory's
``run.json`` is checked against them before any model is loaded.

Metadata of a field: ``help`` (one sentence), ``min`` and ``max`` (inclusive),
``choices``, ``unit``, ``advanced`` (shown folded). Types are ``int``, ``float``,
``bool``, ``str`` and ``tuple[str, ...]`` only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, get_type_hints

Setting: TypeAlias = int | float | bool | str | tuple[str, ...]


class RecipeError(ValueError):
    """A setting that a program cannot run with.

    ``field`` names the setting, ``expected`` says what it takes, ``found`` shows what
    was given.
    """

    def __init__(self, field: str, expected: str, found: str) -> None:
        super().__init__(f"recipe: `{field}`: expected {expected}, found {found}")
        self.field = field
        self.expected = expected
        self.found = found


def _about(
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[str] = (),
    unit: str = "",
    advanced: bool = False,
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
    return told


AS_ALGORITHM = "as algorithm"  # a setting left to the policy recipe's algorithm

_SEED = _about("Seed of everything random in the run.", min=0, max=2**31 - 1)
_DEVICE = _about(
    "Where to compute; auto takes CUDA when there is one.",
    choices=("auto", "cpu", "cuda"),
    advanced=True,
)
_PRECISION = _about(
    "Precision of the matrix products; weights stay in fp32.",
    choices=("bf16", "fp32"),
    advanced=True,
)
_THREADS = _about(
    "CPU threads; 0 leaves the choice to torch.", min=0, max=1024, advanced=True
)
_NEW_TOKENS = _about(
    "Longest response before it is cut (and so fails the format check).",
    min=1,
    max=32768,
    unit="tokens",
)
_PROMPT_TOKENS = _about(
    "A turn whose prompt is longer is left out, counted and reported.",
    min=16,
    max=1_000_000,
    unit="tokens",
)
_ADAMW_8BIT = _about(
    "Keep AdamW's moments in 8 bits: a quarter of their memory (bitsandbytes, when "
    "installed).",
    advanced=True,
)
_PROCESSES = _about(
    "Processes that share every step, one for each GPU; a step is as large as with one "
    "and learns the same.",
    min=1,
    max=4096,
    advanced=True,
)
_STRATEGY = _about(
    "What several processes share: ddp keeps the whole model in each; fsdp2 and "
    "deepspeed-zero3 cut weights and moments in parts (adamw only, and such a run "
    "cannot be resumed).",
    choices=("ddp", "fsdp2", "deepspeed-zero3"),
    advanced=True,
)
_BACKEND = _about(
    "Who draws the responses: the own loop, transformers' generate, or its continuous "
    "batching.",
    choices=("own", "generate", "continuous"),
    advanced=True,
)
_BATCH_TOKENS = _about(
    "Token positions held by one batch of generation; small batches suit a "
    "CPU's caches, a GPU wants 100,000 and more.",
    min=256,
    max=100_000_000,
    unit="tokens",
    advanced=True,
)


@dataclass(frozen=True)
class SftRecipe:
    """Supervised fine-tuning on label responses. Defaults: the demo from scratch."""

    seed: int = field(default=1, metadata=_SEED)
    base: str = field(
        default="",
        metadata=_about(
            "Hugging Face directory to start from when no checkpoint is given; "
            "empty starts a small model from scratch.",
        ),
    )
    steps: int = field(
        default=600,
        metadata=_about("Optimiser steps.", min=1, max=10_000_000, unit="steps"),
    )
    copying_steps: int = field(
        default=100,
        metadata=_about(
            "First steps of a from-scratch model, spent on repeating random tokens: "
            "it learns to copy before it learns to speak.",
            min=0,
            max=1_000_000,
            unit="steps",
        ),
    )
    conversations_per_step: int = field(
        default=8,
        metadata=_about("Conversations in one optimiser step.", min=1, max=65536),
    )
    micro_batch: int = field(
        default=0,
        metadata=_about(
            "Conversations computed at once; 0 takes the whole step. Smaller saves "
            "memory and leaves the gradient as it is.",
            min=0,
            max=65536,
            advanced=True,
        ),
    )
    max_tokens: int = field(
        default=2048,
        metadata=_about(
            "Longer conversations are cut into windows at turn borders; "
            "what does not fit is left out, counted and reported.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    references: bool = field(
        default=True,
        metadata=_about(
            "Train on reference responses in place of the label, by turns."
        ),
    )
    judged_answers: bool = field(
        default=False,
        metadata=_about(
            "Train on sampled answers that people judged consistent as well, as further "
            "wordings of the label (rejection sampling)."
        ),
    )
    method: str = field(
        default="full",
        metadata=_about(
            "Train all weights, or adapters (merged into the saved model).",
            choices=("full", "lora"),
        ),
    )
    optimizer: str = field(
        default="muon",
        metadata=_about(
            "muon: Muon for hidden matrices, AdamW for the rest; adamw: AdamW for all.",
            choices=("muon", "adamw"),
        ),
    )
    adamw_8bit: bool = field(default=False, metadata=_ADAMW_8BIT)
    muon_learning_rate: float = field(
        default=1e-2, metadata=_about("Peak rate of the Muon part.", min=0.0, max=1.0)
    )
    learning_rate: float = field(
        default=3e-3, metadata=_about("Peak rate of the AdamW part.", min=0.0, max=1.0)
    )
    weight_decay: float = field(
        default=0.01, metadata=_about("Weight decay.", min=0.0, max=1.0, advanced=True)
    )
    warmup_steps: int = field(
        default=20,
        metadata=_about(
            "Linear warm-up.", min=0, max=1_000_000, unit="steps", advanced=True
        ),
    )
    decay_share: float = field(
        default=0.5,
        metadata=_about(
            "Last share of the steps over which the rate falls linearly to zero.",
            min=0.0,
            max=1.0,
            advanced=True,
        ),
    )
    clip_norm: float = field(
        default=1.0,
        metadata=_about(
            "Gradient norm limit; 0 turns it off.", min=0.0, max=1e6, advanced=True
        ),
    )
    lora_rank: int = field(
        default=16, metadata=_about("Rank of the adapters.", min=1, max=4096)
    )
    lora_alpha: int = field(
        default=32,
        metadata=_about("Scale of the adapters.", min=1, max=8192, advanced=True),
    )
    packing: bool = field(
        default=False,
        metadata=_about(
            "Lay the conversations of a batch end to end with block masks, without "
            "padding; pays with flash attention on a GPU, costs on a CPU.",
            advanced=True,
        ),
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata=_about("Less memory for one more forward pass.", advanced=True),
    )
    width: int = field(
        default=128,
        metadata=_about("Width of a from-scratch model.", min=16, max=8192),
    )
    layers: int = field(
        default=3, metadata=_about("Layers of a from-scratch model.", min=1, max=128)
    )
    heads: int = field(
        default=4,
        metadata=_about("Attention heads of a from-scratch model.", min=1, max=128),
    )
    vocabulary: int = field(
        default=4096,
        metadata=_about(
            "Largest vocabulary of a from-scratch tokenizer.",
            min=512,
            max=262144,
            unit="tokens",
            advanced=True,
        ),
    )
    checkpoint_every: int = field(
        default=200,
        metadata=_about("Steps between checkpoints.", min=1, max=1_000_000),
    )
    evaluate_every: int = field(
        default=200,
        metadata=_about("Steps between held-out losses.", min=1, max=1_000_000),
    )
    evaluate_turns: int = field(
        default=64,
        metadata=_about(
            "Held-out turns answered at the end as a first look; 0 for none.",
            min=0,
            max=100_000,
            unit="turns",
        ),
    )
    answer_tokens: int = field(default=256, metadata=_NEW_TOKENS)
    attention: str = field(
        default="auto",
        metadata=_about(
            "How attention is computed; auto leaves it to transformers (SDPA where the "
            "model has it), flash needs flash-attn, a GPU and bf16.",
            choices=("auto", "sdpa", "eager", "flash"),
            advanced=True,
        ),
    )
    compile: bool = field(
        default=False,
        metadata=_about(
            "torch.compile: faster steps after minutes of compiling.", advanced=True
        ),
    )
    liger: bool = field(
        default=False,
        metadata=_about(
            "Fused kernels of liger-kernel (when installed; a GPU).", advanced=True
        ),
    )
    processes: int = field(default=1, metadata=_PROCESSES)
    strategy: str = field(default="ddp", metadata=_STRATEGY)
    precision: str = field(default="bf16", metadata=_PRECISION)
    device: str = field(default="auto", metadata=_DEVICE)
    threads: int = field(default=0, metadata=_THREADS)


@dataclass(frozen=True)
class DrawRecipe:
    """Draw sampled responses for people to judge."""

    seed: int = field(default=1, metadata=_SEED)
    turns: int = field(
        default=64,
        metadata=_about("Turns to answer; 0 takes all.", min=0, max=10_000_000),
    )
    responses_per_turn: int = field(
        default=4,
        metadata=_about(
            "G: sampled responses of each policy for one turn.", min=1, max=1024
        ),
    )
    choice: str = field(
        default="random",
        metadata=_about(
            "hard first: turns whose label surprises the current policy most.",
            choices=("random", "hard first"),
        ),
    )
    initial_too: bool = field(
        default=True,
        metadata=_about("Draw from the initial policy as well, when it is given."),
    )
    keep: str = field(
        default="all",
        metadata=_about(
            "accepted: send people only well-formed answers that differ from the label "
            "and that the reward model (or the task's rule) accepts, ahead of others: "
            "new wordings to approve.",
            choices=("all", "accepted"),
        ),
    )
    keep_at_most: int = field(
        default=2,
        metadata=_about(
            "Most accepted answers of each policy to one turn that go to people; 0 for "
            "no limit.",
            min=0,
            max=1024,
            advanced=True,
        ),
    )
    temperature: float = field(
        default=1.0, metadata=_about("Sampling temperature.", min=0.01, max=10.0)
    )
    top_p: float = field(
        default=1.0, metadata=_about("Nucleus of the sampling.", min=0.01, max=1.0)
    )
    max_new_tokens: int = field(default=256, metadata=_NEW_TOKENS)
    max_prompt_tokens: int = field(default=4096, metadata=_PROMPT_TOKENS)
    batch_tokens: int = field(default=16384, metadata=_BATCH_TOKENS)
    backend: str = field(default="own", metadata=_BACKEND)
    action_seconds: float = field(
        default=10.0,
        metadata=_about(
            "Longest time one action may take.",
            min=0.1,
            max=3600.0,
            unit="s",
            advanced=True,
        ),
    )
    precision: str = field(default="fp32", metadata=_PRECISION)
    device: str = field(default="auto", metadata=_DEVICE)
    threads: int = field(default=0, metadata=_THREADS)


@dataclass(frozen=True)
class RewardRecipe:
    """Train the consistency reward model on judgments and derived pairs.

    Derived pairs are made from the samples, fresh at every step. Defaults: the demo.
    """

    seed: int = field(default=1, metadata=_SEED)
    judges: str = field(
        default="consistency",
        metadata=_about(
            "consistency: whether an answer says the same as its label; preference: one "
            "score of an answer by itself, for other tasks, from judged answers to one "
            "turn (Bradley–Terry). A preference model uses none of the settings of "
            "layout, labels, derived pairs and threshold.",
            choices=("consistency", "preference"),
        ),
    )
    steps: int = field(
        default=300,
        metadata=_about("Optimiser steps.", min=1, max=10_000_000, unit="steps"),
    )
    pairs_per_step: int = field(
        default=32,
        metadata=_about("Pairs in one optimiser step.", min=1, max=65536, unit="pairs"),
    )
    layout: str = field(
        default="interleaved",
        metadata=_about(
            "How label and sampled response are packed into one prompt: whole after "
            "whole (the paper's) or unit by unit.",
            choices=("sequential", "interleaved"),
        ),
    )
    labels: str = field(
        default="unit",
        metadata=_about(
            "One label for the pair (the paper's) or one per unit, with the minimum "
            "as the score.",
            choices=("final", "unit"),
        ),
    )
    differences: bool = field(
        default=True,
        metadata=_about(
            "Unit by unit: write equal texts as equal, and after two others the words "
            "that only one of them has. Small models need it to compare values.",
        ),
    )
    history_tokens: int = field(
        default=0,
        metadata=_about(
            "How much of the conversation before stands ahead of the pair, its end; 0 "
            "compares the two responses alone.",
            min=0,
            max=1_000_000,
            unit="tokens",
            advanced=True,
        ),
    )
    backbone: str = field(
        default="checkpoint",
        metadata=_about(
            "Start from the weights of the given policy, or from scratch with its "
            "tokenizer.",
            choices=("checkpoint", "scratch"),
        ),
    )
    judged_share: float = field(
        default=0.4,
        metadata=_about(
            "Share of judged pairs in a step; the rest is derived.", min=0.0, max=1.0
        ),
    )
    judgments: bool = field(
        default=True, metadata=_about("Train on the judgments of people.")
    )
    references: bool = field(
        default=True,
        metadata=_about("Derive consistent pairs from other wordings of the label."),
    )
    quads: bool = field(
        default=True,
        metadata=_about(
            "Derive balanced quads: two steps in another order and all that follows "
            "changed to fit, so that only comparing the sides tells the verdict.",
        ),
    )
    changes: bool = field(
        default=True,
        metadata=_about(
            "Derive inconsistent pairs: one value, action name, question or step "
            "changed.",
        ),
    )
    several_changes: bool = field(
        default=True,
        metadata=_about("Change two or three places at once in half of these."),
    )
    optimizer: str = field(
        default="muon",
        metadata=_about(
            "muon: Muon for hidden matrices, AdamW for the rest; adamw: AdamW for all.",
            choices=("muon", "adamw"),
        ),
    )
    adamw_8bit: bool = field(default=False, metadata=_ADAMW_8BIT)
    muon_learning_rate: float = field(
        default=5e-3, metadata=_about("Peak rate of the Muon part.", min=0.0, max=1.0)
    )
    learning_rate: float = field(
        default=2e-3, metadata=_about("Peak rate of the AdamW part.", min=0.0, max=1.0)
    )
    weight_decay: float = field(
        default=0.01, metadata=_about("Weight decay.", min=0.0, max=1.0, advanced=True)
    )
    warmup_steps: int = field(
        default=20,
        metadata=_about(
            "Linear warm-up.", min=0, max=1_000_000, unit="steps", advanced=True
        ),
    )
    decay_share: float = field(
        default=0.5,
        metadata=_about(
            "Last share of the steps over which the rate falls linearly to zero.",
            min=0.0,
            max=1.0,
            advanced=True,
        ),
    )
    clip_norm: float = field(
        default=1.0,
        metadata=_about(
            "Gradient norm limit; 0 turns it off.", min=0.0, max=1e6, advanced=True
        ),
    )
    pair_weight: float = field(
        default=0.5,
        metadata=_about(
            "Weight of the loss on the pair's minimum beside the loss on its units.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    pairwise_weight: float = field(
        default=0.0,
        metadata=_about(
            "Weight of the Bradley–Terry loss: a consistent answer above an inconsistent "
            "one to the same label.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    micro_batch: int = field(
        default=0,
        metadata=_about(
            "Pairs computed at once; 0 takes the whole step. Smaller saves memory and "
            "leaves the gradient as it is.",
            min=0,
            max=65536,
            advanced=True,
        ),
    )
    max_tokens: int = field(
        default=1024,
        metadata=_about(
            "A longer pair is left out of training, counted and reported.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    width: int = field(
        default=128,
        metadata=_about("Width of a from-scratch model.", min=16, max=8192),
    )
    layers: int = field(
        default=3, metadata=_about("Layers of a from-scratch model.", min=1, max=128)
    )
    heads: int = field(
        default=4,
        metadata=_about("Attention heads of a from-scratch model.", min=1, max=128),
    )
    threshold: float = field(
        default=0.0,
        metadata=_about(
            "Probability from which a pair counts as consistent; 0 picks it on one half "
            "of the held-out judged pairs, and the figures come from the other half.",
            min=0.0,
            max=1.0,
        ),
    )
    calibrate: bool = field(
        default=False,
        metadata=_about(
            "Fit a temperature on one half of the held-out judged pairs, so that a "
            "probability of 0.8 means four in five.",
        ),
    )
    evaluate_every: int = field(
        default=100,
        metadata=_about("Steps between held-out figures.", min=1, max=1_000_000),
    )
    early_stop: int = field(
        default=0,
        metadata=_about(
            "Stop after so many held-out tests in a row without a better AUC on judged "
            "pairs, and keep the checkpoint of the best; 0 trains to the end.",
            min=0,
            max=1000,
            advanced=True,
        ),
    )
    evaluate_turns: int = field(
        default=150,
        metadata=_about(
            "Held-out turns from which test quads and test changes are derived.",
            min=0,
            max=100_000,
            unit="turns",
        ),
    )
    checkpoint_every: int = field(
        default=100,
        metadata=_about("Steps between checkpoints.", min=1, max=1_000_000),
    )
    processes: int = field(default=1, metadata=_PROCESSES)
    precision: str = field(default="bf16", metadata=_PRECISION)
    device: str = field(default="auto", metadata=_DEVICE)
    threads: int = field(default=0, metadata=_THREADS)


@dataclass(frozen=True)
class PolicyRecipe:
    """Reinforcement learning with format and consistency rewards.

    Defaults: the demo's small policy, full training, two minutes on two cores.
    """

    seed: int = field(default=1, metadata=_SEED)
    steps: int = field(
        default=20,
        metadata=_about("Optimiser steps.", min=1, max=10_000_000, unit="steps"),
    )
    algorithm: str = field(
        default="grpo by token",
        metadata=_about(
            "The published method (docs/methods.md): grpo; grpo by token (its loss over "
            "all tokens, silent groups dropped); dr_grpo (no bias by length or spread); "
            "dapo; reinforce++; rloo; ppo (with a learned critic).",
            choices=(
                "grpo by token",
                "grpo",
                "dr_grpo",
                "dapo",
                "reinforce++",
                "rloo",
                "ppo",
            ),
        ),
    )
    prompts_per_step: int = field(
        default=16,
        metadata=_about("Groups that one step learns from.", min=1, max=65536),
    )
    responses_per_prompt: int = field(
        default=8,
        metadata=_about("G: sampled responses in a group.", min=2, max=1024),
    )
    draw_more: float = field(
        default=1.5,
        metadata=_about(
            "Groups drawn for each group kept. Groups whose rewards are all equal "
            "teach nothing and are dropped first (grpo by token and dapo only).",
            min=1.0,
            max=16.0,
        ),
    )
    draw_rounds: int = field(
        default=1,
        metadata=_about(
            "How often to draw again while groups with a signal are missing (DAPO's "
            "dynamic sampling; grpo by token and dapo only).",
            min=1,
            max=100,
            advanced=True,
        ),
    )
    least_spread: float = field(
        default=0.1,
        metadata=_about(
            "A group whose rewards (0 to 1 each, weighted) have a smaller standard "
            "deviation counts as without signal.",
            min=0.0,
            max=10.0,
            advanced=True,
        ),
    )
    temperature: float = field(
        default=0.7, metadata=_about("Sampling temperature.", min=0.01, max=10.0)
    )
    max_new_tokens: int = field(default=256, metadata=_NEW_TOKENS)
    max_prompt_tokens: int = field(default=4096, metadata=_PROMPT_TOKENS)
    batch_tokens: int = field(default=16384, metadata=_BATCH_TOKENS)
    backend: str = field(
        default="own",
        metadata=_about(
            "Who draws the responses: the own loop, transformers' generate, its "
            "continuous batching, or vLLM (when installed) beside the trainer or on a "
            "server of its own.",
            choices=("own", "generate", "continuous", "vllm", "vllm server"),
            advanced=True,
        ),
    )
    vllm_server: str = field(
        default="",
        metadata=_about(
            "Address of a server started with `trl vllm-serve`, as "
            "http://gpu-2.example:8000.",
            advanced=True,
        ),
    )
    vllm_memory: float = field(
        default=0.3,
        metadata=_about(
            "Share of the GPU's memory that vLLM may take beside the trainer.",
            min=0.05,
            max=0.95,
            advanced=True,
        ),
    )
    micro_batch: int = field(
        default=0,
        metadata=_about(
            "Responses in one forward and backward pass; 0 takes the whole step. Smaller "
            "saves memory; a multiple of responses_per_prompt still computes each prompt "
            "once.",
            min=0,
            max=65536,
            advanced=True,
        ),
    )
    follow_actions: bool = field(
        default=False,
        metadata=_about(
            "After an action call equal to the label's, append the recorded "
            "observation (never learned from) and go on to the next turn; the reward "
            "is the mean over the turns.",
        ),
    )
    whole_tasks: bool = field(
        default=False,
        metadata=_about(
            "Lead the policy through whole action tasks with a simulated user and "
            "environment, its own answers as history; what it does not reach counts 0.",
        ),
    )
    completion_weight: float = field(
        default=1.0,
        metadata=_about(
            "Weight of completing a whole task: the lowest consistency of its turns.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    consistency_source: str = field(
        default="reward model",
        metadata=_about(
            "Who says whether a response is consistent. The oracle needs samples with "
            "facts and is the upper bound of a reward model.",
            choices=("reward model", "oracle"),
        ),
    )
    consistency_value: str = field(
        default="logit",
        metadata=_about(
            "What of the reward model's output becomes the reward: the logit relative "
            "to its threshold, clipped; the log-probability, clipped below; the "
            "probability; or the verdict 0/1.",
            choices=("logit", "log-probability", "probability", "verdict"),
        ),
    )
    consistency_over: str = field(
        default="whole",
        metadata=_about(
            "What the reward model is asked about: the whole answer, or also each of its "
            "beginnings, cut with its label after every unit, the lowest counting. A "
            "model with labels by unit takes their lowest anyway.",
            choices=("whole", "prefixes"),
            advanced=True,
        ),
    )
    credit: str = field(
        default="response",
        metadata=_about(
            "What an advantage belongs to: the whole response (GRPO as published), or "
            "each unit, so that a wrong value blames its own tokens only.",
            choices=("response", "unit"),
        ),
    )
    logit_limit: float = field(
        default=4.0,
        metadata=_about(
            "Logits are clipped to plus and minus this and scaled to 0..1.",
            min=0.1,
            max=100.0,
            advanced=True,
        ),
    )
    best_of_references: bool = field(
        default=False,
        metadata=_about(
            "Compare with the label and its references and take the best score."
        ),
    )
    format_weight: float = field(
        default=0.5, metadata=_about("Weight of the format reward.", min=0.0, max=100.0)
    )
    consistency_weight: float = field(
        default=1.0,
        metadata=_about("Weight of the consistency reward.", min=0.0, max=100.0),
    )
    rule_weight: float = field(
        default=1.0,
        metadata=_about(
            "Weight of being right by the rule of a reasoning task.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    preference_weight: float = field(
        default=1.0,
        metadata=_about(
            "Weight of the preference model's score of other tasks.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    normalize_each: bool = field(
        default=False,
        metadata=_about(
            "Bring each kind of reward to mean 0 and deviation 1 within its group "
            "before the weighted sum, so that none drowns another.",
            advanced=True,
        ),
    )
    method: str = field(
        default="full",
        metadata=_about(
            "Train all weights, or a fresh adapter (merged into the saved model).",
            choices=("full", "lora"),
        ),
    )
    optimizer: str = field(
        default="adamw",
        metadata=_about(
            "muon: Muon for hidden matrices, AdamW for the rest; adamw: AdamW for all.",
            choices=("muon", "adamw"),
            advanced=True,
        ),
    )
    adamw_8bit: bool = field(default=False, metadata=_ADAMW_8BIT)
    muon_learning_rate: float = field(
        default=1e-3,
        metadata=_about("Peak rate of the Muon part.", min=0.0, max=1.0, advanced=True),
    )
    learning_rate: float = field(
        default=3e-4, metadata=_about("Peak rate of AdamW.", min=0.0, max=1.0)
    )
    warmup_steps: int = field(
        default=2,
        metadata=_about(
            "Linear warm-up.", min=0, max=1_000_000, unit="steps", advanced=True
        ),
    )
    decay_share: float = field(
        default=0.3,
        metadata=_about(
            "Last share of the steps over which the rate falls linearly to zero.",
            min=0.0,
            max=1.0,
            advanced=True,
        ),
    )
    clip_norm: float = field(
        default=1.0,
        metadata=_about("Gradient norm limit.", min=0.0, max=1e6, advanced=True),
    )
    kl_weight: float = field(
        default=0.01,
        metadata=_about(
            "Weight of the divergence from the initial policy (beta); 0 turns it off "
            "and saves the reference's forward pass. dr_grpo and dapo have none.",
            min=0.0,
            max=100.0,
        ),
    )
    clip_range: float = field(
        default=0.2,
        metadata=_about(
            "How far the ratio to the sampling policy may move (epsilon).",
            min=0.0,
            max=10.0,
            advanced=True,
        ),
    )
    clip_range_high: float = field(
        default=0.0,
        metadata=_about(
            "How far it may move up; 0 leaves it to the algorithm (dapo 0.28, the "
            "others as far as down).",
            min=0.0,
            max=10.0,
            advanced=True,
        ),
    )
    baseline: str = field(
        default=AS_ALGORITHM,
        metadata=_about(
            "What a reward is compared with: the mean of its group, of the others in "
            "its group, or of the whole step.",
            choices=(AS_ALGORITHM, "group", "others", "batch"),
            advanced=True,
        ),
    )
    advantage_scale: str = field(
        default=AS_ALGORITHM,
        metadata=_about(
            "Which standard deviation divides the advantages.",
            choices=(AS_ALGORITHM, "group", "batch", "none"),
            advanced=True,
        ),
    )
    loss: str = field(
        default=AS_ALGORITHM,
        metadata=_about(
            "How token losses are averaged: per response, by a constant length, or "
            "over all tokens of the step.",
            choices=(AS_ALGORITHM, "response", "constant", "token"),
            advanced=True,
        ),
    )
    divergence: str = field(
        default=AS_ALGORITHM,
        metadata=_about(
            "Where the divergence from the initial policy is held down: in the loss "
            "(as published, or corrected by the ratio so that its gradient is not "
            "biased) or in the reward.",
            choices=(AS_ALGORITHM, "loss", "loss, corrected", "reward", "none"),
            advanced=True,
        ),
    )
    overlong: str = field(
        default=AS_ALGORITHM,
        metadata=_about(
            "A response cut off at its limit: fails its format and nothing more, is "
            "masked from the loss, or is punished from overlong_tokens before it.",
            choices=(AS_ALGORITHM, "nothing", "masked", "punished"),
            advanced=True,
        ),
    )
    overlong_tokens: int = field(
        default=64,
        metadata=_about(
            "Over how many last tokens the punishment grows from 0 to 1.",
            min=0,
            max=32768,
            unit="tokens",
            advanced=True,
        ),
    )
    updates_per_draw: int = field(
        default=1,
        metadata=_about(
            "Optimiser steps on one set of drawn responses (the paper's several "
            "updates; clipping matters from 2).",
            min=1,
            max=64,
            advanced=True,
        ),
    )
    critic_start: str = field(
        default="policy",
        metadata=_about(
            "Whose weights ppo's critic starts from; its output starts at zero.",
            choices=("policy", "reward model"),
            advanced=True,
        ),
    )
    critic_learning_rate: float = field(
        default=1e-3,
        metadata=_about(
            "Rate of AdamW for ppo's critic.", min=0.0, max=1.0, advanced=True
        ),
    )
    critic_updates: int = field(
        default=2,
        metadata=_about(
            "Optimiser steps of ppo's critic on one set of drawn responses.",
            min=1,
            max=1000,
            advanced=True,
        ),
    )
    critic_warmup_steps: int = field(
        default=0,
        metadata=_about(
            "First steps in which only ppo's critic learns.",
            min=0,
            max=1_000_000,
            unit="steps",
            advanced=True,
        ),
    )
    gae_lambda: float = field(
        default=0.95,
        metadata=_about(
            "How far ppo's advantages look ahead: 1 believes the rewards, 0 the critic.",
            min=0.0,
            max=1.0,
            advanced=True,
        ),
    )
    discount: float = field(
        default=1.0,
        metadata=_about(
            "By how much ppo values a reward less for each token it is away (gamma).",
            min=0.0,
            max=1.0,
            advanced=True,
        ),
    )
    value_clip_range: float = field(
        default=0.2,
        metadata=_about(
            "How far a value may move within one set of drawn responses before ppo's "
            "critic stops gaining from it; 0 does not clip.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    lora_rank: int = field(
        default=16, metadata=_about("Rank of the adapters.", min=1, max=4096)
    )
    lora_alpha: int = field(
        default=32,
        metadata=_about("Scale of the adapters.", min=1, max=8192, advanced=True),
    )
    gate_balanced_order: float = field(
        default=0.9,
        metadata=_about(
            "Accuracy on balanced quads, of seen and of unseen orders, below which "
            "the run does not start.",
            min=0.0,
            max=1.0,
        ),
    )
    gate_bad_recall: float = field(
        default=0.85,
        metadata=_about(
            "Share of bad held-out answers the reward model must catch.",
            min=0.0,
            max=1.0,
        ),
    )
    gate_override: str = field(
        default="",
        metadata=_about(
            "A reason to start although the reward model misses its gate; it stays in "
            "the run's record.",
        ),
    )
    evaluate_every: int = field(
        default=5,
        metadata=_about(
            "Steps between looks at the held-out set, each with a checkpoint.",
            min=1,
            max=1_000_000,
            unit="steps",
        ),
    )
    held_out_samples: int = field(
        default=48,
        metadata=_about(
            "Held-out samples in the fixed set on which score and truth are watched; "
            "0 takes all.",
            min=0,
            max=100_000,
        ),
    )
    alarm_tolerance: float = field(
        default=0.02,
        metadata=_about(
            "Truth may fall by this much, while the reward model's score rises, "
            "before the alarm counts.",
            min=0.0,
            max=1.0,
        ),
    )
    alarm_evaluations: int = field(
        default=2,
        metadata=_about(
            "Evaluations in a row that must part before the run stops itself.",
            min=1,
            max=1000,
        ),
    )
    processes: int = field(default=1, metadata=_PROCESSES)
    precision: str = field(default="fp32", metadata=_PRECISION)
    device: str = field(default="auto", metadata=_DEVICE)
    threads: int = field(default=0, metadata=_THREADS)


@dataclass(frozen=True)
class PreferenceRecipe:
    """Learn straight from judgments, without a reward model (DPO or KTO)."""

    seed: int = field(default=1, metadata=_SEED)
    objective: str = field(
        default="dpo",
        metadata=_about(
            "dpo: a consistent answer against an inconsistent one to the same turn; "
            "kto: every judged answer by itself.",
            choices=("dpo", "kto"),
        ),
    )
    steps: int = field(
        default=100,
        metadata=_about("Optimiser steps.", min=1, max=10_000_000, unit="steps"),
    )
    examples_per_step: int = field(
        default=16,
        metadata=_about(
            "Pairs (dpo) or judged answers, half of each verdict (kto), in one step.",
            min=1,
            max=65536,
        ),
    )
    beta: float = field(
        default=0.1,
        metadata=_about(
            "How strongly the policy is held to the one it starts from.",
            min=0.0001,
            max=100.0,
        ),
    )
    label_as_good: str = field(
        default="when none was consistent",
        metadata=_about(
            "When the label response counts as a consistent answer to its turn.",
            choices=("when none was consistent", "always", "never"),
        ),
    )
    ill_formed: bool = field(
        default=True,
        metadata=_about("Learn from answers that broke the grammar, as inconsistent."),
    )
    nll_weight: float = field(
        default=0.0,
        metadata=_about(
            "Weight of the likelihood of the good answer beside dpo, which by itself "
            "may lower both.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    good_weight: float = field(
        default=1.0,
        metadata=_about(
            "Weight of consistent answers (kto).", min=0.0, max=100.0, advanced=True
        ),
    )
    bad_weight: float = field(
        default=1.0,
        metadata=_about(
            "Weight of inconsistent answers (kto).", min=0.0, max=100.0, advanced=True
        ),
    )
    method: str = field(
        default="full",
        metadata=_about(
            "Train all weights, or a fresh adapter (merged into the saved model).",
            choices=("full", "lora"),
        ),
    )
    learning_rate: float = field(
        default=1e-4, metadata=_about("Peak rate of AdamW.", min=0.0, max=1.0)
    )
    warmup_steps: int = field(
        default=5,
        metadata=_about(
            "Linear warm-up.", min=0, max=1_000_000, unit="steps", advanced=True
        ),
    )
    decay_share: float = field(
        default=0.5,
        metadata=_about(
            "Last share of the steps over which the rate falls linearly to zero.",
            min=0.0,
            max=1.0,
            advanced=True,
        ),
    )
    clip_norm: float = field(
        default=1.0,
        metadata=_about("Gradient norm limit.", min=0.0, max=1e6, advanced=True),
    )
    lora_rank: int = field(
        default=16, metadata=_about("Rank of the adapters.", min=1, max=4096)
    )
    lora_alpha: int = field(
        default=32,
        metadata=_about("Scale of the adapters.", min=1, max=8192, advanced=True),
    )
    micro_batch: int = field(
        default=0,
        metadata=_about(
            "Pairs or answers computed at once; 0 takes the whole step. Smaller saves "
            "memory and leaves the gradient as it is.",
            min=0,
            max=65536,
            advanced=True,
        ),
    )
    max_tokens: int = field(
        default=4096,
        metadata=_about(
            "A longer prompt with its answer is left out, counted and reported.",
            min=32,
            max=1_000_000,
            unit="tokens",
        ),
    )
    evaluate_every: int = field(
        default=25,
        metadata=_about(
            "Steps between looks at the held-out set, each with a checkpoint.",
            min=1,
            max=1_000_000,
            unit="steps",
        ),
    )
    held_out_samples: int = field(
        default=48,
        metadata=_about(
            "Held-out samples whose turns are answered at every look; 0 takes all.",
            min=0,
            max=100_000,
        ),
    )
    max_new_tokens: int = field(default=256, metadata=_NEW_TOKENS)
    batch_tokens: int = field(default=16384, metadata=_BATCH_TOKENS)
    precision: str = field(default="fp32", metadata=_PRECISION)
    device: str = field(default="auto", metadata=_DEVICE)
    threads: int = field(default=0, metadata=_THREADS)


@dataclass(frozen=True)
class EvaluateRecipe:
    """Measure one or several policies on held-out samples."""

    seed: int = field(default=1, metadata=_SEED)
    samples: int = field(
        default=0,
        metadata=_about("Held-out samples to use; 0 takes all.", min=0, max=10_000_000),
    )
    history: str = field(
        default="labels",
        metadata=_about(
            "labels: each turn is answered after the label responses; own: whole tasks "
            "with a simulated user and environment, after the policy's own responses.",
            choices=("labels", "own"),
        ),
    )
    temperature: float = field(
        default=0.0,
        metadata=_about("Sampling temperature; 0 decodes greedily.", min=0.0, max=10.0),
    )
    top_p: float = field(
        default=1.0,
        metadata=_about("Nucleus of the sampling.", min=0.01, max=1.0, advanced=True),
    )
    max_new_tokens: int = field(default=256, metadata=_NEW_TOKENS)
    max_prompt_tokens: int = field(default=4096, metadata=_PROMPT_TOKENS)
    batch_tokens: int = field(default=16384, metadata=_BATCH_TOKENS)
    backend: str = field(default="own", metadata=_BACKEND)
    resamples: int = field(
        default=1000,
        metadata=_about(
            "Bootstrap resamples (by sample) behind each interval.",
            min=100,
            max=100_000,
            advanced=True,
        ),
    )
    confidence: float = field(
        default=0.95,
        metadata=_about("Coverage of the interval.", min=0.5, max=0.999, advanced=True),
    )
    precision: str = field(default="fp32", metadata=_PRECISION)
    device: str = field(default="auto", metadata=_DEVICE)
    threads: int = field(default=0, metadata=_THREADS)


Recipe: TypeAlias = (
    SftRecipe
    | DrawRecipe
    | RewardRecipe
    | PreferenceRecipe
    | PolicyRecipe
    | EvaluateRecipe
)

RECIPES: dict[str, type[Recipe]] = {
    "sft": SftRecipe,
    "draw": DrawRecipe,
    "reward": RewardRecipe,
    "preference": PreferenceRecipe,
    "policy": PolicyRecipe,
    "evaluate": EvaluateRecipe,
}


def recipe_from_json(program: str, obj: object) -> Recipe:
    """Return the recipe of ``program`` with the settings in ``obj``.

    Settings that ``obj`` leaves out keep their defaults. Raises ``RecipeError`` for an
    unknown program or setting, a wrong type, a value outside its range or choices.
    """
    if program not in RECIPES:
        raise RecipeError("program", f"one of {', '.join(RECIPES)}", repr(program))
    if not isinstance(obj, Mapping):
        raise RecipeError("recipe", "an object of settings", _shown(obj))
    recipe_type = RECIPES[program]
    known = {item.name: item for item in dataclasses.fields(recipe_type)}
    types = get_type_hints(recipe_type)
    settings: dict[str, Setting] = {}
    for name, value in obj.items():
        if name not in known:
            raise RecipeError(str(name), f"a setting of {program}", "an unknown name")
        settings[name] = _checked(name, value, types[name], known[name].metadata)
    # The values were checked against the field types one by one just above.
    return recipe_type(**settings)  # type: ignore[arg-type]


def recipe_to_json(recipe: Recipe) -> dict[str, object]:
    """Return the settings as JSON values, in the order of the dataclass."""
    return {
        item.name: list(value) if isinstance(value, tuple) else value
        for item in dataclasses.fields(recipe)
        for value in [getattr(recipe, item.name)]
    }


def _checked(
    name: str, value: object, wanted: object, about: Mapping[str, object]
) -> Setting:
    """Return ``value`` as the type ``wanted``; raise ``RecipeError`` if it cannot be."""
    if wanted is bool:
        if not isinstance(value, bool):
            raise RecipeError(name, "true or false", _shown(value))
        return value
    if wanted is str:
        if not isinstance(value, str):
            raise RecipeError(name, "a text", _shown(value))
        choices = about.get("choices")
        if isinstance(choices, list) and value not in choices:
            raise RecipeError(name, f"one of {', '.join(choices)}", _shown(value))
        return value
    if wanted is int or wanted is float:
        return _checked_number(name, value, wanted is int, about)
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) for item in value
    ):
        raise RecipeError(name, "a list of texts", _shown(value))
    return tuple(value)


def _checked_number(
    name: str, value: object, whole: bool, about: Mapping[str, object]
) -> int | float:
    """Return the number, whole or not, when it lies in the range of its metadata."""
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(name, kind, _shown(value))
    if not math.isfinite(value) or (whole and value != int(value)):
        raise RecipeError(name, kind, _shown(value))
    lowest, highest = about.get("min"), about.get("max")
    if isinstance(lowest, int | float) and value < lowest:
        raise RecipeError(name, f"at least {lowest}", _shown(value))
    if isinstance(highest, int | float) and value > highest:
        raise RecipeError(name, f"at most {highest}", _shown(value))
    return int(value) if whole else float(value)


def _shown(value: object) -> str:
    """Return ``value`` short enough for one line of an error."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
