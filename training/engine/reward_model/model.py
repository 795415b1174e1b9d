"""Scoring pairs with a consistency reward model (RM), and how a pair becomes a prompt.

The RM is a language model whose vocabulary head is replaced by two outputs (section 3.3
of the paper). It reads one prompt packed from a label response and a sampled response:

* layout ``sequential`` (the paper's): the whole label, then the whole sample;
* layout ``interleaved``: unit by unit, each unit's label text beside its sampled text.
  With ``differences`` a unit whose texts are equal is written as ``<<same>>``, and after
  two texts that are not equal stand the words that only one of them has. That two
  sides name the same value is the one thing a small model takes long to see; said
  outright, it is free to learn which differences matter.

With ``history_tokens`` the end of the conversation so far stands ahead of the pair: what
was asked can tell which differences matter. Without, the two responses are compared alone.

The two outputs are read at ``<<match>>`` marks. With labels ``final`` (the paper's)
there is one mark at the very end; with labels ``unit`` every unit has one, and the score
of the pair is the minimum over its units: a pair is as consistent as its worst unit.

A mark is a special token of the RM's own tokenizer, and responses are encoded without
special tokens, so nothing that a policy writes can be taken for one. A sampled response that does not parse is not consistent by rule: there is
nothing to lay beside the label, and no model is asked.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from actions.format_check import check_text
from actions.grammar import parse
from actions.units import UnitPair, align_units
from records.finite import figures_must_be_finite, must_be_finite
from training.engine.modeling.loading import load_classifier, load_tokenizer
from training.engine.modeling.policies import Place, save_model
from training.engine.reward_model.metrics import log_odds

Layout = Literal["sequential", "interleaved"]
Labels = Literal["final", "unit"]

LABEL, SAMPLED, MATCH = "<<label>>", "<<sampled>>", "<<match>>"
SAME = "<<same>>"
HISTORY = "<<history>>"
ONLY_LABEL, ONLY_SAMPLED = "<<only label>>", "<<only sampled>>"
KINDS = (
    "thinking",
    "plan step",
    "action name",
    "parameter",
    "use of result",
    "answer",
)
REWARD_MARKS = (
    *(LABEL, SAMPLED, MATCH, SAME, ONLY_LABEL, ONLY_SAMPLED),
    *(f"<<{kind}>>" for kind in KINDS),
)
PAD = "<<pad>>"
WHOLE = "whole"  # the key of the one read of labels="final"
RULED_OUT = -20.0  # the logit of a sampled response that does not parse
SETTINGS_FILE = "reward.json"
BATCH_TOKENS = {False: 2048, True: 65536}  # by whether it is a GPU; a CPU has caches
STRETCH = (
    1.15  # the longest prompt of a batch over its shortest, if it has enough of them
)
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    """A label response, a sampled response, and the kind of input both answer.

    ``history`` is what stands before both; read only by models that want it.
    """

    label: str
    sampled: str
    input_kind: str = "user"
    history: str = field(default="", repr=False)


@dataclass(frozen=True)
class Score:
    """What the RM says of a pair.

    ``logit`` is the log-odds of "consistent" (the minimum over units with labels
    ``unit``), ``probability`` its sigmoid, ``units`` the log-odds by unit key.
    """

    logit: float
    probability: float
    units: dict[str, float]


def score_of(_: Pair, told: Sequence[Any]) -> Score:
    """Return the score that another process told as a tuple (``processes.divided``)."""
    logit, probability, units = told
    return Score(logit, probability, units)


@dataclass(frozen=True)
class RewardSettings:
    """How a checkpoint packs and reads; saved beside its weights."""

    layout: Layout
    labels: Labels
    differences: bool = True
    history_tokens: int = 0  # of what stands before both responses, ahead of the pair
    threshold: float = 0.5  # probability from which a pair counts as consistent
    temperature: float = (
        1.0  # by which log-odds are divided, so that they are calibrated
    )


@dataclass(frozen=True)
class Packed:
    """One prompt: token ids, positions of the marks read, and what each read judges."""

    ids: tuple[int, ...]
    reads: tuple[int, ...]
    keys: tuple[str, ...]


def units_of(pair: Pair) -> tuple[UnitPair, ...] | None:
    """Return the aligned units, or None when the sampled response is not well formed.

    Raises ``FormatError`` when the label does not parse: that is wrong data.
    """
    inside = pair.input_kind == "observation"
    label = parse(pair.label, inside_thinking=inside)
    if check_text(pair.sampled, inside, may_trail=True) is not None:
        return None
    return align_units(label, parse(pair.sampled, inside_thinking=inside))


class Packer:
    """Turns pairs into prompts for one tokenizer. Adds the marks the tokenizer lacks.

    After making one on a new tokenizer, the model needs rows for what was added
    (``fit_vocabulary``).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: RewardSettings
    ) -> None:
        if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
            # With pad = eos a classifier takes a closing eos for padding and reads one
            # token too early.
            tokenizer.add_special_tokens({"pad_token": PAD})
        marks = [*REWARD_MARKS]
        if settings.history_tokens:
            marks.append(HISTORY)
        tokenizer.add_tokens(marks, special_tokens=True)
        ids = cast(list[int], tokenizer.convert_tokens_to_ids(marks))
        self._mark = dict(zip(marks, ids, strict=True))
        self.settings = settings
        self._encode: Callable[[str], tuple[int, ...]] = functools.lru_cache(65536)(
            lambda text: tuple(
                tokenizer.encode(
                    text, add_special_tokens=False, split_special_tokens=True
                )
            )
        )

    def pack(self, pair: Pair, units: Sequence[UnitPair]) -> Packed:
        """Return the prompt of ``pair``, whose aligned units are ``units``."""
        ids: list[int] = []
        reads: list[int] = []
        keys: list[str] = []
        if self.settings.history_tokens:
            before = self._encode(pair.history)[-self.settings.history_tokens :]
            ids += [self._mark[HISTORY], *before]
        interleaved = self.settings.layout == "interleaved"
        by_unit = self.settings.labels == "unit"
        if not interleaved:
            ids += self._side(LABEL, pair.label) + self._side(SAMPLED, pair.sampled)
        for unit in units if by_unit or interleaved else ():
            ids.append(self._mark[f"<<{unit.kind}>>"])
            if unit.kind == "parameter":
                ids += self._encode(unit.key.split("/parameters/", 1)[1])
            if not interleaved:
                ids += self._side(SAMPLED, unit.sampled)
            elif self.settings.differences and unit.label == unit.sampled:
                ids.append(self._mark[SAME])
            else:
                ids += self._side(LABEL, unit.label) + self._side(SAMPLED, unit.sampled)
                if self.settings.differences:
                    ids += self._only(ONLY_LABEL, unit.label, unit.sampled)
                    ids += self._only(ONLY_SAMPLED, unit.sampled, unit.label)
            if by_unit:
                reads.append(len(ids))
                keys.append(unit.key)
                ids.append(self._mark[MATCH])
        if not by_unit:
            reads.append(len(ids))
            keys.append(WHOLE)
            ids.append(self._mark[MATCH])
        return Packed(tuple(ids), tuple(reads), tuple(keys))

    def _side(self, mark: str, text: str | None) -> list[int]:
        # A unit that one side lacks has nothing after its mark.
        return [self._mark[mark], *self._encode(text or "")]

    def _only(self, mark: str, text: str | None, other: str | None) -> list[int]:
        """Return the words of ``text`` that ``other`` has not, or not so often.

        Words, not tokens: 23 and 32 may be made of the same two tokens.
        """
        left = Counter(_WORD.findall(other or ""))
        words: list[str] = []
        for word in _WORD.findall(text or ""):
            if left[word]:
                left[word] -= 1
            else:
                words.append(word)
        return [self._mark[mark], *self._encode(" ".join(words))]


