"""PPO's critic: advantages and losses against their definitions, and whole micro runs."""

import math
import random

import pytest
import torch
from safetensors.torch import load_file

from records.recipes import PolicyRecipe
from tests.engine.micro import (
    events,
    save_micro_policy,
)
from tests.engine.test_policy import (
    CPU,
    answer_with_labels,
    judge,  # noqa: F401
    make_rollouts,
    normal_row,
    result,
    run_policy,
    toy,  # noqa: F401
)
from training.engine.modeling.loading import load_classifier
from training.engine.modeling.micro_batch import MicroBatch
from training.engine.rl.advantages import SMALL, gae, standardized
from training.engine.rl.batch import Batch
from training.engine.rl.critic import Critic, explained_variance
from training.engine.rl.rewards import Rewarded
from training.engine.sampling.sampler import PartOf

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def advantages_of(rewards, values, mask, gamma=1.0, lam=0.95):
    rows = (torch.tensor([row]) for row in (rewards, values, mask))
    return gae(*rows, gamma, lam)[0].tolist()


# Advantages


def test_advantages_are_those_of_the_paper_by_hand():
    """γ = 0.5, λ = 0.5: δ = (−1, 0.5, −1), A₃ = δ₃, A₂ = δ₂ + A₃/4, A₁ = δ₁ + A₂/4."""
    found = advantages_of([0.0, 1.0, 2.0], [2.0, 2.0, 3.0], [1, 1, 1], 0.5, 0.5)
    assert found == pytest.approx([-1 + 0.25 * 0.25, 0.5 - 0.25, -1.0])


def definition(rewards, values, discount, keep):
    """Schulman et al. 2016, (16) as in its definition (14): the weighted mean of all
    n-step advantages, the last of which takes the weight of all that are longer.
    """
    size, found = len(rewards), []
    ends = [*values, 0.0]
    for t in range(size):
        steps = [
            sum(discount ** (i - t) * rewards[i] for i in range(t, t + n))
            + discount**n * ends[t + n]
            - values[t]
            for n in range(1, size - t + 1)
        ]
        weights = [(1 - keep) * keep**n for n in range(len(steps) - 1)]
        weights.append(keep ** (len(steps) - 1))
        found.append(sum(w * a for w, a in zip(weights, steps, strict=True)))
    return found


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("keep", [0.0, 0.7, 1.0])
def test_advantages_are_the_weighted_mean_of_n_step_ones_over_own_tokens(
    discount, keep
):
    rng = random.Random(1)
    own = [0, 1, 1, 0, 0, 1, 0, 1, 1, 0]
    rewards, values = ([rng.uniform(-1, 1) for _ in own] for _ in range(2))
    mine = [i for i, o in enumerate(own) if o]
    expected = dict.fromkeys(range(len(own)), 0.0) | dict(
        zip(
            mine,
            definition(
                [rewards[i] for i in mine], [values[i] for i in mine], discount, keep
            ),
            strict=True,
        )
    )
    found = advantages_of(rewards, values, own, discount, keep)
    assert found == pytest.approx(list(expected.values()), abs=1e-6)


def test_what_others_wrote_changes_no_advantage():
    own = [1, 1, 0, 0, 1]
    found = advantages_of([0.0, 0.5, 0.0, 0.0, 1.0], [0.3, 0.2, 0.0, 0.0, 0.6], own)
    other = advantages_of([0.0, 0.5, 9.0, -7.0, 1.0], [0.3, 0.2, 5.0, -5.0, 0.6], own)
    assert found == other
    shorter = advantages_of([0.0, 0.5, 1.0], [0.3, 0.2, 0.6], [1, 1, 1])
    assert [found[0], found[1], found[4]] == shorter


def test_advantages_are_standardized_over_own_tokens():
    found = torch.tensor([[1.0, 99.0, 2.0], [6.0, 3.0, 99.0]])
    own = torch.tensor([[1, 0, 1], [1, 1, 0]])
    middle, spread = 3.0, math.sqrt((4 + 1 + 9 + 0) / 3)
    expected = [(v - middle) / (spread + SMALL) for v in (1, 3, 2, 6, 3, 3)]
    rows = standardized(found, own)
    assert rows.flatten().tolist() == pytest.approx(
        [v * o for v, o in zip(expected, own.flatten().tolist(), strict=True)]
    )


