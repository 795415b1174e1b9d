"""A learned critic for PPO: what a state is worth, and by how much an answer beats it.

PPO as it tunes language models (Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al.
2022). The steps of an episode are the policy's *own* tokens y₁ … y_K. Before each the
state s_k is all text so far, whoever wrote it; observations and what a user says belong
to states and are never steps. The critic V is a model of its own with one output. With
π_old the policy that sampled:

    reward      r_k = −β (log π_old(y_k|s_k) − log π_ref(y_k|s_k))
                      + what a turn earned, at the turn's last token
    error       δ_k = r_k + γ V(s_{k+1}) − V(s_k),     V(s_{K+1}) = 0
    advantage   A_k = δ_k + γλ A_{k+1}                 (GAE, Schulman et al. 2016, (16))
    target      R_k = A_k + V_old(s_k)
    critic's loss  ½ mean of max((V − R)², (V_old + clip(V − V_old, ±ε_v) − R)²)

The policy's loss is the clipped one of ``advantages``, over A standardised on all own
tokens of the step. Every turn is paid where it ends, so with ``whole_tasks`` a token is
pushed by what came after it, not by turns before.

The critic starts from the weights of the policy, its output at zero. It has AdamW and a
rate of its own, and takes ``UPDATES`` steps over each draw after its advantages are made.
The reward is paid for a whole response: γ counts tokens, hence 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from records.finite import must_be_finite
from records.recipes import PolicyRecipe
from training.engine.modeling.loading import load_classifier, load_tokenizer
from training.engine.modeling.new_tokens import NEW_TOKEN_RATE, fit_vocabulary, new_rows
from training.engine.modeling.optim import (
    load_optimizer,
    muon_and_adamw,
    save_optimizer,
)
from training.engine.modeling.policies import Place, on_device, save_model
from training.engine.modeling.shared_prompt import shared_states
from training.engine.rl.advantages import SMALL
from training.engine.rl.rewards import KINDS
from training.engine.rl.rollouts import Episode, Rollouts
from training.engine.run.directory import RunDirectory

FOLDER = "critic"  # within a checkpoint's trainer folder
UPDATES = 2  # optimizer steps on one set of sampled responses
GAMMA = 1.0
VALUE_CLIP_RANGE = 0.2  # ε_v


# Advantages


def advantages_of(
    rewards: Tensor, values: Tensor, own: Tensor, discount: float, keep: float
) -> Tensor:
    """Return the generalised advantage of each own token, (B, T); 0 elsewhere.

    ``rewards`` and ``values`` are (B, T), ``own`` is 1 at the policy's tokens; ``keep``
    is λ. What stands between two own tokens is stepped over: the state after the first
    is the one before the second.
    """
    found = torch.zeros_like(rewards)
    following, ahead = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        step = own[:, t].bool()
        error = rewards[:, t] + discount * following - values[:, t]
        advantage = error + discount * keep * ahead
        found[:, t] = torch.where(step, advantage, 0.0)
        following = torch.where(step, values[:, t], following)
        ahead = torch.where(step, advantage, ahead)
    return found


def value_loss(
    values: Tensor, old: Tensor, targets: Tensor, own: Tensor, clip: float
) -> Tensor:
    """Return the summed loss over own tokens; ``clip`` 0 leaves the clipping out."""
    error = (values - targets) ** 2
    if clip:
        near = old + (values - old).clamp(-clip, clip)
        error = torch.maximum(error, (near - targets) ** 2)
    return 0.5 * (error * own).sum()


def explained_variance(values: Tensor, targets: Tensor) -> float:
    """Return 1 − Var(R − V) / Var(R): 1 if the critic knew all, 0 if nothing.

    A step whose targets are all equal has nothing to explain: 0.
    """
    spread = float(targets.var(correction=0)) if len(targets) else 0.0
    if spread < 1e-12:
        return 0.0
    return 1 - float((targets - values).var(correction=0)) / spread


def payments(rollouts: Rollouts, episode: Episode) -> list[float]:
    """Return what each token of an episode is paid: a turn's rewards at its last token,
    completion and punishment at the episode's. The sum is the episode's reward.
    """
    paid = [0.0] * len(episode.ids)
    shares = [0.0] * len(episode.answers)
    for kind, weight in zip(KINDS, rollouts.weights, strict=False):
        turns = episode.counted(kind)
        for number, rewarded in enumerate(episode.rewarded):
            shares[number] += weight * (getattr(rewarded, kind) or 0.0) / (turns or 1)
    for start, given, share in zip(
        episode.starts, episode.answers, shares, strict=True
    ):
        paid[start + len(given.sampled.ids) - 1] += share
    last = episode.starts[-1] + len(episode.answers[-1].sampled.ids) - 1
    paid[last] += rollouts.reward(episode) - sum(shares)
    return paid


# The critic


@dataclass(frozen=True)
class Drawn:
    """The completions of a draw. Prompts are padded on the left, completions on the
    right: ``ids`` and ``mask`` are (B, P + T), ``own`` is (B, T).
    """

    ids: Tensor
    mask: Tensor
    own: Tensor

    def rows(self, start: int, end: int) -> Drawn:
        """Return some of the completions."""
        return Drawn(self.ids[start:end], self.mask[start:end], self.own[start:end])


class Critic:
    """A value model, its optimiser and the updates it takes."""

    def __init__(
        self,
        recipe: PolicyRecipe,
        model: PreTrainedModel,
        place: Place,
        new: Sequence[int] = (),
    ) -> None:
        self.recipe, self.place = recipe, place
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

    def __call__(self, drawn: Drawn) -> Tensor:
        """Return V of the state before each token of the completions, (B, T)."""
        keep = drawn.own.shape[1]
        score = cast(nn.Module, self.model.score)
        with self.place.autocast():
            hidden, where = shared_states(self.model, drawn.ids, drawn.mask, keep)
            of, before, owner, column, _ = where
            read = score(hidden[of, before]).squeeze(-1).float()
        empty = torch.zeros(drawn.own.shape, device=read.device)
        return empty.index_put((owner, column), read)

    @torch.no_grad()
    def values(self, drawn: Drawn) -> Tensor:
        """Return V of every state, (B, T), without a gradient."""
        return torch.cat([self(part) for part in self._parts(drawn)])

    def learn(self, drawn: Drawn, old: Tensor, targets: Tensor) -> float:
        """Take ``UPDATES`` steps towards ``targets`` (B, T); return the first
        loss: that of the critic as it was.
        """
        losses: list[float] = []
        count = drawn.own.sum().clamp(min=1)
        for _ in range(UPDATES):
            total, start = 0.0, 0
            for part in self._parts(drawn):
                here = slice(start, start + len(part.ids))
                start = here.stop
                loss = value_loss(
                    self(part),
                    old[here],
                    targets[here],
                    part.own,
                    VALUE_CLIP_RANGE,
                )
                (loss / count).backward()  # type: ignore[no-untyped-call]
                total += float(loss / count)
            must_be_finite(total, "loss of the critic")
            limit = self.recipe.max_grad_norm or float("inf")
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
            must_be_finite(float(norm), "gradient norm of the critic")
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(total)
        return losses[0]

    def _parts(self, drawn: Drawn) -> Sequence[Drawn]:
        """Cut a draw into what is computed at once."""
        size = self.recipe.micro_batch or len(drawn.ids)
        return [drawn.rows(i, i + size) for i in range(0, len(drawn.ids), size)]

    def advantages(
        self, drawn: Drawn, paid: Tensor, away: Tensor, figures: dict[str, float]
    ) -> Tensor:
        """Return the advantage of every own token, (B, T), and learn from the draw.

        ``paid`` (B, T) is what tokens are paid, ``away`` (B, T) log(π_old/π_ref).
        """
        recipe, own = self.recipe, drawn.own
        old = self.values(drawn)
        found = advantages_of(
            (paid - recipe.beta * away) * own,
            old,
            own,
            GAMMA,
            recipe.gae_lambda,
        )
        targets = found + old
        chosen = own.bool()
        figures["critic/loss"] = self.learn(drawn, old, targets)
        figures["critic/explained_variance"] = explained_variance(
            old[chosen], targets[chosen]
        )
        figures["critic/value"] = float(old[chosen].mean()) if chosen.any() else 0.0
        return found

    def save(self, folder: Path) -> None:
        """Write weights and moments into a checkpoint's trainer folder."""
        save_model(self.model, folder / FOLDER)
        save_optimizer(self.optimizer, folder / FOLDER)


def standardized(found: Tensor, own: Tensor) -> Tensor:
    """Return advantages of mean 0 and deviation 1 over all own tokens, (B, T)."""
    chosen = found[own.bool()]
    if chosen.numel() < 2:
        return torch.zeros_like(found)
    return (found - chosen.mean()) / (chosen.std() + SMALL) * own


def load_critic(
    run: RunDirectory,
    recipe: PolicyRecipe,
    tokenizer: PreTrainedTokenizerBase,
    place: Place,
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
        critic = Critic(recipe, model, place, new)
        load_optimizer(critic.optimizer, folder)
        return critic
    model = load_classifier(start, place, outputs=1)
    fit_vocabulary(model, tokenizer, known)
    for parameter in cast(nn.Module, model.score).parameters():
        nn.init.zeros_(parameter)
    return Critic(recipe, model, place, new)
