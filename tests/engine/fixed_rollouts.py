"""Run ``policy`` on answers sampled once: ``python -m tests.engine.fixed_rollouts RUN_DIR``.

Sampling turns a difference of 1e-7 in weights into another token now and then. What a
step learns from given answers does not, so it can be compared between programs, numbers
of processes and machines.
"""

import functools
import json
import sys
from pathlib import Path

import torch

from records.recipes import PolicyRecipe
from training.engine import policy
from training.engine.rl import rollouts
from training.engine.run.directory import run_program
from training.engine.sampling.answers import check_of
from training.engine.sampling.sampler import Sampled

FOLDER = Path(__file__).parents[1] / "data/policy_steps"
POLICY = FOLDER / "policy"
DRAWS = 3  # recorded groups of answers to each turn


def rows():
    return [json.loads(line) for line in (FOLDER / "rows.jsonl").open()]


@functools.cache
def recorded():
    return json.loads((FOLDER / "answers.json").read_text())


def fixed_answer(
    model, tokenizer, prompts, sampling, *, place, seed, per_turn, draw=None
):
    """Return recorded answers, those of one of the draws: by the seed, or ``draw``."""
    checked = check_of(tokenizer, sampling.stop_ids[-1])
    draw = seed.seed % DRAWS if draw is None else draw
    return [
        [
            checked(item.sample, item.turn, index, Sampled(*sampled))
            for index, sampled in enumerate(recorded()[item.sample.id][draw][:per_turn])
        ]
        for item in prompts
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    rollouts.answer = fixed_answer
    sys.exit(run_program("policy", PolicyRecipe, policy.main))
