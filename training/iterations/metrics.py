"""The figures that steer an iteration: judging, gate, comparison, alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Aggregate, Avg, Count, F, FloatField, Q
from django.db.models.functions import TruncHour
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation.models import (
    Judgment,
    Pair,
    PairOrigin,
    PairQuerySet,
    PairSource,
    Slot,
    Verdict,
)
from records.recipes import PolicyRecipe
from training.engine.reward_model.metrics import BAD_CAUGHT, gate_misses
from training.iterations.forecast import Curve, Known, learning_curve
from training.models import Checkpoint, RunState

if TYPE_CHECKING:
    from actions.tags import JSON
    from annotation.models import Project
    from training.models import Iteration, Run

AUC = "judged/auc"
# A fall of people's share counts only beyond this, and beyond chance in 19 of 20.
TOLERANCE = 0.02
BEYOND_CHANCE = 1.64


# Judging


@dataclass(frozen=True)
class JudgeProgress:
    """The progress of judging a set of pairs."""

    judgments: int
    still_open: int
    pairs: int
    settled: int

    @property
    def settled_percent(self) -> int:
        return 100 * self.settled // self.pairs if self.pairs else 100

    def target(self, iteration: Iteration) -> int:
        """Return how many judgments are enough: at most as many as there are slots."""
        return min(iteration.wanted_judgments, self.judgments + self.still_open)

    def is_enough(self, iteration: Iteration) -> bool:
        """Whether enough is judged or settled, or nothing is left to judge."""
        return (
            not self.still_open
            or self.judgments >= iteration.wanted_judgments
            or self.settled_percent >= iteration.wanted_settled
        )


def pairs_of(project: Project, draw: Run | None) -> PairQuerySet:
    """Return the pairs for people from a draw; without one, those of the project."""
    pairs = Pair.objects.filter(project=project, source=PairSource.PEOPLE)
    if draw is None:
        return pairs
    origins = PairOrigin.objects.filter(sampled_response__producer__run_id=draw.pk)
    return pairs.filter(pk__in=origins.values("pair_id"))


def judge_progress(project: Project, draw: Run | None) -> JudgeProgress:
    """Count slots and outcomes of the pairs from a draw (two queries)."""
    pairs = pairs_of(project, draw)
    slots = Slot.objects.filter(pair__in=pairs.values("pk")).aggregate(
        judgments=Count("pk", filter=Q(state="done")),
        still_open=Count("pk", filter=Q(state__in=["open", "leased"])),
    )
    settled = pairs.with_outcome().aggregate(
        pairs=Count("pk"), settled=Count("pk", filter=Q(outcome__isnull=False))
    )
    return JudgeProgress(**slots, **settled)


@dataclass(frozen=True)
class Pace:
    """The speed of judging: in the last hour, and in hours with judgments."""

    last_hour: int
    per_hour: float
    seconds_each: float | None

    def hours_for(self, judgments: int) -> float | None:
        return judgments / self.per_hour if self.per_hour else None


class Median(Aggregate):
    function = "PERCENTILE_CONT"
    template = "%(function)s(0.5) WITHIN GROUP (ORDER BY %(expressions)s)"


def judging_pace(project: Project) -> Pace:
    """Return the pace of the last seven days (two queries)."""
    now = timezone.now()
    # Judgments undone since are included: they took time too.
    recent = Judgment.objects.filter(
        project=project, is_extra=False, created_at__gte=now - timedelta(days=7)
    ).exclude(verdict=Verdict.WITHDRAWN)
    hours = list(
        recent.annotate(hour=TruncHour("created_at"))
        .values("hour")
        .annotate(n=Count("pk"))
        .order_by("hour")
    )
    facts = recent.aggregate(
        last_hour=Count("pk", filter=Q(created_at__gte=now - timedelta(hours=1))),
        seconds=Median("seconds_spent", output_field=FloatField()),
    )
    total = sum(each["n"] for each in hours)
    return Pace(
        facts["last_hour"], total / len(hours) if hours else 0.0, facts["seconds"]
    )


# Score and truth on fresh answers


@dataclass(frozen=True)
class Fresh:
    """A policy on fresh samples: the reward model's score and people's verdicts.

    ``people`` is the share of its responses with outcome "consistent", ``answers`` the
    number with an outcome; ``rm_score`` is the mean probability that the reward model
    gave them.
    """

    name: str
    role: str
    rm_score: float | None
    people: float
    answers: int

    @property
    def half_interval(self) -> float:
        """Half of the 95 % interval of people's share."""
        return 1.96 * math.sqrt(self._variance)

    @property
    def _variance(self) -> float:
        # Add one success and one failure: a share of 0 or 1 is uncertain too.
        share = (self.people * self.answers + 1) / (self.answers + 2)
        return share * (1 - share) / max(1, self.answers)


