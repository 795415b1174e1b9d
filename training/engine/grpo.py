"""The GRPO trainer of TRL with our advantages, the prompt of a group computed once.

TRL samples, computes log-probabilities, clips and averages; the advantages it makes of
the rewards are replaced by those of ``algorithms``, which knows more methods.
"""

from __future__ import annotations

import time
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from training.engine.algorithms import (
    advantages,
    token_advantages,
    weighted,
)
from training.engine.critic import Critic, Drawn, payments, standardized
from training.engine.prefixes import can_share, shared_logprobs
from training.engine.rollouts import Rollouts

SIDES = ("prompt", "completion")


def given_reward(reward: list[float | None], **_: object) -> list[float | None]:
    """Hand TRL the reward that the rollout brought; it is only logged."""
    return reward


class SharedPromptTrainer(GRPOTrainer):
    """GRPO that computes the prompt of a group once (``prefixes``).

    Everything else is TRL's. Several processes, pictures and models that cannot take
    the mask keep TRL's own way. ``critic`` is PPO's.
    """

    critic: Critic | None = None

    def _generate_and_score_completions(
        self, inputs: list[dict[str, object]]
    ) -> dict[str, object]:
        started = time.monotonic()
        output: dict[str, object] = super()._generate_and_score_completions(inputs)
        rollouts = self.rollout_func
        assert isinstance(rollouts, Rollouts)
        # What is left of this is the log-probabilities of the reference (and of the
        # policy before its updates).
        figures = rollouts.figures
        drawing = figures["seconds/generation"] + figures["seconds/scoring"]
        figures["seconds/reference"] = time.monotonic() - started - drawing
        found = self._advantages(rollouts, output)
        silent = torch.tensor(rollouts.silent, device=found.device)
        found[silent.repeat_interleave(rollouts.recipe.responses_per_prompt)] = 0.0
        output["advantages"] = found
        rollouts.pushed = found if found.dim() == 1 else found.mean(1)
        return output

    def _advantages(self, rollouts: Rollouts, output: dict[str, object]) -> Tensor:
        """Return the advantages of this process's B responses, (B,) or (B, T)."""
        recipe, algorithm = rollouts.recipe, rollouts.algorithm
        completions, device = output["completion_ids"], self.accelerator.device
        assert isinstance(completions, Tensor)
        count, width = completions.shape
        if recipe.credit == "unit":
            rows = [row for group in rollouts.groups for row in rollouts.credit(group)]
            padded = [row + [0.0] * (width - len(row)) for row in rows]
            return torch.tensor(padded, device=device)
        if self.critic is not None:
            return self._by_critic(self.critic, rollouts, output)
        first = self.accelerator.process_index * count
        rewards = self._everywhere(rollouts.rewards_table().to(device))
        weights: tuple[float, ...] = rollouts.weights
        if algorithm.divergence == "reward":
            away, mask = self._divergence(output)
            rollouts.figures["kl"] = float(away.sum() / mask.sum().clamp(min=1))
            away, mask = self._everywhere(away), self._everywhere(mask)
            if algorithm.baseline == "batch":
                total = weighted(rewards, weights)
                found = token_advantages(total, away, mask, recipe.kl_weight)
                return found[first : first + count, :width]
            # A whole response has one more kind of reward: its divergence, held against it.
            rewards = torch.cat([rewards, away.sum(1, keepdim=True)], 1)
            weights = (*weights, -recipe.kl_weight)
        found = advantages(
            rewards,
            weights,
            recipe.responses_per_prompt,
            algorithm,
            each_normalized=recipe.normalize_each,
        )
        return found[first : first + count]

    def _by_critic(
        self, critic: Critic, rollouts: Rollouts, output: dict[str, object]
    ) -> Tensor:
        """Return the advantage of each token, (B, T); the critic learns from the draw."""
        started = time.monotonic()
        figures, step = rollouts.figures, rollouts.first + self.state.global_step
        ids, mask = (
            torch.cat([cast(Tensor, output[f"{part}_{name}"]) for part in SIDES], 1)
            for name in ("ids", "mask")
        )
        own = cast(Tensor, output["completion_mask"]) * cast(
            Tensor, output["tool_mask"]
        )
        away = torch.zeros(own.shape, device=own.device)
        if rollouts.algorithm.divergence == "reward":
            away, own = self._divergence(output)
            figures["kl"] = float(away.sum() / own.sum().clamp(min=1))
        paid = torch.zeros_like(away)
        episodes = [episode for group in rollouts.groups for episode in group]
        for row, episode in enumerate(episodes):
            paid[row, : len(episode.ids)] = torch.tensor(payments(rollouts, episode))
        found = critic.advantages(Drawn(ids, mask, own), paid, away, figures)
        if step < rollouts.recipe.critic_warmup_steps:
            found = torch.zeros_like(found)
        elif rollouts.algorithm.scale == "batch":
            found = standardized(found, own)
        figures["seconds/critic"] = time.monotonic() - started
        return found

    def _everywhere(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, padded to equal widths."""
        alike = self.accelerator.pad_across_processes(rows, dim=1)
        gathered = self.accelerator.gather(alike)
        assert isinstance(gathered, Tensor)
        return gathered

    def _divergence(self, output: dict[str, object]) -> tuple[Tensor, Tensor]:
        """Return log(π_old/π_ref) of each token and the mask of own tokens, (B, T)."""
        old = output.get("old_per_token_logps", output.get("sampling_per_token_logps"))
        reference = output.pop("ref_per_token_logps")
        mask, own = output["completion_mask"], output["tool_mask"]
        assert isinstance(old, Tensor)
        assert isinstance(reference, Tensor)
        assert isinstance(mask, Tensor)
        assert isinstance(own, Tensor)
        mask = mask * own
        return (old - reference) * mask, mask

    def _compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor]
    ) -> Tensor:
        beta = self.beta
        if "ref_per_token_logps" not in inputs:  # the divergence is in the reward
            self.beta = 0.0
        try:
            loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        finally:
            self.beta = beta
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **others: object,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        plain = self.accelerator.unwrap_model(model)
        if isinstance(plain, PeftModel):
            plain = plain.get_base_model()
        pictures = any(value is not None for value in others.values())
        alone = self.accelerator.num_processes == 1
        if pictures or compute_aux_loss or not alone or not can_share(plain):
            found: tuple[Tensor, Tensor | None, Tensor | None] = (
                super()._get_per_token_logps_and_entropies(
                    model,
                    input_ids,
                    attention_mask,
                    logits_to_keep,
                    batch_size=batch_size,
                    compute_entropy=compute_entropy,
                    compute_aux_loss=compute_aux_loss,
                    **others,
                )
            )
            return found
        with self.accelerator.autocast():
            logprobs, entropies = shared_logprobs(
                plain, input_ids, attention_mask, logits_to_keep, self.temperature
            )
        return logprobs, entropies if compute_entropy else None, None
