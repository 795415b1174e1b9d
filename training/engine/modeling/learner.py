"""The policy that a run trains: where it starts from, and what of it learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.engine.modeling.loading import load_policy
from training.engine.modeling.lora import with_adapters
from training.engine.modeling.place import Place
from training.engine.run.directory import RunDirectory


class LearnerSettings(Protocol):
    """The settings that say what of a policy learns."""

    @property
    def method(self) -> str: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def lora_alpha(self) -> int: ...


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
        settings: LearnerSettings,
    ) -> Learner:
        """Return the model as it is to learn: all weights, or fresh adapters."""
        if settings.method == "full":
            return cls(model, model, tokenizer)
        rank, alpha = settings.lora_rank, settings.lora_alpha
        return cls(model, with_adapters(model, rank, alpha), tokenizer)

    @property
    def pad_id(self) -> int:
        """The id of the padding token, which every tokenizer of a run has."""
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        return pad


def load_learner(
    run: RunDirectory, settings: LearnerSettings, start: Path, place: Place
) -> Learner:
    """Return the policy of directory ``start``, or of the checkpoint that is resumed.

    Under LoRA a resumed run takes the weights of ``start`` too: a checkpoint's model has
    its adapters merged, and they come apart from ``trainer/`` (``resume_trainer``).
    """
    resumes = run.resume is not None and settings.method == "full"
    path = run.resume if resumes and run.resume else start
    return Learner.of(*load_policy(path, place), settings)
