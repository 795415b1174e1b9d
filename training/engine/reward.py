"""Train the consistency reward model (RM): ``python -m training.engine.reward RUN_DIR``.

The RM says whether a sampled response says the same as the label response, by the same
logic, steps in the same order. It is the policy's backbone with two outputs, trained
with cross-entropy on 0/1 verdicts (section 3.3 of the paper). ``scoring`` explains how a
pair becomes a prompt and where the outputs are read.

Loss of a step, with o the log-odds of "consistent" at a read:

    mean over units with a known label of  CE(o, label)
    + pair_weight × mean over pairs of     CE(min over the pair's units of o, verdict)
    + pairwise_weight × mean over rivals of  −log σ(min o of the consistent answer
                                                    − min o of the inconsistent one)

The second term teaches the score itself, and lets a judgment count whose labeler did not
say which units differ: one of them must. With one final label per pair (the paper's)
both terms are the same and only the second is used. The third, off by default, is that
of Bradley and Terry (1952; Ouyang et al. 2022, equation 1): *rivals* are a consistent and
an inconsistent answer beside the same label in one step, so only their order counts.

Departures from the paper, because its form learned shortcuts in small trials
(``docs/reward-model.md``): labels per unit instead of one, laid out unit by unit, and
60 % of the pairs derived from written samples (other wordings, balanced quads, one or
several errors put in) beside 40 % judged answers. All are recipe settings.

With ``judges`` "preference" it is another model that is trained: ``ranking``.

Input ``policy`` is the backbone (an SFT checkpoint). Data: ``train`` and ``held_out``
samples, ``judgments``. The RM is tested on judged pairs of the split "held-out" and on
pairs derived from held-out samples, never on what it was trained on.

The means are over the whole step, whatever part of it is computed at once: several
processes, and parts of a step that ran out of memory, learn what one pass learns. Rivals
stay in one part.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from actions.grammar import FormatError
from training.engine.conversations import Sample, lengths_summary, read_samples
from training.engine.derived import UNKNOWN, Example, Source, example
from training.engine.memory import Parts, summed
from training.engine.models import Place, fit_vocabulary, load_backbone, prepare
from training.engine.optimizing import (
    load_optimizer,
    muon_and_adamw,
    save_optimizer,
    trapezoid,
)
from training.engine.processes import (
    any_process,
    divided,
    over_all,
    process_count,
    process_rank,
)
from training.engine.ranking import train_preference_model
from training.engine.recipes import RewardRecipe
from training.engine.rundir import (
    Ending,
    RunDirectory,
    RunError,
    read_manifest,
    read_rows,
    run_program,
    step_random,
)
from training.engine.scoring import (
    Labels,
    Layout,
    MarkReader,
    Packer,
    Pair,
    RewardModel,
    RewardSettings,
    collate,
    save_reward_model,
    score_of,
)
from training.engine.speed import Work, matrix_rate
from training.engine.verdicts import (
    Verdict,
    auc,
    best_temperature,
    best_threshold,
    calibration_error,
    probability,
    shares,
)

CHUNK_TOKENS = 8192  # positions computed at once: less padding, bounded memory
TELL_EVERY = 10  # steps between metric events


# Loss


class PairLoss(nn.Module):
    """The loss of one step, in the form that ``Trainer`` calls."""

    def __init__(
        self,
        reader: MarkReader,
        pair_weight: float,
        by_unit: bool,
        pairwise_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.pair_weight = pair_weight
        self.pairwise_weight = pairwise_weight
        self.by_unit = by_unit
        self.parts: dict[str, Tensor] = {}  # summed until cleared, for the metrics

    def forward(
        self,
        chunks: Sequence[Mapping[str, Tensor]],
        pair_of_read: Tensor,
        targets: Tensor,
        verdicts: Tensor,
        rivals: Tensor,
        counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of a part of a step; those of the parts add up to the step's.

        ``chunks`` are padded prompts (``Batch`` as mappings); over all chunks there are
        R reads of B pairs. ``pair_of_read`` (R,) numbers the pair, ``targets`` (R,) is
        1, 0 or ``UNKNOWN``, ``verdicts`` (B,) is 1 or 0, ``rivals`` (P, 2) numbers the
        consistent and the inconsistent pair of each two that share a label. ``counts``
        are the known units, pairs and rivals of the whole step; without them this is
        the whole.
        """
        logits = torch.cat([self.reader(**chunk) for chunk in chunks])
        odds = logits[:, 1] - logits[:, 0]
        worst = torch.full(verdicts.shape, math.inf, device=odds.device).scatter_reduce(
            0, pair_of_read, odds, "amin"
        )
        if counts is None:
            counts = counted(targets, verdicts, rivals)
        # All units of a step may be unknown: the sum over none, not its mean, is zero.
        units, pairs, rivalries = counts.clamp(min=1e-9).unbind()
        pair = functional.binary_cross_entropy_with_logits(
            worst, verdicts.float(), reduction="sum"
        )
        loss = pair / pairs
        told: dict[str, Tensor] = {}
        if self.by_unit:
            unit = functional.cross_entropy(
                logits, targets, ignore_index=UNKNOWN, reduction="sum"
            )
            told = {"loss/unit": unit / units, "loss/pair": loss}
            loss = unit / units + self.pair_weight * loss
        if self.pairwise_weight:
            good, bad = worst[rivals].unbind(1)
            pairwise = functional.softplus(bad - good).sum() / rivalries
            told["loss/pairwise"] = pairwise
            loss = loss + self.pairwise_weight * pairwise
        for name, value in {"loss": loss, **told}.items():
            self.parts[name] = self.parts.get(name, loss.new_zeros(())) + value.detach()
        return {"loss": loss}


