"""The final figures of a run, laid out for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.template.defaultfilters import filesizeformat
from django.utils.formats import number_format
from django.utils.translation import gettext

from training.wording.words import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from actions.tags import JSON


# jsonb does not keep the order of keys, so the order of an evaluation's measures is
# here.
ORDER = (
    "tasks_complete",
    "turns_right",
    "plan_order",
    "action_name",
    "action_parameters",
    "format_valid",
    "rm_consistent",
    "rm_agreement",
)
# The first figures of a result; the rest follows by name.
HEADLINES = (
    *("truth_at_start", "truth", "gain", "chosen_step"),
    *("quads/seen/accuracy", "quads/unseen/accuracy"),
    *("judged/accuracy", "judged/auc", "judged/bad_caught", "judged/bad_precision"),
    *("judged/good_accepted", "judged/ece"),
    *("held_out_loss", "held_out_turns_right", "held_out_format_valid"),
    "loss",
)
FIRST = (
    *HEADLINES,
    *("chosen_by", "alarm"),
    *("gate/passed", "gate/override", "gate/misses", "steps", "seconds"),
)
MOST = 16  # figures shown at once; more are folded
TABLES = ("policies", "gains", "by_split", "by_situation")


@dataclass(frozen=True)
class Figure:
    """One value, with its interval and number of cases if known."""

    text: str
    interval: str = ""
    cases: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of figures; ``columns`` are the policies."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Figure | None, ...]], ...]


def number_text(value: JSON) -> str:
    """Return a number as short as it is readable; other values as words."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return gettext("yes") if value else gettext("no")
    if isinstance(value, int):
        return number_format(value, force_grouping=True)
    if isinstance(value, float):
        if value == 0:
            return "0"
        if abs(value) >= 1000:
            return number_text(round(value))
        if abs(value) < 0.001:
            return f"{value:.2g}"
        return f"{value:.3f}"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        if len(value) > 6:  # the ids of a held-out set, say: the run directory has them
            return gettext("%(count)d in all") % {"count": len(value)}
        return ", ".join(number_text(each) for each in value)
    return ", ".join(f"{words(name)} {number_text(v)}" for name, v in value.items())


def capitalized(text: str) -> str:
    """Return ``text`` with a capital at its start and the rest as it is."""
    return text[:1].upper() + text[1:]


def setting_text(value: JSON) -> str:
    """Return a setting in everyday form: ``0.01``, not ``0.010``."""
    if isinstance(value, float):
        return f"{value:g}"
    return number_text(value) if value != "" else "–"


def plain_figures(result: Mapping[str, JSON]) -> list[tuple[str, str]]:
    """Return the single values of a run's result, with nested names joined.

    A value includes its interval. The parts of the time are left out, because the page
    shows them elsewhere.
    """
    return list(_plain(result).values())


