"""How fast pairs are scored, beside transformers' own pipeline. Run:

    python -m benchmarks.score_pairs

The same classifier, the same pairs of mixed lengths, the same process: our scorer, and a
loop over ``transformers.pipeline("text-classification")`` that pads the texts of a batch,
in the order they come, as its documentation shows; and beside the loop a careful user writes:
tokenized once, sorted by length, padded in batches. The model reads one final label after
both responses (layout ``sequential``, the paper's), which is what a pipeline can do; texts
are made so that both read the very same tokens, and the scores must agree to 1e-4 in fp32.

On a GPU (not run where Concord is developed: none was at hand), a model of about 1 B:

    python -m benchmarks.score_pairs --device cuda --precision bf16 --width 2048 \\
        --layers 18 --heads 16 --pairs 4096 --batch-tokens 131072 --peer-batch 32 64
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
import warnings
from functools import partial

import torch
from transformers import AutoModelForSequenceClassification
from transformers.pipelines import pipeline
from transformers.utils import logging

from actions.demo import generate
from records.recipes import RewardRecipe
from training.engine.modeling.new_tokens import fit_vocabulary
from training.engine.modeling.policies import Place, build_small_model, prepare
from training.engine.modeling.throughput import Work, matrix_rate
from training.engine.modeling.tokenizer import train_tokenizer
from training.engine.reward_model.model import RewardModel
from training.engine.reward_model.packing import (
    LABEL,
    MATCH,
    SAMPLED,
    Packer,
    Pair,
    RewardSettings,
    units_of,
)

SETTINGS = RewardSettings("sequential", "final")
AGREE = 1e-4


def mixed_pairs(count: int, spread: float, seed: int) -> list[Pair]:
    """Return well-formed pairs whose lengths are spread as those of real responses are.

    Demo responses, their thinking made longer by sentences of others: the logarithm of
    the number of sentences is normal with standard deviation ``spread``.
    """
    rng = random.Random(seed)
    rows = list(generate(seed=seed, count=200))
    turns = [turn for row in rows for turn in row["turns"]]
    opened = [
        str(t["response"]) for t in turns if str(t["response"])[:9] == "<<think>>"
    ]
    sentences = [str(turn["input"]["text"]) for turn in turns]
    sentences = [s for s in sentences if "<<" not in s and s.strip()]

    def longer(text: str) -> str:
        number = int(rng.lognormvariate(1.6, spread))
        more = " ".join(rng.choice(sentences) for _ in range(min(number, 120)))
        return f"<<think>>{more}\n{text[9:]}"

    pairs = []
    while len(pairs) < count:
        label = rng.choice(opened)
        sampled = label if rng.random() < 0.5 else rng.choice(opened)
        pair = Pair(longer(label), longer(sampled))
        if units_of(pair) is not None:
            pairs.append(pair)
    return pairs


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def text_of(pair: Pair) -> str:
    return f"{LABEL}{pair.label}{SAMPLED}{pair.sampled}{MATCH}"


def build(args: argparse.Namespace, pairs: list[Pair], place: Place) -> RewardModel:
    texts = [side for pair in pairs for side in (pair.label, pair.sampled)]
    tokenizer = train_tokenizer(texts, 4096)
    packer = Packer(tokenizer, SETTINGS)
    small = build_small_model(
        tokenizer, width=args.width, layers=args.layers, heads=args.heads
    )
    small.config.num_labels = 2
    classifier = AutoModelForSequenceClassification.from_config(small.config)
    fit_vocabulary(classifier, tokenizer, len(tokenizer))
    classifier.config.id2label = {0: "different", 1: "consistent"}
    same = [packer.pack(p, units_of(p) or ()).ids for p in pairs[:50]]
    assert same == [tuple(tokenizer(text_of(p))["input_ids"]) for p in pairs[:50]]
    return RewardModel(
        classifier.to(place.device).eval(), tokenizer, SETTINGS, place.half
    )


def timed(deed, place: Place) -> tuple[float, object]:
    """Return the seconds a deed took, and what it gave.

    Seconds of this process's processors on a CPU, so that what else the machine does
    weighs little; of the clock on a GPU.
    """
    clock = time.process_time if place.device.type == "cpu" else time.perf_counter
    started = clock()
    found = deed()
    return clock() - started, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--device", default="", choices=("", "cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=0)
    parser.add_argument("--peer-batch", type=int, nargs="+", default=[32, 8, 1])
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    place = prepare(RewardRecipe(precision=args.precision), args.device)
    pairs = mixed_pairs(args.pairs, args.spread, seed=1)
    model = build(args, pairs, place)
    classifier = model.reader.classifier
    lengths = [len(model.tokenizer(text_of(p))["input_ids"]) for p in pairs]
    size = sum(p.numel() for p in classifier.parameters())
    say(
        f"{len(pairs)} pairs, {min(lengths)} to {max(lengths)} tokens, median "
        f"{statistics.median(lengths):.0f}, {sum(lengths)} in all; {size:,} parameters, "
        f"{place.device}, {args.precision}, {torch.get_num_threads()} thread(s)"
    )
    peer = pipeline(
        "text-classification",
        model=classifier,
        tokenizer=model.tokenizer,
        device=place.device,
        dtype=torch.bfloat16 if place.half else torch.float32,
    )
    texts = [text_of(pair) for pair in pairs]

    def score() -> list[float]:
        scores = model.score(pairs, batch_tokens=args.batch_tokens)
        return [each.probability for each in scores]

    def loop(batch: int) -> list[float]:
        with place.autocast():
            rows = peer(texts, batch_size=batch, top_k=None, padding=True)
        return [
            next(each["score"] for each in row if each["label"] == "consistent")
            for row in rows
        ]

    @torch.inference_mode()
    def sorted_loop(batch: int) -> list[float]:
        ids = [model.tokenizer(text)["input_ids"] for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = [0.0] * len(ids)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            rows = model.tokenizer.pad(
                {"input_ids": [ids[i] for i in chosen]},
                padding_side="right",
                return_tensors="pt",
            ).to(place.device)
            with place.autocast():
                logits = classifier(**rows).logits.float()
            for i, share in zip(chosen, logits.softmax(-1)[:, 1].tolist(), strict=True):
                found[i] = share
        return found

    model.score(pairs[:8])  # warm
    ours, rate, apart = math.inf, 0.0, 0.0
    theirs = dict.fromkeys(args.peer_batch, math.inf)
    by_length = dict.fromkeys(args.peer_batch, math.inf)
    for _ in range(args.times):  # by turns, since the machine's speed may drift
        seconds, scores = timed(score, place)
        ours = min(ours, seconds)
        if place.device.type == "cuda":
            rate = max(rate, matrix_rate(place))
        for batch in theirs:
            seconds, found = timed(partial(loop, batch), place)
            theirs[batch] = min(theirs[batch], seconds)
            gaps = (abs(a - b) for a, b in zip(scores, found, strict=True))
            apart = max(apart, *gaps)
            seconds, found = timed(partial(sorted_loop, batch), place)
            by_length[batch] = min(by_length[batch], seconds)
            gaps = (abs(a - b) for a, b in zip(scores, found, strict=True))
            apart = max(apart, *gaps)
    work = Work.of(classifier, passes=1)
    work.add(lengths)
    told = f"ours: {ours:.2f} s, {sum(lengths) / ours:,.0f} tokens/s"
    if place.device.type == "cuda":
        told += f", MFU {work.flops / ours / rate:.1%} of {rate / 1e12:,.0f} TFLOP/s"
    say(told)
    for batch, seconds in theirs.items():
        say(
            f"pipeline, batches of {batch}: {seconds:.2f} s, ratio {seconds / ours:.2f}"
        )
    for batch, seconds in by_length.items():
        say(
            f"sorted by length, batches of {batch}: {seconds:.2f} s, "
            f"ratio {seconds / ours:.2f}"
        )
    say(f"probabilities apart by at most {apart:.1e}")
    if not place.half and apart > AGREE:
        say(f"that is more than {AGREE}")
        return 1
    first = args.peer_batch[0]
    say(
        f"ratio {theirs[first] / ours:.2f} against padded batches of {first} (goal 2.5); "
        f"{min(theirs.values()) / ours:.2f} against the best of the pipeline's, "
        f"{min(by_length.values()) / ours:.2f} against the best sorted by length"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
