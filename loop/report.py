"""The report of ``make loop``: the tables, and which of its claims hold."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from records.events import HELD_OUT

if TYPE_CHECKING:
    from training.models import Run

QUADS_GATE, CAUGHT_GATE = 0.9, 0.85
LEAST_PAIRS = 300


@dataclass
class Report:
    """The data of the report."""

    seconds: dict[str, float] = field(default_factory=dict)
    judged: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    runs: dict[str, Run] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        write(f"{time.strftime('%H:%M:%S')}  {name} …")
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start


ROWS = (
    ("tasks_complete", "tasks complete (oracle)"),
    ("turns_right", "turns right (oracle)"),
    ("plan_order", "plan order exact"),
    ("action_name", "action name exact"),
    ("action_parameters", "action parameters exact"),
    ("format_valid", "format valid"),
    ("rm_consistent", "turns right (reward model)"),
    ("rm_agreement", "reward model agrees with oracle"),
)
Figures = dict[str, Any]


def conclude(report: Report, promoted_is_new: bool, has_truth: bool) -> int:
    """Print the tables; return the exit status."""
    measured = report.runs["evaluate"].result
    columns: dict[str, Figures] = {}
    if base := report.runs.get("evaluate base"):
        columns["base"] = base.result["policies"]["policy"]
    columns["SFT"] = measured["policies"]["initial"]
    columns["RL"] = measured["policies"]["policy"]
    promoted = "RL" if promoted_is_new else "SFT"
    print_policies("held-out, nothing chosen on them", columns)
    parts: dict[str, dict[str, Figures]] = measured["by_split"]
    for split in sorted(parts["policy"]):
        print_policies(
            split, {"SFT": parts["initial"][split], "RL": parts["policy"][split]}
        )
    print_reward_model(report.runs["reward"].result)
    print_rl(report.runs["policy"])
    if not has_truth:
        print_what_the_runs_said(report)
    again = report.runs["draw again"]
    write()
    write(f"answers of the promoted policy in the queue: {again.result['received']}")
    write(f"judgments through the pages: {dict(report.judged)}")
    write()
    write(
        "seconds per stage: "
        + ", ".join(f"{name} {seconds:.0f}" for name, seconds in report.seconds.items())
    )
    return verdict(report, columns, promoted, has_truth)


def print_policies(title: str, columns: dict[str, Figures]) -> None:
    write()
    write(f"{title:<34}" + "".join(f"{name:>24}" for name in columns))
    for key, words in ROWS:
        cells = [figure(column.get(key)) for column in columns.values()]
        if any(cell != "-" for cell in cells):
            write(f"{words:<34}" + "".join(f"{cell:>24}" for cell in cells))


def print_reward_model(result: Figures) -> None:
    write()
    write("reward model, held out")
    for key, words in (
        ("quads/seen/accuracy", "balanced quads, seen orders"),
        ("quads/unseen/accuracy", "balanced quads, unseen orders"),
        ("judged/bad_caught", "bad answers caught"),
        ("judged/good_accepted", "good answers accepted"),
        ("judged/accuracy", "accuracy on judged pairs"),
        ("judged/auc", "AUC on judged pairs"),
        ("judged/ece", "calibration error"),
        ("judged/count", "judged pairs in these"),
    ):
        if isinstance(result.get(key), int | float):
            write(f"  {words:<32}{result[key]:>10.3f}")
    kinds = sorted(
        key.removeprefix("judged/recall/")
        for key in result
        if key.startswith("judged/recall/") and not key.endswith("/count")
    )
    for kind in kinds:
        caught = result[f"judged/recall/{kind}"]
        of = result.get(f"judged/recall/{kind}/count")
        if caught is not None:
            write(f"  recall, {kind:<24}{caught:>10.3f}  of {of}")


def print_rl(run: Run) -> None:
    result = run.result
    write()
    watched = len(result.get("held_out_samples", []))
    write(
        f"RL on {watched} held-out samples: {result.get('chosen_by', 'no step chosen')}"
    )
    for key in (
        "chosen_step",
        "truth_at_start",
        "truth",
        "gain",
        "gain/low",
        "gain/high",
    ):
        if key in result:
            write(f"  {key:<32}{result[key]!s:>10.10}")
    validations: dict[int, dict[str, float]] = {}
    for name in ("rm_score", "truth"):
        metrics = run.metrics.filter(name=f"{HELD_OUT}{name}")
        for step, value in metrics.values_list("step", "value"):
            validations.setdefault(step, {})[name] = value
    for step, figures in sorted(validations.items()):
        line = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        write(f"  step {step}: {line}")
    for key in ("gate", "alarm"):
        if result.get(key):
            write(f"  {key}: {result[key]}")


def print_what_the_runs_said(report: Report) -> None:
    """Print token lengths, and what the programs left out and why."""
    write()
    for name, run in report.runs.items():
        for note in run.notes.order_by("pk"):
            write(f"{name}: {note.message}")
        left_out = {
            key: value
            for key, value in run.result.items()
            if "left_out" in key or "too_long" in key or "turns" in key
        }
        write(f"{name}: {left_out}")


def verdict(
    report: Report, columns: dict[str, Figures], promoted: str, has_truth: bool
) -> int:
    """Print which claims hold; return the exit status."""
    if not has_truth:
        write()
        write(
            "No oracle for this data: every stage ran; nothing is claimed about gain."
        )
        return 0
    reward = report.runs["reward"].result
    before = columns["SFT"]["tasks_complete"]["value"]
    after = columns[promoted]["tasks_complete"]["value"]
    gain = columns["RL"]["tasks_complete"]["value"] - before
    missed = gate_missed(reward)
    claims = {
        f"at least {LEAST_PAIRS} pairs judged": report.pairs >= LEAST_PAIRS,
        missed or "the reward model passed its gate": not missed,
        f"what was promoted ({promoted}) is not worse than SFT": after >= before,
    }
    write()
    for claim, holds in claims.items():
        write(f"{'yes' if holds else 'NO ':<4} {claim}")
    write(f"RL - SFT on tasks complete: {100 * gain:+.1f} points")
    return 0 if all(claims.values()) else 2


def gate_missed(reward: Figures) -> str:
    """Return the bounds of the gate that the reward model misses."""
    bounds = {
        "quads/seen/accuracy": QUADS_GATE,
        "quads/unseen/accuracy": QUADS_GATE,
        "judged/bad_caught": CAUGHT_GATE,
    }
    missed = [
        f"{name} is {reward.get(name)}, wanted at least {bound}"
        for name, bound in bounds.items()
        if (reward.get(name) or 0.0) < bound
    ]
    return "the reward model misses its gate: " + ", ".join(missed) if missed else ""


def figure(cell: Figures | None) -> str:
    if not cell or cell.get("value") is None:
        return "-"
    if cell.get("low") is None:
        return f"{cell['value']:.3f}"
    return f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def write(text: str = "") -> None:
    print(text, flush=True)  # noqa: T201
