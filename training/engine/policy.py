"""Improve the policy against a reward model: ``python -m training.engine.policy RUN_DIR``.

Group relative policy optimisation (GRPO, Shao et al. 2024), run by ``trl.GRPOTrainer``:
for each prompt (a turn with its history) G responses are sampled, each gets a reward

    r = format_weight × [the response is well formed] + consistency_weight × consistency

and the advantage (r − mean of its group) / (spread of its group). The policy's tokens are
pushed along their advantages, clipped as in PPO, with ``kl_weight`` times the divergence
from the initial policy in the loss. Consistency is what the reward model (RM) says of
(label response, sampled response), or with ``consistency_source`` "oracle" the demo's
truth, as the upper bound of any RM.

What is ours is the rollout: which turns are answered, how, and which groups are kept.
More groups are drawn than needed and those whose rewards are (nearly) equal are dropped
first: they would teach nothing, or, once their tiny spread is scaled up, only noise. With
``follow_actions`` a response that calls the label's action goes on after the recorded
observation; observation tokens are masked from the loss (``env_mask``).

A policy finds the faults of its RM. Three things stand against that: the run does not
start unless the RM passed its gate; at every look at a fixed held-out set the RM's score
and the truth are reported side by side, and when they part the run stops itself; and the
final checkpoint is the one of the best held-out truth, the start included, so what is
promoted was never worse there than what was.

Everything random depends on the seed and the step only, so a resumed run repeats an
uninterrupted one from weights, optimiser moments and the step number.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from actions.demo import oracle
from actions.grammar import FormatError, parse
from actions.json_values import json_equal
from actions.tags import OBSERVATION_CLOSE, OBSERVATION_OPEN
from actions.units import UnitPair
from training.engine.conversations import Encoder, read_samples
from training.engine.credit import (
    STRUCTURE,
    Piece,
    token_owners,
    unit_advantages,
    unit_spans,
)
from training.engine.generation import Sampling
from training.engine.measuring import (
    Answer,
    Asked,
    answer,
    ask,
    longest_prompt,
    measure,
)
from training.engine.models import Place, load_policy, prepare, save_policy
from training.engine.optimizing import (
    load_optimizer,
    muon_and_adamw,
    save_optimizer,
    trapezoid,
)
from training.engine.prefixes import can_share, shared_logprobs
from training.engine.recipes import PolicyRecipe
from training.engine.rundir import (
    Ending,
    RunDirectory,
    RunError,
    run_program,
    step_random,
)
from training.engine.scoring import (
    Pair,
    RewardModel,
    Score,
    load_reward_model,
    units_of,
)
from training.engine.verdicts import GateError, Look, gate_misses, parted

SHOWN_EVERY, SHOWN = 4, 2  # steps between sampled texts on the run's page; how many
RESAMPLES = 1000


# Rewards


@dataclass(frozen=True)
class Rewarded:
    """What one answer earned; None where a reward does not apply to its turn.

    ``units`` says how well each unit matches, 0 to 1, where that is known.
    """

    format: float
    consistency: float | None
    units: Mapping[str, float] = field(default_factory=dict)


class Rewards:
    """The two rewards of the paper for action tasks (its Table 1), 0 to 1 each."""

    def __init__(self, recipe: PolicyRecipe, model: RewardModel | None) -> None:
        self.recipe = recipe
        self.model = model

    def __call__(self, answers: Sequence[Answer]) -> list[Rewarded]:
        """Return the rewards of ``answers``, in order."""
        if self.recipe.consistency_source == "oracle":
            return [self._by_oracle(given) for given in answers]
        scores = self.scores(answers)
        return [
            Rewarded(1.0, self.value(score.logit), self._units(score))
            if given.format_error is None
            else Rewarded(0.0, 0.0)
            for given, score in zip(answers, scores, strict=True)
        ]

    def _by_oracle(self, given: Answer) -> Rewarded:
        turn = given.sample.turns[given.turn]
        well_formed = float(given.format_error is None)
        if not turn.has_facts:
            return Rewarded(well_formed, None)
        if not well_formed:
            return Rewarded(0.0, 0.0)
        verdict = oracle.judge(turn.document, given.text)
        units = {key: float(matches) for key, matches in verdict.units.items()}
        return Rewarded(1.0, float(verdict.consistent), units)

    def _units(self, score: Score) -> dict[str, float]:
        return {key: self.value(logit) for key, logit in score.units.items()}

    def scores(self, answers: Sequence[Answer]) -> list[Score]:
        """Return what the RM says of each answer: beside its label, or beside the best
        of label and references.
        """
        if self.model is None:
            raise RuntimeError("no reward model was given")
        pairs: list[Pair] = []
        for given in answers:
            turn = given.sample.turns[given.turn]
            labels = [turn.response]
            if self.recipe.best_of_references:
                labels += turn.references
            pairs += [Pair(label, given.text, turn.kind) for label in labels]
        scored = iter(self.model.score(pairs))
        best: list[Score] = []
        for given in answers:
            turn = given.sample.turns[given.turn]
            count = 1
            if self.recipe.best_of_references:
                count += len(turn.references)
            best.append(max((next(scored) for _ in range(count)), key=_logit))
        return best

    def value(self, logit: float) -> float:
        """Return the consistency reward of a logit, 0 to 1."""
        assert self.model is not None
        threshold = min(max(self.model.settings.threshold, 1e-6), 1 - 1e-6)
        above = logit - math.log(threshold / (1 - threshold))
        if self.recipe.consistency_value == "verdict":
            return float(above >= 0)
        if self.recipe.consistency_value == "probability":
            return 1 / (1 + math.exp(-logit))
        limit = self.recipe.logit_limit
        return (max(-limit, min(limit, above)) + limit) / (2 * limit)


def _logit(score: Score) -> float:
    return score.logit


# Rollouts


@dataclass
class Episode:
    """One sampled completion: a response, or with ``follow_actions`` several.

    ``mask`` is 1 for the policy's own tokens and 0 for observations; ``logprobs`` are 0
    there.
    """

    asked: Asked
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # of each answer, in ids
    rewarded: list[Rewarded] = field(default_factory=list)

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

    @property
    def format(self) -> float:
        """Mean format reward over the turns."""
        return sum(r.format for r in self.rewarded) / len(self.rewarded)

    @property
    def consistency(self) -> float | None:
        """Mean consistency reward over the turns that have one."""
        known = [r.consistency for r in self.rewarded if r.consistency is not None]
        return sum(known) / len(known) if known else None


Group = list[Episode]


class Rollouts:
    """Draws the groups that a step learns from; called by ``GRPOTrainer``.

    The prompts it is called with are placeholders, repeated G times: which turns are
    answered is decided here, from the seed and the step.
    """

    def __init__(
        self,
        recipe: PolicyRecipe,
        asked: Sequence[Asked],
        encoder: Encoder,
        sampling: Sampling,
        place: Place,
        rewards: Rewards,
        first: int,
    ) -> None:
        self.recipe, self.asked, self.encoder = recipe, asked, encoder
        self.sampling, self.place, self.rewards = sampling, place, rewards
        self.first = first
        self.figures: dict[str, float] = {}
        self.groups: list[Group] = []
        # By token, for each completion of the last draw; with credit "unit" only.
        self.advantages: list[list[float]] = []

    def __call__(
        self, prompts: Sequence[str], trainer: GRPOTrainer
    ) -> dict[str, list[object]]:
        """Return one completion for each prompt: G in a row belong to one turn."""
        recipe = self.recipe
        step = self.first + trainer.state.global_step
        rank = trainer.accelerator.process_index
        # All that follows in this step (TRL shuffles, dropout) hangs on the step too.
        torch.manual_seed(step_random(recipe.seed, "torch", step, rank).getrandbits(62))
        wanted = len(prompts) // recipe.responses_per_prompt
        model = trainer.accelerator.unwrap_model(trainer.model)
        self.groups = self.draw(model, wanted, step, rank)
        if recipe.credit == "unit":
            self.advantages = [row for g in self.groups for row in self.credit(g)]
        episodes = [episode for group in self.groups for episode in group]
        return {
            "prompt_ids": [episode.asked.prompt for episode in episodes],
            "completion_ids": [episode.ids for episode in episodes],
            "logprobs": [episode.logprobs for episode in episodes],
            "env_mask": [episode.mask for episode in episodes],
            "format_score": [episode.format for episode in episodes],
            "consistency_score": [episode.consistency for episode in episodes],
        }

    def draw(
        self, model: PreTrainedModel, wanted: int, step: int, rank: int = 0
    ) -> list[Group]:
        """Return ``wanted`` groups, those with a signal first."""
        recipe = self.recipe
        rng = step_random(recipe.seed, "prompts", step, rank)
        count = min(len(self.asked), math.ceil(wanted * recipe.draw_more))
        chosen = rng.sample(self.asked, count)
        while len(chosen) < wanted:  # fewer turns than groups: answer some twice
            chosen.append(rng.choice(self.asked))
        started = time.monotonic()
        groups = self.respond(model, chosen, rng.getrandbits(62))
        drawn = time.monotonic()
        answers = [a for group in groups for e in group for a in e.answers]
        rewarded = iter(self.rewards(answers))
        for group in groups:
            for episode in group:
                episode.rewarded = [next(rewarded) for _ in episode.answers]
        scored = time.monotonic()
        silent = [self.spread(group) < recipe.least_spread for group in groups]
        kept = sorted(range(len(groups)), key=lambda i: silent[i])[:wanted]
        everything = [episode for group in groups for episode in group]
        known = [c for e in everything if (c := e.consistency) is not None]
        self.figures = {
            # Over all that was drawn: the groups kept are chosen for their spread.
            "reward/format": mean([episode.format for episode in everything]),
            "reward/consistency": mean(known) if known else math.nan,
            "groups_without_signal": mean([float(quiet) for quiet in silent]),
            "groups_without_signal/kept": mean([float(silent[i]) for i in kept]),
            "response_tokens": mean([float(sum(e.mask)) for e in everything]),
            "responses": float(len(everything)),
            "turns_per_response": mean([float(len(e.answers)) for e in everything]),
            "cut_off": mean(
                [float(not e.answers[-1].sampled.ended) for e in everything]
            ),
            "seconds/generation": drawn - started,
            "seconds/scoring": scored - drawn,
        }
        for i in kept:
            if silent[i]:
                level(groups[i])
        return [groups[i] for i in kept]

    def spread(self, group: Group) -> float:
        """Return the standard deviation of the group's weighted rewards."""
        total = [self.reward(episode) for episode in group]
        middle = mean(total)
        return math.sqrt(mean([(value - middle) ** 2 for value in total]))

    def reward(self, episode: Episode) -> float:
        """Return the weighted sum that the trainer makes of the two rewards."""
        return self.recipe.format_weight * episode.format + (
            self.recipe.consistency_weight * (episode.consistency or 0.0)
        )

    def credit(self, group: Group) -> list[list[float]]:
        """Return the advantage of each token of each completion of a group."""
        pieces = [[self._piece(e, i) for i in range(len(e.answers))] for e in group]
        found = unit_advantages(pieces, least_spread=self.recipe.least_spread)
        rows: list[list[float]] = []
        for episode, of_answers in zip(group, found, strict=True):
            row = [0.0] * len(episode.ids)
            for start, values in zip(episode.starts, of_answers, strict=True):
                row[start : start + len(values)] = values
            rows.append(row)
        return rows

    def _piece(self, episode: Episode, number: int) -> Piece:
        """Return whose tokens an answer's are. What has no place in it, a unit that is
        missing, counts with the structure.
        """
        given, rewarded = episode.answers[number], episode.rewarded[number]
        ids = given.sampled.ids
        units: Sequence[UnitPair] | None = None
        if rewarded.format:
            turn = given.sample.turns[given.turn]
            units = units_of(Pair(turn.response, given.text, turn.kind))
        if units is None:
            owners = (STRUCTURE,) * len(ids)
            return Piece(given.turn, owners, {STRUCTURE: 0.0})
        spans = unit_spans(units, given.text)
        matches = {key: m for key, m in rewarded.units.items() if key in spans}
        placeless = [m for key, m in rewarded.units.items() if key not in spans]
        matches[STRUCTURE] = min(placeless, default=1.0)
        owners = token_owners(ids, self._decode, spans)
        return Piece(given.turn, owners, matches)

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.encoder.tokenizer.decode(list(ids), skip_special_tokens=False)
        assert isinstance(text, str)
        return text

    def respond(
        self, model: PreTrainedModel, chosen: Sequence[Asked], seed: int
    ) -> list[Group]:
        """Return a group of episodes for each turn."""
        groups: list[Group] = []
        for asked, answers in zip(
            chosen, self._answer(model, chosen, seed, self._size), strict=True
        ):
            groups.append([Episode(asked) for _ in answers])
            for episode, given in zip(groups[-1], answers, strict=True):
                episode.add(given)
        if self.recipe.follow_actions:
            going = [episode for group in groups for episode in group]
            while going := [episode for episode in going if self._goes_on(episode)]:
                seed += 1
                further = [self._observed(episode) for episode in going]
                for episode, (given,) in zip(
                    going, self._answer(model, further, seed, 1), strict=True
                ):
                    episode.add(given)
        return groups

    @property
    def _size(self) -> int:
        return self.recipe.responses_per_prompt

    def _answer(
        self, model: PreTrainedModel, asked: Sequence[Asked], seed: int, count: int
    ) -> list[list[Answer]]:
        return answer(
            model,
            self.encoder.tokenizer,
            asked,
            self.sampling,
            place=self.place,
            seed=seed,
            per_turn=count,
        )

    def _goes_on(self, episode: Episode) -> bool:
        """Whether the last answer calls as the label does, and the sample goes on."""
        given = episode.answers[-1]
        turns = given.sample.turns
        following = given.turn + 1
        if given.format_error or following >= len(turns):
            return False
        if turns[following].kind != "observation":
            return False
        if len(episode.asked.prompt) + len(episode.ids) > self.recipe.max_prompt_tokens:
            return False
        return same_calls(given)

    def _observed(self, episode: Episode) -> Asked:
        """Append the recorded observation; return the next turn as a prompt."""
        given = episode.answers[-1]
        following = given.turn + 1
        text = given.sample.turns[following].text
        ids = self.encoder.text_ids(OBSERVATION_OPEN + text + OBSERVATION_CLOSE)
        episode.observe(ids)
        return Asked(given.sample, following, episode.asked.prompt + episode.ids)


