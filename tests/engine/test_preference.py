"""DPO and KTO: the papers' losses, the examples, and that a small policy learns."""

import math
import random

import pytest
import torch
from safetensors.torch import load_file

from actions.demo import derive
from records.recipes import PreferenceRecipe
from tests.engine.micro import (
    demo_rows,
    events,
    make_run,
    micro_policy,
    micro_tokenizer,
)
from tests.engine.test_policy import CPU, result, toy, toy_rows  # noqa: F401
from training.engine import preference
from training.engine.data.conversations import Encoder
from training.engine.data.preference_pairs import BatchSampler, Question, read_questions
from training.engine.modeling import shared_prompt
from training.engine.modeling.reference import WithReference, answer_logprobs
from training.engine.preference import accumulate_gradient, dpo_loss, kto_loss
from training.engine.run.directory import RunDirectory, RunError, run_program

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def judged(row, text, *, consistent, turn=0, **more):
    return {
        "sample": row["id"],
        "turn": turn,
        "label": row["turns"][turn]["response"],
        "sampled": text,
        "consistent": consistent,
        "split": "train",
        "source": "people",
        **more,
    }


def toy_judgments():
    """Judge one right and the taught wrong answer of every toy turn; hold one out."""
    rng, found = random.Random(0), []
    for number, row in enumerate(toy_rows()):
        turn = row["turns"][0]
        wrong, _ = derive.corrupted(turn, rng, "action name")
        split = {"split": "held-out"} if number else {}
        found += [
            judged(row, turn["response"], consistent=True, **split),
            judged(row, wrong, consistent=False, **split),
        ]
    return found


def run_preference(folder, start, judgments=None, resume=None, **recipe):
    settings = {
        "steps": 12,
        "examples_per_step": 4,
        "learning_rate": 1e-3,
        "max_new_tokens": 90,
        "evaluate_every": 6,
        "warmup_steps": 0,
        **recipe,
    }
    rows = toy_rows()
    data = {
        "train": rows,
        "held_out": rows,
        "judgments": toy_judgments() if judgments is None else judgments,
    }
    make_run(folder, "preference", settings, {"policy": start}, data, resume)
    return run_program("preference", PreferenceRecipe, preference.main, [str(folder)])


def curve(folder, name):
    return [
        event["values"][name]
        for event in events(folder, "metrics")
        if name in event["values"]
    ]


# The losses


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_dpo_is_equation_7_of_its_paper():
    chosen, rejected, beta = [0.3, -1.0], [0.1, 2.0], 0.4
    expected = [
        -math.log(sigmoid(beta * c - beta * r))
        for c, r in zip(chosen, rejected, strict=True)
    ]
    found = dpo_loss(torch.tensor(chosen), torch.tensor(rejected), beta)
    assert found.tolist() == pytest.approx(expected)


def test_kto_is_equation_8_of_its_paper():
    ratio, good, z, beta = [0.5, -0.2, 1.5], [True, False, False], 0.3, 0.7
    values = [  # v(x, y), with λ_D = λ_U = 1
        sigmoid(beta * (r - z)) if is_good else sigmoid(beta * (z - r))
        for r, is_good in zip(ratio, good, strict=True)
    ]
    loss = kto_loss(torch.tensor(ratio), torch.tensor(good), torch.tensor(z), beta)
    assert loss.tolist() == pytest.approx([1 - value for value in values])


def test_the_log_probability_of_an_answer_is_the_sum_over_its_tokens():
    tokenizer = micro_tokenizer()
    model = micro_policy(tokenizer)
    rows = [((5, 6, 7), (8, 9)), ((5, 6, 7), (10,)), ((4,), (3, 2, 1, 6))]
    expected = []
    for prompt, answer in rows:
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
        normal = logits.log_softmax(-1)
        start = len(prompt) - 1
        expected.append(sum(float(normal[start + i, t]) for i, t in enumerate(answer)))
    together = answer_logprobs(model, rows, tokenizer.pad_token_id, CPU)
    assert together.tolist() == pytest.approx(expected, abs=1e-4)
    in_parts = answer_logprobs(model, rows, tokenizer.pad_token_id, CPU, chunk=2)
    assert in_parts.tolist() == pytest.approx(expected, abs=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prompt, "can_share", lambda model, longest: False)
        apart = answer_logprobs(model, rows, tokenizer.pad_token_id, CPU)
    assert apart.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_small_batches_give_the_gradient_of_the_whole_step(objective):
    tokenizer = micro_tokenizer()
    questions = [
        Question((5, 6, 7), ((8, 9), (1, 2, 3)), ((10,),)),
        Question((4,), ((3, 2),), ((1, 6, 9), (7, 7))),
    ]
    gradients = []
    for size in (4, 1):
        recipe = PreferenceRecipe(objective=objective, examples_per_step=4)
        model = micro_policy(tokenizer, seed=1)
        reference = micro_policy(tokenizer, seed=2)
        models = WithReference(model, reference, tokenizer.pad_token_id, CPU)
        sampler = BatchSampler(questions, seed=1, count=4, paired=objective == "dpo")
        values = accumulate_gradient(models, recipe, sampler.at(0), size)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        gradients.append((values["loss"], gradient))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-6)


def test_a_step_without_room_is_learned_in_parts(tmp_path, toy, monkeypatch):  # noqa: F811
    assert run_preference(tmp_path / "roomy", toy, steps=3) == 0
    compute, asked = WithReference.logprobs, []

    def refuse(models, rows, *others):
        if torch.is_grad_enabled():
            asked.append(len(rows))
            if asked[-1] > 2:  # a pair
                raise torch.OutOfMemoryError("no more memory")
        return compute(models, rows, *others)

    monkeypatch.setattr(WithReference, "logprobs", refuse)
    assert run_preference(tmp_path / "tight", toy, steps=3) == 0
    assert asked[:3] == [8, 4, 2]
    end = "checkpoints/step-000003/model.safetensors"
    one, other = (load_file(tmp_path / run / end) for run in ("roomy", "tight"))
    assert max((one[n] - other[n]).abs().max().item() for n in one) < 2e-5


