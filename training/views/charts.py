"""Which curves the page of a run draws, and which of them share a chart."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from django.db.models import Count, F, Max, Min, Sum, Window
from django.db.models.functions import RowNumber
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from training.models import Metric, Run, RunKind
from training.wording.figures import capitalized
from training.wording.words import words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.utils.functional import _StrPromise

MOST_POINTS = 2000


@dataclass(frozen=True)
class Chart:
    """One small chart: a title, a unit, and the metrics it draws.

    ``names`` are shell patterns; a chart without metrics is left out. ``smooth`` draws
    a running mean over a faint raw curve.
    """

    title: _StrPromise
    unit: _StrPromise | str
    names: tuple[str, ...]
    smooth: bool = False


CHARTS: dict[str, tuple[Chart, ...]] = {
    RunKind.SFT: (
        Chart(_("Loss"), _("nats per token"), ("loss", "held_out_loss")),
        Chart(_("Token accuracy"), _("share of tokens"), ("token_accuracy",)),
        Chart(_("Learning rate"), _("AdamW part"), ("learning_rate",)),
        Chart(
            _("Gradient norm"), _("before clipping"), ("gradient_norm",), smooth=True
        ),
    ),
    RunKind.REWARD: (
        Chart(_("Loss"), _("nats"), ("loss", "loss/*", "*_loss"), smooth=True),
        Chart(
            _("Pairs in the right order"),
            _("share, preference models"),
            ("accuracy", "held_out/accuracy"),
        ),
        Chart(
            _("Balanced order quads"),
            _("held out, share right"),
            ("held_out/quads/*/accuracy", "held_out/quads/*/whole"),
        ),
        Chart(
            _("Judged pairs"),
            _("held out"),
            (
                "held_out/judged/accuracy",
                "held_out/judged/auc",
                "held_out/judged/bad_caught",
                "held_out/judged/bad_precision",
                "held_out/judged/good_accepted",
            ),
        ),
        Chart(
            _("Calibration error"),
            _("held out, judged pairs"),
            ("held_out/judged/ece",),
        ),
        Chart(
            _("Recall per kind of error"),
            _("held out, derived changes"),
            ("held_out/derived/recall/*",),
        ),
        Chart(
            _("Recall per kind of difference"),
            _("held out, judged pairs"),
            ("held_out/judged/recall/*",),
        ),
        Chart(
            _("Derived pairs"),
            _("held out, share right"),
            ("held_out/derived/references_accepted", "held_out/derived/changes_caught"),
        ),
    ),
    RunKind.POLICY: (
        Chart(
            _("Reward model and truth"),
            _("held out, mean with 95 % interval"),
            ("held_out/rm_score", "held_out/truth"),
        ),
        Chart(_("Reward"), _("mean of all responses"), ("reward/*",), smooth=True),
        Chart(_("KL to the initial policy"), _("nats per token"), ("kl",)),
        Chart(_("Response length"), _("tokens"), ("response_tokens",), smooth=True),
        Chart(
            _("Groups without signal"),
            _("share, all rewards equal"),
            ("groups_without_signal", "groups_without_signal/kept"),
        ),
        Chart(_("Entropy"), _("nats per token"), ("entropy",)),
        Chart(_("Clip ratio"), _("share of tokens"), ("clip_ratio", "clip_ratio/*")),
        Chart(
            _("Critic’s loss"),
            _("half the squared error"),
            ("critic/loss",),
            smooth=True,
        ),
        Chart(
            _("Explained variance"),
            _("share of the variance of returns"),
            ("critic/explained_variance",),
        ),
        Chart(_("Value"), _("the critic’s, mean of tokens"), ("critic/value",)),
        Chart(_("Cut off"), _("share of responses"), ("cut_off",), smooth=True),
        Chart(
            _("Held-out share"),
            _("share of responses"),
            ("held_out/format", "held_out/rm_accepted"),
        ),
        Chart(_("Loss"), _("mean of the step"), ("loss",), smooth=True),
        Chart(
            _("Gradient norm"), _("before clipping"), ("gradient_norm",), smooth=True
        ),
        Chart(_("Learning rate"), _("AdamW part"), ("learning_rate",)),
    ),
    RunKind.PREFERENCE: (
        Chart(_("Loss"), _("mean of the step"), ("loss",), smooth=True),
        Chart(
            _("Pairs in the right order"),
            _("share, against the reference"),
            ("accuracy", "held_out/accuracy"),
        ),
        Chart(
            _("Margin"),
            _("nats, good above bad answers"),
            ("margin", "held_out/margin"),
        ),
        Chart(_("Log-probability"), _("nats per answer"), ("logprob/*",), smooth=True),
        Chart(_("Truth"), _("held out, mean with 95 % interval"), ("held_out/truth",)),
    ),
    RunKind.DRAW: (
        Chart(_("Identical to the label"), _("share"), ("*/identical",)),
        Chart(_("Breaks the grammar"), _("share"), ("*/format_errors",)),
        Chart(_("Distinct answers"), _("share"), ("*/distinct",)),
    ),
}

# Speed metrics of any kind of run, after its own charts.
SPEED = (
    Chart(
        _("Speed"),
        _("tokens a second"),
        ("tokens_per_second", "tokens_per_second/*", "*/tokens_per_second"),
        smooth=True,
    ),
    Chart(_("MFU"), _("share of the matmul rate"), ("mfu", "mfu/*"), smooth=True),
    Chart(_("Device memory"), _("bytes"), ("memory", "memory/*")),
)

# Counts and parts shown elsewhere on the page. A metric's ``/low`` and ``/high`` become
# the band around its curve.
HIDDEN = (
    "*/count",
    "*/by_rule",
    "*/picked_on",
    "*/parameters",
    "*/low",
    "*/high",
    "seconds/*",
    "seconds_per_step",
    "responses",
    "turns_per_response",
)


def layout(kind: str, names: Iterable[str]) -> list[dict[str, object]]:
    """Return the charts for a run's metrics, in the form the page's script reads.

    Metrics outside the charts of the kind get one each, at the end. An evaluation has
    figures but no curves, so it gets no chart.
    """
    if kind == RunKind.EVALUATE:
        return []
    rest = sorted(n for n in names if not _matches(n, HIDDEN))
    charts: list[dict[str, object]] = []
    for chart in (*CHARTS.get(kind, ()), *SPEED):
        mine = [n for p in chart.names for n in rest if fnmatchcase(n, p)]
        mine = list(dict.fromkeys(mine))
        rest = [n for n in rest if n not in mine]
        if mine:
            charts.append(
                {
                    "title": str(chart.title),
                    "unit": str(chart.unit),
                    "smooth": chart.smooth,
                    "series": [{"name": n, "label": _short(n, mine)} for n in mine],
                }
            )
    for name in rest:
        group, _slash, last = name.rpartition("/")
        charts.append(
            {
                "title": capitalized(words(last)),
                "unit": words(group),
                "smooth": False,
                "series": [{"name": name, "label": words(last)}],
            }
        )
    return charts


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _short(name: str, names: list[str]) -> str:
    """Return the part of a metric's name that differs from others in the same chart."""
    if len(names) == 1:
        return words(name.rpartition("/")[2])
    parts = [n.split("/") for n in names]
    while all(parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while all(parts) and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    return " ".join(words(part) for part in parts[names.index(name)]) or gettext("all")


def metric_names(*runs: Run) -> list[str]:
    """Return the names of the metrics that have a curve.

    A metric that an ended run measured once is a figure of its result, not a curve.
    """
    names = Metric.objects.filter(run__in=runs).values("name").order_by("name")
    if all(run.is_final for run in runs):
        names = names.annotate(first=Min("step"), last=Max("step"))
        names = names.filter(first__lt=F("last"))
    return list(names.values_list("name", flat=True).distinct())


def series_after(run: Run, row: int) -> tuple[int, dict[str, list[list[float]]]]:
    """Return the newest row, and per metric its ``[steps, values]`` after ``row``.

    Rows are counted by primary key, not by step: an evaluation of step 100 may be
    written after the loss of step 100. A metric with more than MOST_POINTS points is
    thinned out evenly; its last point always stays.
    """
    points = Metric.objects.filter(run=run, pk__gt=row)
    newest: int = points.aggregate(newest=Max("pk"))["newest"] or row
    counts = points.values("name").annotate(n=Count("pk"))
    longest = max((each["n"] for each in counts), default=0)
    stride = -(-longest // MOST_POINTS)
    points = points.filter(pk__lte=newest)
    if stride > 1:
        points = points.annotate(
            place=Window(RowNumber(), partition_by=F("name"), order_by=F("step").desc())
        )
        points = points.annotate(rest=(F("place") - 1) % stride).filter(rest=0)
    series: dict[str, list[list[float]]] = {}
    rows = points.order_by("name", "step").values_list("name", "step", "value")
    for name, step, value in rows.iterator(chunk_size=5000):
        steps, values = series.setdefault(name, [[], []])
        steps.append(step)
        values.append(value)
    return newest, series


def step_times(run: Run) -> list[tuple[str, float]]:
    """Return the parts of a run's time as shares, from its ``seconds/…`` metrics."""
    parts = list(
        Metric.objects.filter(run=run, name__startswith="seconds/")
        .values_list("name")
        .annotate(spent=Sum("value"))
        .order_by("-spent")
    )
    whole = sum(spent for name, spent in parts)
    if whole <= 0:
        return []
    return [(words(name.removeprefix("seconds/")), v / whole) for name, v in parts]
