"""The settings of reinforcement learning, ``training.engine.policy``."""

from __future__ import annotations

from dataclasses import dataclass, field

from records.recipes.fields import about, changed
from records.recipes.groups import (
    Checkpointing,
    Critic,
    Gate,
    Lora,
    Muon,
    Parallel,
    PolicyValidation,
    Sampling,
)


@dataclass(frozen=True)
class PolicyRecipe(
    Critic, Gate, PolicyValidation, Lora, Muon, Sampling, Checkpointing, Parallel
):
    """Reinforcement learning with format and consistency rewards.

    Defaults: the demo's small policy, full training, two minutes on two cores.
    """

    algorithm: str = field(
        default="grpo by token",
        metadata=about(
            "The published method (docs/methods.md). grpo by token: its loss over all "
            "tokens, without zero-variance groups. dr_grpo: no bias by length or "
            "standard deviation. ppo: with a learned critic.",
            choices=(
                "grpo by token",
                "grpo",
                "dr_grpo",
                "dapo",
                "reinforce++",
                "reinforce++ baseline",
                "rloo",
                "ppo",
            ),
        ),
    )
    prompts_per_step: int = field(
        default=16,
        metadata=about("Prompts, and so groups, in one step.", min=1, max=65536),
    )
    num_generations: int = field(
        default=8,
        metadata=about("Responses sampled for a prompt (G).", min=2, max=1024),
    )
    oversampling: float = field(
        default=1.5,
        metadata=about(
            "Groups sampled for each group kept. Groups whose rewards are all equal "
            "teach nothing and are dropped first.",
            min=1.0,
            max=16.0,
            when={"algorithm": ("grpo by token", "dapo")},
        ),
    )
    whole_tasks: bool = field(
        default=False,
        metadata=about(
            "Lead the policy through whole action tasks with a simulated user and "
            "environment, its own answers as history. Turns it does not reach count 0.",
        ),
    )
    backend: str = field(
        default="own",
        metadata=about(
            "What samples the responses: Concord's own sampler, or vLLM where it is "
            "installed.",
            choices=("own", "vllm"),
            advanced=True,
            section=Sampling.title,
        ),
    )
    vllm_server: str = field(
        default="",
        metadata=about(
            "Address of a server started with `trl vllm-serve`, as "
            "http://gpu-2.example:8000. Empty runs vLLM beside the trainer.",
            advanced=True,
            when={"backend": ("vllm",)},
            section=Sampling.title,
        ),
    )
    consistency_source: str = field(
        default="reward model",
        metadata=about(
            "Who says whether a response is consistent. oracle: the facts of the "
            "samples, the upper bound of any reward model. alignment: a rule that "
            "compares units by words and values, what a reward model has to beat.",
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
            when={"consistency_source": ("reward model",)},
        ),
    )
    format_weight: float = field(
        default=0.5,
        metadata=about(
            "Weight of the format reward beside 1 for the others.",
            min=0.0,
            max=100.0,
        ),
    )
    beta: float = field(
        default=0.01,
        metadata=about(
            "Weight of the KL divergence from the initial policy; 0 turns it off and "
            "saves the reference's forward pass. dr_grpo and dapo have none.",
            min=0.0,
            max=100.0,
        ),
    )
    epsilon: float = field(
        default=0.2,
        metadata=about(
            "Clip range of the probability ratio.",
            min=0.0,
            max=10.0,
            advanced=True,
        ),
    )
    num_iterations: int = field(
        default=1,
        metadata=about(
            "Optimizer steps on one set of sampled responses. Clipping matters from 2.",
            min=1,
            max=64,
            advanced=True,
        ),
    )
    temperature: float = changed(Sampling, "temperature", 0.7)
    steps: int = changed(Muon, "steps", 20)
    learning_rate: float = changed(Muon, "learning_rate", 3e-4)
    muon_learning_rate: float = changed(
        Muon, "muon_learning_rate", 0.0, advanced=True, when={"method": ["full"]}
    )
    warmup_steps: int = changed(Muon, "warmup_steps", 2)
    decay_fraction: float = changed(Muon, "decay_fraction", 0.3)
    evaluate_every: int = changed(PolicyValidation, "evaluate_every", 5)
