"""How fast a program computes: model FLOPs, and what the machine could do.

FLOPs of a forward pass are counted as usual: two for each weight that a token is multiplied
with (embeddings that are looked up excluded, the head included), and for attention, over
a causal sequence of L tokens, 2 · layers · heads · width of a head · L². A backward pass
costs twice the forward pass. What is computed again (gradient checkpointing), padding,
and layers of experts that are not asked are not counted as achieved.

Model FLOPs utilisation (MFU; Chowdhery et al. 2022, PaLM, appendix B) is the rate
achieved over a peak; the peak here is what one large matrix product reaches in the same
process, so the figure means the same on every machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from training.engine.modeling.policies import Place
from training.engine.run.distributed import all_reduce_sum, world_size


def attend(model: PreTrainedModel, place: Place, longest: int) -> None:
    """Choose how the model computes attention over at most ``longest`` tokens.

    flash-attn on a GPU in bf16 where it is installed. On a CPU, eager attention is faster
    than SDPA for sequences of a few hundred tokens (docs/experiments.md). Otherwise the
    model keeps what transformers chose: SDPA where it has that.
    """
    if place.device.type == "cuda":
        installed = importlib.util.find_spec("flash_attn") is not None
        if place.half and installed:
            with contextlib.suppress(ValueError, ImportError):  # not this architecture
                model.set_attn_implementation("flash_attention_2")
    elif longest <= EAGER_TOKENS:
        model.set_attn_implementation("eager")


class Meter:
    """How fast a run trains: tokens a second and MFU, pauses not counted."""

    def __init__(self, model: PreTrainedModel, place: Place) -> None:
        self.place = place
        self.work = Work.of(model, passes=3)
        self.peak = matrix_rate(place) * world_size()
        self.tokens = 0  # of all processes, when last measured
        self.flops = 0.0
        self.since = time.monotonic()

    def add(self, lengths: Iterable[int]) -> None:
        """Count sequences of these many tokens, trained on by this process."""
        self.work.add(lengths)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that is spent on something other than training."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def measure(self) -> dict[str, float]:
        """Return the figures since the last call. Collective: every rank must call it."""
        tokens = round(all_reduce_sum(self.work.tokens, self.place.device))
        flops = all_reduce_sum(self.work.flops, self.place.device)
        now = time.monotonic()
        seconds = now - self.since
        figures = {
            "tokens_per_second": (tokens - self.tokens) / seconds,
            "mfu": (flops - self.flops) / seconds / self.peak,
        }
        self.tokens, self.flops, self.since = tokens, flops, now
        return figures


EAGER_TOKENS = 1024  # from longer sequences on, SDPA's memory counts more
SIDE = {"cuda": 8192, "cpu": 1024}
TRIES = 5


class Work:
    """Counts the FLOPs of a model's training or scoring, sequence by sequence."""

    def __init__(self, model: nn.Module, config: object, *, passes: int) -> None:
        """``passes`` is 1 for a forward pass, 3 with the backward pass."""
        looked_up = {
            id(part.weight)
            for part in model.modules()
            if isinstance(part, nn.Embedding)
        }
        multiplied = {
            id(part.weight) for part in model.modules() if isinstance(part, nn.Linear)
        }
        weights = {id(p): p.numel() for p in model.parameters() if p.ndim >= 2}
        self.weights = sum(
            size
            for key, size in weights.items()
            if key in multiplied or key not in looked_up
        )
        layers = int(getattr(config, "num_hidden_layers", 0) or 0)
        heads = int(getattr(config, "num_attention_heads", 0) or 0)
        width = int(getattr(config, "hidden_size", 0) or 0)
        head = int(getattr(config, "head_dim", 0) or (width // heads if heads else 0))
        self.attention = layers * heads * head
        self.passes = passes
        self.flops = 0.0
        self.tokens = 0

    @classmethod
    def of(cls, model: PreTrainedModel, *, passes: int) -> Work:
        """Return a counter for ``model``."""
        return cls(model, model.config.get_text_config(), passes=passes)

    def add(self, lengths: Iterable[int]) -> None:
        """Count sequences of these many tokens."""
        for length in lengths:
            forward = 2 * self.weights * length + 2 * self.attention * length**2
            self.flops += self.passes * forward
            self.tokens += length


def matrix_rate(place: Place, side: int = 0) -> float:
    """Return the FLOPs a second of one square matrix product, the best of some tries.

    In bf16 when the place computes in bf16, else in fp32.
    """
    side = side or SIDE.get(place.device.type, SIDE["cpu"])
    dtype = torch.bfloat16 if place.half else torch.float32
    one = torch.ones((side, side), device=place.device, dtype=dtype)
    best = 0.0
    with torch.no_grad():
        for _ in range(TRIES):
            _wait(place)
            started = time.perf_counter()
            one @ one
            _wait(place)
            best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def _wait(place: Place) -> None:
    if place.device.type == "cuda":
        torch.cuda.synchronize(place.device)
