"""What a backend returns: where it stops, whose log-probabilities, which seed."""

import importlib.util
from dataclasses import replace

import pytest
import torch

from records.recipes import RecipeError
from tests.engine.micro import demo_samples, micro_policy, micro_tokenizer
from training.engine.data.conversations import Encoder
from training.engine.modeling.policies import Place
from training.engine.sampling.answers import build_prompts
from training.engine.sampling.backends import check_backend
from training.engine.sampling.sampler import Sampling, sample_responses

CPU = Place(torch.device("cpu"), half=False)
NEW = 12


@pytest.fixture(scope="module")
def setting():
    tokenizer = micro_tokenizer()
    model = micro_policy(tokenizer)
    with torch.no_grad():  # random weights are too sure of one token
        for parameter in model.parameters():
            parameter.mul_(1.5)
    turns, _ = build_prompts(Encoder(tokenizer), demo_samples()[:2], 10_000)
    prompts = [item.ids[-n:] for n, item in zip((40, 25, 31), turns, strict=False)]
    # A random model seldom ends by itself: a tenth of the tokens stop it.
    stops = tuple(range(100, 190))
    return model, prompts, Sampling(1.0, 1.0, NEW, stops, tokenizer.pad_token_id)


def draw(setting, seed=5, per_prompt=3, **changes):
    model, prompts, sampling = setting
    sampling = replace(sampling, **changes)
    return sample_responses(
        model, prompts, sampling, place=CPU, seed=seed, per_prompt=per_prompt
    )


def test_log_probabilities_are_the_models_own(setting):
    model, prompts, _ = setting
    for temperature, top_p in ((1.0, 1.0), (0.6, 1.0), (1.0, 0.7), (0.0, 1.0)):
        groups = draw(setting, temperature=temperature, top_p=top_p)
        assert [len(group) for group in groups] == [3, 3, 3]
        for prompt, group in zip(prompts, groups, strict=True):
            for sampled in group:
                ids = torch.tensor([[*prompt, *sampled.ids]])
                with torch.no_grad():
                    logits = model(ids).logits[0] / (temperature or 1.0)
                normal = logits.log_softmax(-1)[len(prompt) - 1 : -1]
                own = normal.gather(1, torch.tensor(sampled.ids)[:, None]).squeeze(1)
                assert sampled.logprobs == pytest.approx(own.tolist(), abs=1e-4)


def test_all_stop_at_the_same_ids_or_at_the_limit(setting):
    _, _, sampling = setting
    drawn = [s for seed in (1, 2) for group in draw(setting, seed) for s in group]
    assert {s.ended for s in drawn} == {True, False}
    for s in drawn:
        assert not set(s.ids[:-1]) & set(sampling.stop_ids)
        assert s.ended == (s.ids[-1] in sampling.stop_ids)
        assert s.ended or len(s.ids) == NEW
        assert len(s.logprobs) == len(s.ids)


def test_a_seed_says_what_is_drawn(setting):
    def ids(seed):
        return [s.ids for group in draw(setting, seed) for s in group]

    state = torch.random.get_rng_state()
    once = ids(3)
    assert ids(3) == once
    assert ids(4) != once
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is not None, reason="vllm is installed"
)
def test_a_backend_that_is_not_installed_is_refused_by_name():
    with pytest.raises(RecipeError, match="`backend`: expected vllm to be installed"):
        check_backend("vllm")