def counted(targets: Tensor, verdicts: Tensor, rivals: Tensor) -> Tensor:
    """Return how many known units, pairs and rivals there are, (3,)."""
    known = int((targets != UNKNOWN).sum())
    return torch.tensor(
        [known, len(verdicts), len(rivals)], dtype=torch.float32, device=targets.device
    )


def step_inputs(
    examples: Sequence[Example], packer: Packer, pad: int
) -> dict[str, object]:
    """Return the arguments of ``PairLoss`` for the examples of one step."""
    packed = [packer.pack(item.pair, item.units) for item in examples]
    order = sorted(range(len(packed)), key=lambda i: len(packed[i].ids))
    chunks: list[list[int]] = []
    for i in order:
        size = len(packed[i].ids) * (len(chunks[-1]) + 1) if chunks else 0
        if chunks and size <= CHUNK_TOKENS and len(chunks[-1]) < len(packed) / 2:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    targets: list[int] = []
    for i in order:
        item = examples[i]
        whole = (1 if item.consistent else 0,)
        targets += item.targets if packer.settings.labels == "unit" else whole
    return {
        "chunks": [vars(collate([packed[i] for i in c], pad)) for c in chunks],
        "pair_of_read": torch.tensor(
            [place for place, i in enumerate(order) for _ in packed[i].reads]
        ),
        "targets": torch.tensor(targets),
        "verdicts": torch.tensor([int(examples[i].consistent) for i in order]),
        "rivals": rivals([examples[i] for i in order]),
    }


def rivals(examples: Sequence[Example]) -> Tensor:
    """Return (P, 2): every consistent and inconsistent answer to the same label."""
    found = [
        (good, bad)
        for good, one in enumerate(examples)
        for bad, other in enumerate(examples)
        if one.consistent
        and not other.consistent
        and one.pair.label == other.pair.label
    ]
    return torch.tensor(found, dtype=torch.long).view(-1, 2)


def clusters(examples: Sequence[Example], by_label: bool) -> list[list[Example]]:
    """Return the examples that must stay in one part: with rivals those of a label."""
    found: dict[object, list[Example]] = {}
    for number, item in enumerate(examples):
        found.setdefault(item.pair.label if by_label else number, []).append(item)
    return list(found.values())


def dealt(found: Sequence[list[Example]], hands: int) -> list[list[list[Example]]]:
    """Return the clusters dealt to so many hands, about as much text to each."""

    def size(cluster: Sequence[Example]) -> int:
        return sum(len(i.pair.label) + len(i.pair.sampled) for i in cluster)

    given: list[list[list[Example]]] = [[] for _ in range(hands)]
    held = [0] * hands
    for cluster in sorted(found, key=size, reverse=True):
        least = held.index(min(held))
        given[least].append(cluster)
        held[least] += size(cluster)
    return given


