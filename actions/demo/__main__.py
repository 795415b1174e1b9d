"""Shows demo samples: ``python -m actions.demo --count 3 --seed 1``."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from actions.demo.generator import SPLITS, generate
from actions.demo.shapes import DIFFICULTIES, Sample
from actions.grammar import parse

_WORD = re.compile(r"\w+|[^\w\s]+")


def main(arguments: list[str] | None = None) -> int:
    """Write samples, their JSON lines or their statistics to the standard output."""
    parser = argparse.ArgumentParser(prog="python -m actions.demo", description=__doc__)
    parser.add_argument("--count", type=int, default=3, help="samples (default 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", choices=SPLITS, default="", help="default: training")
    parser.add_argument("--difficulty", choices=DIFFICULTIES, default="normal")
    parser.add_argument(
        "--habit",
        type=_share,
        default=0.0,
        help="share of writers who close with an offer nobody asked for (default 0)",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--jsonl", action="store_true", help="one JSON object a line")
    shown.add_argument("--stats", action="store_true", help="figures over the samples")
    options = parser.parse_args(arguments)
    samples = generate(
        seed=options.seed,
        count=options.count,
        split=options.split,
        difficulty=DIFFICULTIES[options.difficulty],
        habit=options.habit,
    )
    if options.stats:
        sys.stdout.writelines(_statistics(samples))
    elif options.jsonl:
        for sample in samples:
            sys.stdout.write(json.dumps(sample, ensure_ascii=False) + "\n")
    else:
        sys.stdout.writelines(map(_readable, samples))
    return 0


def _share(text: str) -> float:
    """Return a number from 0 to 1; argparse reports anything else."""
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, found {text}")
    return share


def _readable(sample: Sample) -> str:
    lines = [f"── {sample['id']} · {sample['scenario']} · {sample['situation']}"]
    for context in sample["contexts"]:
        lines.append(f"{context['scope']} thinking context: {context['title']}")
        lines += [f"  {context['background']}"] if context["background"] else []
        lines.append(f"  {context['guideline']}")
        lines += [
            f"  {json.dumps(action, ensure_ascii=False)}"
            for action in context["actions"]
        ]
    for number, turn in enumerate(sample["turns"], start=1):
        kind, text = turn["input"]["kind"], turn["input"]["text"]
        lines += [f"{number}. {kind}: {text}", _indent(turn["response"])]
        lines += [_indent(f"or: {reference}") for reference in turn["references"]]
    return "\n".join(lines) + "\n\n"


def _indent(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.split("\n"))


def _statistics(samples: Iterable[Sample]) -> Iterator[str]:
    words: Counter[str] = Counter()
    lengths: list[int] = []
    turns: list[int] = []
    situations: Counter[str] = Counter()
    first_plans: set[tuple[str, ...]] = set()
    with_plan = 0
    for sample in samples:
        texts = []
        plans = []
        for context in sample["contexts"]:
            if context["scope"] == "global":
                texts += [context["background"], context["guideline"]]
                texts += [json.dumps(action) for action in context["actions"]]
        for turn in sample["turns"]:
            texts += [turn["input"]["text"], turn["response"]]
            inside = turn["input"]["kind"] == "observation"
            plan = parse(turn["response"], inside_thinking=inside).plan
            plans += [plan.steps] if plan else []
        tokens = _WORD.findall(" ".join(texts))
        words.update(tokens)
        lengths.append(len(tokens))
        turns.append(len(sample["turns"]))
        situations[sample["situation"]] += 1
        with_plan += len(plans)
        first_plans.update(plans[:1])
    if not lengths:
        return
    lengths.sort()
    yield f"samples                {len(lengths)}\n"
    yield f"turns a sample         {sum(turns) / len(turns):.2f} "
    yield f"({min(turns)} to {max(turns)})\n"
    yield f"words a conversation   {sum(lengths) / len(lengths):.0f} "
    yield f"(95 %: {lengths[int(0.95 * len(lengths))]}, most: {lengths[-1]}), "
    yield "marks and action definitions as JSON counted\n"
    yield f"distinct words         {len(words)}\n"
    yield f"turns with a plan      {with_plan / sum(turns):.2f}\n"
    yield f"distinct first plans   {len(first_plans)}\n"
    for situation, count in situations.items():
        yield f"{situation:<22} {count}\n"


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    raise SystemExit(status)
