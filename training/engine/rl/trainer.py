"""The GRPO trainer of TRL with our advantages, the prompt of a group computed once.

TRL samples, computes log-probabilities, clips and averages; the advantages it makes of
the rewards are replaced by those of ``algorithms``, which knows more methods.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.grpo_trainer import GRPOTrainer

from training.engine.modeling.micro_batch import Parts, summed
from training.engine.modeling.shared_prompt import shared_logprobs
from training.engine.rl.advantages import (
    advantages,
    token_advantages,
    weighted,
)
from training.engine.rl.critic import Critic, Drawn, payments, standardized
from training.engine.rl.rollouts import Rollouts

SIDES = ("prompt", "completion")


def given_reward(reward: list[float | None], **_: object) -> list[float | None]:
    """Hand TRL the reward that the rollout brought; it is only logged."""
    return reward


class SharedPromptTrainer(GRPOTrainer):
    """GRPO that computes the prompt of a group once (``prefixes``).

    A step is one pass over all responses of this process, computed in ``parts``, in
    smaller ones when memory runs out. Everything else is TRL's. Pictures keep TRL's own
    way. ``critic`` is PPO's.
    """

    critic: Critic | None = None

    def __init__(self, *, parts: Parts, **settings: Any) -> None:
        super().__init__(**settings)
        self.parts = parts
        if self.accelerator.num_processes > 1:
            # Gradients are exchanged only after a forward pass of the model as a whole.
            model = cast(PreTrainedModel, self.model)
            model.forward = functools.partial(
                _forward, model.forward, self._base(model)
            )

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return this process's loss of the step; responses are drawn once for it."""
        model.train()
        prepared: dict[str, Any] = self._prepare_inputs(inputs)
        count = len(prepared["advantages"])

        def learn(piece: dict[str, Any]) -> Tensor:
            with self.compute_loss_context_manager():
                loss: Tensor = self.compute_loss(model, piece)
            if (
                self.loss_type != "dapo"
            ):  # its mean is over the tokens of the whole step
                loss = loss * len(piece["advantages"]) / count
            self.accelerator.backward(loss)
            return loss.detach()

        def attempt(size: int) -> Tensor:
            apart = functools.partial(self.accelerator.no_sync, model)
            return summed(pieces_of(prepared, size), learn, apart)

        loss = self.parts.run(attempt, model.zero_grad)
        self._step += 1
        return loss

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
        found[silent.repeat_interleave(rollouts.recipe.num_generations)] = 0.0
        output["advantages"] = found
        rollouts.pushed = found if found.dim() == 1 else found.mean(1)
        return output

    def _advantages(self, rollouts: Rollouts, output: dict[str, object]) -> Tensor:
        """Return the advantages of this process's B responses, (B,) or (B, T)."""
        recipe, algorithm = rollouts.recipe, rollouts.algorithm
        completions, device = output["completion_ids"], self.accelerator.device
        assert isinstance(completions, Tensor)
        count, width = completions.shape
        if self.critic is not None:
            return self._by_critic(self.critic, rollouts, output)
        first = self.accelerator.process_index * count
        rewards = self._everywhere(rollouts.rewards_table().to(device))
        weights: tuple[float, ...] = rollouts.weights
        if algorithm.divergence == "reward":
            away, mask = self._divergence(output)
            away, mask = self._everywhere(away), self._everywhere(mask)
            rollouts.figures["kl"] = float(away.sum() / mask.sum().clamp(min=1))
            if algorithm.baseline == "batch":
                total = weighted(rewards, weights)
                found = token_advantages(total, away, mask, recipe.beta)
                return found[first : first + count, :width]
            # A whole response has one more kind of reward: its divergence, held against it.
            rewards = torch.cat([rewards, away.sum(1, keepdim=True)], 1)
            weights = (*weights, -recipe.beta)
        found = advantages(
            rewards,
            weights,
            recipe.num_generations,
            algorithm,
            # The scores of a preference model have no unit.
            each_normalized=rollouts.rewards.preference is not None,
        )
        return found[first : first + count]

    def _by_critic(
        self, critic: Critic, rollouts: Rollouts, output: dict[str, object]
    ) -> Tensor:
        """Return the advantage of each token, (B, T); the critic learns from the draw."""
        started = time.monotonic()
        figures = rollouts.figures
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
        if rollouts.algorithm.scale == "batch":
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
        plain = self._base(model)
        pictures = any(value is not None for value in others.values())
        if pictures or compute_aux_loss:
            theirs = super()._get_per_token_logps_and_entropies

            def attempt(size: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
                found: tuple[Tensor, Tensor | None, Tensor | None] = theirs(
                    model,
                    input_ids,
                    attention_mask,
                    logits_to_keep,
                    batch_size=size,
                    compute_entropy=compute_entropy,
                    compute_aux_loss=compute_aux_loss,
                    **others,
                )
                return found

            learning = torch.is_grad_enabled()  # then the whole step is done again
            return attempt(len(input_ids)) if learning else self.parts.run(attempt)

        def shared(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            given = ids, mask, logits_to_keep, self.temperature
            with self.accelerator.autocast():
                if torch.is_grad_enabled() and self.accelerator.num_processes > 1:
                    found: tuple[Tensor, Tensor] = model(shared=given)
                    return found
                return shared_logprobs(plain, *given)

        def in_parts(size: int) -> tuple[Tensor, Tensor]:
            both = [
                shared(input_ids[i : i + size], attention_mask[i : i + size])
                for i in range(0, len(input_ids), size)
            ]
            return torch.cat([one for one, _ in both]), torch.cat([e for _, e in both])

        if torch.is_grad_enabled():
            logprobs, entropies = shared(input_ids, attention_mask)
        else:
            logprobs, entropies = self.parts.run(in_parts)
        return logprobs, entropies if compute_entropy else None, None

    def _base(self, model: torch.nn.Module) -> PreTrainedModel:
        """Return the model without what accelerate and peft put around it."""
        plain = self.accelerator.unwrap_model(model)
        if isinstance(plain, PeftModel):
            plain = plain.get_base_model()
        assert isinstance(plain, PreTrainedModel)
        return plain


def _forward(
    forward: Callable[..., object],
    base: PreTrainedModel,
    *args: object,
    shared: tuple[Tensor, Tensor, int, float] | None = None,
    **named: object,
) -> object:
    """Do ``shared_logprobs`` as a forward pass of the model when it is asked for."""
    return forward(*args, **named) if shared is None else shared_logprobs(base, *shared)


def pieces_of(prepared: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Return the responses of a step in pieces of at most ``size``.

    Those to one prompt stay together as far as they fit, so that it is computed once.
    """
    count = len(prepared["advantages"])
    if size >= count:
        return [prepared]
    prompts = prepared["prompt_ids"].tolist()
    order = sorted(range(count), key=lambda i: prompts[i])
    pieces: list[dict[str, Any]] = []
    for start in range(0, count, size):
        chosen = order[start : start + size]
        pieces.append(
            {
                name: value[chosen]
                if isinstance(value, Tensor) and value.dim() and len(value) == count
                else value
                for name, value in prepared.items()
            }
        )
    return pieces
