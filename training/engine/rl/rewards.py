"""What an answer earns: the rewards of the paper's Table 1, by kind of task.

============ ======== ===============================================================
task         format   and
============ ======== ===============================================================
action       yes      consistency: the reward model's word on the label and the
                      answer (or the oracle's, or that of the aligned units)
reasoning    yes      rule: whether the answer is right (``actions.rules``), at its turn
other        yes      preference: a scalar reward model's score of prompt and answer
============ ======== ===============================================================

All three may stand in one run: a reward that a task does not have is None and counts
nothing. A response that is not well formed gets 0 for everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from actions.demo import oracle
from actions.grammar import parse
from actions.units import unit_pairs_of_text
from records.finite import figures_must_be_finite
from records.recipes import PolicyRecipe
from training.engine.reward_model.metrics import probability
from training.engine.reward_model.model import (
    RewardEnsemble,
    RewardModel,
    Score,
    score_of,
)
from training.engine.reward_model.packing import Pair
from training.engine.run.distributed import map_over_ranks
from training.engine.sampling.answers import Answer, is_well_formed, rule_verdict

KINDS = ("format", "consistency", "rule", "preference")
LOGIT_LIMIT = 4.0  # logits are clipped to plus and minus this and scaled to 0..1

Preference = Callable[[Sequence[Answer]], list[float]]


@dataclass(frozen=True)
class Rewarded:
    """What one answer earned; None where a reward does not apply to its turn."""

    format: float
    consistency: float | None
    rule: float | None = None
    preference: float | None = None

    def __post_init__(self) -> None:
        # In the table of rewards NaN says "does not apply": no other may get there.
        figures_must_be_finite({f"reward/{k}": v for k, v in vars(self).items()})


class Rewards:
    """The rewards of a run; format, consistency and rule are 0 to 1 each.

    ``model`` is the consistency reward model, ``preference`` scores other tasks.
    """

    def __init__(
        self,
        recipe: PolicyRecipe,
        model: RewardModel | RewardEnsemble | None,
        preference: Preference | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.preference = preference

    def __call__(self, answers: Sequence[Answer]) -> list[Rewarded]:
        """Return the rewards of ``answers``, in order."""
        found: list[Rewarded] = [Rewarded(0.0, None)] * len(answers)
        by_task: dict[str, list[int]] = {"action": [], "reasoning": [], "other": []}
        for number, given in enumerate(answers):
            by_task[given.sample.task].append(number)
        for task, rewarded in (
            ("action", self._of_action),
            ("reasoning", self._of_reasoning),
            ("other", self._of_other),
        ):
            chosen = [answers[number] for number in by_task[task]]
            if chosen:
                for number, earned in zip(by_task[task], rewarded(chosen), strict=True):
                    found[number] = earned
        return found

    def _of_action(self, answers: Sequence[Answer]) -> list[Rewarded]:
        if self.recipe.consistency_source == "oracle":
            return [self._by_oracle(given) for given in answers]
        if self.recipe.consistency_source == "alignment":
            return [self._by_alignment(given) for given in answers]
        found: list[Rewarded] = []
        for given, score in zip(answers, self.scores(answers), strict=True):
            if score is None:
                found.append(Rewarded(well_formed(given), None))
            elif given.format_error is None:
                found.append(Rewarded(1.0, self.value(score.logit)))
            else:
                found.append(Rewarded(0.0, 0.0))
        return found

    def _of_reasoning(self, answers: Sequence[Answer]) -> list[Rewarded]:
        found: list[Rewarded] = []
        for given in answers:
            right = rule_verdict(given)
            rule = None if right is None else float(right)
            found.append(Rewarded(well_formed(given), None, rule=rule))
        return found

    def _of_other(self, answers: Sequence[Answer]) -> list[Rewarded]:
        if self.preference is None:
            return [Rewarded(well_formed(given), None) for given in answers]
        scores = map_over_ranks(
            answers, self.preference, float, lambda _, told: float(told)
        )
        lowest = min(scores)
        return [
            Rewarded(
                well_formed(given),
                None,
                # A score has no zero: what is ill-formed gets the worst of its step.
                preference=lowest if given.format_error else score,
            )
            for given, score in zip(answers, scores, strict=True)
        ]

    def _by_oracle(self, given: Answer) -> Rewarded:
        turn = given.sample.turns[given.turn]
        if not turn.has_facts:
            return Rewarded(well_formed(given), None)
        if not well_formed(given):
            return Rewarded(0.0, 0.0)
        verdict = oracle.judge(turn.document, given.text)
        return Rewarded(1.0, float(verdict.consistent))

    def _by_alignment(self, given: Answer) -> Rewarded:
        """Return the rewards by ``actions.units``: 1 where no unit is proposed to differ.

        None where the label breaks the grammar.
        """
        turn = given.sample.turns[given.turn]
        if not is_well_formed(turn.response, turn):
            return Rewarded(well_formed(given), None)
        if not well_formed(given):
            return Rewarded(0.0, 0.0)
        inside = turn.inside_thinking
        pairs = unit_pairs_of_text(
            parse(turn.response, inside_thinking=inside),
            given.text,
            inside_thinking=inside,
        )
        return Rewarded(1.0, float(not any(pair.differs for pair in pairs)))

    def scores(self, answers: Sequence[Answer]) -> list[Score | None]:
        """Return what the RM says of each answer beside its label. None where the label
        breaks the grammar: there is nothing to compare with.
        """
        if self.model is None:
            raise RuntimeError("no reward model was given")
        turns = [given.sample.turns[given.turn] for given in answers]
        comparable = [is_well_formed(turn.response, turn) for turn in turns]
        pairs = [
            Pair(turn.response, given.text, turn.kind, turn.history)
            for given, turn, is_comparable in zip(
                answers, turns, comparable, strict=True
            )
            if is_comparable
        ]
        scores = iter(map_over_ranks(pairs, self.model.score, astuple, score_of))
        return [next(scores) if is_comparable else None for is_comparable in comparable]

    def value(self, logit: float) -> float:
        """Return the consistency reward of a logit, 0 to 1."""
        assert self.model is not None
        threshold = min(max(self.model.settings.threshold, 1e-6), 1 - 1e-6)
        above = logit - math.log(threshold / (1 - threshold))
        if self.recipe.consistency_value == "verdict":
            return float(above >= 0)
        if self.recipe.consistency_value == "probability":
            return probability(logit)
        limit = LOGIT_LIMIT
        if self.recipe.consistency_value == "log-probability":
            # −log(1 + e^−x), computed so that no power overflows.
            log_probability = min(logit, 0.0) - math.log1p(math.exp(-abs(logit)))
            return 1 + max(-limit, log_probability) / limit
        return (max(-limit, min(limit, above)) + limit) / (2 * limit)


def well_formed(given: Answer) -> float:
    """Return the format reward of an answer."""
    return float(given.format_error is None)
