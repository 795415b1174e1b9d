"""PPO's value function, and the advantages that it makes of rewards.

PPO as it tunes language models (Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al.
2022). The steps of an episode are the policy's *own* tokens y₁ … y_K. Before each the
state s_k is all text so far, whoever wrote it; observations and what a user says belong
to states and are never steps. The critic V is a model of its own with one output. With
π_old the policy that sampled:

    reward      r_k = −β (log π_old(y_k|s_k) − log π_ref(y_k|s_k))
                      + what a turn earned, at the turn's last token
    error       δ_k = r_k + γ V(s_{k+1}) − V(s_k),     V(s_{K+1}) = 0
    advantage   A_k = δ_k + γλ A_{k+1}                 (GAE, Schulman et al. 2016, (16))
    return      R_k = A_k + V_old(s_k)
    loss        ½ mean of max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²)

Every turn is paid where it ends, so with ``whole_tasks`` a token is pushed by what came
after it, not by turns before.

The critic starts from the weights of the policy, its output at zero. It has AdamW and a
rate of its own, and takes ``UPDATES`` steps over each draw after its advantages are made.
The reward is paid for a whole response: γ counts tokens, hence 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from records.finite import at
from records.recipes import PolicyRecipe
from training.engine.modeling.loading import load_classifier, load_tokenizer
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.new_tokens import NEW_TOKEN_RATE, fit_vocabulary, new_rows
from training.engine.modeling.optim import (
    load_optimizer,
    muon_and_adamw,
    save_optimizer,
    update,
)
from training.engine.modeling.place import Place, on_device
from training.engine.modeling.policies import save_model
from training.engine.modeling.shared_prompt import shared_states
from training.engine.rl.advantages import gae
from training.engine.rl.batch import Batch
from training.engine.rl.loss import clipped_value_loss
from training.engine.run.directory import RunDirectory

FOLDER = "critic"  # within a checkpoint's trainer folder
UPDATES = 2  # optimizer steps on one set of sampled responses
GAMMA = 1.0
EPSILON = 0.2  # how far a value may move within one draw


class Critic:
    """A value model, its optimizer and the updates it takes."""

    def __init__(
        self,
        recipe: PolicyRecipe,
        model: PreTrainedModel,
        place: Place,
        micro_batch: MicroBatch,
        new: Sequence[int] = (),
    ) -> None:
        self.recipe, self.place, self.micro_batch = recipe, place, micro_batch
        self.model = on_device(model, place)
        self.model.train(False)  # no dropout: a value is repeatable
        self.optimizer = muon_and_adamw(
            model.named_parameters(),
            muon_rate=0.0,
            adamw_rate=recipe.critic_learning_rate,
            weight_decay=0.0,
            muon=False,
            rows=new_rows(self.model, new, NEW_TOKEN_RATE),
        )

    def __call__(self, batch: Batch) -> Tensor:
        """Return V of the state before each token of the completions, (B, T)."""
        score = cast(nn.Module, self.model.score)
        with self.place.autocast():
            hidden, where = shared_states(
                self.model, batch.ids, batch.attention_mask, batch.width
            )
            row, before, line, column, _ = where
            values = score(hidden[row, before]).squeeze(-1).float()
        empty = torch.zeros(batch.mask.shape, device=values.device)
        return empty.index_put((line, column), values)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """Return V of every state, (B, T), without a gradient."""
        return self.micro_batch.run(
            lambda size: torch.cat([self(part) for part in batch.chunks(size)])
        )

    def learn(
        self, batch: Batch, old_values: Tensor, returns: Tensor, step: int
    ) -> float:
        """Take ``UPDATES`` optimizer steps towards ``returns`` (B, T); return the first
        loss: that of the critic as it was. ``step`` is the policy's, from 1. Raises
        ``NotFiniteError``.
        """
        tokens = batch.mask.sum().clamp(min=1)

        def backward(rows: slice) -> Tensor:
            part = batch.rows(rows)
            loss = clipped_value_loss(
                self(part), old_values[rows], returns[rows], part.mask, EPSILON
            )
            loss = loss / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        losses: list[float] = []
        for _ in range(UPDATES):
            loss = self.micro_batch.accumulate(
                batch.slices, backward, self.optimizer.zero_grad
            )
            with at("critic"):
                update(
                    self.optimizer,
                    None,
                    self.model.parameters(),
                    loss=float(loss),
                    max_grad_norm=self.recipe.max_grad_norm,
                    step=step,
                )
            losses.append(float(loss))
        return losses[0]

    def advantages(
        self,
        batch: Batch,
        token_rewards: Tensor,
        kl: Tensor,
        step: int,
        metrics: dict[str, float],
    ) -> Tensor:
        """Return the advantage of every own token, (B, T), and learn from the draw.

        ``token_rewards`` (B, T) is what tokens earn, ``kl`` (B, T) log(π_old/π_ref).
        """
        own = batch.mask.bool()
        values = self.values(batch)
        advantages = gae(
            (token_rewards - self.recipe.beta * kl) * batch.mask,
            values,
            batch.mask,
            GAMMA,
            self.recipe.gae_lambda,
        )
        returns = advantages + values
        metrics["critic/loss"] = self.learn(batch, values, returns, step)
        metrics["critic/explained_variance"] = explained_variance(
            values[own], returns[own]
        )
        metrics["critic/value"] = float(values[own].mean()) if own.any() else 0.0
        return advantages

    def save(self, folder: Path) -> None:
        """Write weights and moments into a checkpoint's trainer folder."""
        save_model(self.model, folder / FOLDER)
        save_optimizer(self.optimizer, folder / FOLDER)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Return 1 − Var(R − V) / Var(R): 1 if the critic knew all, 0 if nothing.

    A step whose returns are all equal has nothing to explain: 0.
    """
    variance = float(returns.var(correction=0)) if len(returns) else 0.0
    if variance < 1e-12:
        return 0.0
    return 1 - float((returns - values).var(correction=0)) / variance


def load_critic(
    run: RunDirectory,
    recipe: PolicyRecipe,
    tokenizer: PreTrainedTokenizerBase,
    place: Place,
    micro_batch: MicroBatch,
) -> Critic:
    """Return the critic of a run: as it was left, or new.

    A new one has the weights of the policy and an output of zeros.
    """
    start = run.need_input("policy")
    known = len(load_tokenizer(start))
    new = [i for i in range(known, len(tokenizer)) if i != tokenizer.pad_token_id]
    if run.resume:
        folder = run.resume / "trainer" / FOLDER
        model = load_classifier(folder, place, outputs=1)
        fit_vocabulary(model, tokenizer, len(tokenizer))
        critic = Critic(recipe, model, place, micro_batch, new)
        load_optimizer(critic.optimizer, folder)
        return critic
    model = load_classifier(start, place, outputs=1)
    fit_vocabulary(model, tokenizer, known)
    for parameter in cast(nn.Module, model.score).parameters():
        nn.init.zeros_(parameter)
    return Critic(recipe, model, place, micro_batch, new)