def pieces_of(found: Sequence[list[Example]], size: int) -> list[list[Example]]:
    """Return the clusters in pieces of at most ``size`` examples, or of one cluster."""
    pieces: list[list[Example]] = []
    for cluster in found:
        if pieces and len(pieces[-1]) + len(cluster) <= size:
            pieces[-1] += cluster
        else:
            pieces.append(list(cluster))
    return pieces


# Data


@dataclass(frozen=True)
class Judged:
    """What the judgments gave: examples to train on and to test on, and the rest."""

    train: list[Example]
    held_out: list[Example]
    ruled_out: list[tuple[bool, bool]]  # (held out, consistent) of ill-formed samples
    counts: dict[str, int]


def read_judgments(
    path: Path, histories: Mapping[tuple[str, int], str] | None = None
) -> Judged:
    """Read ``judgments.jsonl``; raise ``RunError`` naming a line that is wrong.

    ``histories`` has what stands before the responses, by sample and turn.

    A sampled response that is not well formed is never learned from (it is not
    consistent by rule), but it counts in the held-out figures. A pair whose label is not
    well formed is left out and counted: there is nothing to compare with.
    """
    train: list[Example] = []
    held_out: list[Example] = []
    ruled_out: list[tuple[bool, bool]] = []
    counts: Counter[str] = Counter()
    for number, row in enumerate(read_rows(path), start=1):
        try:
            label, sampled = str(row["label"]), str(row["sampled"])
            place = (str(row.get("sample")), int(str(row.get("turn") or 0)))
            history = (histories or {}).get(place, "")
            pair = Pair(label, sampled, str(row.get("input_kind", "user")), history)
            consistent = bool(row["consistent"])
            held = row.get("split") == "held-out"
            source = str(row.get("source", "people"))
            differs = cast(list[str], row.get("differs") or [])
            made = example(pair, consistent, differs, source, _kinds_of(differs))
        except FormatError:
            counts["label unreadable"] += 1
            continue
        except (KeyError, TypeError) as error:
            where = f"{path.name}, line {number}"
            raise RunError(where, "a judged pair", f"{error}") from error
        split = "held-out" if held else "train"
        counts[f"{source}/{split}/{'1' if consistent else '0'}"] += 1
        if made is None:
            ruled_out.append((held, consistent))
        else:
            if not consistent and set(made.targets) == {UNKNOWN}:
                counts["units unknown"] += 1
            (held_out if held else train).append(made)
    return Judged(train, held_out, ruled_out, dict(counts))