def same_calls(given: Answer) -> bool:
    """Whether a well-formed answer makes the calls of its label."""
    turn = given.sample.turns[given.turn]
    try:
        label = parse(turn.response, inside_thinking=turn.inside_thinking)
        found = parse(given.text, inside_thinking=turn.inside_thinking)
    except FormatError:
        return False
    return (
        found.ends_with_action
        and len(found.actions) == len(label.actions)
        and all(
            ours.name == theirs.name
            and json_equal(dict(ours.parameters), dict(theirs.parameters))
            for ours, theirs in zip(label.actions, found.actions, strict=True)
        )
    )


def level(group: Group) -> None:
    """Give all episodes of a group the same reward, so that none is pushed."""
    values = [value for e in group if (value := e.consistency) is not None]
    consistency = mean(values) if values else None
    made = Rewarded(mean([episode.format for episode in group]), consistency)
    for episode in group:
        episode.rewarded = [made]


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return sum(values) / len(values)


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


# The held-out watch


@dataclass(frozen=True)
class Looked:
    """One look at the fixed held-out set. ``right`` is the truth of each turn asked,
    ``sample`` the number of its sample; both empty where no turn has facts.
    """

    step: int
    rm_score: float | None
    truth: float | None
    right: tuple[bool, ...]
    sample: tuple[int, ...]