@dataclass(frozen=True)
class Batch:
    """Padded prompts. B prompts of at most L tokens with R reads in all."""

    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64
    rows: Tensor  # (R,) the prompt a read belongs to
    positions: Tensor  # (R,) where in it


def collate(
    prompts: Sequence[Packed], pad: int, side: Literal["left", "right"] = "right"
) -> Batch:
    """Pad ``prompts`` to one length."""
    length = max(len(prompt.ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), length), pad, dtype=torch.long)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    rows: list[int] = []
    positions: list[int] = []
    for row, prompt in enumerate(prompts):
        start = length - len(prompt.ids) if side == "left" else 0
        input_ids[row, start : start + len(prompt.ids)] = torch.tensor(prompt.ids)
        mask[row, start : start + len(prompt.ids)] = 1
        rows += [row] * len(prompt.reads)
        positions += [start + read for read in prompt.reads]
    return Batch(input_ids, mask, torch.tensor(rows), torch.tensor(positions))


class MarkReader(nn.Module):
    """A two-output sequence classifier read at given positions instead of at the end.

    Works for every classifier of transformers that scores each position with
    ``score``; the forward pass of the library pools the last token only.
    """

    def __init__(self, classifier: PreTrainedModel) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, positions: Tensor
    ) -> Tensor:
        """Return the logits at the reads, (R, 2) in float32.

        Padding on the right comes after all that is read, and a causal model looks back
        only: without a mask attention takes its fast path.
        """
        padding: dict[str, Tensor] = {}
        if not bool(attention_mask[:, 0].all()):
            # Explicit positions make it harmless for absolute encodings as well.
            place = (attention_mask.cumsum(-1) - 1).clamp(min=0)
            padding = {"attention_mask": attention_mask, "position_ids": place}
        hidden = self.classifier.base_model(
            input_ids=input_ids, use_cache=False, **padding
        ).last_hidden_state
        score = cast(nn.Module, self.classifier.score)
        return cast(Tensor, score(hidden[rows, positions])).float()


