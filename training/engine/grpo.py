"""The GRPO trainer of TRL, with the prompt of a group computed once."""

from __future__ import annotations

from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from training.engine.prefixes import can_share, shared_logprobs
from training.engine.rollouts import Rollouts


def format_reward(format_score: list[float | None], **_: object) -> list[float | None]:
    """Hand TRL the format rewards that the rollout brought."""
    return format_score


def consistency_reward(
    consistency_score: list[float | None], **_: object
) -> list[float | None]:
    """Hand TRL the consistency rewards that the rollout brought; None: not asked."""
    return consistency_score


class SharedPromptTrainer(GRPOTrainer):
    """GRPO that computes the prompt of a group once (``prefixes``).

    Everything else is TRL's. Several processes, pictures and models that cannot take
    the mask keep TRL's own way.
    """

    def _generate_and_score_completions(
        self, inputs: list[dict[str, object]]
    ) -> dict[str, object]:
        output: dict[str, object] = super()._generate_and_score_completions(inputs)
        rollouts = self.rollout_func
        if isinstance(rollouts, Rollouts) and rollouts.recipe.credit == "unit":
            width = cast(Tensor, output["completion_ids"]).shape[1]
            rows = [row + [0.0] * (width - len(row)) for row in rollouts.advantages]
            output["advantages"] = torch.tensor(rows, device=self.accelerator.device)
        return output

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
