"""What judging adds to written samples: `make learn` (see docs/experiments.md).

    python -m benchmarks.learn [--seeds 1 2 3] [--slots 2] [--folder .concord/learn]

Written samples carry their writers' habits: six drafts in ten close a task with an offer
that nobody asked for, which the reviewed samples never do. Supervised fine-tuning copies the habit. Some
hundred samples were reviewed; people (here the demo's oracle) judge the policy's answers
beside those labels, a reward model learns from them, and reinforcement learning follows
it. For each seed, every stage a run directory of the product's own programs:

    base     a start that has learned nothing
    SFT      3,000 samples as written
    RL       drawn, judged, rewarded by the reward model (RM)
    RL again the refreshed RM, which has judgments of RL's answers too
    oracle   RL with the truth as reward: the upper bound of any RM
    rule     RL with the alignment of units as reward: no judgment, nothing learned
    more     SFT for as long as drawing, RM and RL took: the rival at equal cost
    reviewed fine-tuning on the reviewed labels themselves, at equal cost
    accepted fine-tuning on answers the RM accepts (rejection sampling), at equal cost

All answer the same held-out tasks, on which no step and no threshold was chosen
(``holdout``), greedily, history teacher-forced; the oracle judges. A
task is complete when every turn is right. Differences are paired by task; their
intervals are bootstraps over tasks, the mean over the seeds in each.

Exit status: 0 when RL - SFT is at least +10 points of tasks, its interval above zero, and
RM and oracle differ by at most 5 points on RL's answers; 2 when not; 1 when a run fails.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actions.demo import generate, oracle
from benchmarks.runs import (
    BASE_DIR,
    Run,
    RunFailedError,
    Site,
    read,
    say,
    write,
)

HABIT = 0.6
DRAFTS, REVIEWED = 3000, 600
HELD_OUT = (
    200  # of each split; programs choose on half of them, `evaluate` takes the rest
)
NEW_TOKENS = {"max_new_tokens": 96}  # the longest label has 70
SFT_STEPS = 360
SFT = {
    "steps": SFT_STEPS,
    "evaluate_every": SFT_STEPS // 3,
    "evaluate_turns": 0,
    # A choice of wordings is a guess to the policy, and hides the values it has to copy.
    "references": False,
}
DRAW = {"turns": 240, "responses_per_turn": 2, **NEW_TOKENS}
REWARD = {"steps": 120}
REFRESHED = {"steps": 80}
POLICY = {
    "steps": 10,
    "muon_learning_rate": 2e-3,
    "learning_rate": 2e-4,
    "beta": 0.0,
    "oversampling": 2.0,
    "prompts_per_step": 32,
    "temperature": 0.7,
    "evaluate_every": 5,
    "held_out_samples": 48,
    **NEW_TOKENS,
}
AGAIN = {"steps": 6, "evaluate_every": 3}
# Fine-tuning that goes on from a policy: no peak as high as that of a first training.
FURTHER = {
    "references": False,
    "muon_learning_rate": 3e-3,
    "learning_rate": 1e-3,
    "evaluate_turns": 0,
    "evaluate_every": 100_000,
}
ANSWERED = 120  # reviewed samples whose every turn is answered for rejection sampling
ANSWERS = {"turns": 0, "responses_per_turn": 4, **NEW_TOKENS}
BASE = {"samples": 40, **NEW_TOKENS}
GOAL, GAP = 0.10, 0.05
RESAMPLES = 2000


# One seed


@dataclass
class Seed:
    """All runs of one seed, in the order in which they need each other."""

    site: Site
    seed: int
    policies: dict[str, Run] = field(default_factory=dict)
    base: Run | None = None  # the start, measured

    def begin(self) -> None:
        """Make the policy to start from and the first reward model."""
        drafts = list(generate(seed=self.seed, count=DRAFTS, habit=HABIT))
        reviewed = list(generate(seed=1000 + self.seed, count=REVIEWED))
        held_out = [
            *generate(seed=1, count=HELD_OUT, split="held-out"),
            *generate(seed=1, count=HELD_OUT, split="held-out-unseen"),
        ]
        self.samples = {sample["id"]: sample for sample in reviewed}
        self.drafts = self._write("drafts", drafts)
        self.reviewed = self._write("reviewed", reviewed)
        self.held_out = self._write("held-out", held_out)

        sft = self.policies["SFT"] = self._run("sft", "sft", SFT, self.drafts)
        self.drawn, self.judged = self._judge("1", sft.model, sft.at(SFT_STEPS // 3))
        self.reward = self.reward_model("reward", REWARD, self.judged)

    def learn(self) -> None:
        """Run everything; what needs RL's seconds comes after it."""
        self.begin()
        sft, reward = self.policies["SFT"], self.reward
        learned = self.improve("rl", {}, sft, reward=reward.model)
        self.policies["RL"] = learned

        # Once more: the reward model learns what the new policy says.
        _, judged_too = self._judge("2", learned.model, None, self.judged)
        refreshed = self.reward_model("reward-2", REFRESHED, judged_too)
        self.policies["RL again"] = self.improve(
            "rl-2", AGAIN, learned, initial=sft, reward=refreshed.model
        )

        self.policies["oracle"] = self.improve(
            "rl-oracle", {"consistency_source": "oracle"}, sft
        )
        self.policies["rule"] = self.improve(
            "rl-rule", {"consistency_source": "alignment"}, sft
        )
        cost = self.drawn.seconds + reward.seconds + learned.seconds
        self._rivals(sft, reward, cost)
        self.base = self._run(
            "evaluate-base", "evaluate", BASE, self.reviewed, base=sft.at(0)
        )
        self.measure("evaluate")

    def measure(self, name: str) -> None:
        """Let every policy answer the held-out tasks."""
        policies = {role_of(name): run.model for name, run in self.policies.items()}
        reward = self.reward.model
        self.measured = self._run(
            name, "evaluate", NEW_TOKENS, self.reviewed, reward=reward, **policies
        )

    def reward_model(
        self, name: str, recipe: Mapping[str, object], judged: Path
    ) -> Run:
        """Train a reward model, from the policy to start from, on what was judged."""
        policy = self.policies["SFT"].model
        recipe = {**recipe, "evaluate_every": 1000}
        return self._run(name, "reward", recipe, self.reviewed, judged, policy=policy)

    def _rivals(self, sft: Run, reward: Run, seconds: float) -> None:
        """Fine-tune on drafts, reviewed labels and accepted answers, for so long each."""
        a_step = sft.seconds / SFT_STEPS
        some = self._write("answered", list(self.samples.values())[:ANSWERED])
        answers = self._run(
            "answers",
            "draw",
            ANSWERS,
            some,
            policy=sft.model,
            reward=reward.model,
        )
        accepted = self._write("accepted", self._accepted(answers, reward))
        for name, train, spent in (
            ("more", self.drafts, 0.0),
            ("reviewed", self.reviewed, 0.0),
            ("accepted", accepted, answers.seconds),
        ):
            steps = max(20, round((seconds - spent) / a_step))
            self.policies[name] = self._run(
                name, "sft", {**FURTHER, "steps": steps}, train, policy=sft.model
            )

    def improve(
        self,
        name: str,
        recipe: Mapping[str, object],
        start: Run,
        initial: Run | None = None,
        reward: Path | None = None,
    ) -> Run:
        """Reinforcement learning from ``start`` on the turns of the reviewed samples."""
        return self._run(
            name,
            "policy",
            {**POLICY, **recipe},
            self.reviewed,
            policy=start.model,
            initial=(initial or start).model,
            reward=reward,
        )

    def _judge(
        self, name: str, policy: Path, initial: Path | None, before: Path | None = None
    ) -> tuple[Run, Path]:
        """Draw answers, let the oracle judge them; return the judgments so far too."""
        run = self._run(
            f"draw-{name}",
            "draw",
            {**DRAW, "seed": self.seed + 100 * int(name)},
            self.reviewed,
            policy=policy,
            initial=initial,
        )
        rows = read(before) if before else []
        seen = {(row["sample"], row["turn"], row["sampled"]) for row in rows}
        for answer in read(run.path / "outputs" / "responses.jsonl"):
            place = (answer["sample"], answer["turn"], answer["text"])
            if place not in seen:
                seen.add(place)
                rows.append(self._judgment(*place))
        return run, self._write(f"judgments-{name}", rows)

    def _judgment(self, sample: str, turn: int, text: str) -> dict[str, object]:
        document: Mapping[str, Any] = self.samples[sample]["turns"][turn]
        found = oracle.judge(document, text)
        half = zlib.crc32(sample.encode()) % 5 == 0  # of one sample all or none
        return {
            "sample": sample,
            "turn": turn,
            "input_kind": document["input"]["kind"],
            "label": document["response"],
            "sampled": text,
            "consistent": found.consistent,
            "differs": [key for key, matches in found.units.items() if not matches],
            "source": "people",
            "facts": document["facts"],
            "split": "held-out" if half else "train",
        }

    def _accepted(self, answers: Run, reward: Run) -> list[dict[str, object]]:
        """Return the reviewed samples with accepted answers in place of the labels.

        Only samples all of whose turns have one: fine-tuning learns whole conversations.
        """
        threshold = reward.result["threshold"]
        best: dict[tuple[str, int], tuple[float, str]] = {}
        for row in read(answers.path / "outputs" / "responses.jsonl"):
            if row["rm_score"] >= threshold and not row["format_error"]:
                place = (row["sample"], row["turn"])
                found = (float(row["rm_score"]), str(row["text"]))
                best[place] = max(best.get(place, (0.0, "")), found)
        kept: list[dict[str, object]] = []
        for name, sample in self.samples.items():
            places = [(name, number) for number in range(len(sample["turns"]))]
            if all(place in best for place in places):
                turns = [
                    {**turn, "response": best[place][1], "references": []}
                    for turn, place in zip(sample["turns"], places, strict=True)
                ]
                kept.append({**sample, "turns": turns})
        say(f"seed {self.seed}: {len(kept)} of {ANSWERED} samples accepted")
        return kept

    def _run(
        self,
        name: str,
        program: str,
        recipe: Mapping[str, object],
        train: Path,
        judgments: Path | None = None,
        **inputs: Path | None,
    ) -> Run:
        data = {"train": train, "held_out": self.held_out}
        if judgments:
            data["judgments"] = judgments
        settings = {"seed": self.seed, **recipe}
        return self.site.run(f"{self.seed}/{name}", program, settings, data, **inputs)

    def _write(self, name: str, rows: Iterable[Mapping[str, object]]) -> Path:
        return write(self.site.folder / str(self.seed) / f"{name}.jsonl", rows)