class HeldOut:
    """The fixed set on which score and truth are watched, answered greedily."""

    def __init__(
        self,
        recipe: PolicyRecipe,
        run: RunDirectory,
        encoder: Encoder,
        sampling: Sampling,
        place: Place,
        rewards: Rewards,
        longest: int,
    ) -> None:
        samples = read_samples(run.data["held_out"]) if "held_out" in run.data else []
        # The same set in every run, so that runs can be compared.
        if recipe.held_out_samples and len(samples) > recipe.held_out_samples:
            samples = step_random(0, "held out").sample(
                samples, recipe.held_out_samples
            )
        self.asked, left_out = ask(encoder, samples, longest)
        if left_out:
            run.log(f"{len(left_out)} held-out turns are too long to ask", "warning")
        self.samples = [sample.id for sample in samples]
        self.sampling, self.place, self.encoder = sampling, place, encoder
        self.rewards, self.run = rewards, run
        self.has_truth = any(a.sample.turns[a.turn].has_facts for a in self.asked)

    def look(self, model: PreTrainedModel, step: int) -> Looked:
        """Answer the set, report score and truth with their intervals, return them."""
        started = time.monotonic()
        groups = answer(
            model,
            self.encoder.tokenizer,
            self.asked,
            self.sampling,
            place=self.place,
            seed=0,
        )
        answers = [group[0] for group in groups]
        numbers = {name: number for number, name in enumerate(self.samples)}
        owners = [numbers[given.sample.id] for given in answers]
        measured = [measure(given) for given in answers]
        values: dict[str, object] = {
            "heldout/format": mean([float(m.format_valid) for m in measured])
        }
        rm_score = truth = None
        right: list[bool] = []
        of_right: list[int] = []
        for owner, found in zip(owners, measured, strict=True):
            if found.consistent is not None:
                right.append(found.consistent)
                of_right.append(owner)
        if self.rewards.model is not None:
            scores = self.rewards.scores(answers)
            valid = [m.format_valid for m in measured]
            probabilities = [
                score.probability if ok else 0.0
                for score, ok in zip(scores, valid, strict=True)
            ]
            rm_score = mean(probabilities)
            low, high = interval(probabilities, owners)
            values |= {
                "heldout/rm_score": rm_score,
                "heldout/rm_score/low": low,
                "heldout/rm_score/high": high,
                "heldout/rm_accepted": mean(
                    [
                        float(ok and self.rewards.model.accepts(score))
                        for score, ok in zip(scores, valid, strict=True)
                    ]
                ),
            }
        if right:
            as_numbers = [float(verdict) for verdict in right]
            truth = mean(as_numbers)
            low, high = interval(as_numbers, of_right)
            values |= {
                "heldout/truth": truth,
                "heldout/truth/low": low,
                "heldout/truth/high": high,
            }
        values["seconds/evaluation"] = time.monotonic() - started
        self.run.metrics(step, values)
        return Looked(step, rm_score, truth, tuple(right), tuple(of_right))


