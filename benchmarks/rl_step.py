"""What a step of reinforcement learning costs, beside a plain TRL script. Run:

    python -m benchmarks.rl_step

Both take the same policy, the same turns, the same number of answers a step and the same
reward (the same reward model, asked through the same ``score``), with the KL divergence from
the initial policy in the loss. Theirs is ``trl.GRPOTrainer`` as its documentation
shows it: it generates by itself and calls a reward function with texts. It learns the
answers of a step at once, and in micro-batches (``--peer-batch``), which pad less; the best
of them is the peer. Ours is the policy program's step. Prints the ratio and where our
step's time goes. Both depend on how sure the policy is: equal answers to a prompt are
computed once by ours (``--sft-steps``, or a policy of one's own, ``--policy``).

The policy has to know how to end a response, or every answer would be cut at the limit; so it
is fine-tuned first on the demo (minutes on a CPU). ``--policy DIR`` keeps it there and
takes it from there the next time. The reward model is untrained: its speed is the same.

On a GPU (not run where Concord is developed: none was at hand):

    python -m benchmarks.rl_step --device cuda --precision bf16 --prompts 32
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import logging
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from actions.demo import generate
from actions.format_check import check_text
from records.recipes import PolicyRecipe, SftRecipe
from training.engine import sft
from training.engine.data.conversations import Encoder, sample_from_json
from training.engine.modeling.loading import load_policy
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.new_tokens import fit_vocabulary
from training.engine.modeling.optim import muon_and_adamw, update, warmup_stable_decay
from training.engine.modeling.place import Place, accelerator_for, prepare
from training.engine.modeling.policies import build_small_model
from training.engine.reward_model.model import RewardModel
from training.engine.reward_model.packing import Packer, Pair, RewardSettings
from training.engine.rl.batch import collate
from training.engine.rl.rewards import Rewards
from training.engine.rl.rollouts import Rollouts
from training.engine.rl.update import (
    TokenLogProbs,
    accumulate_policy_gradient,
    with_advantages,
    with_logprobs,
)
from training.engine.run.directory import run_program
from training.engine.sampling.answers import build_prompts
from training.engine.sampling.sampler import Sampling

SETTINGS = RewardSettings("interleaved", "unit")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Stopwatch:
    """Seconds by name: of this process's processors on a CPU, of the clock on a GPU."""

    def __init__(self, place: Place) -> None:
        self.cuda = place.device.type == "cuda"
        self.spent: dict[str, float] = defaultdict(float)
        self.steps: list[float] = []

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    @contextmanager
    def count(self, name: str) -> Iterator[None]:
        started = self.now()
        yield
        self.spent[name] += self.now() - started

    def around(
        self, owner: object, method: str, name: Callable[[], str | None]
    ) -> None:
        """Count what a method takes, under the name that holds when it is called."""
        deed = getattr(owner, method)

        def counted(*args: object, **kw: object) -> object:
            called = name()
            if called is None:
                return deed(*args, **kw)
            with self.count(called):
                return deed(*args, **kw)

        setattr(owner, method, counted)


