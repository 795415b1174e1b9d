"""The settings of reinforcement learning, ``training.engine.policy``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import (
    ADAMW_8BIT,
    BATCH_TOKENS,
    DECAY_SHARE,
    DEVICE,
    LORA_ALPHA,
    LORA_RANK,
    NEW_TOKENS,
    PRECISION,
    PROCESSES,
    PROMPT_TOKENS,
    SEED,
    STEPS,
    THREADS,
    WARMUP_STEPS,
    about,
)

AS_ALGORITHM = "as algorithm"  # a setting left to the recipe's algorithm
PPO = {"algorithm": ("ppo",)}
DROPS_SILENT = {"algorithm": ("grpo by token", "dapo")}  # groups without a signal
GATED = {"consistency_source": ("reward model",)}


@dataclass(frozen=True)
class PolicyRecipe:
    """Reinforcement learning with format and consistency rewards.

    Defaults: the demo's small policy, full training, two minutes on two cores.
    """

    seed: int = field(default=1, metadata=SEED)
    steps: int = field(default=20, metadata=STEPS)
    algorithm: str = field(
        default="grpo by token",
        metadata=about(
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

    # What is drawn

    prompts_per_step: int = field(
        default=16,
        metadata=about("Groups that one step learns from.", min=1, max=65536),
    )
    responses_per_prompt: int = field(
        default=8,
        metadata=about("G: sampled responses in a group.", min=2, max=1024),
    )
    draw_more: float = field(
        default=1.5,
        metadata=about(
            "Groups drawn for each group kept. Groups whose rewards are all equal "
            "teach nothing and are dropped first.",
            min=1.0,
            max=16.0,
            when=DROPS_SILENT,
        ),
    )
    draw_rounds: int = field(
        default=1,
        metadata=about(
            "How often to draw again while groups with a signal are missing (DAPO's "
            "dynamic sampling).",
            min=1,
            max=100,
            advanced=True,
            when=DROPS_SILENT,
        ),
    )
    least_spread: float = field(
        default=0.1,
        metadata=about(
            "A group whose rewards (0 to 1 each, weighted) have a smaller standard "
            "deviation counts as without signal.",
            min=0.0,
            max=10.0,
            advanced=True,
        ),
    )
    temperature: float = field(
        default=0.7, metadata=about("Sampling temperature.", min=0.01, max=10.0)
    )
    max_new_tokens: int = field(default=256, metadata=NEW_TOKENS)
    max_prompt_tokens: int = field(default=4096, metadata=PROMPT_TOKENS)
    batch_tokens: int = field(default=16384, metadata=BATCH_TOKENS)
    backend: str = field(
        default="own",
        metadata=about(
            "Who draws the responses: the own loop, transformers' generate, its "
            "continuous batching, or vLLM (when installed) beside the trainer or on a "
            "server of its own.",
            choices=("own", "generate", "continuous", "vllm", "vllm server"),
            advanced=True,
        ),
    )
    vllm_server: str = field(
        default="",
        metadata=about(
            "Address of a server started with `trl vllm-serve`, as "
            "http://gpu-2.example:8000.",
            advanced=True,
            when={"backend": ("vllm server",)},
        ),
    )
    vllm_memory: float = field(
        default=0.3,
        metadata=about(
            "Share of the GPU's memory that vLLM may take beside the trainer.",
            min=0.05,
            max=0.95,
            advanced=True,
            when={"backend": ("vllm",)},
        ),
    )
    micro_batch: int = field(
        default=0,
        metadata=about(
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
        metadata=about(
            "After an action call equal to the label's, append the recorded "
            "observation (never learned from) and go on to the next turn; the reward "
            "is the mean over the turns.",
        ),
    )
    whole_tasks: bool = field(
        default=False,
        metadata=about(
            "Lead the policy through whole action tasks with a simulated user and "
            "environment, its own answers as history; what it does not reach counts 0.",
        ),
    )
    completion_weight: float = field(
        default=1.0,
        metadata=about(
            "Weight of completing a whole task: the lowest consistency of its turns.",
            min=0.0,
            max=100.0,
            advanced=True,
            when={"whole_tasks": (True,)},
        ),
    )

    # What is rewarded

    consistency_source: str = field(
        default="reward model",
        metadata=about(
            "Who says whether a response is consistent. The oracle needs samples with "
            "facts and is the upper bound of a reward model. Alignment compares the "
            "units by words and values: no judgment, nothing learned, so it is what a "
            "reward model has to beat.",
            choices=("reward model", "oracle", "alignment"),
        ),
    )
    consistency_value: str = field(
        default="logit",
        metadata=about(
            "What of the reward model's output becomes the reward: the logit relative "
            "to its threshold, clipped; the log-probability, clipped below; the "
            "probability; or the verdict 0/1.",
            choices=("logit", "log-probability", "probability", "verdict"),
        ),
    )
    consistency_over: str = field(
        default="whole",
        metadata=about(
            "What the reward model is asked about: the whole answer, or also each of its "
            "beginnings, cut with its label after every unit, the lowest counting. A "
            "model with labels by unit takes their lowest anyway.",
            choices=("whole", "prefixes"),
            advanced=True,
        ),
    )
    credit: str = field(
        default="response",
        metadata=about(
            "What an advantage belongs to: the whole response (GRPO as published), or "
            "each unit, so that a wrong value blames its own tokens only.",
            choices=("response", "unit"),
        ),
    )
    logit_limit: float = field(
        default=4.0,
        metadata=about(
            "Logits are clipped to plus and minus this and scaled to 0..1.",
            min=0.1,
            max=100.0,
            advanced=True,
            when={"consistency_value": ("logit", "log-probability")},
        ),
    )
    best_of_references: bool = field(
        default=False,
        metadata=about(
            "Compare with the label and its references and take the best score."
        ),
    )
    format_weight: float = field(
        default=0.5, metadata=about("Weight of the format reward.", min=0.0, max=100.0)
    )
    consistency_weight: float = field(
        default=1.0,
        metadata=about("Weight of the consistency reward.", min=0.0, max=100.0),
    )
    rule_weight: float = field(
        default=1.0,
        metadata=about(
            "Weight of being right by the rule of a reasoning task.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    preference_weight: float = field(
        default=1.0,
        metadata=about(
            "Weight of the preference model's score of other tasks.",
            min=0.0,
            max=100.0,
            advanced=True,
        ),
    )
    normalize_each: bool = field(
        default=False,
        metadata=about(
            "Bring each kind of reward to mean 0 and deviation 1 within its group "
            "before the weighted sum, so that none drowns another.",
            advanced=True,
        ),
    )

    # How it learns

    method: str = field(
        default="full",
        metadata=about(
            "Train all weights, or a fresh adapter (merged into the saved model).",
            choices=("full", "lora"),
        ),
    )
    optimizer: str = field(
        default="adamw",
        metadata=about(
            "muon: Muon for hidden matrices, AdamW for the rest; adamw: AdamW for all.",
            choices=("muon", "adamw"),
            advanced=True,
        ),
    )
    adamw_8bit: bool = field(default=False, metadata=ADAMW_8BIT)
    muon_learning_rate: float = field(
        default=1e-3,
        metadata=about(
            "Peak rate of the Muon part.",
            min=0.0,
            max=1.0,
            advanced=True,
            when={"optimizer": ("muon",), "method": ("full",)},
        ),
    )
    learning_rate: float = field(
        default=3e-4, metadata=about("Peak rate of AdamW.", min=0.0, max=1.0)
    )
    warmup_steps: int = field(default=2, metadata=WARMUP_STEPS)
    decay_share: float = field(default=0.3, metadata=DECAY_SHARE)
    clip_norm: float = field(
        default=1.0,
        metadata=about("Gradient norm limit.", min=0.0, max=1e6, advanced=True),
    )

    # What the algorithm leaves open

    kl_weight: float = field(
        default=0.01,
        metadata=about(
            "Weight of the divergence from the initial policy (beta); 0 turns it off "
            "and saves the reference's forward pass. dr_grpo and dapo have none.",
            min=0.0,
            max=100.0,
        ),
    )
    clip_range: float = field(
        default=0.2,
        metadata=about(
            "How far the ratio to the sampling policy may move (epsilon).",
            min=0.0,
            max=10.0,
            advanced=True,
        ),
    )
    clip_range_high: float = field(
        default=0.0,
        metadata=about(
            "How far it may move up; 0 leaves it to the algorithm (dapo 0.28, the "
            "others as far as down).",
            min=0.0,
            max=10.0,
            advanced=True,
        ),
    )
    baseline: str = field(
        default=AS_ALGORITHM,
        metadata=about(
            "What a reward is compared with: the mean of its group, of the others in "
            "its group, or of the whole step.",
            choices=(AS_ALGORITHM, "group", "others", "batch"),
            advanced=True,
        ),
    )
    advantage_scale: str = field(
        default=AS_ALGORITHM,
        metadata=about(
            "Which standard deviation divides the advantages.",
            choices=(AS_ALGORITHM, "group", "batch", "none"),
            advanced=True,
        ),
    )
    loss: str = field(
        default=AS_ALGORITHM,
        metadata=about(
            "How token losses are averaged: per response, by a constant length, or "
            "over all tokens of the step.",
            choices=(AS_ALGORITHM, "response", "constant", "token"),
            advanced=True,
        ),
    )
    divergence: str = field(
        default=AS_ALGORITHM,
        metadata=about(
            "Where the divergence from the initial policy is held down: in the loss "
            "(as published, or corrected by the ratio so that its gradient is not "
            "biased) or in the reward.",
            choices=(AS_ALGORITHM, "loss", "loss, corrected", "reward", "none"),
            advanced=True,
        ),
    )
    overlong: str = field(
        default=AS_ALGORITHM,
        metadata=about(
            "A response cut off at its limit: fails its format and nothing more, is "
            "masked from the loss, or is punished from overlong_tokens before it.",
            choices=(AS_ALGORITHM, "nothing", "masked", "punished"),
            advanced=True,
        ),
    )
    overlong_tokens: int = field(
        default=64,
        metadata=about(
            "Over how many last tokens the punishment grows from 0 to 1.",
            min=0,
            max=32768,
            unit="tokens",
            advanced=True,
            when={"overlong": (AS_ALGORITHM, "punished")},
        ),
    )
    updates_per_draw: int = field(
        default=1,
        metadata=about(
            "Optimiser steps on one set of drawn responses (the paper's several "
            "updates; clipping matters from 2).",
            min=1,
            max=64,
            advanced=True,
        ),
    )

    # The critic of ppo

    critic_start: str = field(
        default="policy",
        metadata=about(
            "Whose weights ppo's critic starts from; its output starts at zero.",
            choices=("policy", "reward model"),
            advanced=True,
            when=PPO,
        ),
    )
    critic_learning_rate: float = field(
        default=1e-3,
        metadata=about(
            "Rate of AdamW for ppo's critic.",
            min=0.0,
            max=1.0,
            advanced=True,
            when=PPO,
        ),
    )
    critic_updates: int = field(
        default=2,
        metadata=about(
            "Optimiser steps of ppo's critic on one set of drawn responses.",
            min=1,
            max=1000,
            advanced=True,
            when=PPO,
        ),
    )
    critic_warmup_steps: int = field(
        default=0,
        metadata=about(
            "First steps in which only ppo's critic learns.",
            min=0,
            max=1_000_000,
            unit="steps",
            advanced=True,
            when=PPO,
        ),
    )
    gae_lambda: float = field(
        default=0.95,
        metadata=about(
            "How far ppo's advantages look ahead: 1 believes the rewards, 0 the critic.",
            min=0.0,
            max=1.0,
            advanced=True,
            when=PPO,
        ),
    )
    discount: float = field(
        default=1.0,
        metadata=about(
            "By how much ppo values a reward less for each token it is away (gamma).",
            min=0.0,
            max=1.0,
            advanced=True,
            when=PPO,
        ),
    )
    value_clip_range: float = field(
        default=0.2,
        metadata=about(
            "How far a value may move within one set of drawn responses before ppo's "
            "critic stops gaining from it; 0 does not clip.",
            min=0.0,
            max=100.0,
            advanced=True,
            when=PPO,
        ),
    )

    # Adapters

    lora_rank: int = field(default=16, metadata=LORA_RANK)
    lora_alpha: int = field(default=32, metadata=LORA_ALPHA)

    # The gate and the alarm

    gate_balanced_order: float = field(
        default=0.9,
        metadata=about(
            "Accuracy on balanced quads, of seen and of unseen orders, below which "
            "the run does not start.",
            min=0.0,
            max=1.0,
            when=GATED,
        ),
    )
    gate_bad_recall: float = field(
        default=0.85,
        metadata=about(
            "Share of bad held-out answers the reward model must catch.",
            min=0.0,
            max=1.0,
            when=GATED,
        ),
    )
    gate_override: str = field(
        default="",
        metadata=about(
            "A reason to start although the reward model misses its gate; it stays in "
            "the run's record.",
            when=GATED,
        ),
    )
    evaluate_every: int = field(
        default=5,
        metadata=about(
            "Steps between looks at the held-out set, each with a checkpoint.",
            min=1,
            max=1_000_000,
            unit="steps",
        ),
    )
    held_out_samples: int = field(
        default=48,
        metadata=about(
            "Held-out samples in the fixed set on which score and truth are watched; "
            "0 takes all.",
            min=0,
            max=100_000,
        ),
    )
    alarm_tolerance: float = field(
        default=0.02,
        metadata=about(
            "Truth may fall by this much, while the reward model's score rises, "
            "before the alarm counts.",
            min=0.0,
            max=1.0,
        ),
    )
    alarm_evaluations: int = field(
        default=2,
        metadata=about(
            "Evaluations in a row that must part before the run stops itself.",
            min=1,
            max=1000,
        ),
    )

    # Where

    processes: int = field(default=1, metadata=PROCESSES)
    precision: str = field(default="fp32", metadata=PRECISION)
    device: str = field(default="auto", metadata=DEVICE)
    threads: int = field(default=0, metadata=THREADS)
