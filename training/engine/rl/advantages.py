"""Which published method a policy run follows, and how its rewards become advantages.

One program, several methods. They differ in a few places only. With r the weighted
rewards of the G responses to one prompt:

    baseline     critic   what a learned critic expects of each token (``critic``)
                 group    r − mean of the group
                 others   r − mean of the group's other responses
                 batch    r − mean of all responses of the step
    scale        group    divided by the standard deviation of the group
                 batch    divided by that of all advantages of the step
                 none
    average      of the loss over responses and tokens (``loss.average``)
    kl           loss     β × k3 beside every token's loss
                 loss, unbiased   that times ρ, whose gradient is not biased
                 reward   −β × k1 in the reward
                 none                        (k1, k3: ``loss.kl_estimate``)
    overlong     nothing, or punished

``docs/methods.md`` says which of these are which paper's, and where they depart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from records.recipes import PolicyRecipe
from training.engine.rl.loss import Average

SMALL = 1e-4  # added to every standard deviation before dividing
# A group whose rewards (0 to 1 each, weighted) have a smaller standard deviation has
# nothing to tell apart: scaled up, so small a difference would only be noise.
ZERO_STD = 0.1
OVERLONG_TOKENS = 64  # last tokens over which the punishment grows from 0 to 1


@dataclass(frozen=True)
class Algorithm:
    """What a method does; the words are those of the module's docstring.

    ``drops_zero_variance``: groups whose rewards are nearly equal are dropped, others
    drawn in their place, ``draw_rounds`` times at most (DAPO's dynamic sampling).
    ``epsilon_high`` 0 means the recipe's epsilon on both sides.
    """

    baseline: Literal["critic", "group", "others", "batch"]
    scale: Literal["group", "batch", "none"]
    average: Average
    kl: Literal["loss", "loss, unbiased", "reward", "none"]
    overlong: Literal["nothing", "punished"] = "nothing"
    epsilon_high: float = 0.0
    drops_zero_variance: bool = False
    draw_rounds: int = 1


ALGORITHMS: Mapping[str, Algorithm] = {
    "grpo by token": Algorithm(
        "group", "group", "token", "loss, unbiased", drops_zero_variance=True
    ),
    "grpo": Algorithm("group", "group", "response", "loss"),
    "dr_grpo": Algorithm("group", "none", "constant", "none"),
    "dapo": Algorithm(
        "group",
        "group",
        "token",
        "none",
        "punished",
        epsilon_high=0.28,
        drops_zero_variance=True,
        draw_rounds=10,
    ),
    "reinforce++": Algorithm("batch", "batch", "response", "reward"),
    "reinforce++ baseline": Algorithm("group", "batch", "response", "loss"),
    "rloo": Algorithm("others", "none", "constant", "reward"),
    "ppo": Algorithm("critic", "batch", "token", "reward"),
}


def algorithm_of(recipe: PolicyRecipe) -> Algorithm:
    """Return the algorithm that a recipe names, without a KL where beta is 0."""
    named = ALGORITHMS[recipe.algorithm]
    return dataclasses.replace(
        named,
        epsilon_high=named.epsilon_high or recipe.epsilon,
        kl=named.kl if recipe.beta else "none",
    )


# Advantages


def step_advantages(
    rewards: Tensor,
    weights: Sequence[float],
    kl: Tensor | None,
    mask: Tensor,
    group_size: int,
    algorithm: Algorithm,
    beta: float,
    *,
    each_normalized: bool = False,
) -> Tensor:
    """Return the advantages of a step without a critic, (B, 1), or of each token, (B, T).

    ``rewards`` is as in ``advantages``; ``kl`` (B, T) is k1 of each token where the
    algorithm takes it from the reward, ``mask`` (B, T) is 1 at own tokens.
    """
    if kl is not None and algorithm.baseline == "batch":
        return token_advantages(weighted(rewards, weights), kl, mask, beta)
    if kl is not None:
        # A whole response has one more kind of reward: its KL, held against it.
        of_response = (kl * mask).sum(1, keepdim=True)
        rewards, weights = torch.cat([rewards, of_response], 1), (*weights, -beta)
    return advantages(
        rewards, weights, group_size, algorithm, each_normalized=each_normalized
    )[:, None]


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
    """Return (B, K) rewards, each kind standardized within its group.

    A task has a kind for all its responses or for none, so NaN stays NaN.
    """
    grouped = rewards.view(-1, group_size, rewards.shape[1])
    mean = grouped.mean(1, keepdim=True)
    std = grouped.std(1, keepdim=True)
    return ((grouped - mean) / (std + SMALL)).view_as(rewards)


def token_advantages(rewards: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Return REINFORCE++'s advantages, (B, T): of each token, over the whole step.

    ``rewards`` (B,) come at the end of a response; ``kl`` (B, T) is k1 of each token,
    ``mask`` 1 at the policy's own tokens. A token's return is the reward less ``beta``
    times the KL from there on; returns are then standardized over all own tokens of
    the step (Hu et al. 2025, section 3.1).
    """
    kl_to_come = (kl * mask).flip(1).cumsum(1).flip(1)
    return standardized(rewards[:, None] - beta * kl_to_come, mask)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return the generalized advantage of each own token, (B, T); 0 elsewhere.

    Schulman et al. 2016, equation 16; ``lam`` is λ. ``rewards`` and ``values`` are
    (B, T), ``mask`` is 1 at the policy's own tokens. What stands between two own tokens
    is stepped over: the state after the first is the one before the second.
    """
    advantages = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards[:, 0])
    next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        own = mask[:, t].bool()
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(own, advantage, 0.0)
        next_value = torch.where(own, values[:, t], next_value)
        next_advantage = torch.where(own, advantage, next_advantage)
    return advantages


def standardized(values: Tensor, mask: Tensor) -> Tensor:
    """Return values of mean 0 and deviation 1 over all own tokens, (B, T); 0 elsewhere."""
    own = values[mask.bool()]
    if own.numel() < 2:
        return torch.zeros_like(values)
    return (values - own.mean()) / (own.std() + SMALL) * mask


def length_penalty(length: int, longest: int, cache: int) -> float:
    """Return the soft punishment of an overlong response, −1 to 0 (DAPO, equation 13).

    Nothing up to ``longest − cache`` tokens, then falling to −1 at ``longest``.
    """
    if not cache:
        return 0.0
    return max(-1.0, min(0.0, (longest - cache - length) / cache))


def population_std(values: Sequence[float]) -> float:
    """Return the population standard deviation of at least one value."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
