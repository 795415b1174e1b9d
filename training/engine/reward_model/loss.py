"""The loss of the consistency reward model, and how its pairs become tensors.

With o the log-odds of "consistent" at a read (``packing`` says where that is):

    mean over units with a known label of  CE(o, label)
    + ½ × mean over pairs of               CE(min over the pair's units of o, verdict)
    + pairwise_weight × mean over rivals of  −log σ(min o of the consistent answer
                                                    − min o of the inconsistent one)

The first term is the paper's cross-entropy (section 3.3) on every unit. The second
teaches the score itself, and lets a judgment count whose labeler did not say which units
differ: one of them must. With one final label per pair (the paper's) both terms are the
same and only the second is used. The third, off by default, is the loss of Bradley and
Terry (1952; Ouyang et al. 2022, equation 1): *rivals* are a consistent and an
inconsistent answer to the same label in one step, so only their order counts.

The means are over the whole step, whatever part of it is computed at once: ranks and
micro-batches together learn what one pass learns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.engine.reward_model.augmentation import UNKNOWN, Example
from training.engine.reward_model.model import MarkReader
from training.engine.reward_model.packing import Packer, collate

PAIR_WEIGHT = 0.5  # of the loss on a pair's minimum beside that on its units
CHUNK_TOKENS = 8192  # positions computed at once: less padding, bounded memory


class PairLoss(nn.Module):
    """The loss of some pairs of a step. A module, so that DDP can wrap it."""

    def __init__(
        self,
        reader: MarkReader,
        *,
        by_unit: bool,
        pairwise_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.by_unit = by_unit
        self.pairwise_weight = pairwise_weight
        self.terms = ["loss"]  # the names of what ``forward`` returns, in order
        self.terms += ["loss/unit", "loss/pair"] if by_unit else []
        self.terms += ["loss/pairwise"] if pairwise_weight else []

    def forward(
        self,
        chunks: Sequence[Mapping[str, Tensor]],
        pair_of_read: Tensor,
        targets: Tensor,
        verdicts: Tensor,
        rivals: Tensor,
        counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; those of the parts of a step add up to its own.

        ``chunks`` are padded prompts (``Batch`` as mappings); over all chunks there are
        R reads of B pairs. ``pair_of_read`` (R,) numbers the pair, ``targets`` (R,) is
        1, 0 or ``UNKNOWN``, ``verdicts`` (B,) is 1 or 0, ``rivals`` (P, 2) numbers the
        consistent and the inconsistent pair of each two that share a label. ``counts``
        (3,) are the known units, pairs and rivals of the whole step; without them these
        pairs are the whole.
        """
        logits = torch.cat([self.reader(**chunk) for chunk in chunks])
        log_odds = logits[:, 1] - logits[:, 0]  # (R,)
        # A pair is as consistent as its worst unit, (B,).
        scores = torch.full(
            verdicts.shape, math.inf, device=log_odds.device
        ).scatter_reduce(0, pair_of_read, log_odds, "amin")
        if counts is None:
            counts = count_terms(targets, verdicts, rivals)
        # All units of a step may be unknown: the sum over none, not its mean, is zero.
        units, pairs, rivalries = counts.clamp(min=1e-9).unbind()
        pair = functional.binary_cross_entropy_with_logits(
            scores, verdicts.float(), reduction="sum"
        )
        loss = pair / pairs
        terms: dict[str, Tensor] = {}
        if self.by_unit:
            unit = functional.cross_entropy(
                logits, targets, ignore_index=UNKNOWN, reduction="sum"
            )
            terms = {"loss/unit": unit / units, "loss/pair": loss}
            loss = unit / units + PAIR_WEIGHT * loss
        if self.pairwise_weight:
            good, bad = scores[rivals].unbind(1)  # (P,) each
            pairwise = functional.softplus(bad - good).sum() / rivalries
            terms["loss/pairwise"] = pairwise
            loss = loss + self.pairwise_weight * pairwise
        return {"loss": loss, **terms}


def count_terms(targets: Tensor, verdicts: Tensor, rivals: Tensor) -> Tensor:
    """Return how many known units, pairs and rivals there are, (3,) float32."""
    known = int((targets != UNKNOWN).sum())
    return torch.tensor(
        [known, len(verdicts), len(rivals)], dtype=torch.float32, device=targets.device
    )


def step_inputs(examples: Sequence[Example], packer: Packer) -> dict[str, object]:
    """Return the arguments of ``PairLoss`` for some examples of a step.

    Prompts of like length share a chunk, so pairs come in the order of their length.
    """
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
        "chunks": [
            vars(collate([packed[i] for i in c], packer.pad_id)) for c in chunks
        ],
        "pair_of_read": torch.tensor(
            [row for row, i in enumerate(order) for _ in packed[i].reads]
        ),
        "targets": torch.tensor(targets),
        "verdicts": torch.tensor([int(examples[i].consistent) for i in order]),
        "rivals": rival_pairs([examples[i] for i in order]),
    }


def rival_pairs(examples: Sequence[Example]) -> Tensor:
    """Return (P, 2): every consistent and inconsistent answer to the same label."""
    pairs = [
        (good, bad)
        for good, one in enumerate(examples)
        for bad, other in enumerate(examples)
        if one.consistent
        and not other.consistent
        and one.pair.label == other.pair.label
    ]
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2)
