"""A checkpoint's trainer folder: what is written comes back, in today's files."""

import json

import pytest
import torch
from safetensors.torch import load_file

from records.finite import NotFiniteError
from records.recipes import SftRecipe
from tests.engine.micro import make_run, micro_policy, micro_tokenizer
from training.engine.modeling.learner import Learner
from training.engine.modeling.new_tokens import new_rows
from training.engine.modeling.optim import (
    muon_and_adamw,
    update,
    warmup_stable_decay,
)
from training.engine.modeling.policies import save_policy
from training.engine.modeling.trainer_state import (
    resume_trainer,
    resumed_progress,
    save_trainer_state,
    seed_step,
)
from training.engine.run.directory import RunDirectory, RunError

# peft asks for a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

RECIPE = SftRecipe(lora_rank=2, steps=4)


def built(method, noise=0):
    """Return a policy as it is to learn, two of its tokens new, and its optimizer."""
    tokenizer = micro_tokenizer()
    recipe = SftRecipe(method=method, lora_rank=2)
    model = micro_policy(tokenizer)
    torch.manual_seed(noise)  # of fresh adapters
    learner = Learner.of(model, tokenizer, recipe)
    rows = new_rows(learner.model, [5, 9], 10.0, alone=method == "lora")
    optimizer = muon_and_adamw(
        learner.module.named_parameters(),
        muon_rate=1e-2,
        adamw_rate=1e-3,
        weight_decay=0.0,
        muon=method == "full",
        rows=rows,
    )
    return learner, optimizer


def take_steps(learner, optimizer, first, steps):
    schedule = warmup_stable_decay(
        optimizer, first=first, steps=4, warmup=2, decay_fraction=0.5
    )
    for step in range(first, first + steps):
        seed_step(1, step)
        ids = torch.randint(10, 900, (2, 16))
        loss = learner.module(input_ids=ids, labels=ids).loss
        loss.backward()
        trained = [p for p in learner.module.parameters() if p.requires_grad]
        update(
            optimizer,
            schedule,
            trained,
            loss=loss.item(),
            max_grad_norm=1.0,
            step=step + 1,
        )


def opened(folder, resume=None):
    make_run(folder, "sft", {"steps": 4}, resume=resume)
    run = RunDirectory(folder)
    run.read()
    return run


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_trainer_goes_on_as_if_it_never_stopped(tmp_path, method):
    learner, optimizer = built(method)
    take_steps(learner, optimizer, 0, 2)
    run = opened(tmp_path)
    looks = [{"step": 2, "truth": 0.5}]

    def write(folder):
        save_policy(learner.model, learner.tokenizer, folder)
        save_trainer_state(folder, learner.module, optimizer, 2, looks=looks)

    run.save_checkpoint(2, write, kind="policy", recipe=RECIPE)
    run.close()
    folder = tmp_path / "checkpoints/step-000002/trainer"
    names = {"optimizer.safetensors", "optimizer.json", "state.json"}
    names |= {"weights.safetensors"} if method == "lora" else set()
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "state.json").read_text()) == {
        "step": 2,
        "looks": looks,
    }

    again, other = built(method, noise=1)
    if method == "full":  # a resumed run loads the checkpoint's model
        again.model.load_state_dict(learner.model.state_dict())
    run = opened(tmp_path, "checkpoints/step-000002")
    assert resumed_progress(run) == (2, {"looks": looks})
    resume_trainer(run, again.module, other)
    run.close()
    take_steps(learner, optimizer, 2, 2)
    take_steps(again, other, 2, 2)
    for one, two in zip(
        learner.module.parameters(), again.module.parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_a_new_run_has_no_progress_and_nothing_to_resume(tmp_path):
    run = opened(tmp_path)
    assert resumed_progress(run) == (0, {})
    resume_trainer(run, torch.nn.Linear(1, 1), None)
    run.close()


def test_a_checkpoint_without_a_trainer_is_refused_and_its_step_is_known(tmp_path):
    learner, optimizer = built("full")
    run = opened(tmp_path)
    run.save_checkpoint(
        3,
        lambda folder: save_policy(learner.model, learner.tokenizer, folder),
        kind="policy",
        recipe=RECIPE,
    )
    run.close()
    run = opened(tmp_path, "checkpoints/step-000003")
    assert resumed_progress(run) == (3, {})
    with pytest.raises(RunError, match="expected the state of a trainer"):
        resume_trainer(run, learner.module, optimizer)
    run.close()


@pytest.mark.parametrize(
    ("loss", "poison", "what"),
    [(float("nan"), 0.0, "loss"), (1.0, float("inf"), "gradient norm")],
)
def test_a_step_that_is_not_finite_leaves_the_weights_alone(loss, poison, what):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    weight.grad = torch.full((3,), 1.0 + poison)
    with pytest.raises(NotFiniteError, match=f"step 7: expected a finite {what}"):
        update(optimizer, None, [weight], loss=loss, max_grad_norm=0.0, step=7)
    assert torch.equal(weight, torch.ones(3))


def test_an_update_clips_the_gradient_and_tells_norm_and_rate():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    weight.grad = torch.tensor([3.0, 4.0])
    figures = update(optimizer, None, [weight], loss=2.0, max_grad_norm=1.0, step=1)
    assert figures == {
        "loss": 2.0,
        "gradient_norm": pytest.approx(5.0),
        "learning_rate": 0.5,
    }
    assert weight.tolist() == pytest.approx([-0.3, -0.4], rel=1e-4)


def test_the_noise_of_a_step_depends_on_seed_step_and_rank():
    def drawn(*place):
        seed_step(*place)
        return torch.rand(2).tolist()

    assert drawn(1, 4) == drawn(1, 4)
    assert len({tuple(drawn(*p)) for p in ((1, 4), (1, 5), (2, 4), (1, 4, 1))}) == 4


def test_the_moments_of_an_older_checkpoint_have_the_names_of_today(tmp_path):
    learner, optimizer = built("full")
    take_steps(learner, optimizer, 0, 1)
    save_trainer_state(tmp_path, learner.module, optimizer, 1)
    names = load_file(tmp_path / "trainer/optimizer.safetensors").keys()
    assert {"0.0.momentum_buffer", "1.0.exp_avg", "2.0.exp_avg_sq"} <= names