def interval(values: Sequence[float], owners: Sequence[int]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean, resampling whole samples."""
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    for value, owner in zip(values, owners, strict=True):
        sums[owner] = sums.get(owner, 0.0) + value
        counts[owner] = counts.get(owner, 0) + 1
    rows = [(sums[owner], counts[owner]) for owner in sums]
    rng = random.Random(0)
    means: list[float] = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(rows, k=len(rows))
        means.append(sum(row[0] for row in drawn) / sum(row[1] for row in drawn))
    means.sort()
    return means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]


def gain(before: Looked, after: Looked) -> dict[str, float]:
    """Return the paired gain in held-out truth between two looks, with its interval."""
    differences = [
        float(b) - float(a) for a, b in zip(before.right, after.right, strict=True)
    ]
    low, high = interval(differences, after.sample)
    return {"gain": mean(differences), "gain/low": low, "gain/high": high}


# The program


def main(run: RunDirectory, recipe: PolicyRecipe) -> Ending:
    """Train on ``run``; announce the best checkpoint by held-out truth as final."""
    started = time.monotonic()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func is marked experimental
    place = prepare(recipe)
    check_settings(recipe)
    gate = check_gate(run, recipe)
    reward_model = None
    if "reward" in run.inputs:
        reward_model = load_reward_model(run.inputs["reward"], place.device)

    # The policy, and what it is asked.
    start = run.need_input("policy")
    full = recipe.method == "full"
    model, tokenizer = load_policy(run.resume if run.resume and full else start, place)
    encoder = Encoder(tokenizer)
    model.generation_config.eos_token_id = list(encoder.frame.stop_ids)
    longest = longest_prompt(model, recipe.max_prompt_tokens, recipe.max_new_tokens)
    samples = read_samples(run.need_data("train"))
    asked, left_out = ask(encoder, samples, longest)
    rewards = Rewards(recipe, reward_model)
    if recipe.consistency_source == "oracle":
        asked = [a for a in asked if a.sample.turns[a.turn].has_facts]
    if not asked:
        raise RunError("data.train", "turns to answer", "none that can be asked")
    run.log(
        f"{len(asked)} turns to answer; {len(left_out)} left out, their prompts being "
        f"longer than {longest} tokens",
        "warning" if left_out else "info",
    )

    def sampling(temperature: float) -> Sampling:
        return Sampling(
            temperature=temperature,
            top_p=1.0,
            max_new_tokens=recipe.max_new_tokens,
            stop_ids=encoder.frame.stop_ids,
            pad_id=_pad(tokenizer),
            batch_tokens=recipe.batch_tokens,
        )

    held_out = HeldOut(recipe, run, encoder, sampling(0.0), place, rewards, longest)
    if not held_out.has_truth:
        run.log(
            "no held-out turn has facts: only the reward model's score is watched, no "
            "truth; the alarm cannot ring and the last checkpoint is the final one",
            "warning",
        )

    first, looks = 0, list[Looked]()
    if run.resume:
        first, looks = load_progress(run.resume / "trainer")
    rollouts = Rollouts(
        recipe, asked, encoder, sampling(recipe.temperature), place, rewards, first
    )
    per_step = recipe.prompts_per_step * recipe.responses_per_prompt
    micro = min(recipe.micro_batch or per_step, per_step)
    trainer = SharedPromptTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[format_reward, consistency_reward],
        rollout_func=rollouts,
        # Placeholders: one for every group of every step, see Rollouts.
        train_dataset=Dataset.from_dict(
            {
                "prompt": ["turn"]
                * (recipe.prompts_per_step * (recipe.steps - first or 1))
            }
        ),
        peft_config=None if full else adapters(recipe),
        args=GRPOConfig(
            output_dir=str(run.outputs),
            max_steps=max(1, recipe.steps - first),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=per_step // micro,
            num_generations=recipe.responses_per_prompt,
            num_iterations=recipe.updates_per_draw,
            max_completion_length=recipe.max_new_tokens,
            temperature=recipe.temperature,
            beta=recipe.kl_weight,
            epsilon=recipe.clip_range,
            loss_type=recipe.loss,
            scale_rewards="group" if recipe.scale_advantages else "none",
            reward_weights=[recipe.format_weight, recipe.consistency_weight],
            max_grad_norm=recipe.clip_norm,
            shuffle_dataset=False,
            bf16=place.half,
            use_cpu=place.device.type == "cpu",
            gradient_checkpointing=False,
            seed=recipe.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=place.device.type == "cuda",
        ),
    )
    learner = trainer.accelerator.unwrap_model(trainer.model)
    refer_to_initial(run, trainer, place)
    optimizer = muon_and_adamw(
        learner.named_parameters(),
        muon_rate=0.0,
        adamw_rate=recipe.learning_rate,
        weight_decay=0.0,
        muon=False,
    )
    if run.resume:
        if isinstance(learner, PeftModel):
            load_adapters(learner, run.resume / "trainer")
        load_optimizer(optimizer, run.resume / "trainer")
    trainer.optimizer = optimizer
    trainer.lr_scheduler = trapezoid(
        optimizer,
        first=first,
        steps=recipe.steps,
        warmup=recipe.warmup_steps,
        decay_share=recipe.decay_share,
    )

    def look(step: int) -> None:
        looks.append(held_out.look(learner, step))

    def save(step: int, final: bool = False) -> None:
        def write(folder: Path) -> None:
            save_policy(merged(learner), tokenizer, folder)
            (folder / "trainer").mkdir()
            save_optimizer(optimizer, folder / "trainer")
            save_progress(folder / "trainer", step, looks)
            if isinstance(learner, PeftModel):
                save_adapters(learner, folder / "trainer")

        latest = next((x for x in reversed(looks) if x.step == step), None)
        told = {"rm_score": latest.rm_score, "truth": latest.truth} if latest else {}
        run.save_checkpoint(
            step, write, kind="policy", recipe=recipe, metrics=told, final=final
        )

    watch = Watch(run, recipe, first, rollouts, looks, look, save)
    if not first:
        look(0)
        save(0)
    if first < recipe.steps:
        trainer.add_callback(watch)
        trainer.train()
    values: dict[str, object] = {
        "steps": watch.step,
        "seconds": round(time.monotonic() - started, 1),
        "gate": gate,
        "held_out_samples": held_out.samples,
        **{f"seconds/{name}": round(total, 1) for name, total in watch.seconds.items()},
    }
    if watch.step < recipe.steps and not watch.alarm:
        return Ending("stopped", values)  # by a person: to be resumed, nothing final

    # The best look by truth wins, the start among them.
    if held_out.has_truth:
        chosen = max(looks, key=lambda x: (x.truth or 0.0, -x.step))
        values |= {"chosen_step": chosen.step, "truth": chosen.truth}
        values |= {"truth_at_start": looks[0].truth, **gain(looks[0], chosen)}
        values["chosen_by"] = "held-out truth, the best of all looks on this very set"
    else:
        chosen = looks[-1]
        values |= {"chosen_step": chosen.step, "chosen_by": "the last step: no truth"}
    save(chosen.step, final=True)
    if watch.alarm:
        values["alarm"] = watch.alarm
        return Ending("stopped", values)
    return Ending("finished", values)


class Watch(TrainerCallback):
    """After every step: report, look at the held-out set, save, and know when to stop."""

    def __init__(
        self,
        run: RunDirectory,
        recipe: PolicyRecipe,
        first: int,
        rollouts: Rollouts,
        looks: Sequence[Looked],
        look: Callable[[int], None],
        save: Callable[[int], None],
    ) -> None:
        self.run, self.recipe, self.first = run, recipe, first
        self.rollouts, self.looks = rollouts, looks
        self.look, self.save = look, save
        self.step = first
        self.alarm = ""
        self.since = time.monotonic()
        self.drew = True  # whether this step drew responses, or only learned again
        self.spent: dict[str, float] = {}
        self.seconds = dict.fromkeys(
            ("generation", "scoring", "update", "evaluation"), 0.0
        )

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.since = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Report the figures of one step: the rollout's and the trainer's."""
        told = {
            ours: (logs or {})[theirs]
            for ours, theirs in FIGURES.items()
            if theirs in (logs or {})
        }
        if told:  # not the summary after the last step
            drawn = self.rollouts.figures if self.drew else {}
            self.run.metrics(
                self.first + state.global_step, {**drawn, **told, **self.spent}
            )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        run, recipe = self.run, self.recipe
        step = self.step = self.first + state.global_step
        self.drew = (state.global_step - 1) % recipe.updates_per_draw == 0
        self._count_seconds(time.monotonic() - self.since)
        run.progress(step, recipe.steps)
        if step % SHOWN_EVERY == 0:
            self._show(step)
        stopping = run.stop_requested
        if step % recipe.evaluate_every == 0 or step >= recipe.steps or stopping:
            started = time.monotonic()
            self.look(step)
            self.save(step)
            self.seconds["evaluation"] += time.monotonic() - started
            self.alarm = self._alarm()
            if self.alarm:
                run.log(self.alarm, "error")
        if stopping or self.alarm:
            control.should_training_stop = True

    def _alarm(self) -> str:
        known = [
            Look(x.step, x.rm_score, x.truth)
            for x in self.looks
            if x.rm_score is not None and x.truth is not None
        ]
        reason = parted(
            known,
            tolerance=self.recipe.alarm_tolerance,
            evaluations=self.recipe.alarm_evaluations,
        )
        return reason or ""

    def _count_seconds(self, whole: float) -> None:
        """Split the seconds of a step; what is neither drawing nor scoring is update."""
        figures = self.rollouts.figures
        generation = figures["seconds/generation"]
        scoring = figures["seconds/scoring"]
        if (
            self.step % self.recipe.updates_per_draw
        ):  # an update on responses drawn before
            generation = scoring = 0.0
        update = whole - generation - scoring
        self.spent = {"seconds/update": update}
        for name, value in (
            ("generation", generation),
            ("scoring", scoring),
            ("update", update),
        ):
            self.seconds[name] += value

    def _show(self, step: int) -> None:
        """Show the first and the last response of a group with their rewards."""
        group = self.rollouts.groups[0]
        total = [self.rollouts.reward(episode) for episode in group]
        middle, spread = mean(total), self.rollouts.spread(group)
        ranked = sorted(range(len(group)), key=lambda i: -total[i])
        for i in (ranked[0], ranked[-1])[:SHOWN]:
            episode = group[i]
            given = episode.answers[0]
            turn = given.sample.turns[given.turn]
            scores = {
                "format": episode.format,
                "consistency": episode.consistency,
                "advantage": (total[i] - middle) / (spread + 1e-4),
            }
            self.run.sample(
                step,
                prompt=turn.text,
                text=given.text,
                label=turn.response,
                scores=scores,
            )


# Our names for the trainer's figures.
FIGURES = {
    "loss": "loss",
    "gradient_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio": "clip_ratio/region_mean",
}


# Settings and starting points


def check_settings(recipe: PolicyRecipe) -> None:
    """Raise ``RunError`` for settings that do not go together."""
    per_step = recipe.prompts_per_step * recipe.responses_per_prompt
    if per_step % min(recipe.micro_batch or per_step, per_step):
        raise RunError(
            "recipe: `micro_batch`",
            f"a divisor of prompts_per_step × responses_per_prompt = {per_step}",
            str(recipe.micro_batch),
        )
    if recipe.evaluate_every % recipe.updates_per_draw:
        raise RunError(
            "recipe: `evaluate_every`",
            f"a multiple of updates_per_draw = {recipe.updates_per_draw}",
            str(recipe.evaluate_every),
        )


def check_gate(run: RunDirectory, recipe: PolicyRecipe) -> dict[str, object]:
    """Return what the gate said, for the run's record; raise ``GateError`` if closed.

    The oracle as the source of the reward needs no reward model and no gate.
    """
    if recipe.consistency_source == "oracle":
        return {"passed": None, "why": "the reward comes from the oracle"}
    run.need_input("reward")
    manifest = run.manifest("reward")
    metrics: Mapping[str, object] = manifest.metrics if manifest else {}
    misses = gate_misses(
        metrics,
        balanced_order=recipe.gate_balanced_order,
        bad_caught=recipe.gate_bad_recall,
    )
    if not misses:
        return {"passed": True}
    if not recipe.gate_override.strip():
        raise GateError(misses)
    said = {"passed": False, "misses": misses, "override": recipe.gate_override}
    run.log(f"{GateError(misses)}; overridden: {recipe.gate_override}", "warning")
    return said


def adapters(recipe: PolicyRecipe) -> LoraConfig:
    """Return fresh adapters on all linear layers; they start as no change at all."""
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def refer_to_initial(run: RunDirectory, trainer: GRPOTrainer, place: Place) -> None:
    """Make the initial policy the reference of the divergence.

    Under full training TRL loads a second model from wherever the policy came from;
    its weights become those of ``inputs.initial`` (else of ``inputs.policy``), also
    when the run is resumed. Under LoRA the reference is the model with its adapters
    off: the policy that this run started from.
    """
    if trainer.ref_model is None:
        if "initial" in run.inputs and run.inputs["initial"] != run.inputs["policy"]:
            run.log("LoRA: the divergence is from the policy that this run starts from")
        return
    initial, _ = load_policy(run.inputs.get("initial", run.inputs["policy"]), place)
    reference = trainer.accelerator.unwrap_model(trainer.ref_model)
    reference.load_state_dict(initial.state_dict())


def merged(learner: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return a model without adapters: the learner itself, or a merged copy of it."""
    if not isinstance(learner, PeftModel):
        return learner
    model = copy.deepcopy(learner).merge_and_unload()
    assert isinstance(model, PreTrainedModel)
    return model


# Progress on disk


def save_progress(folder: Path, step: int, looks: Sequence[Looked]) -> None:
    """Write the step and all looks so far."""
    state = {"step": step, "looks": [asdict(x) for x in looks]}
    (folder / "state.json").write_text(json.dumps(state) + "\n")


def load_progress(folder: Path) -> tuple[int, list[Looked]]:
    """Return what ``save_progress`` wrote."""
    state = json.loads((folder / "state.json").read_text())
    looks = [
        Looked(
            x["step"], x["rm_score"], x["truth"], tuple(x["right"]), tuple(x["sample"])
        )
        for x in state["looks"]
    ]
    return int(state["step"]), looks


def save_adapters(learner: PeftModel, folder: Path) -> None:
    """Write the trained weights."""
    trained = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad
    }
    save_file(trained, str(folder / "weights.safetensors"))


@torch.no_grad()
def load_adapters(learner: PeftModel, folder: Path) -> None:
    """Put saved weights in place; raise ``KeyError`` if one is missing."""
    tensors = load_file(str(folder / "weights.safetensors"))
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(tensors[name])


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    return pad


if __name__ == "__main__":
    sys.exit(run_program("policy", PolicyRecipe, main))
