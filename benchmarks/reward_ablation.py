"""What the reward model's parts are worth, as a table and a plot.

    python -m benchmarks.reward_ablation [--slots 2] [--seeds 1 2 3]
        [--only layout data history size]

One policy is fine-tuned on the demo and drawn from at two of its steps; the demo's
oracle judges the answers, as people would. Reward models are then trained that differ in
one thing each:

    layout   sequential or interleaved × labels final or unit (three seeds)
    data     all; without judgments; judgments only; without quads; without changes
    history  the pair alone, or after the last 64 or 400 tokens of the conversation
    size     width 32, 64, 128 from scratch × 100, 400, 1,600 judgments, and nothing
             derived: the paper's section 4.3, accuracy over size and judgments

and measured on the same held-out turns: balanced quads of seen and unseen orders, answers
of policies that nobody trained on (bad caught, good accepted, AUC).

Prints the tables as Markdown and writes them, with plots as SVG files, to the folder.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import threading
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actions.demo import generate, oracle
from benchmarks.runs import BASE_DIR, Run, Site, read, say, write

SAMPLES, HELD_OUT = 3000, 60
SFT = {
    "steps": 450,
    "evaluate_every": 150,
    "evaluate_turns": 0,
    "seed": 1,
}
DRAWN_AT = (300, 450)
DRAW = {"responses_per_turn": 2, "max_new_tokens": 96, "seed": 1}
JUDGED_TURNS = {"train": 700, "held-out": 200}
SCORES = {
    "quads/seen/accuracy": "quads, seen orders",
    "quads/unseen/accuracy": "quads, unseen orders",
    "judged/bad_caught": "bad caught",
    "judged/good_accepted": "good accepted",
    "judged/auc": "AUC",
    "judged/accuracy": "accuracy",
}
LAYOUTS = {
    f"{layout}, {labels}": {"layout": layout, "labels": labels}
    for layout in ("sequential", "interleaved")
    for labels in ("final", "unit")
}
DATA: dict[str, dict[str, object]] = {
    "judged and derived": {},
    "derived only": {"judged_share": 0.0},
    "judged only": {"judged_share": 1.0},
    "without quads": {"derived": ["references", "changes"]},
    "without changes": {"derived": ["references", "quads"]},
    "without references": {"derived": ["quads", "changes"]},
}
HISTORY: dict[str, dict[str, object]] = {
    "pair": {},
    "pair + 64 tokens": {"history_tokens": 64},
    "pair + 400 tokens": {"history_tokens": 400},
}
STEPS = {"steps": 200, "evaluate_every": 1000}
WIDTHS, COUNTS = (32, 64, 128), (100, 400, 1600)
FROM_SCRATCH = {"backbone": "scratch", **DATA["judged only"]}


@dataclass(frozen=True)
class Material:
    """What every reward model is trained and tested on."""

    policy: Path
    train: Path
    held_out: Path
    judgments: list[dict[str, Any]]


def prepare(site: Site) -> Material:
    """Fine-tune a policy, draw from two of its steps, judge by the oracle."""
    samples = list(generate(seed=1, count=SAMPLES))
    fresh = list(generate(seed=2, count=300))  # drawn on: not what it was trained on
    held_out = [
        *generate(seed=1, count=HELD_OUT, split="held-out"),
        *generate(seed=1, count=HELD_OUT, split="held-out-unseen"),
    ]
    files = {
        "train": write(site.folder / "train.jsonl", samples),
        "fresh": write(site.folder / "fresh.jsonl", fresh),
        "held-out": write(site.folder / "held-out.jsonl", held_out),
    }
    both = {"train": files["train"], "held_out": files["held-out"]}
    sft = site.run("sft", "sft", SFT, both)
    early, late = (sft.at(step) for step in DRAWN_AT)
    judgments = []
    for split, source in (("train", fresh), ("held-out", held_out)):
        place = {"train": "fresh", "held-out": "held-out"}[split]
        drawn = site.run(
            f"draw-{split}",
            "draw",
            {**DRAW, "turns": JUDGED_TURNS[split]},
            {"train": files[place], "held_out": files["held-out"]},
            policy=late,
            initial=early,
        )
        turns = {
            (sample["id"], number): turn
            for sample in source
            for number, turn in enumerate(sample["turns"])
        }
        judgments += judged(drawn, turns, split)
    return Material(late, files["fresh"], files["held-out"], judgments)


def judged(
    drawn: Run, turns: Mapping[tuple[str, int], Any], split: str
) -> list[dict[str, Any]]:
    """Return the oracle's judgments of what was drawn, in an order without order."""
    rows: dict[tuple[str, int, str], dict[str, Any]] = {}
    for answer in read(drawn.path / "outputs" / "responses.jsonl"):
        turn = turns[answer["sample"], answer["turn"]]
        found = oracle.judge(turn, answer["text"])
        rows[answer["sample"], answer["turn"], answer["text"]] = {
            "sample": answer["sample"],
            "turn": answer["turn"],
            "input_kind": turn["input"]["kind"],
            "label": turn["response"],
            "sampled": answer["text"],
            "consistent": found.consistent,
            "differs": [key for key, matches in found.units.items() if not matches],
            "source": "people",
            "facts": turn["facts"],
            "split": split,
        }
    return sorted(rows.values(), key=lambda row: zlib.crc32(str(row).encode()))


