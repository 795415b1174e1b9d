"""An iteration as its page shows it: a line per step, its cost, and forecasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from records.recipes import PolicyRecipe
from training.iterations.deeds import NEVER_SKIPPED, changeable_recipes
from training.iterations.forecast import Curve, Known
from training.iterations.metrics import (
    Comparison,
    Forecast,
    JudgeProgress,
    Pace,
    judging_pace,
    reward_forecasts,
)
from training.iterations.status import (
    comparison_of,
    is_unchanged,
    judged_so_far,
    what_speaks_against,
)
from training.models import (
    STEP_ORDER,
    Iteration,
    IterationChange,
    IterationState,
    IterationStep,
    Run,
    RunState,
    StepName,
    StepState,
    run_name,
)
from training.views.forms import IterationForm
from training.wording.figures import capitalized, duration_text
from training.wording.words import words

if TYPE_CHECKING:
    from annotation.models import Project

FAR = 1_000_000  # judgments beyond which a forecast is meaningless
TOO_WIDE = 0.2  # width at which the interval of a share is useless
CHANGES_SHOWN = 50


@dataclass(frozen=True)
class StepLine:
    """A step as the page shows it."""

    step: IterationStep
    number: int
    label: str
    about: str
    is_current: bool
    run_name: str = ""
    percent: int | None = None
    facts: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    deeds: tuple[str, ...] = ()
    has_open_recipe: bool = False


def page_facts(iteration: Iteration) -> dict[str, object]:
    place = STEP_ORDER.index(iteration.step)
    has_answers = place >= STEP_ORDER.index(StepName.JUDGE)
    progress = judged_so_far(iteration) if has_answers else None
    pace = judging_pace(iteration.project) if has_answers else None
    typical = _typical_seconds(iteration.project) if iteration.is_open else {}
    compared = evaluated(iteration)
    lines = [
        _line(iteration, each, progress, pace, typical, compared)
        for each in _steps(iteration)
    ]
    return {
        "iteration": iteration,
        "project": iteration.project,
        "lines": lines,
        "progress": progress,
        "pace": pace,
        "wanted": progress.target(iteration) if progress else None,
        "took": took(iteration),
        "people_time": _people_time(progress, pace),
        "run_time": duration_text(sum(_seconds(each.step.run) for each in lines)),
        "comparison": compared,
        "is_unchanged": is_unchanged(iteration),
    }


def _steps(iteration: Iteration) -> list[IterationStep]:
    return sorted(iteration.steps.all(), key=lambda each: STEP_ORDER.index(each.name))


ABOUT = {
    StepName.DRAW: lambda: _("The current policy answers turns of approved samples."),
    StepName.JUDGE: lambda: _("People say of each answer whether it is consistent."),
    StepName.REWARD: lambda: _("A reward model learns from all judgments so far."),
    StepName.POLICY: lambda: _("The policy learns against it, behind its gate."),
    StepName.EVALUATE: lambda: _("New and old policy answer held-out samples."),
    StepName.COMPARE: lambda: _("The new policy must not be worse in truth."),
    StepName.PROMOTE: lambda: _("It becomes the current policy."),
}


def _line(
    iteration: Iteration,
    step: IterationStep,
    progress: JudgeProgress | None,
    pace: Pace | None,
    typical: Mapping[str, float],
    compared: Comparison | None,
) -> StepLine:
    name = StepName(step.name)
    is_current = step.name == iteration.step and iteration.state != IterationState.DONE
    facts: list[str] = []
    percent: int | None = None
    run = step.run
    if run is not None:
        seconds = _seconds(run)
        if seconds:
            facts.append(duration_text(seconds))
        if step.state == StepState.WORKING:
            facts.append(str(run.get_state_display()))
            if run.steps_total:
                percent = 100 * run.step // run.steps_total
    elif step.name in typical and step.state in (StepState.WAITING, StepState.ASKING):
        facts.append(
            _("the last one took %(time)s")
            % {"time": duration_text(typical[step.name])}
        )
    if name == StepName.JUDGE and progress is not None:
        target = progress.target(iteration)
        percent = min(100, 100 * progress.judgments // target) if target else 100
        facts += _judging_facts(iteration, step, progress, pace)
    if name == StepName.COMPARE and compared is not None:
        facts += comparison_facts(compared)
    against: list[str] = []
    if is_current and step.state in (StepState.ASKING, StepState.WAITING):
        against = what_speaks_against(iteration)
    return StepLine(
        step=step,
        number=STEP_ORDER.index(step.name) + 1,
        label=str(name.label),
        about=ABOUT[name](),
        is_current=is_current,
        run_name=run_name(run) if run is not None else "",
        percent=percent,
        facts=facts,
        against=against,
        deeds=_deeds(iteration, step, is_current),
        has_open_recipe=step.name in changeable_recipes(iteration),
    )


def _judging_facts(
    iteration: Iteration,
    step: IterationStep,
    progress: JudgeProgress,
    pace: Pace | None,
) -> list[str]:
    target = progress.target(iteration)
    facts = [
        _("%(done)d of %(wanted)d judgments")
        % {"done": progress.judgments, "wanted": target},
        _("%(settled)d of %(pairs)d pairs with an outcome")
        % {"settled": progress.settled, "pairs": progress.pairs},
    ]
    if step.state == StepState.WORKING and pace is not None:
        remaining = max(0, target - progress.judgments)
        hours = pace.hours_for(remaining)
        if pace.last_hour:
            facts.append(
                ngettext(
                    "%(n)d judgment in the last hour",
                    "%(n)d judgments in the last hour",
                    pace.last_hour,
                )
                % {"n": pace.last_hour}
            )
        if remaining and hours is not None:
            facts.append(
                _("about %(time)s of judging left, at %(pace)d an hour")
                % {"time": duration_text(3600 * hours), "pace": round(pace.per_hour)}
            )
        elif remaining:
            facts.append(_("nobody has judged in the last seven days: no pace known"))
    return facts


def comparison_facts(compared: Comparison) -> list[str]:
    """Return the results of the comparison, in sentences."""
    measure = capitalized(words(compared.measure))
    facts = [
        _("%(measure)s: %(after).3f after %(before).3f")
        % {
            "measure": measure,
            "after": compared.after,
            "before": compared.before,
        }
    ]
    if compared.gain_interval is not None:
        low, high = compared.gain_interval
        facts.append(
            _("gain %(gain)+.3f, between %(low)+.3f and %(high)+.3f")
            % {"gain": compared.gain, "low": low, "high": high}
        )
        facts.append(
            ngettext(
                "%(changed)d of %(n)d held-out sample came out otherwise",
                "%(changed)d of %(n)d held-out samples came out otherwise",
                compared.samples,
            )
            % {"changed": compared.changed, "n": compared.samples}
        )
    return facts


def _deeds(
    iteration: Iteration, step: IterationStep, is_current: bool
) -> tuple[str, ...]:
    """Return the deeds that a person can do with a step now."""
    if not iteration.is_open:
        return ()
    is_still = step.run is None or step.run.is_final
    if is_current:
        deeds: list[str] = []
        if step.state == StepState.ASKING:
            deeds.append("approve")
        if step.state == StepState.FAILED:
            deeds.append("retry")
        if is_still and step.name not in NEVER_SKIPPED:
            deeds.append("skip")
        if step.run is not None and is_still:
            deeds.append("back")
        return tuple(deeds)
    past = STEP_ORDER.index(step.name) < STEP_ORDER.index(iteration.step)
    now = next(s for s in iteration.steps.all() if s.name == iteration.step)
    may = past and (now.run is None or now.run.is_final)
    return ("back",) if may else ()


def _seconds(run: Run | None) -> float:
    if run is None or run.started_at is None:
        return 0.0
    return ((run.ended_at or timezone.now()) - run.started_at).total_seconds()


def _people_time(progress: JudgeProgress | None, pace: Pace | None) -> str:
    if progress is None or pace is None or pace.seconds_each is None:
        return ""
    return duration_text(progress.judgments * pace.seconds_each)


def _typical_seconds(project: Project) -> dict[str, float]:
    """Return the duration of the newest finished run of each kind (one query)."""
    rows = (
        Run.objects.filter(project=project, state=RunState.FINISHED)
        .order_by("kind", "-pk")
        .distinct("kind")
        .only("kind", "started_at", "ended_at")
    )
    return {run.kind: _seconds(run) for run in rows}


@dataclass(frozen=True)
class ForecastView:
    """A learning curve as an SVG of 100 by 40, and in sentences."""

    forecast: Forecast
    points: list[tuple[str, str]]
    line: str
    band: str
    bound_y: str
    most: int
    sentences: list[str]


def forecasts(iteration: Iteration) -> list[ForecastView]:
    """Return the forecasts for the reward model, while it is still open."""
    recipe = iteration.recipes.get(StepName.POLICY, {})
    bad_recall = recipe.get("gate_bad_recall", PolicyRecipe().gate_bad_recall)
    every = reward_forecasts(iteration.project, float(bad_recall))
    return [_forecast_view(iteration, each) for each in every]


def _forecast_view(iteration: Iteration, forecast: Forecast) -> ForecastView:
    known, curve = forecast.known, forecast.curve
    most = max(k.judgments for k in known)
    target = most + iteration.wanted_judgments
    low = min([k.figure for k in known] + ([forecast.bound] if forecast.bound else []))
    low = max(0.0, min(low, 0.95) - 0.05)

    def x(judgments: float) -> str:
        return f"{100 * judgments / target:.1f}"

    def y(figure: float) -> str:
        return f"{40 - 40 * (figure - low) / (1 - low):.1f}"

    sentences: list[str] = []
    line = band = ""
    if curve is None:
        sentences.append(
            _(
                "So far %(figure).3f after %(n)d judgments; a forecast needs "
                "reward models with two different numbers of judgments."
            )
            % {"figure": known[-1].figure, "n": known[-1].judgments}
        )
    else:
        steps = [most * i / 40 + (target - most) * i / 40 for i in range(1, 41)]
        line = " ".join(f"{x(n)},{y(max(low, curve.at(round(n))))}" for n in steps)
        expected = curve.between(target)
        if expected is None:
            sentences += [
                _("Expected after %(n)d judgments: %(figure).3f.")
                % {"n": target, "figure": curve.at(target)},
                _("A guess: an interval needs three reward models, there are two."),
            ]
        else:
            band = _band(curve, known, target, low, x, y)
            sentences += [
                _(
                    "Expected after %(n)d judgments: %(figure).3f, for the next model "
                    "between %(low).3f and %(high).3f in 19 of 20."
                )
                % {
                    "n": target,
                    "figure": curve.at(target),
                    "low": expected[0],
                    "high": expected[1],
                },
                ngettext(
                    "From %(n)d reward model, which lies %(spread).3f off the curve on average.",
                    "From %(n)d reward models, which lie %(spread).3f off the curve on average.",
                    len(known),
                )
                % {"n": len(known), "spread": curve.spread},
            ]
            if expected[1] - expected[0] > TOO_WIDE:
                sentences.append(
                    _(
                        "That is too wide to plan by: train reward models on more "
                        "different numbers of judgments."
                    )
                )
        if not curve.grows:
            sentences.append(_("More judgments have not improved the figure so far."))
        elif forecast.bound is not None:
            needed = curve.needed_for(forecast.bound)
            if needed is not None and needed < FAR:
                sentences.append(
                    _("The gate at %(bound).2f is expected at %(n)d judgments.")
                    % {"bound": forecast.bound, "n": needed}
                )
    return ForecastView(
        forecast,
        [(x(k.judgments), y(k.figure)) for k in known],
        line,
        band,
        y(forecast.bound) if forecast.bound is not None else "",
        target,
        sentences,
    )


def _band(
    curve: Curve,
    known: list[Known],
    target: int,
    low: float,
    x: Callable[[float], str],
    y: Callable[[float], str],
) -> str:
    """Return the outline of the interval, from the first model to the forecast."""
    first = min(k.judgments for k in known)
    sizes = [round(first + (target - first) * i / 24) for i in range(25)]
    ends = [(n, between) for n in sizes if (between := curve.between(n))]
    upper = [f"{x(n)},{y(max(low, most))}" for n, (_, most) in ends]
    lower = [f"{x(n)},{y(max(low, least))}" for n, (least, _) in ends]
    return " ".join(upper + lower[::-1])


@dataclass(frozen=True)
class ChangeLine:
    """A change as the page shows it: by whom, when, of what, and each value."""

    change: IterationChange
    of: str
    values: list[tuple[str, str, str]]


def changes(iteration: Iteration) -> list[ChangeLine]:
    """Return people's changes to an iteration, newest first (one query)."""
    rows = iteration.changes.select_related("user")[:CHANGES_SHOWN]
    return [
        ChangeLine(
            each,
            str(StepName(each.step).label) if each.step else _("What it waits for"),
            [
                (_setting_name(each, name), _value_text(before), _value_text(after))
                for name, (before, after) in each.values.items()
            ],
        )
        for each in rows
    ]


def _setting_name(change: IterationChange, name: str) -> str:
    if change.step:
        return capitalized(words(name))
    return str(IterationForm.base_fields[name].label)


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, list):
        return ", ".join(_word(one) for one in value) or "–"
    return "–" if value in (None, "") else str(value)


def _word(value: object) -> str:
    return str(StepName(value).label) if value in StepName.values else str(value)


def evaluated(iteration: Iteration) -> Comparison | None:
    """Return the comparison of an iteration that has reached that step."""
    place = STEP_ORDER.index(iteration.step)
    if place < STEP_ORDER.index(StepName.COMPARE):
        return None
    return comparison_of(iteration)


def took(iteration: Iteration) -> str:
    end = iteration.ended_at or timezone.now()
    return duration_text((end - iteration.created_at).total_seconds())
