"""The preference model of other tasks: one score for a prompt and an answer.

Any Hugging Face sequence classifier with one output, such as a reward model trained on
preferences (Bradley–Terry): it reads the conversation in its own chat template and
scores its end. Larger is better; only differences mean something, so a run that mixes
kinds of tasks normalizes each reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from records.finite import must_be_finite
from training.engine.data.conversations import Encoder
from training.engine.data.preference_pairs import Row
from training.engine.modeling.loading import load_classifier, load_tokenizer
from training.engine.modeling.new_tokens import fit_vocabulary
from training.engine.modeling.policies import Place
from training.engine.modeling.tokenizer import add_tags
from training.engine.run.directory import RunError
from training.engine.sampling.answers import Answer

BATCH = 16


def scores(
    model: PreTrainedModel, rows: Sequence[Row], pad: int, place: Place
) -> Tensor:
    """Return the score of each prompt and answer, (B,)."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for line, (prompt, answer) in enumerate(rows):
        ids[line, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        mask[line, : len(prompt) + len(answer)] = 1
    with place.autocast():
        logits: Tensor = model(
            input_ids=ids.to(place.device), attention_mask=mask.to(place.device)
        ).logits
    return logits[:, 0].float()


def bradley_terry_loss(accepted: Tensor, rejected: Tensor) -> Tensor:
    """Return the loss of each pair, (B,), of the scores of its answers, (B,) and (B,).

    −log σ(s(x, c) − s(x, b)): Ouyang et al. 2022, equation 1.
    """
    return functional.softplus(rejected - accepted)


@torch.inference_mode()
def validate(
    model: PreTrainedModel, pairs: Sequence[Row], pad: int, place: Place
) -> dict[str, object]:
    """Return how often, and by how much, the accepted answer scores higher.

    ``pairs`` has an accepted and a rejected answer in turn. Empty without any.
    """
    if not pairs:
        return {}
    model.train(False)
    accepted, rejected = (
        torch.cat(
            [
                scores(model, pairs[i : i + 2 * BATCH], pad, place)
                for i in range(0, len(pairs), 2 * BATCH)
            ]
        )
        .view(-1, 2)
        .unbind(1)
    )
    margins = accepted - rejected
    return {
        "accuracy": float((margins > 0).float().mean()),
        "margin": float(margins.mean()),
        "loss": float(bradley_terry_loss(accepted, rejected).mean()),
        "pairs": len(margins),
    }


class PreferenceModel:
    """Scores answers; raises ``RunError`` for a folder that is no such model."""

    def __init__(self, path: Path, place: Place) -> None:
        self.place = place
        self.tokenizer = load_tokenizer(path)
        self.model = load_classifier(path, place)
        outputs = self.model.config.num_labels
        if outputs != 1:
            expected = "a classifier of one output"
            raise RunError("inputs.preference", expected, f"{outputs} outputs")
        known = len(self.tokenizer)
        add_tags(self.tokenizer)
        fit_vocabulary(self.model, self.tokenizer, known)
        self.encoder = Encoder(self.tokenizer)
        self.model.train(False)

    @torch.inference_mode()
    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """Return the score of each answer to its prompt."""
        rows = [
            (
                tuple(self.encoder.encode(given.sample).prompt(given.turn)),
                tuple(self.encoder.response_ids(given.text)),
            )
            for given in answers
        ]
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
        values = [0.0] * len(rows)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            batch = scores(self.model, [rows[i] for i in chosen], pad, self.place)
            for i, value in zip(chosen, batch.tolist(), strict=True):
                values[i] = must_be_finite(value, "score of the preference model")
        return values