def _kinds_of(differs: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of the units named by ``differs``."""
    names = {"plan": "plan step", "result": "use of result"}
    kinds: list[str] = []
    for key in differs:
        first, *rest = key.split("/")
        if first == "action":
            first = "parameter" if "parameters" in rest else "action name"
        kinds.append(names.get(first, first))
    return tuple(dict.fromkeys(kinds))


class Steps(Dataset[dict[str, object]]):
    """The examples of every step from ``first`` on; a step depends on its number only.

    Processes take turns at the items, one for each of them and step, and each item
    holds what is the share of the process that takes it.
    """

    def __init__(
        self,
        recipe: RewardRecipe,
        judged: Sequence[Example],
        derived: Source,
        packer: Packer,
        pad: int,
        first: int,
    ) -> None:
        self.recipe = recipe
        self.consistent = [item for item in judged if item.consistent]
        self.inconsistent = [item for item in judged if not item.consistent]
        self.by_label: dict[str, list[Example]] = {}
        for item in self.consistent:
            self.by_label.setdefault(item.pair.label, []).append(item)
        self.derived = derived
        self.packer, self.pad, self.first = packer, pad, first
        self.used: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return (self.recipe.steps - self.first) * process_count()

    def __getitem__(self, index: int) -> dict[str, object]:
        """Return this process's ``clusters`` of a step and the ``counts`` of the whole.

        Of several processes the mean of the gradients is taken, not the sum, so the
        counts are divided by their number.
        """
        processes = process_count()
        examples = self.examples(self.first + index // processes)
        rivalry = bool(self.recipe.pairwise_weight)
        counts = counted(
            torch.tensor([target for item in examples for target in item.targets]),
            torch.empty(len(examples)),
            rivals(examples) if rivalry else torch.empty(0),
        )
        share = dealt(clusters(examples, rivalry), processes)[process_rank()]
        if not share:  # it has to take part, and to push nothing
            return {
                "clusters": [examples[:1]],
                "counts": torch.full_like(counts, math.inf),
            }
        return {"clusters": share, "counts": counts / processes}

    def _with_rivals(
        self, chosen: Sequence[Example], rng: random.Random
    ) -> list[Example]:
        """Return the judged pairs, each consistent one replaced by one to the label of
        the inconsistent one that follows it, where there is one.
        """
        found = list(chosen)
        for i, (one, other) in enumerate(itertools.pairwise(chosen)):
            partners = self.by_label.get(other.pair.label, [])
            if one.consistent and not other.consistent and partners:
                found[i] = rng.choice(partners)
        return found

    def examples(self, step: int) -> list[Example]:
        """Return the pairs of a step: judged ones, half of each verdict, and derived."""
        rng = step_random(self.recipe.seed, "reward", step)
        share = self.recipe.judged_share if self.derived.can_draw else 1.0
        pools = [pool for pool in (self.consistent, self.inconsistent) if pool]
        number = round(share * self.recipe.pairs_per_step) if pools else 0
        chosen = [rng.choice(pools[i % len(pools)]) for i in range(number)]
        if self.recipe.pairwise_weight:
            chosen = self._with_rivals(chosen, rng)
        chosen += self.derived.draw(rng, self.recipe.pairs_per_step - number)
        kept: list[Example] = []
        for item in chosen:
            length = len(self.packer.pack(item.pair, item.units).ids)
            if length > self.recipe.max_tokens:
                self.left_out[item.source] += 1
            else:
                kept.append(item)
                self.used[item.source] += 1
                self.lengths.append(length)
        if not kept:
            raise RunError("recipe: `max_tokens`", "room for some pair", "none fits")
        return kept


# Figures


@dataclass(frozen=True)
class Tests:
    """Held-out pairs. ``quads`` has four examples each, by "seen" and "unseen" order."""

    judged: list[Example]
    ruled_out: int  # bad answers that are caught by rule
    quads: dict[str, list[tuple[Example, ...]]]
    changes: list[Example]
    references: list[Example]


def held_out_tests(judged: Judged, samples: Sequence[Sample], turns: int) -> Tests:
    """Derive the tests from held-out samples; the same ones in every run."""
    derived = Source(samples)
    return Tests(
        judged=[item for item in judged.held_out if item.source == "people"],
        ruled_out=sum(held and not good for held, good in judged.ruled_out),
        quads={
            order: derived.quads(step_random(0, "quads", order), turns, order)
            for order in ("seen", "unseen")
        },
        changes=derived.changes(step_random(0, "changes"), turns),
        references=derived.rewordings(step_random(0, "references"), turns),
    )


def figures(
    model: RewardModel, tests: Tests, threshold: float, calibrate: bool
) -> tuple[dict[str, object], RewardSettings]:
    """Return the held-out figures, and the settings they hold at.

    With ``threshold`` 0 it is picked on one half of the judged pairs (cut by label, so
    that no label is in both), as is the temperature with ``calibrate``, and the judged
    figures come from the other half. ``model`` scores with a temperature of 1.
    """
    temperature = 1.0

    def verdicts(examples: Sequence[Example]) -> list[Verdict]:
        pairs = [item.pair for item in examples]
        scores = divided(pairs, model.score, astuple, score_of)
        return [
            Verdict(probability(score.logit / temperature), item.consistent)
            for score, item in zip(scores, examples, strict=True)
        ]

    values: dict[str, object] = {}
    judged = verdicts(tests.judged)
    half = [zlib.crc32(item.pair.label.encode()) % 2 for item in tests.judged]
    picking = [v for v, h in zip(judged, half, strict=True) if h == 0]
    fitted = best_temperature(picking) if calibrate else None
    if fitted is not None:
        # The expected calibration error before, on the pairs of the figures below.
        raw = [v for v, h in zip(judged, half, strict=True) if h == 1]
        values["judged/ece/raw"] = calibration_error(raw)
        temperature = fitted
        judged = verdicts(tests.judged)
        picking = [v for v, h in zip(judged, half, strict=True) if h == 0]
    picked = None if threshold else best_threshold(picking)
    reported = list(zip(judged, tests.judged, strict=True))
    if picked is not None or fitted is not None:
        reported = [r for r, h in zip(reported, half, strict=True) if h == 1]
    threshold = threshold or (0.5 if picked is None else picked)
    values["threshold/picked_on"] = len(judged) - len(reported)
    values["threshold"] = threshold
    values["temperature"] = temperature
    by_rule = [Verdict(0.0, False)] * tests.ruled_out
    for name, value in shares([v for v, _ in reported] + by_rule, threshold).items():
        values[f"judged/{name}"] = value
    values["judged/count"] = len(reported) + tests.ruled_out
    values["judged/by_rule"] = tests.ruled_out
    values["judged/auc"] = auc([v for v, _ in reported])
    values["judged/ece"] = calibration_error([v for v, _ in reported])
    for kind in sorted({kind for _, item in reported for kind in item.kinds}):
        of_kind = [v for v, item in reported if kind in item.kinds]
        values[f"judged/recall/{kind}"] = shares(of_kind, threshold)["bad_caught"]
        values[f"judged/recall/{kind}/count"] = len(of_kind)

    for order, quads in tests.quads.items():
        found = verdicts([item for quad in quads for item in quad])
        right = [(v.probability >= threshold) == v.consistent for v in found]
        whole = [all(right[i : i + 4]) for i in range(0, len(right), 4)]
        values[f"quads/{order}/accuracy"] = sum(right) / len(right) if right else None
        values[f"quads/{order}/whole"] = sum(whole) / len(whole) if whole else None
        values[f"quads/{order}/count"] = len(whole)
    accepted = shares(verdicts(tests.references), threshold)["good_accepted"]
    values["derived/references_accepted"] = accepted
    changes = list(zip(verdicts(tests.changes), tests.changes, strict=True))
    values["derived/changes_caught"] = shares([v for v, _ in changes], threshold)[
        "bad_caught"
    ]
    for kind in sorted({kind for _, item in changes for kind in item.kinds}):
        of_kind = [v for v, item in changes if kind in item.kinds]
        values[f"derived/recall/{kind}"] = shares(of_kind, threshold)["bad_caught"]
    chosen = replace(model.settings, threshold=threshold, temperature=temperature)
    return values, chosen


# The program


def main(run: RunDirectory, recipe: RewardRecipe) -> Ending:
    """Train on ``run``; the last checkpoint's manifest has the held-out figures."""
    if recipe.judges == "preference":
        return train_preference_model(run, recipe)
    started = time.monotonic()
    place = prepare(recipe)

    # Data: judgments, and whatever can be derived from the written samples.
    samples = read_samples(run.data["train"]) if "train" in run.data else []
    held_out = read_samples(run.data["held_out"]) if "held_out" in run.data else []
    judged = Judged([], [], [], {})
    if "judgments" in run.data:
        histories = {
            (sample.id, number): turn.history
            for sample in (*samples, *held_out)
            for number, turn in enumerate(sample.turns)
        }
        judged = read_judgments(run.data["judgments"], histories)
    trained_on = judged.train if recipe.judgments else []
    derived = Source(
        samples,
        references=recipe.references,
        quads=recipe.quads,
        changes=recipe.changes,
        several_changes=recipe.several_changes,
    )
    if not trained_on and not derived.can_draw:
        raise RunError("run.json: `data`", "judgments or train samples", "no pair")
    if not trained_on:
        run.log("no judged pair to train on: derived pairs only", "warning")
    tests = held_out_tests(judged, held_out, recipe.evaluate_turns)

    # Model: the policy's backbone with two outputs in place of the vocabulary.
    settings = RewardSettings(
        cast(Layout, recipe.layout),
        cast(Labels, recipe.labels),
        recipe.differences,
        recipe.history_tokens,
    )
    classifier, tokenizer = load_backbone(
        run.resume or run.need_input("policy"),
        recipe,
        place,
        scratch=recipe.backbone == "scratch" and run.resume is None,
    )
    packer = Packer(tokenizer, settings)
    fit_vocabulary(classifier, tokenizer)
    loss = PairLoss(
        MarkReader(classifier),
        recipe.pair_weight,
        recipe.labels == "unit",
        recipe.pairwise_weight,
    )
    optimizer = muon_and_adamw(
        loss.named_parameters(),
        muon_rate=recipe.muon_learning_rate,
        adamw_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        muon=recipe.optimizer == "muon",
        eight_bit=recipe.adamw_8bit,
    )
    first = 0
    resumed = run.manifest("resume")
    if run.resume and resumed:
        first = resumed.step
        load_optimizer(optimizer, run.resume / "trainer")
    pad = cast(int, tokenizer.pad_token_id)
    steps = Steps(recipe, trained_on, derived, packer, pad, first)
    size = sum(parameter.numel() for parameter in classifier.parameters())
    run.log(
        f"{size:,} parameters; {len(trained_on)} judged pairs "
        f"and {len(samples)} samples to derive pairs from"
    )

    best: dict[str, object] = {}  # the values of the test with the best AUC
    if recipe.early_stop and run.resume and run.resume.parent == run.checkpoints:
        for folder in sorted(run.checkpoints.glob("step-*")):
            earlier = read_manifest(folder)
            if earlier.step <= first and _auc(earlier.metrics) > _auc(best):
                best = {**earlier.metrics, "step": earlier.step}

    def test(step: int) -> tuple[dict[str, object], RewardSettings]:
        model = RewardModel(classifier, tokenizer, settings)
        values, chosen = figures(model, tests, recipe.threshold, recipe.calibrate)
        loss.train()
        run.metrics(step, {f"held_out/{name}": v for name, v in values.items()})
        if recipe.early_stop and _auc(values) > _auc(best):
            best.clear()
            best.update({**values, "step": step})
            write_checkpoint(step, values, chosen)
        return values, chosen

    def worsened(step: int) -> bool:
        """Whether the best test is too long ago."""
        return bool(best) and step - cast(int, best["step"]) >= (
            recipe.early_stop * recipe.evaluate_every
        )

    def save(step: int, final: bool = False) -> dict[str, object]:
        values, chosen = test(step)
        return write_checkpoint(step, values, chosen, final)

    def write_checkpoint(
        step: int,
        values: dict[str, object],
        chosen: RewardSettings,
        final: bool = False,
    ) -> dict[str, object]:
        told = {**values, "parameters": size}

        def write(folder: Path) -> None:
            save_reward_model(folder, classifier, tokenizer, chosen)
            (folder / "trainer").mkdir()
            save_optimizer(optimizer, folder / "trainer")

        run.save_checkpoint(
            step, write, kind="reward", recipe=recipe, metrics=told, final=final
        )
        return told

    # Loop: the Trainer's, told nothing but the inputs of every step.
    watch = Watch(run, recipe, first, loss, steps, test, save, worsened, place)
    trainer = PartsTrainer(
        parts=Parts(recipe.micro_batch or recipe.pairs_per_step, run.log, "pairs"),
        model=loss,
        args=TrainingArguments(
            output_dir=str(run.outputs),
            max_steps=recipe.steps - first,
            per_device_train_batch_size=1,  # an item of the data set is a step's share
            ddp_find_unused_parameters=False,
            train_sampling_strategy="sequential",
            max_grad_norm=recipe.clip_norm,
            bf16=place.half,
            use_cpu=place.device.type == "cpu",
            seed=recipe.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        ),
        data_collator=lambda items: items[0],
        train_dataset=steps,
        optimizers=(
            optimizer,
            trapezoid(
                optimizer,
                first=first,
                steps=recipe.steps,
                warmup=recipe.warmup_steps,
                decay_share=recipe.decay_share,
            ),
        ),
        callbacks=[watch],
    )
    if first < recipe.steps:
        trainer.train()
    done = watch.step >= recipe.steps or watch.worsened
    values = save(watch.step, final=done and not best)
    if done and best:  # there already: announced again, as the one to take
        values = write_checkpoint(cast(int, best["step"]), best, settings, final=True)
        run.log(f"the checkpoint of the best held-out AUC: step {best['step']}")
    report(run, judged, steps)
    told = {
        **values,
        "steps": watch.step,
        "seconds": round(time.monotonic() - started, 1),
        "judged": judged.counts,
        "trained_on": dict(steps.used),
        "left_out": dict(steps.left_out),
        "tokens": lengths_summary(steps.lengths),
    }
    return Ending("finished" if done else "stopped", told)


class PartsTrainer(Trainer):
    """Computes a step in parts, in smaller ones when it runs out of memory."""

    def __init__(self, *, parts: Parts, **settings: Any) -> None:
        super().__init__(**settings)
        self.parts = parts

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return this process's loss of the step."""
        loss = self.accelerator.unwrap_model(model)
        steps = self.train_dataset
        assert isinstance(loss, PairLoss)
        assert isinstance(steps, Steps)

        def learn(examples: list[Example]) -> Tensor:
            given = step_inputs(examples, steps.packer, steps.pad)
            given["counts"] = inputs["counts"]
            step = super(PartsTrainer, self).training_step
            return step(model, given, num_items_in_batch)

        def attempt(size: int) -> Tensor:
            loss.parts.clear()
            apart = functools.partial(self.accelerator.no_sync, model)
            return summed(pieces_of(inputs["clusters"], size), learn, apart)

        return self.parts.run(attempt, model.zero_grad)


def _auc(values: Mapping[str, object]) -> float:
    value = values.get("judged/auc")
    return value if isinstance(value, float) else -1.0


class Watch(TrainerCallback):
    """After every step: say where the run is, test, save, and hear a wish to stop."""

    def __init__(
        self,
        run: RunDirectory,
        recipe: RewardRecipe,
        first: int,
        loss: PairLoss,
        steps: Steps,
        test: Callable[[int], object],
        save: Callable[[int], object],
        has_worsened: Callable[[int], bool],
        place: Place,
    ) -> None:
        self.run, self.recipe, self.first = run, recipe, first
        self.loss, self.steps = loss, steps
        self.test, self.save, self.has_worsened = test, save, has_worsened
        self.device = place.device
        self.worsened = False
        self.step = first
        self.work = Work.of(loss.reader.classifier, passes=3)
        self.peak = matrix_rate(place) * process_count()
        self.counted = 0  # of the lengths of pairs
        self.since = time.monotonic()

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        # Dropout hangs on the step too, so that a resumed run repeats it.
        step = self.first + state.global_step
        rng = step_random(self.recipe.seed, "torch", step)
        torch.manual_seed(rng.getrandbits(63))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        run, recipe = self.run, self.recipe
        step = self.step = self.first + state.global_step
        last = step >= recipe.steps
        if step % TELL_EVERY == 0 or last:
            told = {
                name: over_all(value.item(), self.device) / process_count()
                for name, value in self.loss.parts.items()
            }
            seconds = time.monotonic() - self.since
            self.since = time.monotonic()
            lengths = self.steps.lengths[self.counted :]  # of all processes
            self.counted += len(lengths)
            flops = self.work.flops
            self.work.add(lengths)
            told["seconds_per_step"] = seconds / TELL_EVERY
            told["tokens_per_second"] = sum(lengths) / seconds
            told["mfu"] = (self.work.flops - flops) / seconds / self.peak
            run.metrics(step, told)
            run.progress(step, recipe.steps)
        if any_process(run.stop_requested, self.device):
            control.should_training_stop = True
        elif not last and step % recipe.checkpoint_every == 0:
            self.save(step)
        elif not last and step % recipe.evaluate_every == 0:
            self.test(step)
        if recipe.early_stop and not last and self.has_worsened(step):
            run.log(f"step {step}: {recipe.early_stop} tests without a better AUC")
            self.worsened = control.should_training_stop = True


def report(run: RunDirectory, judged: Judged, steps: Steps) -> None:
    """Say in the log what was learned from and what was left out, derived or judged."""
    used = ", ".join(f"{name} {count}" for name, count in sorted(steps.used.items()))
    run.log(f"pairs learned from (with repeats): {used}")
    if judged.ruled_out:
        run.log(
            f"{len(judged.ruled_out)} judged responses are not well formed: "
            "not consistent by rule, not learned from"
        )
    if unreadable := judged.counts.get("label unreadable"):
        run.log(
            f"{unreadable} judged pairs are left out: their label response breaks the "
            "response grammar",
            "warning",
        )
    if steps.left_out:
        run.log(
            f"pairs longer than {steps.recipe.max_tokens} tokens were left out: "
            f"{dict(steps.left_out)}",
            "warning",
        )


if __name__ == "__main__":
    sys.exit(run_program("reward", RewardRecipe, main))
