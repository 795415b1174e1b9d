"""The preference model of other tasks: one score for a prompt and an answer.

Any Hugging Face sequence classifier with one output, such as a reward model trained on
preferences (Bradley–Terry): it reads the conversation in its own chat template and
scores its end. Larger is better; only differences mean something, so a run that mixes
kinds of tasks should normalise each reward (``normalize_each``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from training.engine.conversations import Encoder
from training.engine.measuring import Answer
from training.engine.models import Place
from training.engine.rundir import RunError
from training.engine.tokens import add_tags, load_tokenizer

BATCH = 16


class PreferenceModel:
    """Scores answers; raises ``RunError`` for a folder that is no such model."""

    def __init__(self, path: Path, place: Place) -> None:
        self.place = place
        self.tokenizer = load_tokenizer(str(path))
        self.model = AutoModelForSequenceClassification.from_pretrained(
            str(path), dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).to(place.device)
        if self.model.config.num_labels != 1:
            found = f"{self.model.config.num_labels} outputs"
            raise RunError("inputs.preference", "a classifier of one output", found)
        add_tags(self.tokenizer)
        if len(self.tokenizer) > self.model.get_input_embeddings().num_embeddings:
            self.model.resize_token_embeddings(len(self.tokenizer))
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.encoder = Encoder(self.tokenizer)
        self.model.eval()

    @torch.inference_mode()
    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """Return the score of each answer to its prompt."""
        rows = [
            [
                *self.encoder.encode(given.sample).prompt(given.turn),
                *self.encoder.response_ids(given.text),
            ]
            for given in answers
        ]
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = [0.0] * len(rows)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            longest = len(rows[chosen[-1]])
            ids = torch.tensor(
                [rows[i] + [pad] * (longest - len(rows[i])) for i in chosen]
            )
            mask = torch.tensor(
                [[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in chosen]
            )
            with self.place.autocast():
                logits = self.model(
                    input_ids=ids.to(self.place.device),
                    attention_mask=mask.to(self.place.device),
                ).logits
            for i, score in zip(chosen, logits[:, 0].float().tolist(), strict=True):
                scores[i] = score
        return scores
