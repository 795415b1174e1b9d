"""The consistency reward model (RM): a trained one that scores pairs, and its files.

A language model whose vocabulary head is replaced by two outputs (section 3.3 of the
paper), read at the marks of a packed prompt (``packing``). With labels ``final`` (the
paper's) there is one read; with labels ``unit`` every unit has one, and the score of the
pair is the minimum over its units: a pair is as consistent as its worst unit.

A sampled response that does not parse is not consistent by rule: there is nothing to lay
beside the label, and the model does not read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from records.finite import figures_must_be_finite, must_be_finite
from training.engine.modeling.loading import load_classifier, load_tokenizer
from training.engine.modeling.policies import Place, save_model
from training.engine.reward_model.metrics import log_odds
from training.engine.reward_model.packing import (
    Packed,
    Packer,
    Pair,
    RewardSettings,
    collate,
    units_of,
)

RULED_OUT = -20.0  # the logit of a sampled response that does not parse
SETTINGS_FILE = "reward.json"
BATCH_TOKENS = {False: 2048, True: 65536}  # by whether it is a GPU; a CPU has caches
# The longest prompt of a batch over its shortest, if it has enough of them.
STRETCH = 1.15


@dataclass(frozen=True)
class Score:
    """What the RM says of a pair.

    ``logit`` is the log-odds of "consistent" (the minimum over units with labels
    ``unit``), ``probability`` its sigmoid, ``units`` the log-odds by unit key.
    """

    logit: float
    probability: float
    units: dict[str, float]


def score_of(_: Pair, values: Sequence[Any]) -> Score:
    """Return a score that crossed between processes as a tuple (``map_over_ranks``)."""
    logit, probability, units = values
    return Score(logit, probability, units)


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
        self.classifier = classifier
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
        batch = collate(prompts, self.packer.pad_id, side)
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
