"""Rollouts: which turns a step answers, how, and which groups of answers it keeps.

A completion is one response; with ``whole_tasks`` a simulated user and environment
(``environment``) lead the policy from a task's first turn to its last. What others say
is masked. Each turn has its own rewards, and a completion their means; a whole task has
one more, for its completion: the lowest consistency of its turns.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from records.recipes import PolicyRecipe
from training.engine.data.conversations import Encoder
from training.engine.modeling.place import Place
from training.engine.rl.advantages import (
    OVERLONG_TOKENS,
    ZERO_STD,
    algorithm_of,
    length_penalty,
    population_std,
)
from training.engine.rl.environment import Environment, next_turn
from training.engine.rl.rewards import KINDS, Rewarded, Rewards
from training.engine.run.directory import step_random
from training.engine.run.distributed import all_gather_rows, own_part, world_size
from training.engine.sampling.answers import Answer, Prompt, answer, check_of
from training.engine.sampling.sampler import PartOf, Sampled, Sampling


@dataclass
class Episode:
    """One sampled completion: a response, or those of a whole task.

    ``mask`` is 1 at the policy's own tokens and 0 at what others said; ``logprobs`` are 0
    there.
    """

    prompt: Prompt
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # of each answer, in ids
    rewarded: list[Rewarded] = field(default_factory=list)
    environment: Environment | None = None  # of a whole task

    def add(self, response: Answer) -> None:
        """Append a response of the policy."""
        self.starts.append(len(self.ids))
        self.ids += response.sampled.ids
        self.logprobs += response.sampled.logprobs
        self.mask += [1] * len(response.sampled.ids)
        self.answers.append(response)

    def observe(self, ids: Sequence[int]) -> None:
        """Append what the policy did not write."""
        self.ids += ids
        self.logprobs += [0.0] * len(ids)
        self.mask += [0] * len(ids)

    def to_json(self) -> dict[str, object]:
        """Return what another rank needs to have this completion too, unrewarded."""
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
        if turns and self.environment is not None:
            turns += len(self.environment.sample.turns) - len(self.rewarded)
        return turns

    @property
    def completion(self) -> float | None:
        """The lowest consistency of a whole task's turns, 0 if one was not reached;
        None if nobody can judge any of them.
        """
        if self.environment is None:
            return None
        if len(self.rewarded) < len(self.environment.sample.turns):
            return 0.0
        known = [r.consistency for r in self.rewarded if r.consistency is not None]
        return min(known, default=None)


Group: TypeAlias = list[Episode]


@dataclass(frozen=True)
class Draw:
    """The groups that a step learns from, on every rank those of all ranks."""

    groups: list[Group]
    zero_variance: list[bool]  # of each group: it must push nothing
    metrics: dict[str, float]

    @property
    def episodes(self) -> list[Episode]:
        """All completions, group by group."""
        return [episode for group in self.groups for episode in group]


class Rollouts:
    """Draws groups of completions and scores them.

    Which turns are answered depends on the recipe's seed and the step alone.
    """

    def __init__(
        self,
        recipe: PolicyRecipe,
        prompts: Sequence[Prompt],
        encoder: Encoder,
        sampling: Sampling,
        place: Place,
        rewards: Rewards,
    ) -> None:
        self.recipe, self.prompts, self.encoder = recipe, prompts, encoder
        self.sampling, self.place, self.rewards = sampling, place, rewards
        self.algorithm = algorithm_of(recipe)
        # Of format, consistency, rule, preference, completion, and of the punishment of
        # what is too long.
        self.weights = (recipe.format_weight, 1.0, 1.0, 1.0, 1.0, 1.0)

    def draw(self, model: PreTrainedModel, count: int, step: int) -> Draw:
        """Return ``count`` groups, those with a signal first. Collective: each rank
        samples a part of the groups and has all of them in the end.

        Where the algorithm drops zero-variance groups, more are drawn than needed, and
        draws go on until enough have a signal, at most as often as the algorithm has it.
        """
        recipe, drops = self.recipe, self.algorithm.drops_zero_variance
        rng = step_random(recipe.seed, "prompts", step, 0)
        groups: list[Group] = []
        zero_variance: list[bool] = []
        seconds = {"seconds/generation": 0.0, "seconds/scoring": 0.0}
        for _ in range(self.algorithm.draw_rounds):
            missing = count - zero_variance.count(False)
            if missing <= 0:
                break
            started = time.monotonic()
            more = recipe.oversampling if drops else 1.0
            chosen = self.choose(rng, math.ceil(missing * more), at_least=missing)
            mine = own_part(range(len(chosen)))
            part = PartOf(rng.getrandbits(62), mine[0] if mine else 0, len(chosen))
            new = self.respond(model, [chosen[number] for number in mine], part)
            new = self.gathered(new, chosen)
            sampled = time.monotonic()
            self.score(new)
            seconds["seconds/generation"] += sampled - started
            seconds["seconds/scoring"] += time.monotonic() - sampled
            groups += new
            zero_variance += [self.std(group) < ZERO_STD for group in new]
        order = sorted(range(len(groups)), key=lambda i: drops and zero_variance[i])
        kept = order[:count]
        return Draw(
            [groups[i] for i in kept],
            [drops and zero_variance[i] for i in kept],
            {
                **self.metrics(groups),
                "groups_without_signal": mean([float(z) for z in zero_variance]),
                "groups_without_signal/kept": mean(
                    [float(zero_variance[i]) for i in kept]
                ),
                **seconds,
            },
        )

    def choose(self, rng: random.Random, count: int, at_least: int) -> list[Prompt]:
        """Return turns to answer: different ones, as far as there are so many."""
        chosen = rng.sample(self.prompts, min(len(self.prompts), count))
        while len(chosen) < at_least:  # fewer turns than groups: answer some twice
            chosen.append(rng.choice(self.prompts))
        return chosen

    def respond(
        self, model: PreTrainedModel, prompts: Sequence[Prompt], part: PartOf
    ) -> list[Group]:
        """Return a group of completions for each turn, whatever else the draw answers."""
        answers = answer(
            model,
            self.encoder.tokenizer,
            prompts,
            self.sampling,
            place=self.place,
            seed=part,
            per_turn=self.recipe.num_generations,
        )
        groups: list[Group] = []
        for prompt, responses in zip(prompts, answers, strict=True):
            groups.append([self.episode(prompt) for _ in responses])
            for episode, response in zip(groups[-1], responses, strict=True):
                episode.add(response)
        if self.recipe.whole_tasks:
            self.continue_tasks(model, groups, part)
        return groups

    def continue_tasks(
        self, model: PreTrainedModel, groups: Sequence[Group], part: PartOf
    ) -> None:
        """Lead every completion from its first response to the end of its task."""
        going = [
            (episode, step_random(part.seed, place, number))
            for place, group in enumerate(groups, start=part.first)
            for number, episode in enumerate(group)
        ]
        while going:
            following = [(e, rng, self.next_turn(e)) for e, rng in going]
            going = [(e, rng) for e, rng, prompt in following if prompt is not None]
            answers = answer(
                model,
                self.encoder.tokenizer,
                [prompt for _, _, prompt in following if prompt is not None],
                self.sampling,
                place=self.place,
                seed=[rng.getrandbits(62) for _, rng in going],
                per_turn=1,
            )
            for (episode, _), (response,) in zip(going, answers, strict=True):
                episode.add(response)

    def next_turn(self, episode: Episode) -> Prompt | None:
        """Append the next turn's input and return the turn, or None at the task's end."""
        assert episode.environment is not None
        so_far = episode.prompt.ids + episode.ids
        following = next_turn(
            self.encoder,
            episode.environment,
            episode.answers[-1],
            so_far,
            self.recipe.max_prompt_tokens,
        )
        if following is not None:
            episode.observe(following.ids[len(so_far) :])
        return following

    def episode(self, prompt: Prompt) -> Episode:
        """Return a completion of a turn, still empty."""
        whole = self.recipe.whole_tasks
        return Episode(
            prompt, environment=Environment(prompt.sample) if whole else None
        )

    def gathered(
        self, groups: Sequence[Group], prompts: Sequence[Prompt]
    ) -> list[Group]:
        """Return the groups of all ranks, made again of JSON where others sampled them.

        ``prompts`` are those of the whole draw. Collective.
        """
        if world_size() == 1:
            return list(groups)
        rows = [[episode.to_json() for episode in group] for group in groups]
        everything = zip(prompts, all_gather_rows(rows), strict=True)
        return [self.group_of(prompt, group) for prompt, group in everything]

    def group_of(self, prompt: Prompt, rows: Sequence[Mapping[str, Any]]) -> Group:
        """Return the group of a turn that another rank sampled."""
        checked = check_of(self.encoder.tokenizer, self.sampling.stop_ids[-1])
        group: Group = []
        for row in rows:
            episode = self.episode(prompt)
            episode.ids, episode.logprobs = row["ids"], row["logprobs"]
            episode.mask, episode.starts = row["mask"], row["starts"]
            episode.answers = [
                checked(prompt.sample, turn, index, Sampled(*sampled))
                for turn, index, sampled in row["answers"]
            ]
            group.append(episode)
        return group

    # Rewards

    def score(self, groups: Sequence[Group]) -> None:
        """Give every answer of ``groups`` its rewards. Collective."""
        episodes = [episode for group in groups for episode in group]
        rewarded = iter(self.rewards([a for e in episodes for a in e.answers]))
        for episode in episodes:
            episode.rewarded = [next(rewarded) for _ in episode.answers]

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

    def std(self, group: Group) -> float:
        """Return the standard deviation of the group's weighted rewards."""
        return population_std([self.reward(episode) for episode in group])

    def table(self, episodes: Sequence[Episode]) -> torch.Tensor:
        """Return rewards by kind, (B, kinds); NaN where one does not apply."""
        return torch.tensor(
            [
                [math.nan if value is None else value for value in self.kinds(episode)]
                for episode in episodes
            ]
        )

    def token_rewards(self, episode: Episode) -> list[float]:
        """Return what each token earns: a turn's rewards at its last token, completion
        and punishment at the episode's. The sum is the episode's reward.
        """
        rewards = [0.0] * len(episode.ids)
        shares = [0.0] * len(episode.answers)
        for kind, weight in zip(KINDS, self.weights, strict=False):
            turns = episode.counted(kind)
            for number, rewarded in enumerate(episode.rewarded):
                value = getattr(rewarded, kind) or 0.0
                shares[number] += weight * value / (turns or 1)
        ends = [
            start + len(response.sampled.ids) - 1
            for start, response in zip(episode.starts, episode.answers, strict=True)
        ]
        for end, share in zip(ends, shares, strict=True):
            rewards[end] += share
        rewards[ends[-1]] += self.reward(episode) - sum(shares)
        return rewards

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        """Return figures over all that was drawn: the groups kept were chosen for their
        variance.
        """
        episodes = [episode for group in groups for episode in group]
        return {
            **mean_rewards(episodes),
            "response_tokens": mean([float(sum(e.mask)) for e in episodes]),
            "responses": float(len(episodes)),
            "turns_per_response": mean([float(len(e.answers)) for e in episodes]),
            "cut_off": mean([float(e.cut_off) for e in episodes]),
        }


def mean_rewards(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return the mean of every kind of reward that some episode has."""
    means: dict[str, float] = {}
    for kind in KINDS:
        known = [v for e in episodes if (v := e.earned(kind)) is not None]
        if known:
            means[f"reward/{kind}"] = mean(known)
    completions = [v for e in episodes if (v := e.completion) is not None]
    if completions:
        means["reward/completion"] = mean(completions)
    return means


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return sum(values) / len(values)
