"""Whatever way a program takes for a kind of model, its numbers are the plain ones."""

import pytest
import torch

from tests.engine.kinds import KINDS, small_model
from training.engine.data.conversations import Encoded
from training.engine.data.sft_batches import packed, packs_exactly, padded
from training.engine.modeling.exactness import packing, refuse_packed_rows
from training.engine.modeling.policies import Place
from training.engine.modeling.shared_prompt import can_share, shared_logprobs
from training.engine.sampling.decoding import caching
from training.engine.sampling.sampler import Sampling, sample_responses

CPU = Place(torch.device("cpu"), half=False)
NEAR = {"atol": 1e-3, "rtol": 0}
# What is known to be exact stays fast; the others fall back.
PACKS = {
    *("llama", "qwen3", "gpt2", "gpt-neo", "mistral", "mistral, short window"),
    *("phi3, short window", "gemma2", "gemma3", "cohere", "qwen3 moe", "llama4"),
}
SHARES = {
    *("llama", "qwen3", "gpt2", "mistral", "cohere", "falcon", "opt", "qwen3 moe")
}
CACHES = set(KINDS) - {"recurrent gemma", "rwkv", "minimax"}

pytestmark = pytest.mark.slow


def logprobs_alone(model, ids):
    """Return log p of each token but the first, of a text in a row of its own."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return small_model(kind)


def test_a_batch_that_is_learned_equals_separate_conversations(kind, model):
    texts = [list(range(5, 30)), list(range(40, 60)), list(range(100, 121))]
    rows = [Encoded("a", ids, ids, (0,), ((0, len(ids)),)) for ids in texts]
    packs = packing(model, 25, 66).exact
    assert packs == (kind in PACKS)
    batch = packed(rows) if packs else padded(rows, 0)
    labels = batch.pop("labels")[:, 1:].flatten()
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits[:, :-1].flatten(0, 1)
    learned = labels != -100
    found = logits[learned].log_softmax(-1).gather(1, labels[learned][:, None])[:, 0]
    expected = torch.cat([logprobs_alone(model, ids) for ids in texts])
    torch.testing.assert_close(found, expected, **NEAR)


def test_answers_to_one_prompt_have_the_log_probabilities_of_separate_rows(kind, model):
    prompts = [list(range(5, 35)), list(range(40, 52))]
    answers = [(0, [50, 51, 52, 53]), (1, [60, 61, 62, 63, 64]), (0, [70, 71, 72])]
    ids = torch.zeros((3, 35), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, (number, answer) in enumerate(answers):
        text = prompts[number] + answer
        start = 30 - len(prompts[number])
        ids[line, start : start + len(text)] = torch.tensor(text)
        mask[line, start : start + len(text)] = 1
    assert can_share(model, 35) == (kind in SHARES)
    with torch.no_grad():
        found, _ = shared_logprobs(model, ids, mask, 5, 1.0)
    for line, (number, answer) in enumerate(answers):
        expected = logprobs_alone(model, prompts[number] + answer)[-len(answer) :]
        torch.testing.assert_close(found[line, : len(answer)], expected, **NEAR)


def test_sampled_log_probabilities_are_those_of_a_forward_pass(kind, model):
    prompts = [list(range(5, 25)), list(range(40, 47)), list(range(60, 80))]
    stops = tuple(range(0, 300, 6))  # some rows leave the batch
    sampling = Sampling(1.0, 1.0, 8, stops, 0)
    assert caching(model, 28).exact == (kind in CACHES)
    found = sample_responses(model, prompts, sampling, place=CPU, seed=1, per_prompt=3)
    for prompt, group in zip(prompts, found, strict=True):
        for sampled in group:
            expected = logprobs_alone(model, prompt + sampled.ids)[-len(sampled.ids) :]
            torch.testing.assert_close(torch.tensor(sampled.logprobs), expected, **NEAR)


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_measuring_leaves_random_state_mode_and_gradients_alone(name):
    model = small_model(name)
    model.train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    packing(model)
    can_share(model)
    caching(model)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_window_counts_only_where_texts_are_longer():
    model = small_model("mistral")
    assert can_share(model, 60)
    assert not can_share(model, 200)
    assert can_share(model, 60)  # each length by itself


def test_weights_that_hardly_look_back_hide_no_mistake():
    model = small_model("falcon")
    with torch.no_grad():
        for layer in model.transformer.h:
            layer.self_attention.dense.weight.mul_(1e-3)
    found = packing(model)
    assert found.difference < 1e-2
    assert not found.exact


def test_fine_tuning_packs_nothing_for_a_model_that_mixes_and_says_so():
    told = []
    for name, packs in (("llama", True), ("falcon", False)):
        model = small_model(name)
        said = packs_exactly(model, [90, 40, 60], 2, lambda *log: told.append(log))
        assert said is packs
    (good, info), (bad, warning) = told
    assert (info, warning) == ("info", "warning")
    assert good.startswith("conversations packed into one row: exact for this model")
    assert bad.startswith("conversations packed into one row: not exact for this model")
    assert bad.endswith("each conversation has a row of its own, padded")


def test_a_loaded_model_that_mixes_packed_conversations_refuses_them():
    rows = [
        Encoded("a", ids, ids, (0,), ((0, 6),)) for ids in ([*range(6)], [*range(6)])
    ]
    batch = packed(rows)
    batch.pop("labels")
    model = small_model("llama")
    refuse_packed_rows(model)
    assert model(**batch).logits.shape[1] == 12
    model = small_model("bloom")
    refuse_packed_rows(model)
    with pytest.raises(
        ValueError, match="packed into one row: not exact for this model"
    ):
        model(**batch)
    assert model(input_ids=batch["input_ids"]).logits.shape[1] == 12