class Steps(TrainerCallback):
    """Times each step but the first, which warms up."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.since = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.watch.spent.clear()
        self.since = self.watch.now()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > 1:
            self.watch.steps.append(self.watch.now() - self.since)


def fine_tuned(folder: Path, args: argparse.Namespace) -> Path:
    """Return a policy that ends its responses: one that is there, or made now."""
    found = sorted(folder.glob("run/checkpoints/step-*"))
    if found and found[-1].name != "step-000000":
        return found[-1]
    run = folder / "run"
    (run / "data").mkdir(parents=True)
    rows = generate(seed=1, count=600)
    (run / "data/train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    recipe = {
        "steps": args.sft_steps,
        "width": args.width,
        "layers": args.layers,
        "evaluate_turns": 0,
    }
    told = {"program": "sft", "recipe": recipe, "data": {"train": "data/train.jsonl"}}
    (run / "run.json").write_text(json.dumps(told))
    assert run_program("sft", SftRecipe, sft.train, [str(run)]) == 0
    return sorted(run.glob("checkpoints/step-*"))[-1]


def reward_model(path: Path, args: argparse.Namespace, place: Place) -> RewardModel:
    _, tokenizer = load_policy(path, place)
    Packer(tokenizer, SETTINGS)
    small = build_small_model(
        tokenizer, width=args.width, layers=args.layers, heads=4
    ).config
    small.num_labels = 2
    classifier = AutoModelForSequenceClassification.from_config(small)
    fit_vocabulary(classifier, tokenizer, len(tokenizer))
    return RewardModel(classifier.to(place.device), tokenizer, SETTINGS, place.half)


def turns_of(encoder: Encoder, count: int):
    rows = generate(seed=2, count=count)
    prompts, _ = build_prompts(
        encoder, [sample_from_json(json.loads(json.dumps(r))) for r in rows], 2048
    )
    return prompts


def ours(path, args, recipe, place, scorer, turns) -> tuple[Stopwatch, list[float]]:
    """Run the steps of the policy program: sample, score, advantages, update."""
    model, tokenizer = load_policy(path, place)
    encoder = Encoder(tokenizer)
    sampling = Sampling(
        temperature=recipe.temperature,
        top_p=1.0,
        max_new_tokens=recipe.max_new_tokens,
        stop_ids=encoder.frame.stop_ids,
        pad_id=tokenizer.pad_token_id,
    )
    rollouts = Rollouts(
        recipe, turns, encoder, sampling, place, Rewards(recipe, scorer)
    )
    starts = iter(range(0, 10**9, recipe.prompts_per_step))

    def same_turns(rng, count, at_least):
        start = next(starts)
        return turns[start : start + recipe.prompts_per_step]

    rollouts.choose = same_turns
    logprobs = TokenLogProbs(model, recipe.temperature, place)
    initial = load_policy(path, place)[0].requires_grad_(False)
    reference = TokenLogProbs(initial, recipe.temperature, place)
    accelerator = accelerator_for(place)
    rows = recipe.prompts_per_step * recipe.num_generations
    micro_batch = MicroBatch(rows, lambda message, level: say(message), "responses")
    optimizer = muon_and_adamw(
        model.named_parameters(),
        muon_rate=0.0,
        adamw_rate=recipe.learning_rate,
        weight_decay=0.0,
        muon=False,
    )
    schedule = warmup_stable_decay(
        optimizer, first=0, steps=recipe.steps, warmup=0, decay_fraction=0.0
    )
    watch = Stopwatch(place)
    watch.around(rollouts, "respond", lambda: "generation")
    watch.around(rollouts, "score", lambda: "scoring")
    tokens: list[float] = []
    for step in range(recipe.steps):
        if step == 1:  # the first warms up
            watch.spent.clear()
        since = watch.now()
        model.train()
        draw = rollouts.draw(model, recipe.prompts_per_step, step)
        batch = collate(draw.episodes, sampling.pad_id, place.device)
        with watch.count("reference"):
            batch = with_logprobs(
                batch,
                logprobs,
                reference,
                micro_batch,
                old=False,
                sampled_elsewhere=False,
            )
        batch = with_advantages(batch, draw, rollouts, None, accelerator, step + 1, {})
        figures = accumulate_policy_gradient(
            accelerator, logprobs, batch, micro_batch, recipe
        )
        update(
            optimizer,
            schedule,
            model.parameters(),
            loss=figures["loss"],
            max_grad_norm=recipe.max_grad_norm,
            step=step + 1,
        )
        if step:
            watch.steps.append(watch.now() - since)
            tokens.append(sum(len(episode.ids) for episode in draw.episodes))
    return watch, tokens


def theirs(
    path, args, recipe, place, scorer, turns, batch: int
) -> tuple[Stopwatch, list[float]]:
    """Run the steps of a plain GRPO script that learns ``batch`` answers at a time."""
    model, tokenizer = load_policy(path, place)
    encoder = Encoder(tokenizer)
    watch = Stopwatch(place)
    tokens: list[float] = []
    end = encoder.frame.end_of_turn

    def reward(prompts, completions, completion_ids, label, kind, **_):
        tokens.append(sum(map(len, completion_ids)))
        texts = [
            tokenizer.decode(ids[:-1] if ids and ids[-1] == end else ids)
            for ids in completion_ids
        ]
        with watch.count("scoring"):
            scores = scorer.score(
                [Pair(a, b, k) for a, b, k in zip(label, texts, kind, strict=True)]
            )
            return [
                0.5 * (check_text(text, k == "observation") is None) + score.probability
                for text, k, score in zip(texts, kind, scores, strict=True)
            ]

    prompts = turns[: recipe.prompts_per_step * recipe.steps]
    per_step = recipe.prompts_per_step * recipe.num_generations
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[reward],
        train_dataset=Dataset.from_dict(
            {
                "prompt": [tokenizer.decode(a.ids) for a in prompts],
                "label": [a.sample.turns[a.turn].response for a in prompts],
                "kind": [a.sample.turns[a.turn].kind for a in prompts],
            }
        ),
        args=GRPOConfig(
            output_dir=tempfile.gettempdir(),
            max_steps=recipe.steps,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=per_step // batch,
            num_generations=recipe.num_generations,
            max_completion_length=recipe.max_new_tokens,
            generation_kwargs={"eos_token_id": list(encoder.frame.stop_ids)},
            temperature=recipe.temperature,
            beta=recipe.beta,
            loss_type="grpo",
            learning_rate=recipe.learning_rate,
            shuffle_dataset=False,
            bf16=place.half,
            use_cpu=place.device.type == "cpu",
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1000,
        ),
    )
    watch.around(trainer, "_generate_single_turn", lambda: "generation")
    watch.around(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda: None if torch.is_grad_enabled() else "reference",
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Steps(watch))
    trainer.train()
    return watch, tokens[1:]


def told(name: str, watch: Stopwatch, tokens: list[float]) -> float:
    """Print where the time of a step goes; return the seconds of one."""
    whole = sum(watch.steps)
    parts = dict(watch.spent)
    parts["update"] = whole - sum(parts.values())
    shares = ", ".join(f"{part} {value / whole:.0%}" for part, value in parts.items())
    one = statistics.mean(watch.steps)
    say(
        f"{name}: {one:.2f} s a step ({min(watch.steps):.2f} to {max(watch.steps):.2f}), "
        f"{statistics.mean(tokens):.0f} answer tokens a step: {shares}"
    )
    return one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, help="where the policy is, or is kept")
    parser.add_argument("--sft-steps", type=int, default=250)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="timed ones")
    parser.add_argument("--peer-batch", type=int, nargs="+", default=[64, 16, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="", choices=("", "cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    recipe = PolicyRecipe(
        algorithm="grpo",
        steps=args.steps + 1,
        prompts_per_step=args.prompts,
        num_generations=args.responses,
        oversampling=1.0,
        temperature=1.0,
        max_new_tokens=args.new_tokens,
        learning_rate=1e-5,
        precision=args.precision,
    )
    with tempfile.TemporaryDirectory() as spare:
        path = fine_tuned(args.policy or Path(spare), args)
        place = prepare(recipe, args.device)
        scorer = reward_model(path, args, place)
        encoder = Encoder(load_policy(path, place)[1])
        turns = turns_of(encoder, 20 + recipe.steps * args.prompts)
        say(
            f"{args.prompts} prompts of {statistics.mean(len(a.ids) for a in turns):.0f} "
            f"tokens, {args.responses} answers each; {place.device}, {args.precision}, "
            f"{torch.get_num_threads()} thread(s)"
        )
        ratios = []
        for _ in range(args.rounds):  # by turns, since the machine's speed may drift
            mine = told("ours", *ours(path, args, recipe, place, scorer, turns))
            peers: list[float] = []
            for batch in args.peer_batch:
                done = theirs(path, args, recipe, place, scorer, turns, batch)
                peers.append(told(f"TRL script, {batch} answers at a time", *done))
            ratios.append(min(peers) / mine)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    say(f"best of theirs / ours {statistics.mean(ratios):.2f} ({shown}; goal 1.5)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