@dataclass
class Trials:
    """Trains reward models, each once, and keeps what they scored."""

    site: Site
    material: Material
    seeds: Sequence[int]

    def train(self, name: str, recipe: Mapping[str, object], judgments: int = 0) -> Run:
        """Return the run of one reward model; ``judgments`` 0 gives it all."""
        of_train = [r for r in self.material.judgments if r["split"] == "train"]
        held_out = [r for r in self.material.judgments if r["split"] != "train"]
        given = write(
            self.site.folder / "judgments" / f"{name}.jsonl",
            of_train[: judgments or None] + held_out,
        )
        return self.site.run(
            name,
            "reward",
            {**STEPS, **recipe},
            {
                "train": self.material.train,
                "held_out": self.material.held_out,
                "judgments": given,
            },
            policy=self.material.policy,
        )

    def several(
        self, group: str, trials: Mapping[str, Mapping[str, object]], seeds: int
    ) -> dict[str, list[Mapping[str, Any]]]:
        """Train each recipe with several seeds; return their results by name."""
        wanted = [
            (name, seed, recipe)
            for name, recipe in trials.items()
            for seed in self.seeds[:seeds]
        ]
        with ThreadPoolExecutor(8) as pool:
            runs = list(
                pool.map(
                    lambda w: self.train(
                        f"{group}-{w[0].replace(', ', '-').replace(' ', '-')}-{w[1]}",
                        {"seed": w[1], **w[2]},
                    ),
                    wanted,
                )
            )
        found: dict[str, list[Mapping[str, Any]]] = {}
        for (name, _, _), run in zip(wanted, runs, strict=True):
            found.setdefault(name, []).append(run.result)
        return found

    def sizes(self) -> dict[tuple[int, int], Mapping[str, Any]]:
        """Train from scratch on judgments alone, by width and number of judgments."""
        wanted = [(width, count) for width in WIDTHS for count in COUNTS]
        with ThreadPoolExecutor(8) as pool:
            runs = pool.map(
                lambda w: self.train(
                    f"size-{w[0]}-{w[1]}",
                    {"seed": 1, **FROM_SCRATCH, "width": w[0]},
                    w[1],
                ),
                wanted,
            )
            return {w: run.result for w, run in zip(wanted, runs, strict=True)}


