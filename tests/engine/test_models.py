"""The small model from scratch."""

import torch

from tests.engine.micro import micro_policy, micro_tokenizer
from training.engine.modeling.policies import EMBEDDING, build_small_model


def test_what_a_head_reads_it_writes_back():
    model = micro_policy(micro_tokenizer())
    first, second = (layer.self_attn for layer in model.model.layers)
    read = torch.randn(5, 32)
    written = second.o_proj(second.v_proj(read))
    torch.testing.assert_close(written, EMBEDDING * read, atol=1e-5, rtol=0)
    assert not torch.allclose(
        first.o_proj(first.v_proj(read)), EMBEDDING * read, atol=0.05
    )


def test_a_token_that_was_said_is_likelier_from_the_start():
    """Attention is nearly even then, so it copies everything that was said."""
    tokenizer = micro_tokenizer()
    torch.manual_seed(3)
    model = build_small_model(tokenizer, width=128, layers=3, heads=4)
    ids = torch.randperm(len(tokenizer))[:40][None]
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    said = torch.zeros(len(tokenizer), dtype=torch.bool)
    said[ids[0, :-1]] = True  # the last token also answers for itself
    other = ~said
    other[ids[0, -1]] = False
    assert logits[said].mean() > logits[other].mean() + logits[other].std() / 2
