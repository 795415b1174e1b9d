"""Policies: built small from scratch, loaded (``loading``), and saved."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from training.engine.modeling.chat_frame import ChatFrame
from training.engine.modeling.configs import flags_as_loaded, restore
from training.engine.modeling.loading import load_policy as load_policy
from training.engine.modeling.place import Place as Place
from training.engine.modeling.place import on_device as on_device
from training.engine.modeling.place import prepare as prepare

EMBEDDING = 0.1  # standard deviation


def build_small_model(
    tokenizer: PreTrainedTokenizerBase, *, width: int, layers: int, heads: int = 0
) -> PreTrainedModel:
    """Return a Qwen3-shaped model (QK-norm, tied embeddings) with random weights.

    The normed queries and keys are what lets so small a model train at Muon's rates.

    Heads above the first layer start by copying: with orthogonal W_V and W_O its
    transpose, what a head reads is written back as it was, so a token that is looked at
    is a token made likelier. Labels repeat values of the conversation; a model this
    small learns soon where to look, but not, from random weights, to copy each of its
    thousands of tokens (docs/experiments.md, 2026-11-29). A start by the shape that
    training would give is called mimetic (Trockman and Kolter, 2023, arXiv 2305.09828;
    theirs has −I where this has I). Embeddings start at ``EMBEDDING``, wide enough to
    outlast Muon's first steps.

    ``heads`` 0 makes heads 32 wide, 128 from a width of 1024 on, or somewhat wider where
    the width is no multiple of that.
    """
    if not heads:
        heads = max(1, width // (128 if width >= 1024 else 32))
        while heads > 1 and width % (2 * heads):
            heads -= 1
    if width % (2 * heads):
        raise ValueError(f"width {width} is not a multiple of twice the {heads} heads")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(EMBEDDING / config.initializer_range)
        for layer in model.model.layers[1:]:
            read = torch.nn.init.orthogonal_(torch.empty(width, width))
            layer.self_attn.v_proj.weight.copy_(read)
            layer.self_attn.o_proj.weight.copy_(EMBEDDING * read.T)
    return model


def save_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the model as a plain Hugging Face directory that stops where turns end.

    ``weights`` are given where the model itself holds a part of them only.
    """
    restore(model)
    frame = ChatFrame.of(tokenizer)
    model.generation_config.eos_token_id = list(frame.stop_ids)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if weights is not None:  # gathered by name: tied ones came twice
        own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        weights = {name: held for name, held in weights.items() if name in own}
    save_model(model, folder, weights)
    tokenizer.save_pretrained(str(folder))


def save_model(
    model: PreTrainedModel,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write config and weights as safetensors, with the flags of the model's directory."""
    with flags_as_loaded(model):
        model.save_pretrained(str(folder), state_dict=weights)


def longest_input(model: PreTrainedModel, wanted: int) -> int:
    """Return ``wanted`` or the model's own limit of positions, whichever is less."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return min(wanted, limit) if isinstance(limit, int) else wanted


def checkpoint_activations(learner: PreTrainedModel | PeftModel) -> None:
    """Let training recompute activations in the backward pass instead of keeping them.

    Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174), layer by layer.
    """
    # transformers is renaming it; adapters pass both names on to their model.
    older = "gradient_checkpointing_enable"
    newer = "activation_checkpointing_enable"
    name = newer if hasattr(learner, newer) else older
    getattr(learner, name)({"use_reentrant": False})
