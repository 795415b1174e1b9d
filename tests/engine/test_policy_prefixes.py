"""Responses that share their prompt's row have the numbers of rows of their own."""

import pytest
import torch

from tests.engine.micro import micro_policy, micro_tokenizer
from training.engine.modeling.shared_prompt import can_share, shared_logprobs


def batch():
    """Two prompts of unequal length, three and two responses, padded as TRL pads."""
    generator = torch.Generator().manual_seed(0)

    def ids(count):
        return torch.randint(20, 800, (count,), generator=generator)

    prompts = [ids(9), ids(5)]
    rows = [(0, ids(4)), (1, ids(6)), (0, ids(1)), (1, ids(3)), (0, ids(6))]
    input_ids = torch.zeros((5, 15), dtype=torch.long)
    mask = torch.zeros((5, 15), dtype=torch.long)
    for line, (number, response) in enumerate(rows):
        whole = torch.cat([prompts[number], response])
        start = 9 - len(prompts[number])
        input_ids[line, start : start + len(whole)] = whole
        mask[line, start : start + len(whole)] = 1
    return input_ids, mask


def row_by_row(model, input_ids, mask, keep, temperature):
    logprobs = torch.zeros((len(input_ids), keep))
    entropies = torch.zeros((len(input_ids), keep))
    for line in range(len(input_ids)):
        ids = input_ids[line][mask[line] == 1]
        normal = (model(input_ids=ids[None]).logits[0] / temperature).log_softmax(-1)
        count = int(mask[line, -keep:].sum())
        before = normal[len(ids) - count - 1 : len(ids) - 1]
        logprobs[line, :count] = before.gather(1, ids[-count:, None]).squeeze(1)
        entropies[line, :count] = -(before.exp() * before).sum(-1)
    return logprobs, entropies


@pytest.mark.parametrize("shape", ["qwen3", "llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_shared_rows_give_the_log_probabilities_and_gradients_of_own_rows(
    shape, attention
):
    model = micro_policy(micro_tokenizer(), shape)
    model.set_attn_implementation(attention)
    assert can_share(model)
    input_ids, mask = batch()
    found = {}
    for name, compute in (("shared", shared_logprobs), ("own", row_by_row)):
        model.zero_grad()
        logprobs, entropies = compute(model, input_ids, mask, 6, 0.7)
        (logprobs * torch.arange(30).reshape(5, 6)).sum().backward()
        gradient = model.get_input_embeddings().weight.grad.clone()
        found[name] = (logprobs.detach(), entropies.detach(), gradient)
    for shared, own in zip(*found.values(), strict=True):
        assert torch.allclose(shared, own, atol=2e-4, rtol=1e-4)


def test_equal_responses_are_computed_once_and_count_as_often_as_they_came():
    model = micro_policy(micro_tokenizer())
    input_ids, mask = batch()
    again = torch.tensor([0, 1, 0, 2, 0])  # three times the first line
    input_ids, mask = input_ids[again], mask[again]
    shared_logprobs(model, input_ids, mask, 6, 0.7)  # measured before it is counted
    computed = []
    model.base_model.register_forward_pre_hook(
        lambda _, __, given: computed.append(given["input_ids"].ne(0).sum().item()),
        with_kwargs=True,
    )
    found = {}
    for name, compute in (("shared", shared_logprobs), ("own", row_by_row)):
        model.zero_grad()
        logprobs, entropies = compute(model, input_ids, mask, 6, 0.7)
        (logprobs * torch.arange(30).reshape(5, 6)).sum().backward()
        gradient = model.get_input_embeddings().weight.grad.clone()
        found[name] = (logprobs.detach(), entropies.detach(), gradient)
    assert computed[0] == 9 + 4 + 1 + 5 + 6  # prompts and different responses
    for shared, own in zip(*found.values(), strict=True):
        assert torch.allclose(shared, own, atol=2e-4, rtol=1e-4)