# The examples


def questions_of(folder, judgments, **settings):
    make_run(folder, "preference", data={"train": demo_rows(), "judgments": judgments})
    run = RunDirectory(folder)
    run.read()
    encoder = Encoder(micro_tokenizer())
    try:
        found = read_questions(run, encoder, 4096, **settings)
    finally:
        run.close()
    return encoder, *found


def test_the_label_stands_in_where_no_answer_was_consistent(tmp_path):
    one, two = demo_rows()[:2]
    judgments = [
        judged(one, "no", consistent=False),
        judged(two, "no", consistent=False),
        judged(two, "<<think>>yes<</think>>yes", consistent=True),
    ]
    encoder, train, held_out = questions_of(tmp_path / "a", judgments)
    label = encoder.response_ids(one["turns"][0]["response"])
    assert [q.good for q in train] == [
        (label,),
        (encoder.response_ids("<<think>>yes<</think>>yes"),),
    ]
    assert held_out == []


def test_ill_formed_answers_are_learned_and_held_out_ones_are_apart(tmp_path):
    one, two = demo_rows()[:2]
    judgments = [
        judged(one, "<<think>>", consistent=False, source="format"),
        judged(two, "no", consistent=False, split="held-out"),
    ]
    _, train, held_out = questions_of(tmp_path / "a", judgments)
    assert (len(train), len(held_out)) == (1, 1)


def test_a_judgment_of_an_unknown_sample_is_named(tmp_path):
    row = {**demo_rows()[0], "id": "gone"}
    expected = (
        r"judgments\.jsonl, pair 1: expected a turn of a sample of this run, "
        "found turn 0 of 'gone'"
    )
    with pytest.raises(RunError, match=expected):
        questions_of(tmp_path, [judged(row, "no", consistent=False)])


def test_without_a_pair_dpo_says_what_is_missing(tmp_path, toy):  # noqa: F811
    row = toy_rows()[0]
    only = [judged(row, row["turns"][0]["response"], consistent=True)]
    assert run_preference(tmp_path, toy, only) == 1
    assert "a consistent and an inconsistent answer" in result(tmp_path)["error"]


def test_every_pass_takes_every_pair_once():
    questions = [Question((i,), ((1,),), ((2,), (3,))) for i in range(5)]
    sampler = BatchSampler(questions, seed=1, count=2, paired=True)
    taken = [row for step in range(5) for row in sampler.at(step).rows[1::2]]
    assert sorted(taken) == sorted(((i,), (b,)) for i in range(5) for b in (2, 3))


def test_kto_takes_half_of_each_verdict():
    questions = [Question((i,), ((1,),), ((2,), (3,), (4,))) for i in range(5)]
    sampler = BatchSampler(questions, seed=1, count=6, paired=False)
    assert sampler.at(0).good.count(True) == 3


# Whole runs


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_it_learns_the_judged_answers(tmp_path, toy, objective, method):  # noqa: F811
    """The policy was taught each label and one error beside it, half and half."""
    rate = 1e-3 if method == "lora" else 3e-4
    settings = {"objective": objective, "method": method, "learning_rate": rate}
    judgments = [{**row, "split": "train"} for row in toy_judgments()]
    status = run_preference(tmp_path, toy, judgments, beta=0.3, **settings)
    assert status == 0, result(tmp_path)
    losses = curve(tmp_path, "loss")
    assert losses[0] == pytest.approx(math.log(2) if objective == "dpo" else 0.5)
    assert losses[-1] < losses[0] * 0.6
    margins = curve(tmp_path, "margin")
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 3
    if objective == "dpo":
        assert curve(tmp_path, "accuracy")[-1] == 1.0
    truths = curve(tmp_path, "held_out/truth")
    assert max(truths[1:]) > truths[0] or truths[0] == 1.0
    final = [e for e in events(tmp_path, "checkpoint") if e["final"]]
    assert final[0]["step"] == result(tmp_path)["values"]["chosen_step"]


def test_held_out_pairs_are_measured_and_never_learned(tmp_path, toy):  # noqa: F811
    assert run_preference(tmp_path, toy, learning_rate=0.0) == 0
    logs = [event["message"] for event in events(tmp_path, "log")]
    assert any("1 pairs" in text and "1 held-out pairs" in text for text in logs)
    assert curve(tmp_path, "held_out/margin") == pytest.approx([0, 0, 0], abs=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    tmp_path,
    toy,  # noqa: F811
    method,
):
    assert run_preference(tmp_path / "whole", toy, method=method) == 0
    half = tmp_path / "whole" / "checkpoints" / "step-000006"
    resumed = run_preference(tmp_path / "resumed", toy, resume=str(half), method=method)
    assert resumed == 0
    end = "checkpoints/step-000012/model.safetensors"
    whole, again = (load_file(tmp_path / run / end) for run in ("whole", "resumed"))
    start = load_file(half / "model.safetensors")
    assert any(not torch.equal(whole[name], start[name]) for name in whole)
    for name in whole:
        assert torch.equal(whole[name], again[name]), name


def test_a_stopped_run_announces_nothing_final(tmp_path, toy):  # noqa: F811
    tmp_path.joinpath("stop").touch()
    assert run_preference(tmp_path, toy) == 0
    assert result(tmp_path)["state"] == "stopped"
    assert not any(event["final"] for event in events(tmp_path, "checkpoint"))
