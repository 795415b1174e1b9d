"""Which shortcuts give a model's own numbers: measured on a few dozen tokens.

Programs save work by laying texts out otherwise than one to a row: conversations packed
into a row (``sft_batches``), answers that share their prompt (``shared_prompt``), a cache of what
was read before (``decoding``). Models differ in what they make of masks, positions and
caches, and a configuration does not say it: recurrent layers see no mask, ALiBi takes no
positions, some caches go by another name. So each shortcut is computed once and compared
with the plain way: every text in a row of its own, nothing masked, nothing cached.

A shortcut is exact when no number differs by more than ``TOLERANCE``, or by more than a
hundredth of what a text in front changes at all: weights that hardly look back would
hide a mistake that shows once they are trained.

A window bites only on texts that are longer. Which numbers of the configuration may be
one decides only how long the measured texts are: longer than each that the run's own
texts reach beyond. Nothing here draws a random number or leaves a gradient.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

TOLERANCE = 1e-3  # in logits
SHORT = 13  # tokens; no common divisor with windows and blocks
USUAL = 4096  # tokens; taken for the longest text where nobody says how long it is
FARTHEST = 8192  # tokens; no measured text is longer by more than a few

# Parts of the names of lengths beyond which a model may compute otherwise.
_LENGTHS = ("window", "chunk", "original_max_position")


@dataclass(frozen=True)
class Finding:
    """What was measured of one shortcut: the largest difference in logits."""

    shortcut: str
    difference: float  # infinite where it could not be computed
    tolerance: float
    reach: int = 0  # the window that the measured texts were longer than

    @property
    def exact(self) -> bool:
        """Whether the shortcut may be taken."""
        return self.difference <= self.tolerance

    def tell(self, log: Callable[[str, str], None], instead: str) -> Finding:
        """Say what was measured, and what is done ``instead`` where it is not exact."""
        if self.exact:
            log(str(self), "info")
        else:
            log(f"{self}; {instead}", "warning")
        return self

    def __str__(self) -> str:
        found = "this model cannot compute it"
        if math.isfinite(self.difference):
            found = f"logits differ by {self.difference:.1g}"
        if self.exact:
            return f"{self.shortcut}: exact for this model ({found})"
        longer = f" on texts longer than {self.reach} tokens" if self.reach else ""
        return f"{self.shortcut}: not exact for this model{longer} ({found})"


Measure = Callable[["Bench", int], float]


def measured(
    model: nn.Module, shortcut: str, measure: Measure, longest: int
) -> Finding:
    """Return what ``measure`` finds of a shortcut; each model is measured once.

    ``measure`` takes a ``Bench`` and the window that its texts have to reach beyond (0:
    none) and returns the largest difference. ``longest`` is the length of the longest
    text the shortcut will compute.
    """
    plain = base_of(model)
    known = _KNOWN.setdefault(plain, _Known(tuple(sorted(_lengths_of(plain.config)))))
    limit = min(longest, FARTHEST)
    reach = max((length for length in known.lengths if length < limit), default=0)
    key = (shortcut, reach, plain.config.get_text_config()._attn_implementation)
    if key not in known.findings:
        with _quietly(plain) as half:
            bench = Bench(plain)
            tolerance = bench.tolerance(half)
            try:
                difference = measure(bench, reach)
            except Exception:  # whatever a model does with what it does not expect
                difference = math.inf
        if math.isnan(difference):
            difference = math.inf
        known.findings[key] = Finding(shortcut, difference, tolerance, reach)
    return known.findings[key]


class Bench:
    """A model, made-up texts for it, and what it computes the plain way."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        embeddings = cast(nn.Embedding, model.get_input_embeddings())
        self.device = embeddings.weight.device
        config = model.config.get_text_config()
        named = [getattr(config, f"{n}_token_id", None) for n in ("pad", "bos", "eos")]
        special = {i for n in named for i in (n if isinstance(n, list) else [n])}
        self.vocabulary = [
            i for i in range(embeddings.num_embeddings) if i not in special
        ]

    def text(self, number: int, length: int) -> list[int]:
        """Return ``length`` ids; texts of different numbers differ."""
        start, step = 31 * number + 7, 2 * number + 1
        size = len(self.vocabulary)
        return [self.vocabulary[(start + i * step) % size] for i in range(length)]

    def forward(self, **inputs: object) -> Any:
        """Run the model, without what a trainer put in front of its forward."""
        return type(self.model).forward(self.model, **inputs)

    def outputs(self, **inputs: object) -> Tensor:
        """Return the logits of a model with a vocabulary head, or hidden states."""
        if self.model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
            hidden: Tensor = self.model.base_model(**inputs).last_hidden_state
            return hidden.float()
        return cast(Tensor, self.forward(**inputs).logits).float()

    def alone(self, ids: list[int]) -> Tensor:
        """Return the outputs of one text in a row of its own, (len, V)."""
        row = torch.tensor([ids], device=self.device)
        return self.outputs(input_ids=row, use_cache=False)[0]

    def tolerance(self, half: bool = False) -> float:
        """Return the difference that still counts as rounding."""
        before, after = self.text(1, SHORT), self.text(2, SHORT)
        own = self.alone(after)
        influence = float((self.alone(before + after)[SHORT:] - own).abs().max())
        rounding = 1e-5 * max(1.0, float(own.abs().max()))
        if half:  # products of three digits
            return influence / 10
        return max(min(TOLERANCE, influence / 100), min(rounding, TOLERANCE))