def hacking(before: Fresh, after: Fresh, *, tolerance: float = TOLERANCE) -> str:
    """Return why to stop, or nothing: the score rose while people's share fell.

    The fall must exceed ``tolerance`` and the 95 % range of chance.
    """
    if before.rm_score is None or after.rm_score is None:
        return ""
    if not before.answers or not after.answers:
        return ""
    fall = before.people - after.people
    chance = BEYOND_CHANCE * math.sqrt(before._variance + after._variance)
    if after.rm_score <= before.rm_score or fall <= max(tolerance, chance):
        return ""
    return _(
        "Reward model and people disagree on fresh answers: from %(before)s to "
        "%(after)s the "
        "score rose from %(low).3f to %(high).3f while the share that people found "
        "consistent fell from %(was).3f to %(now).3f."
    ) % {
        "before": before.name,
        "after": after.name,
        "low": before.rm_score,
        "high": after.rm_score,
        "was": before.people,
        "now": after.people,
    }


def fresh_figures(draws: Sequence[Run]) -> dict[int, list[Fresh]]:
    """Return by draw the figures of each policy that answered in it (one query).

    A response counts by the outcome of its pair, derived outcomes included: one equal
    to the label is consistent, one that breaks the grammar is not.
    """
    made_by = "origins__sampled_response__producer__"
    rows = (
        Pair.objects.settled()
        .filter(**{f"{made_by}run_id__in": [draw.pk for draw in draws]})
        .values(run=F(f"{made_by}run_id"), role=F(f"{made_by}policy_role"))
        .annotate(people=Avg("outcome"), answers=Count("origins__pk"))
        .order_by("run", "role")
    )
    # Where only responses accepted by the reward model go to people, their share is not
    # representative of the policy's responses.
    results = {
        draw.pk: {} if draw.recipe.get("keep") == "accepted" else draw.result
        for draw in draws
    }
    figures: dict[int, list[Fresh]] = {draw.pk: [] for draw in draws}
    for row in rows:
        score = results[row["run"]].get(f"{row['role']}/rm_score")
        name = _("initial policy") if row["role"] == "initial" else _("current policy")
        figures[row["run"]].append(
            Fresh(
                _("%(policy)s of run %(run)d") % {"policy": name, "run": row["run"]},
                row["role"],
                float(score) if isinstance(score, int | float) else None,
                float(row["people"]),
                row["answers"],
            )
        )
    return figures


# The gate, and what a reward model will be worth


def gate_of(reward: Checkpoint | None, recipe: Mapping[str, JSON]) -> list[str]:
    """Return the bounds of a policy recipe's gate that a reward model misses."""
    if reward is None:
        return []
    bounds = PolicyRecipe()
    return gate_misses(
        reward.manifest.get("metrics", {}),
        balanced_order=_number(
            recipe.get("gate_balanced_order"), bounds.gate_balanced_order
        ),
        bad_caught=_number(recipe.get("gate_bad_recall"), bounds.gate_bad_recall),
    )


