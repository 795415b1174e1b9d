"""What a machine with a GPU makes of a model of about 1 B. Run there:

    python -m benchmarks.gpu

One JSON line for each figure, all from the product's own programs and functions:

* ``matrix rate``: FLOPs a second of one large bf16 product, the measure of the others;
* ``sft``: tokens a second and MFU of the ``sft`` program in bf16, without and with
  gradient checkpointing, with flash-attn packed, with SDPA padded and packed; the goal is
  45 % of the matrix rate, measured in the same process;
* ``reward_model.model``: tokens a second of the reward model's scorer over pairs of mixed lengths,
  and its share of the matrix rate; the goal is 40 %;
* ``rl step``: seconds of one step of the ``policy`` program, and where they go.

The model is Qwen3-shaped with random weights (1.0 B parameters: width 2048, 18 layers);
nothing is downloaded. Models are written to ``--folder`` (some 40 GB, removed at the end).
Attention is flash-attn where it is installed and SDPA otherwise. MFU counts neither
padding nor what gradient checkpointing computes again (``training.engine.modeling.throughput``).

``--tiny`` goes the same way on a CPU with a model of a few thousand parameters: proof that
everything runs, not a figure. A part that fails gets a line with its ``error``, the others
go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging

from actions.demo import generate
from benchmarks import score_pairs
from records.recipes import RewardRecipe
from training.engine.modeling.policies import Place, prepare
from training.engine.modeling.throughput import Work, matrix_rate
from training.engine.reward_model.model import RewardModel, save_reward_model

PARTS = ("matrix rate", "sft", "scoring", "rl step")
SFT_GOAL, SCORING_GOAL = 0.45, 0.40
FULL = {
    "width": 2048,
    "layers": 18,
    "heads": 16,
    "conversations": 600,
    "sft_steps": 40,
    "conversations_per_step": 16,
    "pairs": 4096,
    "batch_tokens": 131_072,
    "rl_steps": 3,
    "prompts": 16,
    "responses": 8,
    "new_tokens": 256,
}
TINY = {
    "width": 32,
    "layers": 1,
    "heads": 2,
    "conversations": 8,
    "sft_steps": 4,
    "conversations_per_step": 2,
    "pairs": 12,
    "batch_tokens": 4096,
    "rl_steps": 2,
    "prompts": 1,
    "responses": 2,
    "new_tokens": 8,
}


class PartError(Exception):
    """A program of the product did not finish; the text is what it said last."""


def tell(**figure: object) -> None:
    sys.stdout.write(json.dumps(figure) + "\n")
    sys.stdout.flush()


def run(folder: Path, program: str, recipe: dict, **more: dict) -> list[dict]:
    """Run a program of the engine on a new run directory; return its events."""
    (folder / "data").mkdir(parents=True)
    data = {}
    for name, rows in more.pop("data").items():
        path = folder / "data" / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data[name] = f"data/{name}.jsonl"
    told = {"program": program, "recipe": recipe, "data": data, **more}
    (folder / "run.json").write_text(json.dumps(told))
    ended = subprocess.run(
        [sys.executable, "-m", f"training.engine.{program}", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    if ended.returncode:
        said = events[-1].get("error") if events else ""
        raise PartError(f"{program}: {said or ended.stderr.strip()[-500:]}")
    return events


def metrics(events: list[dict], name: str) -> list[float]:
    """Return the values of a metric after the first ones, which warm up."""
    found = [e["values"] for e in events if e["event"] == "metrics"]
    values = [each[name] for each in found if each.get(name) is not None]
    return values[1:] or values


def fine_tune(folder: Path, sizes: dict, common: dict) -> Path:
    """Tell the speed of ``sft`` in its variants; return the policy it left, a plain directory."""
    rows = list(generate(seed=1, count=sizes["conversations"]))
    flash = (
        torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    )
    policy = folder / "policy"
    # Without flash attention a packed row costs what its whole length squared does.
    variants = [(True, False), (True, True)]
    if not flash:
        variants = [(False, False), (False, True), (True, False)]
    for packing, checkpointing in variants:
        recipe = {
            **common,
            "steps": sizes["sft_steps"],
            "conversations_per_step": sizes["conversations_per_step"],
            "packing": packing,
            "gradient_checkpointing": checkpointing,
            "muon_learning_rate": 0.0,
            "learning_rate": 1e-4,
            "width": sizes["width"],
            "layers": sizes["layers"],
            "evaluate_turns": 0,
        }
        events = run(folder / "sft", "sft", recipe, data={"train": rows})
        mfu = statistics.median(metrics(events, "mfu"))
        tell(
            figure="sft",
            gradient_checkpointing=checkpointing,
            attention="flash" if flash else "",
            packing=packing,
            precision=common["precision"],
            tokens_per_second=round(
                statistics.median(metrics(events, "tokens_per_second"))
            ),
            mfu=round(mfu, 4),
            goal=SFT_GOAL,
            reached=mfu >= SFT_GOAL,
            warnings=[e["message"] for e in events if e.get("level") == "warning"],
        )
        final = next(
            e["path"] for e in events if e["event"] == "checkpoint" and e["final"]
        )
        shutil.rmtree(policy, ignore_errors=True)
        (folder / "sft" / final).rename(policy)
        shutil.rmtree(folder / "sft")
    shutil.rmtree(policy / "trainer")
    (policy / "manifest.json").unlink()
    return policy


def score(model: RewardModel, pairs: list, sizes: dict, place: Place) -> None:
    """Tell the speed of the scorer, the best of three times over all pairs."""
    classifier = model.reader.classifier
    lengths = [
        len(model.tokenizer(score_pairs.text_of(pair))["input_ids"]) for pair in pairs
    ]
    model.score(pairs[:64], batch_tokens=sizes["batch_tokens"])  # warm
    seconds, rate = math.inf, 0.0
    for _ in range(3):
        took, _found = score_pairs.timed(
            lambda: model.score(pairs, batch_tokens=sizes["batch_tokens"]), place
        )
        seconds, rate = min(seconds, took), max(rate, matrix_rate(place))
    work = Work.of(classifier, passes=1)
    work.add(lengths)
    share = work.flops / seconds / rate
    tell(
        figure="scoring",
        parameters=sum(p.numel() for p in classifier.parameters()),
        pairs=len(pairs),
        tokens=sum(lengths),
        tokens_per_second=round(sum(lengths) / seconds),
        share_of_matrix_rate=round(share, 4),
        goal=SCORING_GOAL,
        reached=share >= SCORING_GOAL,
    )


def learn(folder: Path, policy: Path, rm: Path, sizes: dict, common: dict) -> None:
    """Tell where the seconds of a step of ``policy`` go; the first step warms up."""
    recipe = {
        **common,
        "steps": sizes["rl_steps"],
        "prompts_per_step": sizes["prompts"],
        "num_generations": sizes["responses"],
        "oversampling": 1.0,
        "max_new_tokens": sizes["new_tokens"],
        "learning_rate": 1e-6,
        "evaluate_every": 1_000_000,
        "held_out_samples": 1,
        "gate_override": "Random weights: only the speed counts.",
    }
    events = run(
        folder / "rl",
        "policy",
        recipe,
        inputs={"policy": str(policy), "reward": str(rm)},
        data={
            "train": list(generate(seed=2, count=sizes["conversations"])),
            "held_out": list(generate(seed=3, count=1, split="held-out")),
        },
    )
    parts = {
        name: statistics.median(metrics(events, f"seconds/{name}"))
        for name in ("generation", "scoring", "reference", "update")
    }
    whole = sum(parts.values())
    tokens = statistics.median(metrics(events, "response_tokens"))
    answers = sizes["prompts"] * sizes["responses"]
    tell(
        figure="rl step",
        prompts=sizes["prompts"],
        responses=sizes["responses"],
        response_tokens=round(tokens, 1),
        seconds=round(whole, 3),
        tokens_per_second=round(tokens * answers / whole),
        shares={name: round(value / whole, 3) for name, value in parts.items()},
    )
    shutil.rmtree(folder / "rl")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the same way on a CPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, help="where models are written")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    if not args.tiny and not torch.cuda.is_available():
        tell(figure="machine", error="torch finds no GPU here; --tiny runs on a CPU")
        return 1
    sizes = TINY if args.tiny else FULL
    common = {"precision": "bf16"}
    if args.tiny:  # the programs as well
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    place = prepare(RewardRecipe(**common))
    tell(
        figure="machine",
        device=torch.cuda.get_device_name() if not args.tiny else "cpu",
        torch=torch.__version__,
        tiny=args.tiny,
        **{name: sizes[name] for name in ("width", "layers", "heads")},
    )
    failed = 0

    def part(name: str, deed: Callable[[], object]) -> object:
        nonlocal failed
        if name not in args.parts:
            return None
        try:
            return deed()
        except (PartError, RuntimeError, ValueError) as error:
            failed = 1
            tell(figure=name, error=str(error))
            return None
        finally:
            if not args.tiny:
                torch.cuda.empty_cache()

    with tempfile.TemporaryDirectory(dir=args.folder) as spare:
        folder = Path(spare)
        part(
            "matrix rate",
            lambda: tell(
                figure="matrix rate",
                precision="bf16",
                tera_flops_per_second=round(matrix_rate(place) / 1e12, 3),
            ),
        )
        # The programs first, each a process of its own: none finds memory taken.
        policy = part("sft", lambda: fine_tune(folder, sizes, common))
        pairs = score_pairs.mixed_pairs(sizes["pairs"], 1.0, seed=1)
        shape = argparse.Namespace(**sizes)
        model = score_pairs.build(shape, pairs, place)
        part("scoring", lambda: score(model, pairs, sizes, place))
        if "rl step" in args.parts:
            rm = folder / "rm"
            save_reward_model(
                rm, model.reader.classifier.cpu(), model.tokenizer, model.settings
            )
            del model
            if policy is None:
                failed = 1
                tell(figure="rl step", error="needs the policy that sft leaves")
            else:
                part("rl step", lambda: learn(folder, policy, rm, sizes, common))
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
