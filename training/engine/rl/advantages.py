"""Which published method a policy run follows: how rewards become advantages and a loss.

One program, several methods. They differ in five places only. With r the weighted rewards
of the G responses to one prompt:

    baseline     critic   what a learned critic expects of each token (``critic``)
                 group    r − mean of the group
                 others   r − mean of the group's other responses
                 batch    r − mean of all responses of the step
    scale        group    divided by the standard deviation of the group
                 batch    divided by that of all advantages of the step
                 none
    loss         response  (1/B) Σᵢ (1/|oᵢ|) Σₜ ℓᵢₜ
                 constant  (1/B) Σᵢ (1/L) Σₜ ℓᵢₜ       L = max_new_tokens
                 token     Σᵢ Σₜ ℓᵢₜ / Σᵢ |oᵢ|
    divergence   loss     β (π_ref/π − log(π_ref/π) − 1) beside every token's loss
                 loss, corrected   that times ρ, whose gradient is not biased
                 reward   −β log(π_old/π_ref) in the reward
                 none
    overlong     nothing, or punished

    ℓᵢₜ = −min(ρ Aᵢₜ, clip(ρ, 1 − ε, 1 + ε_high) Aᵢₜ),   ρ = π/π_old of the token

``docs/methods.md`` says which settings are which paper's, and where they depart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from records.recipes import PolicyRecipe

OVERLONG_TOKENS = 64  # last tokens over which the punishment grows from 0 to 1
LEAST_STD = 0.1  # of a group's rewards; below it the group is silent
SMALL = 1e-4  # added to every standard deviation before dividing


@dataclass(frozen=True)
class Algorithm:
    """What a method does; the words are those of the module's docstring.

    ``drops_silent``: groups whose rewards are nearly equal are dropped, others drawn in
    their place, ``draw_rounds`` times at most (DAPO's dynamic sampling). ``clip_high`` 0
    means the recipe's ``epsilon`` on both sides.
    """

    baseline: str
    scale: str
    loss: str
    divergence: str
    overlong: str = "nothing"
    clip_high: float = 0.0
    drops_silent: bool = False
    draw_rounds: int = 1


ALGORITHMS: Mapping[str, Algorithm] = {
    "grpo by token": Algorithm(
        "group", "group", "token", "loss, corrected", drops_silent=True
    ),
    "grpo": Algorithm("group", "group", "response", "loss"),
    "dr_grpo": Algorithm("group", "none", "constant", "none"),
    "dapo": Algorithm(
        "group",
        "group",
        "token",
        "none",
        "punished",
        clip_high=0.28,
        drops_silent=True,
        draw_rounds=10,
    ),
    "reinforce++": Algorithm("batch", "batch", "response", "reward"),
    "reinforce++ baseline": Algorithm("group", "batch", "response", "loss"),
    "rloo": Algorithm("others", "none", "constant", "reward"),
    "ppo": Algorithm("critic", "batch", "token", "reward"),
}

# Our words for a loss, in TRL's.
TRL_LOSS = {"response": "grpo", "constant": "dr_grpo", "token": "dapo"}


def algorithm_of(recipe: PolicyRecipe) -> Algorithm:
    """Return the algorithm that a recipe names, without a divergence of weight 0."""
    named = ALGORITHMS[recipe.algorithm]
    return dataclasses.replace(
        named,
        clip_high=named.clip_high or recipe.epsilon,
        divergence=named.divergence if recipe.beta else "none",
    )


# Advantages


def advantages(
    rewards: Tensor,
    weights: Sequence[float],
    group_size: int,
    algorithm: Algorithm,
    *,
    each_normalized: bool = False,
) -> Tensor:
    """Return the advantage of each of B responses, (B,).

    ``rewards`` is (B, K), one column for each kind of reward, NaN where a kind does not
    apply to the task; ``group_size`` G responses in a row belong to one prompt. With
    ``each_normalized`` every kind is first brought to mean 0 and deviation 1 within
    its group, so that a kind of small spread counts as much as one of large.
    """
    if each_normalized:
        rewards = normalized(rewards, group_size)
    total = weighted(rewards, weights)
    groups = total.view(-1, group_size)
    if algorithm.baseline == "group":
        centred = groups - groups.mean(1, keepdim=True)
    elif algorithm.baseline == "others":
        others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
        centred = groups - others
    else:
        centred = groups - groups.mean()
    if algorithm.scale == "group":
        centred = centred / (groups.std(1, keepdim=True) + SMALL)
    elif algorithm.scale == "batch":
        centred = centred / (centred.std() + SMALL)
    return centred.flatten()


def weighted(rewards: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted sum of the kinds that apply, (B,), of (B, K) rewards."""
    of_kind = torch.tensor(weights, dtype=rewards.dtype, device=rewards.device)
    return (rewards.nan_to_num(0.0) * of_kind).sum(1)


def normalized(rewards: Tensor, group_size: int) -> Tensor:
    """Return (B, K) rewards, each kind standardised within its group.

    A task has a kind for all its responses or for none, so NaN stays NaN.
    """
    grouped = rewards.view(-1, group_size, rewards.shape[1])
    middle = grouped.mean(1, keepdim=True)
    spread = grouped.std(1, keepdim=True)
    return ((grouped - middle) / (spread + SMALL)).view_as(rewards)


def token_advantages(
    rewards: Tensor, divergence: Tensor, mask: Tensor, weight: float
) -> Tensor:
    """Return REINFORCE++'s advantages, (B, T): of each token, over the whole step.

    ``rewards`` (B,) come at the end of a response; ``divergence`` (B, T) is
    log(π_old/π_ref), ``mask`` 1 at the policy's own tokens. A token's return is the
    reward less ``weight`` times the divergence from there on; returns are then
    standardised over all own tokens of the step (Hu et al. 2025, section 3.1).
    """
    own = mask.to(rewards.dtype)
    to_come = (divergence * own).flip(1).cumsum(1).flip(1)
    returns = rewards[:, None] - weight * to_come
    chosen = returns[mask.bool()]
    if chosen.numel() < 2:
        return torch.zeros_like(returns)
    return (returns - chosen.mean()) / (chosen.std() + SMALL) * own


def length_penalty(length: int, longest: int, cache: int) -> float:
    """Return the soft punishment of an overlong response, −1 to 0 (DAPO, equation 13).

    Nothing up to ``longest − cache`` tokens, then falling to −1 at ``longest``.
    """
    if not cache:
        return 0.0
    return max(-1.0, min(0.0, (longest - cache - length) / cache))


def deviation(values: Sequence[float]) -> float:
    """Return the population standard deviation of at least one value."""
    middle = sum(values) / len(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / len(values))