class RewardModel:
    """A trained RM, ready to score; with ``half`` its products are computed in bf16."""

    def __init__(
        self,
        classifier: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: RewardSettings,
        half: bool = False,
    ) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.half = half
        self.packer = Packer(tokenizer, settings)
        self.reader = MarkReader(classifier).eval()

    def score(
        self,
        pairs: Sequence[Pair],
        *,
        batch_tokens: int = 0,
        side: Literal["left", "right"] = "right",
    ) -> list[Score]:
        """Return the scores in the order of ``pairs``; equal pairs are scored once.

        Prompts are batched by length, at most ``batch_tokens`` positions a batch (0: what
        suits the device; one longer prompt makes a batch of its own: nothing is ever
        cut), and a batch that is large enough takes no prompt much longer than its
        shortest. Raises
        ``FormatError`` for a label that does not parse.
        """
        scores: dict[Pair, Score] = {}
        prompts: dict[Pair, Packed] = {}
        for pair in dict.fromkeys(pairs):
            units = units_of(pair)
            if units is None:
                scores[pair] = _score(RULED_OUT, {"format": RULED_OUT})
            else:
                prompts[pair] = self.packer.pack(pair, units)
        if prompts and not batch_tokens:
            batch_tokens = BATCH_TOKENS[next(self.reader.parameters()).is_cuda]
        logits: dict[Packed, list[float]] = {}
        by_length = sorted(
            dict.fromkeys(prompts.values()), key=lambda prompt: len(prompt.ids)
        )
        for chosen in _batches(by_length, batch_tokens):
            logits.update(zip(chosen, self.read(chosen, side), strict=True))
        for pair, prompt in prompts.items():
            by_unit = {
                key: value / self.settings.temperature
                for key, value in zip(prompt.keys, logits[prompt], strict=True)
            }
            scores[pair] = _score(min(by_unit.values()), by_unit)
        return [scores[pair] for pair in pairs]

    def read(
        self, prompts: Sequence[Packed], side: Literal["left", "right"] = "right"
    ) -> list[list[float]]:
        """Return the log-odds at each read of each prompt."""
        device = next(self.reader.parameters()).device
        batch = collate(prompts, cast(int, self.tokenizer.pad_token_id), side)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.half),
        ):
            logits = self.reader(
                batch.input_ids.to(device),
                batch.attention_mask.to(device),
                batch.rows.to(device),
                batch.positions.to(device),
            )
        read: list[float] = (logits[:, 1] - logits[:, 0]).tolist()
        odds = iter(
            [must_be_finite(each, "score of the reward model") for each in read]
        )
        return [[next(odds) for _ in prompt.reads] for prompt in prompts]

    def accepts(self, score: Score) -> bool:
        """Return whether the pair counts as consistent at the checkpoint's threshold."""
        return score.probability >= self.settings.threshold


