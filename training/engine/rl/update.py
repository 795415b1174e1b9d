"""Log-probabilities of completions, and the gradient of a step's policy loss."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from records.recipes import PolicyRecipe
from training.engine.modeling.exactness import base_of
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.place import Place
from training.engine.modeling.shared_prompt import shared_logprobs
from training.engine.rl.advantages import (
    algorithm_of,
    standardized,
    step_advantages,
)
from training.engine.rl.batch import Batch
from training.engine.rl.critic import Critic
from training.engine.rl.loss import (
    average,
    clipped_policy_loss,
    importance_weights,
    is_clipped,
    kl_estimate,
)
from training.engine.rl.rollouts import Draw, Rollouts
from training.engine.run.distributed import process_rank


class TokenLogProbs(nn.Module):
    """Computes log-probabilities and entropies of completion tokens, prompts shared.

    A module of its own, so that DDP can wrap the forward pass that a gradient follows.
    With ``adapters_off`` a model under LoRA computes as it was before: the reference.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        temperature: float,
        place: Place,
        adapters_off: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.temperature, self.place = model, temperature, place
        self.adapters_off = adapters_off

    def forward(
        self, ids: Tensor, attention_mask: Tensor, width: int
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies of the last ``width`` columns, (B, T)."""
        model = self.model
        adapters: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self.adapters_off and isinstance(model, PeftModel):
            adapters = model.disable_adapter()
        with self.place.autocast(), adapters:
            return shared_logprobs(
                base_of(model), ids, attention_mask, width, self.temperature
            )


@torch.no_grad()
def logprobs_of(model: TokenLogProbs, batch: Batch, micro_batch: MicroBatch) -> Tensor:
    """Return log-probabilities of the completions without a gradient, (B, T)."""

    def attempt(size: int) -> Tensor:
        parts = [
            model(part.ids, part.attention_mask, part.width)[0]
            for part in batch.chunks(size)
        ]
        return torch.cat(parts)

    return micro_batch.run(attempt)


def with_logprobs(
    batch: Batch,
    policy: TokenLogProbs,
    reference: TokenLogProbs | None,
    micro_batch: MicroBatch,
    *,
    old: bool,
    sampled_elsewhere: bool,
) -> Batch:
    """Return the batch with log-probabilities of the reference, if there is one, and with
    ``old`` those of the policy as it is: where it is updated more than once by one draw,
    or where another engine sampled, whose log-probabilities differ.
    """
    old_logprobs = reference_logprobs = weights = None
    if old or sampled_elsewhere:
        old_logprobs = logprobs_of(policy, batch, micro_batch)
        if sampled_elsewhere:
            weights = importance_weights(
                old_logprobs, batch.sampling_logprobs, batch.mask
            )
    if reference is not None:
        reference_logprobs = logprobs_of(reference, batch, micro_batch)
    return replace(
        batch,
        old_logprobs=old_logprobs,
        reference_logprobs=reference_logprobs,
        weights=weights,
    )


def with_advantages(
    batch: Batch,
    draw: Draw,
    rollouts: Rollouts,
    critic: Critic | None,
    accelerator: Accelerator,
    step: int,
    metrics: dict[str, float],
) -> Batch:
    """Return this rank's batch with its advantages; a critic learns from the draw.

    Baselines and deviations are over the draw of all ranks. ``metrics`` get what the
    critic and a KL in the reward have to report. Collective.
    """
    recipe, algorithm, mask = rollouts.recipe, rollouts.algorithm, batch.mask
    kl = None
    if algorithm.kl == "reward":
        old = batch.old_logprobs
        old = batch.sampling_logprobs if old is None else old
        assert batch.reference_logprobs is not None
        kl = kl_estimate("k1", old, batch.reference_logprobs) * mask
        kl, mask = gathered(accelerator, kl), gathered(accelerator, mask)
        metrics["kl"] = float(kl.sum() / mask.sum().clamp(min=1))
    if critic is not None:  # one rank
        started = time.monotonic()
        token_rewards = torch.zeros_like(mask)
        for row, episode in enumerate(draw.episodes):
            earned = rollouts.token_rewards(episode)
            token_rewards[row, : len(earned)] = torch.tensor(earned)
        kl = torch.zeros_like(mask) if kl is None else kl
        advantages = critic.advantages(batch, token_rewards, kl, step, metrics)
        advantages = standardized(advantages, mask)
        metrics["seconds/critic"] = time.monotonic() - started
    else:
        advantages = step_advantages(
            rollouts.table(draw.episodes).to(mask.device),
            rollouts.weights,
            kl,
            mask,
            recipe.num_generations,
            algorithm,
            recipe.beta,
            # A preference model's scores have no unit.
            each_normalized=rollouts.rewards.preference is not None,
        )
    keeps = ~torch.tensor(draw.zero_variance, device=mask.device)
    advantages = advantages * keeps.repeat_interleave(recipe.num_generations)[:, None]
    own = slice(len(batch) * process_rank(), len(batch) * (process_rank() + 1))
    return replace(batch, advantages=advantages[own, : batch.width])


def gathered(accelerator: Accelerator, rows: Tensor) -> Tensor:
    """Return the rows of all ranks, padded to equal widths. Collective."""
    padded = accelerator.pad_across_processes(rows, dim=1)
    everything = accelerator.gather(padded)
    assert isinstance(everything, Tensor)
    return everything


def accumulate_policy_gradient(
    accelerator: Accelerator,
    model: nn.Module,
    batch: Batch,
    micro_batch: MicroBatch,
    recipe: PolicyRecipe,
) -> dict[str, float]:
    """Leave the gradient of the step's policy loss; return loss, KL, entropy and the
    share of clipped tokens. Collective.

    ``model`` is a ``TokenLogProbs``, wrapped where there are several processes. The loss
    is the mean over all of them, the other figures are over all own tokens of the step.
    """
    algorithm = algorithm_of(recipe)
    ranks = accelerator.num_processes
    all_tokens = accelerator.reduce(batch.mask.sum(), "sum").clamp(min=1)
    # DDP averages the gradients of ranks, so each divides by its share of all tokens.
    tokens = float(all_tokens) / ranks

    def backward(part: Batch) -> Tensor:
        logprobs, entropies = model(part.ids, part.attention_mask, part.width)
        # The first update of a draw is of the policy that sampled: ρ = 1.
        old = logprobs.detach() if part.old_logprobs is None else part.old_logprobs
        assert part.advantages is not None
        clipping = old, part.advantages, recipe.epsilon, algorithm.epsilon_high
        losses = clipped_policy_loss(logprobs, *clipping)
        if part.weights is not None:
            losses = losses * part.weights
        kl = torch.zeros_like(logprobs)
        if algorithm.kl.startswith("loss"):
            assert part.reference_logprobs is not None
            kl = kl_estimate("k3", logprobs, part.reference_logprobs)
            if algorithm.kl == "loss, unbiased":
                kl = kl * (logprobs - old).exp()
            losses = losses + recipe.beta * kl
        loss = average(
            losses,
            part.mask,
            algorithm.average,
            responses=len(batch),
            tokens=tokens,
            length=recipe.max_new_tokens,
        )
        accelerator.backward(loss)
        per_token = torch.stack([kl, entropies, is_clipped(logprobs, *clipping)])
        sums = (per_token * part.mask).sum((1, 2))
        return torch.cat([loss[None] / ranks, sums / all_tokens]).detach()

    sums = micro_batch.accumulate(
        batch.micro_batches,
        backward,
        model.zero_grad,
        lambda: accelerator.no_sync(model),
    )
    loss, kl, entropy, clipped = accelerator.reduce(sums, "sum").tolist()
    figures = {"loss": loss, "entropy": entropy, "clip_ratio": clipped}
    return figures | ({"kl": kl} if algorithm.kl.startswith("loss") else {})
