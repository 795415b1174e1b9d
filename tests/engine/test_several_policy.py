"""Policy runs: two processes take the steps of one; memory runs out gently."""

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.micro import events
from tests.engine.test_policy import (
    result,
    run_policy,
    toy,  # noqa: F401
    toy_rows,
)
from tests.engine.test_several import apart, launch_both
from training.engine.rl import update
from training.engine.rl.batch import Batch
from training.engine.sampling import sampler

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

END = "checkpoints/step-000003/model.safetensors"
RECIPE = {
    "consistency_source": "oracle",
    "steps": 3,
    "prompts_per_step": 4,
    "num_generations": 4,
    "max_new_tokens": 90,
    "learning_rate": 3e-4,
    "warmup_steps": 0,
    "evaluate_every": 3,
    "precision": "fp32",
}
WHOLE = {  # every token of a step counts for every other
    "algorithm": "reinforce++",
    "method": "lora",
    "learning_rate": 3e-3,
    "beta": 0.1,
    "micro_batch": 4,
    "num_iterations": 3,
}


def told(folder):
    return {
        (event["step"], name): value
        for event in events(folder, "metrics")
        for name, value in event["values"].items()
        if not name.startswith("seconds")
    }


def close(values, by):
    return {
        where: value if value is None else pytest.approx(value, abs=by)
        for where, value in values.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, WHOLE], ids=["grpo", "batch"])
def test_two_processes_take_the_steps_of_one(tmp_path, toy, settings):  # noqa: F811
    recipe = {**RECIPE, **settings}
    data = {"train": toy_rows(), "held_out": toy_rows()}
    one, two = launch_both(tmp_path, "policy", recipe, {"policy": toy}, data)
    seen = told(one)
    if not settings:  # some groups were without signal, some were kept though
        assert 0 < seen[1, "groups_without_signal"] < 1
    assert {(3, "loss"), (3, "gradient_norm"), (1, "kl"), (3, "entropy")} <= seen.keys()
    assert told(two) == close(seen, 1e-4)
    start = load_file(one / "checkpoints/step-000000/model.safetensors")
    end = load_file(one / END)
    moved = max((start[n] - end[n]).abs().max().item() for n in start)
    assert apart(one, two, END) < 2e-5 < 5e-4 < moved
    assert [e["step"] for e in events(two, "checkpoint")] == [
        e["step"] for e in events(one, "checkpoint")
    ]
    assert len(events(two, "result")) == 1


def test_prompts_that_do_not_divide_among_processes_are_refused(
    tmp_path,
    toy,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert run_policy(tmp_path, toy, consistency_source="oracle") == 1
    assert result(tmp_path)["error"] == (
        "recipe: `prompts_per_step`: expected a multiple of the 3 processes, found 2"
    )


def short_of_memory(monkeypatch, rows):
    """Let log-probabilities of more than so many responses at once not fit."""
    asked = []
    compute = update.shared_logprobs

    def refuse(model, input_ids, *others):
        asked.append(len(input_ids))
        if asked[-1] > rows:
            raise torch.OutOfMemoryError("no more memory")
        return compute(model, input_ids, *others)

    monkeypatch.setattr(update, "shared_logprobs", refuse)
    return asked


@pytest.mark.parametrize("algorithm", ["grpo by token", "grpo", "dr_grpo"])
def test_a_step_without_room_is_learned_in_parts(
    tmp_path,
    toy,  # noqa: F811
    monkeypatch,
    algorithm,
):
    recipe = {**RECIPE, "algorithm": algorithm, "micro_batch": 0}
    assert run_policy(tmp_path / "roomy", toy, **recipe) == 0
    asked = short_of_memory(monkeypatch, rows=5)
    assert run_policy(tmp_path / "tight", toy, **recipe) == 0
    assert asked[:3] == [16, 8, 4]
    assert set(asked[3:]) == {4}  # and then it knows
    assert apart(tmp_path / "roomy", tmp_path / "tight", END) < 5e-5
    said = [e["message"] for e in events(tmp_path / "tight", "log")]
    assert "out of memory with 16 responses at once: going on with 8" in " ".join(said)
    roomy, tight = told(tmp_path / "roomy"), told(tmp_path / "tight")
    for step in (1, 2, 3):
        for name in ("loss", "gradient_norm", "reward/consistency"):
            assert tight[step, name] == pytest.approx(roomy[step, name], abs=1e-4)


def test_drawing_without_room_draws_the_same_in_smaller_batches(
    tmp_path,
    toy,  # noqa: F811
    monkeypatch,
):
    recipe = {**RECIPE, "steps": 1, "evaluate_every": 1}
    assert run_policy(tmp_path / "roomy", toy, **recipe) == 0
    sizes = []
    compute = sampler._sample_batch

    def refuse(model, prompts, sampling, noise, place, per_prompt, cached):
        sizes.append(len(prompts) * per_prompt)
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("no more memory")
        return compute(model, prompts, sampling, noise, place, per_prompt, cached)

    monkeypatch.setattr(sampler, "_sample_batch", refuse)
    assert run_policy(tmp_path / "tight", toy, **recipe) == 0
    assert max(sizes) > 4
    one, other = told(tmp_path / "roomy"), told(tmp_path / "tight")
    assert other == close(one, 1e-4)
    assert "token positions at once" in " ".join(
        event["message"] for event in events(tmp_path / "tight", "log")
    )


def test_one_response_that_does_not_fit_is_the_end(
    tmp_path,
    toy,  # noqa: F811
    monkeypatch,
):
    short_of_memory(monkeypatch, rows=0)
    assert run_policy(tmp_path, toy, **RECIPE) == 1
    assert "OutOfMemoryError" in result(tmp_path)["error"]


def test_micro_batches_keep_the_answers_to_a_prompt_together():
    prompts = torch.tensor([[1, 5], [2, 6], [1, 5], [2, 6], [1, 5], [2, 6]])
    ids = torch.cat([prompts, torch.arange(6)[:, None]], 1)
    ones = torch.ones(6, 1)
    batch = Batch(ids, torch.ones_like(ids), ones, ones, advantages=ids[:, 2:].float())
    rows = [part.advantages[:, 0].tolist() for part in batch.micro_batches(3)]
    assert rows == [[0, 2, 4], [1, 3, 5]]
    assert [len(part) for part in batch.micro_batches(4)] == [4, 2]
    assert all(part.weights is None for part in batch.micro_batches(4))
