"""What reinforcement learning makes of the reward model's output, shaped in several ways.

    python -m benchmarks.reward_shaping [--seeds 1] [--slots 2] [--folder .concord/learn]

The set-up of `make learn` (whose finished runs in the folder are used): the policy that
copied its writers' habit learns from one reward model, whose output becomes the reward

    logit            relative to the threshold, clipped (the default)
    log-probability  of being consistent, clipped below
    probability      of being consistent
    verdict          1 above the threshold, 0 below

and, from a second reward model that was shown one label for the whole pair only,

    final            the logit of the whole answer

All else is equal: start, prompts, steps, seeds. Intervals are paired bootstraps over tasks.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.learn import REWARD, Seed, agreement, tabulate
from benchmarks.runs import BASE_DIR, Run, RunFailedError, Site, say

FINAL = {**REWARD, "labels": "final"}
VALUES = ("logit", "log-probability", "probability", "verdict")


def learn(seed: Seed) -> None:
    """Run reinforcement learning once for each shape, then measure all policies."""
    seed.begin()
    final = seed.reward_model("reward-final", FINAL, seed.judged)
    shapes: dict[str, tuple[dict[str, object], Run]] = {
        **{value: ({"consistency_value": value}, seed.reward) for value in VALUES},
        "final": ({}, final),
    }
    start = seed.policies["SFT"]
    with ThreadPoolExecutor(len(shapes)) as pool:
        runs = {
            name: pool.submit(
                seed.improve, f"rl-{name}", recipe, start, reward=reward.model
            )
            for name, (recipe, reward) in shapes.items()
        }
        seed.policies |= {name: run.result() for name, run in runs.items()}
    seed.measure("evaluate-shapes")


def main() -> int:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description="The shapes of the reward.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", default=str(BASE_DIR / ".concord" / "learn"))
    options = parser.parse_args()
    site = Site(Path(options.folder).resolve(), threading.Semaphore(options.slots))
    seeds = [Seed(site, number) for number in options.seeds]
    try:
        with ThreadPoolExecutor(len(seeds)) as pool:
            list(pool.map(learn, seeds))
    except (RunFailedError, KeyboardInterrupt) as error:
        say(f"failed: {error}")
        site.stop()
        return 1
    tabulate(seeds)
    agreement(seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