def role_of(name: str) -> str:
    return name.lower().replace(" ", "-")


# The report


@dataclass(frozen=True)
class Outcome:
    """Of one policy, whether each held-out task is complete, by seed."""

    complete: Mapping[int, Mapping[str, float]]

    def share(self, tasks: Sequence[str]) -> float:
        """Return the share of these tasks that are complete, the mean over the seeds."""
        found = [each[task] for each in self.complete.values() for task in tasks]
        return sum(found) / len(found)


def outcomes(seeds: Sequence[Seed]) -> dict[str, Outcome]:
    """Return what every policy did, by its name in the evaluation."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for seed in seeds:
        for row in read(seed.measured.path / "outputs" / "samples.jsonl"):
            of_role = found.setdefault(row["role"], {}).setdefault(seed.seed, {})
            of_role[row["sample"]] = float(row["complete"])
    return {role: Outcome(complete) for role, complete in found.items()}


def interval(
    tasks: Sequence[str], figure: Callable[[Sequence[str]], float]
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a figure over tasks."""
    rng = random.Random(0)
    drawn = sorted(figure(rng.choices(tasks, k=len(tasks))) for _ in range(RESAMPLES))
    return drawn[round(0.025 * RESAMPLES)], drawn[round(0.975 * RESAMPLES) - 1]


