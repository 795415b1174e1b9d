"""Sampling: the same as one by one, stops where it should, honest log-probabilities."""

from dataclasses import replace

import pytest
import torch

from tests.engine.micro import demo_samples, micro_policy, micro_tokenizer
from training.engine.data.conversations import Encoder
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.modeling.policies import Place
from training.engine.sampling import sampler
from training.engine.sampling.answers import answer, build_prompts
from training.engine.sampling.sampler import Sampling, sample_responses

CPU = Place(torch.device("cpu"), half=False)


@pytest.fixture(scope="module")
def setting():
    tokenizer = micro_tokenizer()
    model = micro_policy(tokenizer)
    with torch.no_grad():  # random weights are too sure of one token
        for parameter in model.parameters():
            parameter.mul_(1.5)
    encoder = Encoder(tokenizer)
    turns, _ = build_prompts(encoder, demo_samples()[:4], 10_000)
    prompts = [item.ids for item in turns][:9]
    sampling = Sampling(1.0, 1.0, 12, encoder.frame.stop_ids, tokenizer.pad_token_id)
    return model, prompts, sampling


def test_greedy_batches_equal_transformers_one_by_one(setting):
    model, prompts, sampling = setting
    found = sample_responses(
        model, prompts, replace(sampling, temperature=0.0), place=CPU, seed=1
    )
    for prompt, (sampled,) in zip(prompts, found, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=list(sampling.stop_ids),
            pad_token_id=sampling.pad_id,
        )[0, len(prompt) :].tolist()
        assert sampled.ids == expected
        assert sampled.ended == (expected[-1] in sampling.stop_ids)


def test_with_a_seed_of_its_own_a_prompt_does_not_depend_on_the_others(setting):
    model, prompts, sampling = setting
    seeds = range(40, 40 + len(prompts))

    def draw(chosen):
        return sample_responses(
            model,
            [prompts[i] for i in chosen],
            sampling,
            place=CPU,
            seed=[seeds[i] for i in chosen],
            per_prompt=3,
        )

    whole = draw(range(len(prompts)))
    part = draw([5, 2])
    assert [[s.ids for s in group] for group in part] == [
        [s.ids for s in whole[i]] for i in (5, 2)
    ]
    assert whole[5][0].ids != whole[5][1].ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_when_memory_runs_out_smaller_batches_draw_the_same(
    setting, monkeypatch, temperature
):
    model, prompts, sampling = setting
    given = {"place": CPU, "seed": 3, "per_prompt": 5}
    warm = replace(sampling, temperature=temperature)
    expected = sample_responses(model, prompts, warm, **given)
    told, rows = [], []
    compute = sampler._sample_batch

    def refuse(model, prompts, sampling, noise, place, per_prompt, cached):
        rows.append(len(prompts) * per_prompt)
        if rows[-1] > 2:  # less than the responses to one prompt
            raise torch.OutOfMemoryError("no more memory")
        return compute(model, prompts, sampling, noise, place, per_prompt, cached)

    monkeypatch.setattr(sampler, "_sample_batch", refuse)
    parts = MicroBatch(16384, lambda said, level: told.append(said), "token positions")
    tight = replace(warm, parts=parts)
    found = sample_responses(model, prompts, tight, **given)
    assert [[s.ids for s in g] for g in found] == [[s.ids for s in g] for g in expected]
    assert "out of memory with 16384 token positions at once" in told[0]
    tried = len(rows)
    sample_responses(model, prompts, tight, **given)
    assert max(rows[tried:]) <= 2  # it remembers


def test_one_seed_gives_the_same_responses_in_any_batching(setting):
    model, prompts, sampling = setting

    def draw(batch_tokens, seed=3):
        return sample_responses(
            model,
            prompts,
            replace(sampling, batch_tokens=batch_tokens),
            place=CPU,
            seed=seed,
            per_prompt=3,
        )

    together, apart = draw(10**6), draw(256)
    assert [s.ids for g in together for s in g] == [s.ids for g in apart for s in g]
    assert draw(10**6, seed=4) != together
    assert len({tuple(s.ids) for s in together[0]}) > 1


def test_log_probabilities_are_those_of_a_forward_pass(setting):
    model, prompts, sampling = setting
    hot = replace(sampling, temperature=1.7, top_p=0.9)
    found = sample_responses(model, prompts, hot, place=CPU, seed=5, per_prompt=2)
    for prompt, group in zip(prompts, found, strict=True):
        for sampled in group:
            ids = torch.tensor([prompt + sampled.ids])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / 1.7
            expected = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
            torch.testing.assert_close(
                torch.tensor(sampled.logprobs), expected[:, 0], atol=1e-4, rtol=1e-4
            )


def test_generation_ends_at_every_stop_token(setting):
    model, prompts, sampling = setting
    free = sample_responses(
        model, prompts, replace(sampling, temperature=0.0), place=CPU, seed=1
    )
    stop = free[0][0].ids[2]
    found = sample_responses(
        model,
        prompts,
        replace(sampling, temperature=0.0, stop_ids=(stop, stop)),
        place=CPU,
        seed=1,
    )
    for (before,), (after,) in zip(free, found, strict=True):
        if stop in before.ids:
            assert after.ids == before.ids[: before.ids.index(stop) + 1]
            assert after.ended


def test_nucleus_sampling_keeps_to_the_likeliest_tokens(setting):
    model, prompts, sampling = setting
    narrow = replace(sampling, top_p=1e-6)
    greedy = replace(sampling, temperature=0.0)
    ids = [
        [
            s.ids
            for g in sample_responses(model, prompts, how, place=CPU, seed=1)
            for s in g
        ]
        for how in (narrow, greedy)
    ]
    assert ids[0] == ids[1]


def test_sampling_follows_the_probabilities(setting):
    model, prompts, sampling = setting
    one = replace(sampling, max_new_tokens=1)
    (group,) = sample_responses(
        model, prompts[:1], one, place=CPU, seed=1, per_prompt=4000
    )
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompts[0]])).logits[0, -1]
    expected = logits.softmax(-1)
    counts = torch.bincount(
        torch.tensor([s.ids[0] for s in group]), minlength=len(expected)
    )
    assert (counts / 4000 - expected).abs().max() < 0.03


def test_a_cut_off_answer_fails_the_format_check():
    tokenizer = micro_tokenizer()
    encoder = Encoder(tokenizer)
    turns, _ = build_prompts(encoder, demo_samples()[:1], 10_000)
    sampling = Sampling(0.0, 1.0, 1, encoder.frame.stop_ids, tokenizer.pad_token_id)
    model = micro_policy(tokenizer)
    ((given,),) = answer(model, tokenizer, turns[:1], sampling, place=CPU, seed=1)
    assert given.sampled.ended is False
    assert given.format_error is not None