class RewardEnsemble:
    """Several RMs as one, the strictest word counting (Coste et al. 2024, worst case).

    A policy that finds the fault of one has not found those of the others. Log-odds are
    taken relative to each member's threshold, so that the joint threshold is 0.5.
    """

    def __init__(self, members: Sequence[RewardModel]) -> None:
        self.members = tuple(members)
        self.settings = replace(members[0].settings, threshold=0.5, temperature=1.0)

    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Return the lowest score of each pair, and of each unit any member reads."""
        lowest: list[Score] = []
        scored = [
            (log_odds(member.settings.threshold), member.score(pairs))
            for member in self.members
        ]
        for number in range(len(pairs)):
            units: dict[str, float] = {}
            for above, scores in scored:
                for key, logit in scores[number].units.items():
                    units[key] = min(logit - above, units.get(key, math.inf))
            worst = min(scores[number].logit - above for above, scores in scored)
            lowest.append(_score(worst, units))
        return lowest

    def accepts(self, score: Score) -> bool:
        """Return whether every member takes the pair for consistent."""
        return score.probability >= self.settings.threshold


def load_reward_models(
    inputs: Mapping[str, Path], device: str | torch.device = "cpu", half: bool = False
) -> RewardModel | RewardEnsemble | None:
    """Load the RM of a run's inputs: ``reward``, joined by ``reward-2`` and so on."""
    names = [n for n in sorted(inputs) if n == "reward" or n.startswith("reward-")]
    members = [load_reward_model(inputs[name], device, half) for name in names]
    if len(members) > 1:
        return RewardEnsemble(members)
    return members[0] if members else None


def load_reward_model(
    path: Path, device: str | torch.device = "cpu", half: bool = False
) -> RewardModel:
    """Load the RM checkpoint at ``path`` in fp32.

    Raises ``FileNotFoundError`` when the folder is no RM checkpoint.
    """
    obj = json.loads((path / SETTINGS_FILE).read_text())
    figures_must_be_finite(obj, SETTINGS_FILE)
    settings = RewardSettings(
        layout=obj["layout"],
        labels=obj["labels"],
        differences=obj["differences"],
        history_tokens=int(obj.get("history_tokens", 0)),
        threshold=float(obj["threshold"]),
        temperature=float(obj.get("temperature", 1.0)),
    )
    classifier = load_classifier(path, Place(torch.device(device), half))
    return RewardModel(classifier, load_tokenizer(path), settings, half)


def save_reward_model(
    path: Path,
    classifier: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: RewardSettings,
) -> None:
    """Write the RM so that ``load_reward_model`` (and transformers) can read it."""
    save_model(classifier, path)
    tokenizer.save_pretrained(path)
    (path / SETTINGS_FILE).write_text(json.dumps(asdict(settings), indent=1) + "\n")


def _batches(by_length: Sequence[Packed], batch_tokens: int) -> list[list[Packed]]:
    """Cut prompts, shortest first, into batches of at most ``batch_tokens`` positions."""
    batches: list[list[Packed]] = []
    shortest = 0
    for prompt in by_length:
        length = len(prompt.ids)  # the longest so far
        size = (len(batches[-1]) + 1) * length if batches else 0
        padded = length > STRETCH * shortest and size > batch_tokens // 8
        if batches and size <= batch_tokens and not padded:
            batches[-1].append(prompt)
        else:
            batches.append([prompt])
            shortest = length
    return batches


def _score(logit: float, units: dict[str, float]) -> Score:
    probability = float(torch.sigmoid(torch.tensor(logit, dtype=torch.float64)))
    return Score(logit, probability, units)
