"""The policy that a run trains: where it starts from, and what of it learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from records.recipes.groups import Lora
from training.engine.modeling.loading import load_policy
from training.engine.modeling.lora import with_adapters
from training.engine.modeling.place import Place
from training.engine.run.directory import RunDirectory


@dataclass(frozen=True)
class Learner:
    """A policy in training. ``module`` is what learns: the ``model``, or adapters on it."""

    model: PreTrainedModel
    module: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Lora,
    ) -> Learner:
        """Return the model as it is to learn: all weights, or fresh adapters."""
        if settings.method == "full":
            return cls(model, model, tokenizer)
        return cls(model, with_adapters(model, settings.lora_rank), tokenizer)

    @property
    def pad_id(self) -> int:
        """The id of the padding token, which every tokenizer of a run has."""
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        return pad


def load_learner(
    run: RunDirectory, settings: Lora, start: Path, place: Place
) -> Learner:
    """Return the policy of directory ``start``, or of the checkpoint that is resumed.

    Under LoRA a resumed run takes the weights of ``start`` too: a checkpoint's model has
    its adapters merged, and they come apart from ``trainer/`` (``resume_trainer``).
    """
    resumes = run.resume is not None and settings.method == "full"
    path = run.resume if resumes and run.resume else start
    return Learner.of(*load_policy(path, place), settings)
