"""Rollouts: which turns a step answers, how, and which groups of answers it keeps.

A completion is one response; with ``whole_tasks`` a simulated user and environment
(``environment``) lead the policy from the first turn to the last. What others say is
masked. Each turn has its own rewards, and a completion their means; a whole task
has one more, for its completion: the lowest consistency of its turns.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.grpo_trainer import GRPOTrainer

from records.recipes import PolicyRecipe
from training.engine.data.conversations import Encoder
from training.engine.modeling.policies import Place
from training.engine.rl.advantages import (
    LEAST_STD,
    OVERLONG_TOKENS,
    algorithm_of,
    deviation,
    length_penalty,
)
from training.engine.rl.environment import World, next_turn
from training.engine.rl.rewards import KINDS, Rewarded, Rewards
from training.engine.run.directory import step_random
from training.engine.run.distributed import (
    divided,
    own_part,
    process_count,
    process_rank,
)
from training.engine.sampling.answers import (
    Answer,
    Prompt,
    answer,
    check_of,
)
from training.engine.sampling.sampler import PartOf, Sampled, Sampling, Seed


@dataclass
class Episode:
    """One sampled completion: a response, or those of a whole task.

    ``mask`` is 1 for the policy's own tokens and 0 for observations; ``logprobs`` are 0
    there.
    """

    prompt: Prompt
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # of each answer, in ids
    rewarded: list[Rewarded] = field(default_factory=list)
    world: World | None = None  # of a whole task

    def add(self, given: Answer) -> None:
        """Append a response of the policy."""
        self.ids += given.sampled.ids
        self.logprobs += given.sampled.logprobs
        self.mask += [1] * len(given.sampled.ids)
        self.answers.append(given)
        self.starts.append(len(self.ids) - len(given.sampled.ids))

    def observe(self, ids: Sequence[int]) -> None:
        """Append an observation, which the policy did not write."""
        self.ids += ids
        self.logprobs += [0.0] * len(ids)
        self.mask += [0] * len(ids)

    def to_json(self) -> dict[str, object]:
        """Return what another process needs to have this completion too, unrewarded."""
        return {
            "ids": self.ids,
            "logprobs": self.logprobs,
            "mask": self.mask,
            "starts": self.starts,
            "answers": [(a.turn, a.index, astuple(a.sampled)) for a in self.answers],
        }

    @property
    def cut_off(self) -> bool:
        """Whether the last answer did not come to its end."""
        return not self.answers[-1].sampled.ended

    def earned(self, kind: str) -> float | None:
        """Return the mean reward of a kind over the turns that have one.

        In a whole task the turns that were not reached count 0.
        """
        values: list[float | None] = [getattr(r, kind) for r in self.rewarded]
        known = [value for value in values if value is not None]
        return sum(known) / self.counted(kind) if known else None

    def counted(self, kind: str) -> int:
        """Return over how many turns the mean reward of a kind is taken."""
        turns = sum(getattr(r, kind) is not None for r in self.rewarded)
        if turns and self.world is not None:
            turns += len(self.world.sample.turns) - len(self.rewarded)
        return turns

    @property
    def completion(self) -> float | None:
        """The lowest consistency of a whole task's turns, 0 if one was not reached;
        None if nobody can judge any of them.
        """
        if self.world is None:
            return None
        if len(self.rewarded) < len(self.world.sample.turns):
            return 0.0
        known = [r.consistency for r in self.rewarded if r.consistency is not None]
        return min(known, default=None)


Group = list[Episode]


class Rollouts:
    """Draws the groups that a step learns from; called by ``GRPOTrainer``.

    The prompts it is called with are placeholders, repeated G times: which turns are
    answered is decided here, from the seed and the step.
    """

    def __init__(
        self,
        recipe: PolicyRecipe,
        prompts: Sequence[Prompt],
        encoder: Encoder,
        sampling: Sampling,
        place: Place,
        rewards: Rewards,
        first: int,
    ) -> None:
        self.recipe, self.prompts, self.encoder = recipe, prompts, encoder
        self.sampling, self.place, self.rewards = sampling, place, rewards
        self.first = first
        self.figures: dict[str, float] = {}
        self.algorithm = algorithm_of(recipe)
        # Of format, consistency, rule, preference, completion, and of the punishment of
        # what is too long.
        self.weights = (recipe.format_weight, 1.0, 1.0, 1.0, 1.0, 1.0)
        self.groups: list[Group] = []
        self.silent: list[bool] = []  # the groups that must push nothing
        self.pushed: torch.Tensor | None = None  # mean advantage of each completion

    def __call__(
        self, prompts: Sequence[str], trainer: GRPOTrainer
    ) -> dict[str, list[object]]:
        """Return one completion for each prompt: G in a row belong to one turn."""
        recipe = self.recipe
        step = self.first + trainer.state.global_step
        rank = process_rank()
        # All that follows in this step (TRL shuffles, dropout) hangs on the step too.
        torch.manual_seed(step_random(recipe.seed, "torch", step, rank).getrandbits(62))
        wanted = process_count() * len(prompts) // recipe.num_generations
        model = trainer.accelerator.unwrap_model(trainer.model)
        if self.sampling.backend == "vllm":
            engine = trainer.vllm_generation
            self.sampling = replace(self.sampling, engine=engine)
        self.groups = self.draw(model, wanted, step)
        episodes = [episode for group in self.groups for episode in group]
        return {
            "prompt_ids": [episode.prompt.ids for episode in episodes],
            "completion_ids": [episode.ids for episode in episodes],
            "logprobs": [episode.logprobs for episode in episodes],
            "env_mask": [episode.mask for episode in episodes],
            "reward": [self.reward(episode) for episode in episodes],
        }

    def draw(self, model: PreTrainedModel, wanted: int, step: int) -> list[Group]:
        """Return ``wanted`` groups, those with a signal first; of several processes each
        draws a part of all groups and returns its share of those that are kept.

        Where the algorithm drops silent groups, draws go on until enough groups have a
        signal, at most ``draw_rounds`` times.
        """
        recipe, drops = self.recipe, self.algorithm.drops_silent
        rng = step_random(recipe.seed, "prompts", step, 0)
        groups: list[Group] = []
        silent: list[bool] = []
        generation = scoring = 0.0
        for _ in range(self.algorithm.draw_rounds):
            missing = wanted - silent.count(False)
            if missing <= 0:
                break
            started = time.monotonic()
            more = recipe.oversampling if drops else 1.0
            chosen = self.choose(rng, math.ceil(missing * more), at_least=missing)
            new = self.divided(model, chosen, rng.getrandbits(62))
            drawn = time.monotonic()
            self.score(new)
            generation += drawn - started
            scoring += time.monotonic() - drawn
            groups += new
            silent += [self.spread(group) < LEAST_STD for group in new]
        order = sorted(range(len(groups)), key=lambda i: drops and silent[i])
        kept = order[:wanted]
        everything = [episode for group in groups for episode in group]
        self.figures = {
            # Over all that was drawn: the groups kept are chosen for their spread.
            **mean_rewards(everything),
            "groups_without_signal": mean([float(quiet) for quiet in silent]),
            "groups_without_signal/kept": mean([float(silent[i]) for i in kept]),
            "response_tokens": mean([float(sum(e.mask)) for e in everything]),
            "responses": float(len(everything)),
            "turns_per_response": mean([float(len(e.answers)) for e in everything]),
            "cut_off": mean([float(e.cut_off) for e in everything]),
            "seconds/generation": generation,
            "seconds/scoring": scoring,
        }
        # Scaled up, a tiny spread is only noise: such a group must push nothing.
        kept = list(own_part(kept))
        self.silent = [drops and silent[i] for i in kept]
        return [groups[i] for i in kept]

    def divided(
        self, model: PreTrainedModel, chosen: Sequence[Prompt], seed: int
    ) -> list[Group]:
        """Return a group for each turn, of all processes: each draws those of its part."""

        def respond(numbers: Sequence[int]) -> list[Group]:
            part = PartOf(seed, numbers[0] if numbers else 0, len(chosen))
            return self.respond(model, [chosen[i] for i in numbers], part)

        return divided(
            range(len(chosen)),
            respond,
            lambda group: [episode.to_json() for episode in group],
            lambda number, told: self.told(chosen[number], told),
        )

    def told(self, asked: Prompt, rows: Sequence[Mapping[str, Any]]) -> Group:
        """Return the group of a turn that another process drew and told as JSON."""
        checked = check_of(self.encoder.tokenizer, self.sampling.stop_ids[-1])
        return [
            Episode(
                asked,
                row["ids"],
                row["logprobs"],
                row["mask"],
                [
                    checked(asked.sample, turn, index, Sampled(*sampled))
                    for turn, index, sampled in row["answers"]
                ],
                row["starts"],
                world=World(asked.sample) if self.recipe.whole_tasks else None,
            )
            for row in rows
        ]

    def choose(self, rng: random.Random, count: int, at_least: int) -> list[Prompt]:
        """Return turns to answer: different ones, as far as there are so many."""
        chosen = rng.sample(self.prompts, min(len(self.prompts), count))
        while len(chosen) < at_least:  # fewer turns than groups: answer some twice
            chosen.append(rng.choice(self.prompts))
        return chosen

    def score(self, groups: Sequence[Group]) -> None:
        """Give every answer of ``groups`` its rewards."""
        episodes = [episode for group in groups for episode in group]
        rewarded = iter(self.rewards([a for e in episodes for a in e.answers]))
        for episode in episodes:
            episode.rewarded = [next(rewarded) for _ in episode.answers]

    def spread(self, group: Group) -> float:
        """Return the standard deviation of the group's weighted rewards."""
        return deviation([self.reward(episode) for episode in group])

    def kinds(self, episode: Episode) -> tuple[float | None, ...]:
        """Return the rewards of a completion by kind, in the order of ``weights``."""
        punished = 0.0
        if self.algorithm.overlong == "punished":
            recipe = self.recipe
            punished = length_penalty(
                len(episode.answers[-1].sampled.ids),
                recipe.max_new_tokens,
                min(OVERLONG_TOKENS, recipe.max_new_tokens),
            )
        kinds = (episode.earned(kind) for kind in KINDS)
        return (*kinds, episode.completion, punished)

    def reward(self, episode: Episode) -> float:
        """Return the weighted sum of the rewards that apply."""
        kinds = zip(self.weights, self.kinds(episode), strict=True)
        return sum(weight * (value or 0.0) for weight, value in kinds)

    def rewards_table(self) -> torch.Tensor:
        """Return the rewards of the last draw, (B, kinds); NaN where one is not asked."""
        return torch.tensor(
            [
                [math.nan if value is None else value for value in self.kinds(episode)]
                for group in self.groups
                for episode in group
            ]
        )

    def respond(
        self, model: PreTrainedModel, chosen: Sequence[Prompt], part: PartOf
    ) -> list[Group]:
        """Return a group of episodes for each turn, as if all of the draw were asked."""
        groups: list[Group] = []
        for asked, answers in zip(
            chosen, self._answer(model, chosen, part, self._size), strict=True
        ):
            whole = self.recipe.whole_tasks
            groups.append(
                [
                    Episode(asked, world=World(asked.sample) if whole else None)
                    for _ in answers
                ]
            )
            for episode, given in zip(groups[-1], answers, strict=True):
                episode.add(given)
        if self.recipe.whole_tasks:
            going = [
                (episode, step_random(part.seed, place, number))
                for place, group in enumerate(groups, start=part.first)
                for number, episode in enumerate(group)
            ]
            while going:
                found = [(episode, rng, self._go_on(episode)) for episode, rng in going]
                going = [(e, rng) for e, rng, asked in found if asked is not None]
                further = [asked for _, _, asked in found if asked is not None]
                own = [rng.getrandbits(62) for _, rng in going]
                for (episode, _), (given,) in zip(
                    going, self._answer(model, further, own, 1), strict=True
                ):
                    episode.add(given)
        return groups

    @property
    def _size(self) -> int:
        return self.recipe.num_generations

    def _answer(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Prompt],
        seed: Seed,
        count: int,
    ) -> list[list[Answer]]:
        return answer(
            model,
            self.encoder.tokenizer,
            prompts,
            self.sampling,
            place=self.place,
            seed=seed,
            per_turn=count,
        )

    def _go_on(self, episode: Episode) -> Prompt | None:
        """Append the next turn's input and return the turn, or None at the end."""
        given = episode.answers[-1]
        assert episode.world is not None
        found = next_turn(
            self.encoder,
            episode.world,
            given,
            episode.prompt.ids + episode.ids,
            self.recipe.max_prompt_tokens,
        )
        if found is None:
            return None
        asked, put = found
        episode.observe(put)
        return asked


def mean_rewards(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return the mean of every kind of reward that some episode has."""
    found: dict[str, float] = {}
    for kind in KINDS:
        known = [v for e in episodes if (v := e.earned(kind)) is not None]
        if known:
            found[f"reward/{kind}"] = mean(known)
    whole = [v for e in episodes if (v := e.completion) is not None]
    if whole:
        found["reward/completion"] = mean(whole)
    return found


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return sum(values) / len(values)