def largest(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the largest difference between two tensors of a pair."""
    return max(float((one.float() - other.float()).abs().max()) for one, other in pairs)


def base_of(model: nn.Module) -> PreTrainedModel:
    """Return the model without the adapters around it."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(plain, PreTrainedModel)
    return plain


@dataclass
class _Known:
    """What is known of one model: its possible windows, and what was measured."""

    lengths: tuple[int, ...]
    findings: dict[tuple[str, int, str], Finding] = field(default_factory=dict)


_KNOWN: WeakKeyDictionary[PreTrainedModel, _Known] = WeakKeyDictionary()


def _lengths_of(config: object) -> set[int]:
    """Return the numbers of a configuration that may be windows."""
    found: set[int] = set()

    def read(settings: Mapping[str, object]) -> None:
        for name, value in settings.items():
            if isinstance(value, Mapping):
                read(value)
            elif (
                isinstance(value, int)
                and value > 0
                and any(part in name for part in _LENGTHS)
            ):
                found.add(int(value))

    read(cast(Any, config).get_text_config().to_dict())
    return found


@contextlib.contextmanager
def _quietly(model: PreTrainedModel) -> Iterator[bool]:
    """Measure without dropout, gradients or random numbers, and in full precision.

    Yields whether products are in bf16 all the same: flash attention takes nothing else.
    """
    training = model.training
    device = next(model.parameters()).device
    flash = "flash" in str(model.config.get_text_config()._attn_implementation)
    devices = [device] if device.type == "cuda" else []
    model.train(False)
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=flash),
        ):
            yield flash
    finally:
        model.train(training)


# Conversations packed into one row


def packing(model: nn.Module, longest: int = USUAL, total: int = USUAL) -> Finding:
    """Measure whether conversations packed into a row are what they are alone.

    ``longest`` is the longest conversation, ``total`` the longest row of several.
    """

    def measure(bench: Bench, reach: int) -> float:
        lengths = [max(SHORT, reach - 5), SHORT]
        if reach and longest > reach:
            lengths.append(reach + SHORT)
        texts = [bench.text(i + 1, length) for i, length in enumerate(lengths)]
        ids = [token for text in texts for token in text]
        places = [place for text in texts for place in range(len(text))]
        packed = bench.outputs(
            input_ids=torch.tensor([ids], device=bench.device),
            position_ids=torch.tensor([places], device=bench.device),
            use_cache=False,
        )[0]
        return largest(
            zip(torch.split(packed, lengths), map(bench.alone, texts), strict=True)
        )

    return measured(model, "conversations packed into one row", measure, total)


def refuse_packed_rows(model: PreTrainedModel) -> None:
    """Make a model that mixes packed conversations refuse them, whoever packs."""
    if not packing(model, SHORT, SHORT).exact:
        model.register_forward_pre_hook(_refuse, with_kwargs=True)


def _refuse(model: nn.Module, _: tuple[object, ...], inputs: dict[str, Any]) -> None:
    """Raise ``ValueError`` for a row in which positions start again."""
    places = inputs.get("position_ids")
    if places is not None and len(places) == 1 and bool((places[0, 1:] == 0).any()):
        raise ValueError(str(packing(model, SHORT, SHORT)))