def tabulate(seeds: Sequence[Seed]) -> dict[str, tuple[float, float]]:
    """Print what the policies do; return each one's gain over SFT and its low end."""
    found = outcomes(seeds)
    tasks = sorted(next(iter(found["sft"].complete.values())))
    unseen = [task for task in tasks if "unseen" in task]
    seen = [task for task in tasks if "unseen" not in task]
    names = list(seeds[0].policies)
    start = found["sft"]

    say(f"\n{len(tasks)} held-out tasks, seeds {[seed.seed for seed in seeds]}")
    say(
        f"{'':10}{'complete':>9}{'95 %':>16}{'seen':>7}{'unseen':>7}"
        f"{'- SFT':>8}{'95 %':>17}  by seed"
    )
    for seed in seeds:
        if seed.base is None:
            continue
        none = seed.base.result["policies"]["base"]["tasks_complete"]
        say(f"base, seed {seed.seed}: {none['value']:.3f} of {none['n']:.0f} tasks")
    gains: dict[str, tuple[float, float]] = {}
    for name in names:
        policy = found[role_of(name)]

        def gain(some: Sequence[str], policy: Outcome = policy) -> float:
            return policy.share(some) - start.share(some)

        low, high = interval(tasks, policy.share)
        gained, (least, most) = gain(tasks), interval(tasks, gain)
        gains[name] = gained, least
        by_seed = " ".join(
            f"{sum(each.values()) / len(each):.3f}" for each in policy.complete.values()
        )
        say(
            f"{name:10}{policy.share(tasks):9.3f}   [{low:.3f}, {high:.3f}]"
            f"{policy.share(seen):7.3f}{policy.share(unseen):7.3f}"
            f"{gained:+8.3f} [{least:+.3f}, {most:+.3f}]  {by_seed}"
        )
    return gains


