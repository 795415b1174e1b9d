"""The losses of policy optimization, as the papers write them.

With π the policy that learns, π_old the one that sampled, π_ref the reference, and for
token t of response i

    ρᵢₜ = π(oᵢₜ | …) / π_old(oᵢₜ | …)
    ℓᵢₜ = −min(ρᵢₜ Aᵢₜ, clip(ρᵢₜ, 1 − ε, 1 + ε_high) Aᵢₜ)          Schulman 2017, eq. 7
    KLᵢₜ, an estimate of KL(π ‖ π_ref) from this token alone        Schulman 2020

the loss is an average of ℓᵢₜ + β KLᵢₜ over the policy's own tokens. Everything here is a
function of tensors (B, T): B responses of at most T tokens, padded on the right.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Estimator: TypeAlias = Literal["k1", "k2", "k3"]
Average: TypeAlias = Literal["response", "constant", "token"]

LIMIT = 3.0  # of the weights of responses that another engine sampled, as TRL has it


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    epsilon: float,
    epsilon_high: float,
) -> Tensor:
    """Return ℓᵢₜ of every token, (B, T): Schulman et al. 2017, equation 7, negated.

    ``advantages`` is (B, 1) or (B, T). The ratio may move down by ``epsilon`` and up by
    ``epsilon_high``: the same number in PPO, a larger one in DAPO (Yu et al. 2025,
    equation 10).
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    return -torch.min(ratio * advantages, clipped * advantages)


def is_clipped(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    epsilon: float,
    epsilon_high: float,
) -> Tensor:
    """Return 1 at the tokens whose gradient the clipping takes away, (B, T)."""
    ratio = (logprobs - old_logprobs).exp()
    below = (ratio < 1 - epsilon) & (advantages < 0)
    above = (ratio > 1 + epsilon_high) & (advantages > 0)
    return (below | above).to(logprobs.dtype)


def kl_estimate(
    estimator: Estimator, logprobs: Tensor, reference_logprobs: Tensor
) -> Tensor:
    """Return an estimate of KL(π ‖ π_ref) at every token sampled from π, (B, T).

    With r = π_ref / π (Schulman 2020, "Approximating KL divergence"):

        k1 = −log r             unbiased, of high variance, may be negative
        k2 = ½ (log r)²         biased, of low variance
        k3 = (r − 1) − log r    unbiased, of low variance, never negative;
                                GRPO's (Shao et al. 2024, equation 4)
    """
    log_r = reference_logprobs - logprobs
    if estimator == "k1":
        return -log_r
    if estimator == "k2":
        return log_r.square() / 2
    return log_r.exp() - 1 - log_r


def average(
    losses: Tensor,
    mask: Tensor,
    how: Average,
    *,
    responses: float | None = None,
    tokens: float | None = None,
    length: int = 1,
) -> Tensor:
    """Return the mean of token losses, a scalar.

        response   (1/B) Σᵢ (1/|oᵢ|) Σₜ ℓᵢₜ     GRPO: Shao et al. 2024, equation 3
        constant   (1/B) Σᵢ (1/L) Σₜ ℓᵢₜ        Dr. GRPO: Liu et al. 2025, section 3.2
        token      Σᵢ Σₜ ℓᵢₜ / Σᵢ |oᵢ|          DAPO: Yu et al. 2025, equation 12

    ``losses`` and ``mask`` are (B, T); ``mask`` is 1 at the policy's own tokens, whose
    number in a response is |oᵢ|, and L is ``length``. Where the rows are a micro-batch,
    ``responses`` (B) and ``tokens`` (Σ|oᵢ|) are those of the whole step, so that the
    losses of its micro-batches add up to that of the step.
    """
    losses = losses * mask
    if how == "token":
        return losses.sum() / (mask.sum().clamp(min=1) if tokens is None else tokens)
    count = len(losses) if responses is None else responses
    if how == "constant":
        return losses.sum() / (count * length)
    return (losses.sum(1) / mask.sum(1).clamp(min=1)).sum() / count


def importance_weights(
    logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor
) -> Tensor:
    """Return the weight of each response that another engine sampled, (B, 1).

    An inference engine computes other probabilities μ than the trainer's π_old: π_old/μ
    of the whole response corrects for it, and a response whose ratio is above ``LIMIT``
    counts nothing (TRL's "sequence_mask").
    """
    log_ratio = ((logprobs - sampling_logprobs) * mask).sum(1, keepdim=True)
    ratio = log_ratio.exp()
    return ratio.masked_fill(ratio > LIMIT, 0.0)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, epsilon: float
) -> Tensor:
    """Return PPO's value loss, summed over own tokens; all tensors are (B, T).

        ½ Σ max((V − R)², (V_old + clip(V − V_old, −ε, ε) − R)²)

    as Schulman et al.'s code has it (baselines, ppo2); an ``epsilon`` of 0 leaves the
    clipping out.
    """
    error = (values - returns).square()
    if epsilon:
        near = old_values + (values - old_values).clamp(-epsilon, epsilon)
        error = torch.maximum(error, (near - returns).square())
    return 0.5 * (error * mask).sum()