def table(title: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a Markdown table: the mean over seeds, and the lowest where there are some."""
    lines = [f"| {title} | " + " | ".join(SCORES.values()) + " |"]
    lines.append("|---" * (len(SCORES) + 1) + "|")
    for name, results in found.items():
        cells = []
        for key in SCORES:
            values = [r[key] for r in results if isinstance(r.get(key), float | int)]
            if not values:
                cells.append("")
            elif len(values) == 1:
                cells.append(f"{values[0]:.3f}")
            else:
                cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def size_table(
    found: Mapping[tuple[int, int], Mapping[str, Any]], key: str, words: str
) -> str:
    """Return a Markdown table of one score by width and number of judgments."""
    lines = [
        f"| {words} | " + " | ".join(f"{count} judgments" for count in COUNTS) + " |"
    ]
    lines.append("|---" * (len(COUNTS) + 1) + "|")
    for width in WIDTHS:
        cells = [
            f"{found[width, count].get(key, float('nan')):.3f}" for count in COUNTS
        ]
        lines.append(f"| width {width} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(
    found: Mapping[tuple[int, int], Mapping[str, Any]], key: str, words: str
) -> str:
    """Return an SVG: a line for each width, the score over the number of judgments."""
    across, down, left, top = 360, 220, 56, 16
    colors = ("#8a6d1f", "#2b6cb0", "#b83280")
    scores = {place: float(result.get(key, 0.0)) for place, result in found.items()}
    lowest = math.floor(min(scores.values()) * 10 - 0.1) / 10

    def height(score: float) -> float:
        return top + down * (1 - (score - lowest) / (1 - lowest))

    def along(number: int) -> float:
        return left + across * (number + 0.5) / len(COUNTS)

    marks = []
    for part in range(5):
        tick = lowest + (1 - lowest) * part / 4
        y = height(tick)
        marks.append(
            f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{tick:.2f}</text>'
            f'<line x1="{left}" x2="{left + across}" y1="{y:.0f}" y2="{y:.0f}" '
            'stroke="#8884"/>'
        )
    for number, count in enumerate(COUNTS):
        marks.append(
            f'<text x="{along(number):.0f}" y="{top + down + 18}" '
            f'text-anchor="middle">{count}</text>'
        )
    for row, (width, color) in enumerate(zip(WIDTHS, colors, strict=True)):
        points = [
            (along(number), height(scores[width, count]))
            for number, count in enumerate(COUNTS)
        ]
        line = " ".join(f"{x:.0f},{y:.1f}" for x, y in points)
        marks.append(
            f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>'
        )
        marks += [
            f'<circle cx="{x:.0f}" cy="{y:.1f}" r="3" fill="{color}"/>'
            for x, y in points
        ]
        y = top + down - 44 + 18 * row
        marks.append(
            f'<circle cx="{left + across + 14}" cy="{y - 4}" r="3" fill="{color}"/>'
            f'<text x="{left + across + 22}" y="{y}">width {width}</text>'
        )
    marks.append(
        f'<text x="{left}" y="{top + down + 38}">{words} by number of judgments</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + across + 90} '
        f'{top + down + 48}" font-family="sans-serif" font-size="12" '
        'fill="#777">' + "".join(marks) + "</svg>\n"
    )


def main() -> int:
    """Run the trials asked for and print what came of them."""
    parser = argparse.ArgumentParser(
        description="What the reward model's parts are worth."
    )
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", default=str(BASE_DIR / ".concord" / "ablation"))
    parser.add_argument(
        "--only", nargs="+", choices=("layout", "data", "history", "size"), default=[]
    )
    options = parser.parse_args()
    folder = Path(options.folder).resolve()
    site = Site(folder, threading.Semaphore(options.slots))
    material = prepare(site)
    counts = {
        split: [r["consistent"] for r in material.judgments if r["split"] == split]
        for split in ("train", "held-out")
    }
    for split, verdicts in counts.items():
        say(f"{split}: {len(verdicts)} judged pairs, {sum(verdicts)} consistent")
    trials = Trials(site, material, options.seeds)
    asked = options.only or ["layout", "data", "history", "size"]
    parts: list[str] = []
    if "layout" in asked:
        parts.append(table("layout, labels", trials.several("layout", LAYOUTS, 3)))
    if "data" in asked:
        parts.append(table("data", trials.several("data", DATA, 1)))
    if "history" in asked:
        parts.append(table("history", trials.several("history", HISTORY, 1)))
    if "size" in asked:
        found = trials.sizes()
        for key, words in (
            ("judged/accuracy", "accuracy on judged pairs"),
            ("judged/auc", "AUC on judged pairs"),
        ):
            parts.append(size_table(found, key, words))
            name = key.replace("/", "-") + ".svg"
            (folder / name).write_text(plot(found, key, words), encoding="utf-8")
            say(f"plot: {folder / name}")
    text = "\n\n".join(parts)
    (folder / "tables.md").write_text(text + "\n", encoding="utf-8")
    say("\n" + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