def _number(value: JSON, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


@dataclass(frozen=True)
class Forecast:
    """A figure of past reward models by number of judgments, and its curve."""

    label: str
    bound: float | None
    known: list[Known]
    curve: Curve | None


def reward_forecasts(project: Project, bad_recall: float) -> list[Forecast]:
    """Return the learning curves of the project's reward models (one query)."""
    rows = (
        Checkpoint.objects.filter(
            project=project, is_final=True, run__state=RunState.FINISHED
        )
        .consistency_models()
        .order_by("-pk")
        .values_list("run__snapshot__counts", "manifest__metrics")[:30]
    )
    models: list[tuple[int, dict[str, Any]]] = [
        (int((counts or {}).get("judgments", 0)), metrics or {})
        for counts, metrics in rows
    ]
    result: list[Forecast] = []
    for name, label, bound in (
        (BAD_CAUGHT, _("Bad answers caught"), bad_recall),
        (AUC, _("AUC"), None),
    ):
        known = [
            Known(judgments, float(metrics[name]))
            for judgments, metrics in models
            if judgments and isinstance(metrics.get(name), int | float)
        ]
        known.sort(key=lambda each: each.judgments)
        if known:
            result.append(Forecast(label, bound, known, learning_curve(known)))
    return result


# Old and new policy


class GainVerdict(models.TextChoices):
    """What the interval of the gain says about a new policy."""

    BETTER = "better", gettext_lazy("Better")
    NOT_WORSE = "not worse", gettext_lazy("Not worse")
    WORSE = "worse", gettext_lazy("Worse")
    UNDECIDED = "undecided", gettext_lazy("Undecided")


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same held-out samples, by the known truth.

    ``gain_interval`` is the interval of the difference, paired by sample; None where
    only two shares are known. ``margin`` is the loss that still counts as none.
    """

    measure: str
    before: float
    after: float
    before_interval: tuple[float, float] | None = None
    after_interval: tuple[float, float] | None = None
    score_before: float | None = None
    score_after: float | None = None
    gain_interval: tuple[float, float] | None = None
    samples: int = 0
    changed: int = 0
    margin: float = 0.0

    @property
    def verdict(self) -> GainVerdict:
        """Return what the whole interval says, else Undecided.

        Better: all of it above 0. Not worse: all above −margin. Worse: all below 0.
        """
        if self.gain_interval is None:
            return GainVerdict.UNDECIDED
        low, high = self.gain_interval
        if low > 0:
            return GainVerdict.BETTER
        if low >= -self.margin:
            return GainVerdict.NOT_WORSE
        return GainVerdict.WORSE if high < 0 else GainVerdict.UNDECIDED

    @property
    def is_passed(self) -> bool:
        """Whether the new policy may continue without a person."""
        return self.verdict in (GainVerdict.BETTER, GainVerdict.NOT_WORSE)

    @property
    def gain(self) -> float:
        return self.after - self.before


def comparison(result: Mapping[str, JSON], *, margin: float = 0.0) -> Comparison | None:
    """Read an evaluation of a policy and its predecessor; None without truth."""
    policies = result.get("policies")
    if not isinstance(policies, dict):
        return None
    after, before = policies.get("policy"), policies.get("initial")
    if not isinstance(after, dict) or not isinstance(before, dict):
        return None
    for measure in ("tasks_complete", "turns_right"):
        new, old = after.get(measure), before.get(measure)
        if _value(new) is None or _value(old) is None:
            continue
        gain = _gain(result, measure)
        return Comparison(
            measure,
            _value(old) or 0.0,
            _value(new) or 0.0,
            _interval(old),
            _interval(new),
            _value(before.get("rm_consistent")),
            _value(after.get("rm_consistent")),
            _interval(gain),
            int(_number(gain.get("n"), 0)),
            int(_number(gain.get("changed"), 0)),
            margin,
        )
    return None


def speaks_against(compared: Comparison | None) -> list[str]:
    """Return why a comparison does not let the new policy pass automatically."""
    if compared is None:
        return [_("Held-out truth was not measured; a person has to decide.")]
    if compared.is_passed:
        return []
    facts = {"after": compared.after, "before": compared.before}
    if compared.gain_interval is None:
        return [
            _(
                "Held-out truth is %(after).3f after %(before).3f, but its "
                "interval is not known: no evaluation compared them sample by "
                "sample."
            )
            % facts
        ]
    low, high = compared.gain_interval
    facts |= {"low": low, "high": high, "margin": compared.margin}
    if compared.verdict == GainVerdict.WORSE:
        return [
            _(
                "Held-out truth is worse: %(after).3f after %(before).3f, a gain "
                "between %(low)+.3f and %(high)+.3f."
            )
            % facts
        ]
    return [
        _(
            "Held-out truth is undecided: %(after).3f after %(before).3f, a gain between "
            "%(low)+.3f and %(high)+.3f, and a loss of more than %(margin).3f is not "
            "ruled out. More held-out samples would tell."
        )
        % facts
    ]


def own_comparison(run: Run, *, margin: float = 0.0) -> Comparison | None:
    """Return a policy run's held-out truth at its start and its end.

    Without an interval: the run reports on few samples, the evaluation on more.
    """
    before, after = run.result.get("truth_at_start"), run.result.get("truth")
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return None
    return Comparison("truth", float(before), float(after), margin=margin)


def _gain(result: Mapping[str, JSON], measure: str) -> dict[str, JSON]:
    """Return the paired gain from the evaluation; older evaluations have none."""
    gain: JSON = result.get("gains")
    for name in ("policy", measure):
        gain = gain.get(name) if isinstance(gain, dict) else None
    return gain if isinstance(gain, dict) else {}


def _value(figure: JSON) -> float | None:
    value = figure.get("value") if isinstance(figure, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _interval(figure: JSON) -> tuple[float, float] | None:
    if not isinstance(figure, dict):
        return None
    low, high = figure.get("low"), figure.get("high")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return float(low), float(high)
    return None
