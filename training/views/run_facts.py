"""Facts on a run's page: recipe, waiting, pace, parents, next steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db.models import Max, Min
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext

from records.recipes import RECIPES, to_show
from training.models import (
    Checkpoint,
    InputRole,
    Metric,
    Run,
    RunInput,
    RunKind,
    RunState,
    run_name,
)
from training.runs.placement import announced_queues, holders
from training.views import charts
from training.wording.figures import (
    capitalized,
    duration_text,
    setting_text,
)
from training.wording.words import words

if TYPE_CHECKING:
    from actions.tags import JSON


# The usual next runs after a kind of run: (kind, the role of its checkpoint there).
NEXT_STAGES: dict[str, tuple[tuple[RunKind, InputRole | None], ...]] = {
    RunKind.SFT: (
        (RunKind.DRAW, InputRole.POLICY),
        (RunKind.EVALUATE, InputRole.POLICY),
    ),
    RunKind.DRAW: ((RunKind.REWARD, None),),
    RunKind.REWARD: ((RunKind.POLICY, InputRole.REWARD),),
    RunKind.POLICY: (
        (RunKind.EVALUATE, InputRole.POLICY),
        (RunKind.DRAW, InputRole.POLICY),
    ),
    RunKind.PREFERENCE: (
        (RunKind.EVALUATE, InputRole.POLICY),
        (RunKind.DRAW, InputRole.POLICY),
    ),
    RunKind.EVALUATE: (),
}


@dataclass(frozen=True)
class Setting:
    name: str
    value: str
    is_advanced: bool
    is_default: bool


def recipe_lines(kind: str, recipe: Mapping[str, JSON]) -> list[Setting]:
    """Return the settings of a recipe in the order of its dataclass.

    Settings that have no effect beside the values of others (``when``) are left out;
    settings of earlier versions are included.
    """
    recipe = to_show(kind, recipe)
    fields = {field.name: field for field in dataclasses.fields(RECIPES[kind])}

    def is_used(name: str) -> bool:
        when: Mapping[str, Sequence[JSON]] = fields[name].metadata.get("when", {})
        return all(
            recipe.get(other, fields[other].default) in values and is_used(other)
            for other, values in when.items()
        )

    known = [name for name in fields if name in recipe and is_used(name)]
    return [
        Setting(
            capitalized(words(name)),
            setting_text(recipe[name]),
            name in fields and bool(fields[name].metadata.get("advanced")),
            name in fields and _default(fields[name]) == recipe[name],
        )
        for name in [*known, *(name for name in recipe if name not in fields)]
    ]


def _default(field: dataclasses.Field[object]) -> object:
    """Return the default of a setting as JSON keeps it."""
    return list(field.default) if isinstance(field.default, tuple) else field.default


def heartbeat_of(run: Run) -> str:
    if not run.is_active or run.heartbeat_at is None:
        return ""
    age = (timezone.now() - run.heartbeat_at).total_seconds()
    return gettext("heartbeat %(age)s ago") % {"age": duration_text(age)}


def is_silent(run: Run) -> bool:
    """Whether the worker has sent no heartbeat for too long."""
    return (
        run.is_active
        and run.leased_until is not None
        and run.leased_until < timezone.now()
    )


def waits_long(run: Run) -> bool:
    """Whether a run without a wish has waited longer than a free worker needs."""
    return (
        run.state == RunState.QUEUED
        and not run.queue
        and (timezone.now() - run.created_at).total_seconds() > 60
    )


@dataclass(frozen=True)
class Waiting:
    """What a queued run waits for, and the run that occupies it, if visible here."""

    queue: str
    is_away: bool
    seen_at: datetime | None
    is_held: bool
    holder: Run | None
    holder_name: str


def waiting_of(run: Run) -> Waiting | None:
    """Return what a run with a wish waits for; None for any other run."""
    if run.state != RunState.QUEUED or not run.queue:
        return None
    known = next((q for q in announced_queues() if q.name == run.queue), None)
    is_away = known is None or known.is_away
    held = holders(run).first()
    holder_run = (
        held if held is not None and held.project_id == run.project_id else None
    )
    return Waiting(
        run.queue,
        is_away,
        known.seen_at if known is not None and is_away else None,
        held is not None,
        holder_run,
        run_name(holder_run) if holder_run else "",
    )


@dataclass(frozen=True)
class Parent:
    """A checkpoint that a run started from, and its role."""

    checkpoint: Checkpoint
    run_name: str
    roles: str


def parents_of(run: Run) -> list[Parent]:
    """Return the checkpoints that a run started from, each once with all its roles."""
    roles: dict[Checkpoint, list[str]] = {}
    rows = RunInput.objects.filter(run=run).select_related("checkpoint__run")
    for each in rows.order_by("pk"):
        roles.setdefault(each.checkpoint, []).append(each.get_role_display().lower())
    return [
        Parent(checkpoint, run_name(checkpoint.run), all_of(names))
        for checkpoint, names in roles.items()
    ]


def all_of(names: list[str]) -> str:
    """Join names: ``policy and initial policy``."""
    return gettext(" and ").join(names)


def pace_of(run: Run) -> dict[str, str]:
    """Return seconds per step and the remaining time, from the newest steps."""
    if run.is_final:
        if run.started_at and run.ended_at:
            took = (run.ended_at - run.started_at).total_seconds()
            return {"took": duration_text(took)}
        return {}
    recent = Metric.objects.filter(run=run, step__gt=run.step - 40).aggregate(
        first=Min("at"), last=Max("at"), low=Min("step"), high=Max("step")
    )
    if not recent["last"] or recent["high"] == recent["low"]:
        return {}
    seconds = (recent["last"] - recent["first"]).total_seconds()
    each = seconds / (recent["high"] - recent["low"])
    remaining = each * max(0, run.steps_total - run.step)
    if each >= 0.1:
        text = gettext("%(seconds)s s a step") % {"seconds": f"{each:.1f}"}
    else:
        count = round(1 / max(each, 1e-6))
        text = gettext("%(count)d steps a second") % {"count": count}
    ends = timezone.localtime(timezone.now() + timedelta(seconds=remaining))
    is_today = ends.date() == timezone.localdate()
    return {
        "each": text,
        "left": duration_text(remaining),
        "ends": date_format(ends, "TIME_FORMAT" if is_today else "DATETIME_FORMAT"),
    }


def step_times(run: Run) -> list[dict[str, object]]:
    """Return the parts of a step's time as rectangles of a drawing 100 wide."""
    parts: list[dict[str, object]] = []
    x = 0.0
    for place, (name, share) in enumerate(charts.step_times(run)):
        parts.append(
            {
                "name": name,
                "percent": round(100 * share),
                "x": f"{x:.2f}",
                "width": f"{100 * share:.2f}",
                "tone": place % 5,
            }
        )
        x += 100 * share
    return parts


def next_kinds(run: Run) -> tuple[tuple[RunKind, InputRole | None], ...]:
    """Return the usual next runs: their kinds, and the role of the checkpoint there."""
    if run.kind == RunKind.REWARD and run.recipe.get("judges") == "preference":
        return ((RunKind.POLICY, InputRole.PREFERENCE),)
    return NEXT_STAGES[run.kind]


def next_stages(run: Run, checkpoints: list[Checkpoint]) -> list[dict[str, str]]:
    final = next((c for c in checkpoints if c.is_final), None)
    if not run.is_final or (final is None and run.state != RunState.FINISHED):
        return []
    stages: list[dict[str, str]] = []
    for kind, role in next_kinds(run):
        url = reverse("training:run-new", args=[run.project.slug, kind])
        if role is not None and final is not None:
            url += f"?{role}={final.pk}"
        stages.append({"label": str(kind.label), "url": url})
    return stages
