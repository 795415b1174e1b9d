"""What an answer earns: the format and the consistency reward of the paper's Table 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actions.demo import oracle
from training.engine.measuring import Answer
from training.engine.recipes import PolicyRecipe
from training.engine.scoring import Pair, RewardModel, Score


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
