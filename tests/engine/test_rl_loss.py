"""The policy's and the critic's losses against the papers' formulas, token by token."""

import math

import pytest
import torch

from records.recipes import PolicyRecipe
from tests.engine.test_policy import result, run_policy, toy  # noqa: F401
from training.engine import policy
from training.engine.rl import update
from training.engine.rl.advantages import ALGORITHMS, algorithm_of
from training.engine.rl.loss import (
    LIMIT,
    average,
    clipped_policy_loss,
    clipped_value_loss,
    importance_weights,
    is_clipped,
    kl_estimate,
)
from training.engine.rl.rewards import Rewarded, Rewards
from training.engine.rl.update import TokenLogProbs

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def expected_loss(algorithm, recipe, batch, new):
    """Return the loss by the papers' formulas, one token after the other."""
    old = new if batch.old_logprobs is None else batch.old_logprobs
    low, high = 1 - recipe.epsilon, 1 + algorithm.epsilon_high
    responses = []
    for i, length in enumerate(batch.mask.sum(1).tolist()):
        tokens = []
        for t in range(batch.mask.shape[1]):
            if not batch.mask[i, t]:
                continue
            advantage = batch.advantages[i].expand(batch.mask.shape[1])[t]
            rho = (new[i, t] - old[i, t]).exp()
            loss = -min(rho * advantage, min(max(rho, low), high) * advantage)
            if algorithm.kl.startswith("loss"):
                gap = batch.reference_logprobs[i, t] - new[i, t]
                kl = gap.exp() - gap - 1  # Shao et al. 2024, equation 4
                if algorithm.kl == "loss, unbiased":
                    kl *= rho  # DeepSeek-V3.2
                loss += recipe.beta * kl
            tokens.append(loss)
        responses.append((sum(tokens), length))
    total = sum(loss for loss, _ in responses)
    if algorithm.average == "token":
        return total / sum(length for _, length in responses)
    if algorithm.average == "constant":
        return total / (len(responses) * recipe.max_new_tokens)
    return sum(loss / length for loss, length in responses) / len(responses)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_loss_of_a_run_is_the_published_one(
    tmp_path,
    toy,  # noqa: F811
    monkeypatch,
    name,
):
    steps, logprobs = [], []
    forward = TokenLogProbs.forward
    accumulate = update.accumulate_policy_gradient

    def listening(self, ids, attention_mask, width):
        outputs = forward(self, ids, attention_mask, width)
        if outputs[0].requires_grad:
            logprobs.append(outputs[0].detach())
        return outputs

    def recording(accelerator, model, batch, micro_batch, recipe):
        # In the order of micro-batches, as log-probabilities are.
        (ordered,) = batch.micro_batches(len(batch))
        figures = accumulate(accelerator, model, batch, micro_batch, recipe)
        steps.append((figures, ordered, logprobs[-1]))
        return figures

    monkeypatch.setattr(TokenLogProbs, "forward", listening)
    monkeypatch.setattr(policy, "accumulate_policy_gradient", recording)
    monkeypatch.setattr(
        Rewards,
        "__call__",
        lambda self, answers: [Rewarded(1.0, (a.index % 3) / 2) for a in answers],
    )
    settings = {
        "algorithm": name,
        "consistency_source": "oracle",
        "steps": 2,
        "num_iterations": 2,
        "temperature": 3.0,
        "learning_rate": 1e-2,
        "beta": 0.05,
    }
    assert run_policy(tmp_path, toy, **settings) == 0, result(tmp_path)
    assert len(steps) == 2
    _, batch, new = steps[1]
    ratio = (new - batch.old_logprobs).exp()[batch.mask == 1]
    assert ratio.max() > 1.3 > 0.7 > ratio.min()  # so that the clipping matters
    recipe = PolicyRecipe(**settings, max_new_tokens=90)
    algorithm = algorithm_of(recipe)
    for figures, batch, new in steps:
        expected = float(expected_loss(algorithm, recipe, batch, new))
        assert figures["loss"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert ("kl" in figures) == algorithm.kl.startswith("loss")


def test_a_ratio_beyond_its_range_gets_no_gradient_where_it_would_gain():
    """Schulman et al. 2017, figure 1: clipped above for A > 0 and below for A < 0."""
    old = torch.zeros(1, 4)
    new = torch.tensor([[1.0, -1.0, 1.0, -1.0]], requires_grad=True)
    advantages = torch.tensor([[2.0, 2.0, -2.0, -2.0]])
    losses = clipped_policy_loss(new, old, advantages, 0.2, 0.28)
    low, high = math.exp(-1), math.exp(1)
    expected = [-1.28 * 2, -low * 2, high * 2, 0.8 * 2]
    assert losses[0].tolist() == pytest.approx(expected)
    losses.sum().backward()
    assert (new.grad[0] != 0).tolist() == [False, True, True, False]
    clipped = is_clipped(new.detach(), old, advantages, 0.2, 0.28)
    assert clipped[0].tolist() == [1, 0, 0, 1]


def test_k1_and_k3_estimate_the_divergence_and_k3_varies_less():
    """Schulman 2020, on two distributions whose KL is known."""
    torch.manual_seed(0)
    ours = torch.tensor([0.6, 0.3, 0.1]).log()
    theirs = torch.tensor([0.4, 0.4, 0.2]).log()
    kl = float((ours.exp() * (ours - theirs)).sum())
    tokens = torch.multinomial(ours.exp(), 200_000, replacement=True)
    estimates = {
        name: kl_estimate(name, ours[tokens], theirs[tokens])
        for name in ("k1", "k2", "k3")
    }
    for name in ("k1", "k3"):
        assert float(estimates[name].mean()) == pytest.approx(kl, abs=2e-3)
    assert (estimates["k1"] < 0).any()
    assert (estimates["k3"] >= 0).all()
    assert torch.equal(estimates["k2"], (ours - theirs)[tokens].square() / 2)
    assert estimates["k3"].std() < estimates["k1"].std() / 2


LOSSES = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
MEANS = {"response": (1.5 + 4) / 2, "constant": 7 / (2 * 10), "token": 7 / 3}


@pytest.mark.parametrize("how", MEANS)
def test_losses_are_averaged_by_response_constant_or_token(how):
    assert float(average(LOSSES, MASK, how, length=10)) == pytest.approx(MEANS[how])
    # A response without tokens of its own counts nothing.
    assert math.isfinite(average(LOSSES, MASK * 0, how, length=10))


@pytest.mark.parametrize("how", MEANS)
def test_the_losses_of_micro_batches_add_up_to_that_of_the_step(how):
    whole = {"responses": 2, "tokens": 3.0, "length": 10}
    parts = [
        average(LOSSES[i : i + 1], MASK[i : i + 1], how, **whole) for i in range(2)
    ]
    assert float(sum(parts)) == pytest.approx(MEANS[how])


def test_a_response_that_the_trainer_finds_much_likelier_counts_nothing():
    logprobs = torch.tensor([[-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]])
    sampling = torch.tensor([[-1.0, -1.5], [-1.0, -3.0], [-0.5, -9.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    weights = importance_weights(logprobs, sampling, mask)
    assert math.exp(2) > LIMIT
    expected = [math.exp(0.5), 0.0, math.exp(-0.5)]
    assert weights[:, 0].tolist() == pytest.approx(expected)


def test_the_value_loss_is_the_worse_of_clipped_and_free():
    """½ Σ max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²) over own tokens."""
    values = [0.0, 1.0, 1.0, -1.0, 5.0]
    returns = [1.0, 2.0, 0.5, 1.0, 0.0]
    mask = [1, 1, 1, 1, 0]
    free = [(v - r) ** 2 for v, r in zip(values, returns, strict=True)]
    near = [(0.0 - 1) ** 2, (0.2 - 2) ** 2, (0.2 - 0.5) ** 2, (-0.2 - 1) ** 2]
    rows = [torch.tensor([v]) for v in (values, [0.0] * 5, returns, mask)]
    expected = 0.5 * sum(max(f, n) for f, n in zip(free[:4], near, strict=True))
    assert float(clipped_value_loss(*rows, 0.2)) == pytest.approx(expected)
    assert float(clipped_value_loss(*rows, 0.0)) == pytest.approx(0.5 * sum(free[:4]))


def test_a_value_that_has_moved_far_enough_towards_its_return_gets_no_gradient():
    values = torch.tensor([[0.5, 0.1]], requires_grad=True)
    old, returns = torch.zeros(1, 2), torch.ones(1, 2)
    clipped_value_loss(values, old, returns, torch.ones(1, 2), 0.2).backward()
    assert values.grad.tolist() == [[0.0, pytest.approx(-0.9)]]