def agreement(seeds: Sequence[Seed]) -> dict[str, float]:
    """Print the share of turns right by oracle and RM; return their gap by policy."""
    gaps: dict[str, float] = {}
    say("\nturns, mean over the seeds: right by the oracle, by the first reward model")
    for name in seeds[0].policies:
        of_seeds = [s.measured.result["policies"][role_of(name)] for s in seeds]
        right, accepted = (
            sum(each[key]["value"] for each in of_seeds) / len(of_seeds)
            for key in ("turns_right", "rm_consistent")
        )
        say(f"{name:10}{right:9.3f}{accepted:9.3f}   gap {accepted - right:+.3f}")
        gaps[name] = accepted - right
    return gaps


def report(seeds: Sequence[Seed]) -> bool:
    """Print the tables; return whether the claims hold."""
    gains, gap = tabulate(seeds), abs(agreement(seeds)["RL"])
    say("\nreward models")
    for seed in seeds:
        for name in ("reward", "reward-2"):
            result = Run("", seed.site.folder / str(seed.seed) / name).result
            say(
                f"  seed {seed.seed} {name:9}"
                + "".join(
                    f" {words} {result[key]:.3f}"
                    for key, words in FIGURES.items()
                    if isinstance(result.get(key), float)
                )
            )
    say("\nseconds, by seed: " + "; ".join(map(spent, seeds)))
    gained, least = gains["RL"]
    holds = gained >= GOAL and least > 0 and gap <= GAP
    say(
        f"\nRL - SFT {gained:+.3f} (goal +{GOAL:.2f}, low end above 0), RM - oracle on RL's "
        f"answers {gap:.3f} (goal at most {GAP:.2f}): {'holds' if holds else 'FAILS'}"
    )
    return holds


FIGURES = {
    "quads/seen/accuracy": "quads",
    "quads/unseen/accuracy": "unseen",
    "judged/bad_caught": "caught",
    "judged/good_accepted": "accepted",
    "judged/auc": "AUC",
}


def spent(seed: Seed) -> str:
    runs = sorted((seed.site.folder / str(seed.seed)).glob("*/seconds"))
    parts = [f"{run.parent.name} {float(run.read_text()):.0f}" for run in runs]
    return f"{seed.seed}: {', '.join(parts)}"


def main() -> int:
    """Run all seeds and report."""
    parser = argparse.ArgumentParser(
        description="What judging adds to written samples."
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--slots", type=int, default=os.cpu_count() or 1, help="programs at a time"
    )
    parser.add_argument("--folder", default=str(BASE_DIR / ".concord" / "learn"))
    parser.add_argument("--again", action="store_true", help="keep runs that finished")
    options = parser.parse_args()
    folder = Path(options.folder).resolve()
    if not options.again:
        shutil.rmtree(folder, ignore_errors=True)
    site = Site(folder, threading.Semaphore(options.slots))
    seeds = [Seed(site, number) for number in options.seeds]
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(len(seeds)) as pool:
            for done in [pool.submit(seed.learn) for seed in seeds]:
                done.result()
    except (RunFailedError, KeyboardInterrupt) as error:
        say(f"failed: {error}")
        site.stop()
        return 1
    holds = report(seeds)
    say(f"{time.monotonic() - started:.0f} s on {options.slots} slots")
    return 0 if holds else 2


if __name__ == "__main__":
    sys.exit(main())
