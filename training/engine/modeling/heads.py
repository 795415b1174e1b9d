"""A sequence classifier on any language model of transformers.

Of 189 causal language models transformers 5.23 has no ``…ForSequenceClassification`` for
103. A classifier is the backbone and one matrix from its last hidden states to the
outputs: on those the library's own general class is put. What is saved is a model
directory like others; its class is known to this module alone.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification


def classifier_class(config: type[PreTrainedConfig]) -> Any:
    """Return the class, or auto class, whose ``from_pretrained`` loads a classifier."""
    known = config in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if known or config not in MODEL_MAPPING:
        return AutoModelForSequenceClassification  # which says what it cannot load
    backbone: Any = MODEL_MAPPING[config]
    family = next(
        parent for parent in backbone.__mro__[1:] if issubclass(parent, PreTrainedModel)
    )
    name = f"{backbone.__name__.removesuffix('Model')}ForSequenceClassification"
    # The backbone's weights are called in a language model as they are called here.
    prefix = {"base_model_prefix": family.base_model_prefix}
    return type(name, (GenericForSequenceClassification, family), prefix)
