"""Tiny random models of the kinds that people take as a base, by the name of the kind."""

import torch
import transformers
from transformers import AutoModelForCausalLM

SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {**SMALL, "intermediate_size": 64, "num_attention_heads": 4}
GROUPED = {**HEADS, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 8}
SSM = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
DELTA = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
OLD = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4}

KINDS = {
    "llama": ("LlamaConfig", GROUPED),
    "qwen3": ("Qwen3Config", WIDE),
    "gpt2": ("GPT2Config", OLD),
    "gpt-neo": (
        "GPTNeoConfig",
        {
            "vocab_size": 300,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
        },
    ),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 64}),
    "mistral, short window": ("MistralConfig", {**GROUPED, "sliding_window": 16}),
    "phi3, short window": (
        "Phi3Config",
        {**GROUPED, "sliding_window": 16, "pad_token_id": 0},
    ),
    "gemma2": ("Gemma2Config", {**WIDE, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", {**WIDE, "sliding_window": 16}),
    "cohere": ("CohereConfig", GROUPED),
    "falcon": ("FalconConfig", {**SMALL, "num_attention_heads": 4}),
    "falcon, alibi": (
        "FalconConfig",
        {**SMALL, "num_attention_heads": 4, "alibi": True},
    ),
    "bloom": ("BloomConfig", {**SMALL, "n_head": 4}),
    "opt": (
        "OPTConfig",
        {**HEADS, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1},
    ),
    "mpt": (
        "MptConfig",
        {"vocab_size": 300, "d_model": 32, "n_heads": 4, "n_layers": 2},
    ),
    "gpt-oss": (
        "GptOssConfig",
        {
            **WIDE,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
        },
    ),
    "qwen3 moe": ("Qwen3MoeConfig", {**WIDE, **EXPERTS}),
    "llama4": (
        "Llama4TextConfig",
        {
            **WIDE,
            "intermediate_size_mlp": 64,
            "num_local_experts": 2,
            "attention_chunk_size": 16,
        },
    ),
    "mamba": ("MambaConfig", {**SMALL, "state_size": 8}),
    "mamba2": (
        "Mamba2Config",
        {**SMALL, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    ),
    "lfm2": ("Lfm2Config", {**GROUPED, "block_ff_dim": 64, "full_attn_idxs": [1]}),
    "qwen3-next": (
        "Qwen3NextConfig",
        {**WIDE, **EXPERTS, "shared_expert_intermediate_size": 32, **DELTA},
    ),
    "falcon-h1": ("FalconH1Config", {**GROUPED, "mamba_d_ssm": 64, **SSM}),
    "recurrent gemma": (
        "RecurrentGemmaConfig",
        {
            **GROUPED,
            "num_hidden_layers": 3,
            "lru_width": 32,
            "attention_window_size": 16,
        },
    ),
    "rwkv": ("RwkvConfig", {**SMALL, "attention_hidden_size": 32}),
    "minimax": (
        "MiniMaxConfig",
        {
            **WIDE,
            "num_local_experts": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "block_size": 16,
        },
    ),
}


def small_model(kind):
    """Return a model whose weights are wide enough to tell one token from another."""
    torch.manual_seed(0)
    name, settings = KINDS[kind]
    config = getattr(transformers, name)(**settings)
    model = AutoModelForCausalLM.from_config(config)
    model.train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