def folded_figures(
    result: Mapping[str, JSON],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the figures to show at once, and the rest if there are very many."""
    lines = _plain(result)
    if len(lines) <= MOST:
        return list(lines.values()), []
    first = [line for name, line in lines.items() if name in FIRST]
    return first, [line for name, line in lines.items() if name not in FIRST]


def headline_figures(result: Mapping[str, JSON]) -> dict[str, str]:
    """Return by label the figures by which runs are compared.

    For an evaluation, those of the policy that was measured.
    """
    lines_by_name = _plain(result)
    lines = dict(lines_by_name[name] for name in HEADLINES if name in lines_by_name)
    measured = _objects(result.get("policies")).get("policy")
    for table in evaluation_tables({"policies": {"policy": measured or {}}})[:1]:
        for name, (figure,) in table.rows:
            if figure is not None:
                interval = f" ({figure.interval})" if figure.interval else ""
                lines[name] = f"{figure.text}{interval}"
    return lines


def _plain(result: Mapping[str, JSON]) -> dict[str, tuple[str, str]]:
    flat = dict(_flat({k: v for k, v in result.items() if k not in TABLES}))
    shown = [
        name
        for name in flat
        if not name.startswith("seconds/")
        and not (name.endswith(("/low", "/high")) and name.rpartition("/")[0] in flat)
    ]
    shown.sort(key=lambda name: (FIRST.index(name) if name in FIRST else 99, name))
    return {name: (words(name), _with_interval(flat, name)) for name in shown}


def _with_interval(flat: Mapping[str, JSON], name: str) -> str:
    text, low, high = number_text(flat[name]), f"{name}/low", f"{name}/high"
    if low not in flat or high not in flat:
        return text
    return gettext("%(value)s (%(low)s to %(high)s)") % {
        "value": text,
        "low": number_text(flat[low]),
        "high": number_text(flat[high]),
    }


def _flat(result: Mapping[str, JSON], prefix: str = "") -> Iterator[tuple[str, JSON]]:
    for name, value in result.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def evaluation_tables(result: Mapping[str, JSON]) -> list[Table]:
    """Return the tables of an evaluation: all held-out samples, then each part.

    Reads ``{"policies": {policy: {metric: {"value", "low", "high", "n"}}}, "gains": …,
    "by_split": {policy: {split: {metric: …}}}, "by_situation": …}`` and skips what is
    missing.
    """
    tables: list[Table] = []
    policies = _objects(result.get("policies"))
    tables.append(_table(gettext("All held-out samples"), policies))
    title = gettext("Gain over the initial policy, sample by sample")
    tables.append(_table(title, _objects(result.get("gains"))))
    for group in ("by_split", "by_situation"):
        by_policy = {n: _objects(v) for n, v in _objects(result.get(group)).items()}
        parts = dict.fromkeys(
            part for of_policy in by_policy.values() for part in of_policy
        )
        tables += [
            _table(
                capitalized(words(part)),
                {
                    name: of_policy.get(part, {})
                    for name, of_policy in by_policy.items()
                },
            )
            for part in parts
        ]
    errors = {name: _objects_or_values(m.get("errors")) for name, m in policies.items()}
    tables.append(_table(gettext("Turns with an error, by kind"), errors))
    return [table for table in tables if table.rows]


def _objects(value: JSON) -> dict[str, dict[str, JSON]]:
    if not isinstance(value, dict):
        return {}
    return {name: each for name, each in value.items() if isinstance(each, dict)}


def _objects_or_values(value: JSON) -> dict[str, JSON]:
    return value if isinstance(value, dict) else {}


def _table(title: str, policies: Mapping[str, Mapping[str, JSON]]) -> Table:
    metrics = sorted(
        {name for measured in policies.values() for name in measured} - {"errors"},
        key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name),
    )
    return Table(
        title,
        tuple(capitalized(words(name)) for name in policies),
        tuple(
            (
                capitalized(words(metric)),
                tuple(_figure(m.get(metric)) for m in policies.values()),
            )
            for metric in metrics
        ),
    )


def _figure(value: JSON) -> Figure | None:
    if not isinstance(value, dict):
        return None if value is None else Figure(number_text(value))
    low, high, cases = value.get("low"), value.get("high"), value.get("n")
    interval = ""
    if low is not None and high is not None:
        interval = gettext("%(low)s to %(high)s") % {
            "low": number_text(low),
            "high": number_text(high),
        }
    return Figure(
        number_text(value.get("value")),
        interval,
        f"n = {number_text(cases)}" if cases is not None else "",
    )


def duration_text(seconds: float) -> str:
    """Return a duration in words: ``3 min 10 s``, ``2 h 5 min``."""
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    parts = {
        "seconds": whole % 60 if minutes else whole,
        "minutes": minutes % 60,
        "hours": hours % 24,
        "days": days,
    }
    if days:
        text = gettext("%(days)d d %(hours)d h")
    elif hours:
        text = gettext("%(hours)d h %(minutes)d min")
    elif minutes:
        text = gettext("%(minutes)d min %(seconds)d s")
    else:
        text = gettext("%(seconds)d s")
    return text % parts


def hardware_figures(facts: Mapping[str, JSON]) -> list[tuple[str, str]]:
    """Return the hardware of a run's program and its use of it, as lines."""
    lines: list[tuple[str, str]] = []

    def bytes_text(value: JSON) -> str:
        return filesizeformat(value) if isinstance(value, int) else "–"

    def of(used: JSON, whole: JSON) -> str:
        if whole is None:
            return bytes_text(used)
        facts = {"used": bytes_text(used), "whole": bytes_text(whole)}
        return gettext("%(used)s of %(whole)s") % facts

    if facts.get("host"):
        lines.append((gettext("Machine"), str(facts["host"])))
    if facts.get("device"):
        lines.append((gettext("GPU set aside for it"), str(facts["device"])))
    if facts.get("processor"):
        lines.append((gettext("Processor"), str(facts["processor"])))
    used, cores = facts.get("cores_used"), facts.get("cores")
    if isinstance(used, int | float):
        text = number_format(used, 1)
        if isinstance(cores, int):
            text = gettext("%(used)s of %(cores)d") % {"used": text, "cores": cores}
        lines.append((gettext("Cores in use"), text))
    if facts.get("memory"):
        text = of(facts["memory"], facts.get("memory_total"))
        lines.append((gettext("Memory"), text))
        lines.append((gettext("At most"), bytes_text(facts.get("memory_peak"))))
    devices = facts.get("gpus")
    for gpu in devices if isinstance(devices, list) else []:
        if isinstance(gpu, dict):
            text = of(gpu.get("memory"), gpu.get("memory_total"))
            lines.append((str(gpu.get("name")), f"{text}, {gpu.get('percent')} %"))
    return lines