# The critic's loss and figures


def test_explained_variance_is_one_for_all_known_and_zero_for_nothing():
    targets = torch.tensor([0.0, 1.0, 2.0, 5.0])
    assert explained_variance(targets + 3, targets) == pytest.approx(1.0)
    assert explained_variance(torch.zeros(4), targets) == pytest.approx(0.0)
    assert explained_variance(-targets, targets) == pytest.approx(-3.0)
    assert explained_variance(torch.zeros(4), torch.ones(4)) == 0.0
    assert explained_variance(torch.zeros(0), torch.zeros(0)) == 0.0


# Values


def micro_critic(tmp_path, size=99):
    torch.manual_seed(0)
    model = load_classifier(save_micro_policy(tmp_path / "start"), CPU, outputs=1)
    micro_batch = MicroBatch(size, lambda *_: None)
    return Critic(PolicyRecipe(algorithm="ppo"), model, CPU, micro_batch)


def batch_of(prompts, completions, masks):
    before, after = max(map(len, prompts)), max(map(len, completions))
    ids = [
        [0] * (before - len(p)) + p + c + [0] * (after - len(c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    seen = [
        [0] * (before - len(p)) + [1] * (len(p) + len(c)) + [0] * (after - len(c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    own = [m + [0] * (after - len(m)) for m in masks]
    mask = torch.tensor(own)
    return Batch(torch.tensor(ids), torch.tensor(seen), mask, torch.zeros(mask.shape))


PROMPTS = [[5, 6, 7], [5, 6, 7], [8, 9, 10, 11]]
COMPLETIONS = [[20, 21, 22, 23], [20, 21, 22, 23], [30, 31]]
OWN = [[1, 0, 0, 1], [1, 0, 0, 1], [1, 1]]


@pytest.mark.parametrize("shared", [True, False])
def test_a_value_is_of_the_text_before_its_token(tmp_path, monkeypatch, shared):
    critic = micro_critic(tmp_path)
    monkeypatch.setattr(
        "training.engine.modeling.shared_prompt.can_share",
        lambda model, longest: shared,
    )
    batch = batch_of(PROMPTS, COMPLETIONS, OWN)
    values = critic.values(batch)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        for t in range(len(completion)):
            before = torch.tensor([prompt + completion[:t]])
            with torch.no_grad():
                hidden = critic.model.base_model(input_ids=before).last_hidden_state
                expected = critic.model.score(hidden[0, -1])
            assert float(values[row, t]) == pytest.approx(float(expected), abs=1e-5)


def test_parts_of_a_draw_give_the_gradient_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("training.engine.rl.critic.EPSILON", 0)
    batch = batch_of(PROMPTS, COMPLETIONS, OWN)
    weights = []
    for size in (99, 1):
        critic = micro_critic(tmp_path / str(size), size)
        critic.learn(batch, critic.values(batch), torch.ones(batch.mask.shape), 1)
        weights.append(critic.model.score.weight.detach())
    assert torch.allclose(*weights, atol=1e-5)


def test_the_critic_comes_to_know_what_follows(tmp_path, monkeypatch):
    """Two prompts, one of which earns 1 and the other −1."""
    monkeypatch.setattr("training.engine.rl.critic.EPSILON", 0)
    monkeypatch.setattr("training.engine.rl.critic.UPDATES", 60)
    critic = micro_critic(tmp_path)
    batch = batch_of(PROMPTS, COMPLETIONS, OWN)
    returns = torch.tensor([[1.0], [1.0], [-1.0]]).expand(batch.mask.shape)
    old = critic.values(batch)
    critic.learn(batch, old, returns, 1)
    found = critic.values(batch)[batch.mask.bool()]
    assert explained_variance(found, returns[batch.mask.bool()]) > 0.95


# What tokens are paid


def test_every_turn_is_paid_where_it_ends(monkeypatch):
    row = normal_row()
    rollouts = make_rollouts([row], algorithm="ppo", whole_tasks=True)
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    episode = rollouts.respond(None, [rollouts.prompts[0]], PartOf(0, 0, 1))[0][0]
    turns = len(episode.answers)
    assert turns > 1
    episode.rewarded = [Rewarded(1.0, 1.0 / (i + 1)) for i in range(turns)]
    earned_by = rollouts.token_rewards(episode)
    ends = [
        start + len(given.sampled.ids) - 1
        for start, given in zip(episode.starts, episode.answers, strict=True)
    ]
    earned = [(0.5 + 1.0 / (i + 1)) / turns for i in range(turns)]
    earned[-1] += 1.0 / turns  # completion: the lowest consistency of the turns
    assert [earned_by[end] for end in ends] == pytest.approx(earned)
    assert [i for i, value in enumerate(earned_by) if value] == ends
    assert all(episode.mask[end] for end in ends)
    assert sum(earned_by) == pytest.approx(rollouts.reward(episode))


def test_a_whole_task_is_paid_its_completion_at_the_end(monkeypatch):
    row = normal_row()
    rollouts = make_rollouts([row], algorithm="ppo", whole_tasks=True)
    monkeypatch.setattr(
        "training.engine.rl.rollouts.answer", answer_with_labels(rollouts.encoder)
    )
    episode = rollouts.respond(None, [rollouts.prompts[0]], PartOf(0, 0, 1))[0][0]
    turns = len(row["turns"])
    assert len(episode.answers) == turns
    episode.rewarded = [Rewarded(1.0, 0.5)] * turns
    earned_by = rollouts.token_rewards(episode)
    assert earned_by[len(episode.ids) - 1] == pytest.approx(1.0 / turns + 0.5)
    # Cut short after its first turn: what was not reached is not paid.
    episode.answers, episode.starts = episode.answers[:1], episode.starts[:1]
    episode.rewarded = episode.rewarded[:1]
    assert sum(rollouts.token_rewards(episode)) == pytest.approx(1.0 / turns)


# Whole runs

SETTINGS = {
    "algorithm": "ppo",
    "consistency_source": "oracle",
    "learning_rate": 1e-3,
}


def tensors(folder, name):
    return load_file(folder / "checkpoints" / name)


def test_a_resumed_run_repeats_policy_critic_and_moments(tmp_path, toy):  # noqa: F811
    assert run_policy(tmp_path / "whole", toy, **SETTINGS) == 0, result(
        tmp_path / "whole"
    )
    half = tmp_path / "whole" / "checkpoints" / "step-000002"
    assert run_policy(tmp_path / "resumed", toy, resume=str(half), **SETTINGS) == 0
    for name in (
        "model.safetensors",
        "trainer/optimizer.safetensors",
        "trainer/critic/model.safetensors",
        "trainer/critic/optimizer.safetensors",
    ):
        start, whole, resumed = (
            tensors(tmp_path / run, f"step-00000{step}/{name}")
            for run, step in (("whole", 2), ("whole", 4), ("resumed", 4))
        )
        assert whole.keys() == resumed.keys()
        assert any(not torch.equal(whole[key], start[key]) for key in whole)
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_the_figures_of_the_critic_are_told(tmp_path, toy):  # noqa: F811
    assert run_policy(tmp_path, toy, method="lora", micro_batch=4, **SETTINGS) == 0
    told = [e["values"] for e in events(tmp_path, "metrics")]
    steps = [values for values in told if "critic/loss" in values]
    assert len(steps) == 4
    assert steps[0]["critic/value"] == 0.0  # the output starts at zero
    assert steps[0]["critic/explained_variance"] == pytest.approx(0.0, abs=1e-5)
    assert steps[-1]["critic/value"] > 0
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert all(values["seconds/critic"] > 0 for values in steps)
    assert result(tmp_path)["values"]["seconds/critic"] > 0
