"""The named algorithms against their papers' formulas, written out on small numbers."""

import math
import random

import pytest
import torch

from actions.demo import derive
from records.recipes import PolicyRecipe
from tests.engine.micro import events
from tests.engine.test_policy import (
    CPU,
    result,
    run_policy,
    toy,  # noqa: F401
    toy_rows,
)
from training.engine.data.conversations import Encoder, sample_from_json
from training.engine.modeling.loading import load_policy
from training.engine.rl.advantages import (
    ALGORITHMS,
    SMALL,
    Algorithm,
    advantages,
    algorithm_of,
    length_penalty,
    token_advantages,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

REWARDS = [0.1, 0.9, 0.4, 0.4, 1.5, 1.5, 0.0, 0.7]  # two groups of four


def one_kind(values):
    return torch.tensor(values)[:, None]


def mean(values):
    return sum(values) / len(values)


def std(values):
    middle = mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1))


def groups(values, size=4):
    return [values[i : i + size] for i in range(0, len(values), size)]


def found(name, rewards=REWARDS, **settings):
    recipe = PolicyRecipe(algorithm=name, **settings)
    return advantages(one_kind(rewards), [1.0], 4, algorithm_of(recipe)).tolist()


# Advantages


@pytest.mark.parametrize("name", ["grpo", "dapo", "grpo by token"])
def test_grpo_compares_with_the_group_and_divides_by_its_deviation(name):
    """Shao et al. 2024, section 4.1.2: (rᵢ − mean(r)) / std(r)."""
    expected = [(r - mean(g)) / (std(g) + SMALL) for g in groups(REWARDS) for r in g]
    assert found(name) == pytest.approx(expected, rel=1e-4)


def test_dr_grpo_leaves_the_deviation_out():
    """Liu et al. 2025, section 3.2: rᵢ − mean(r)."""
    expected = [r - mean(g) for g in groups(REWARDS) for r in g]
    assert found("dr_grpo") == pytest.approx(expected, abs=1e-6)


def test_rloo_compares_with_the_mean_of_the_others():
    """Ahmadian et al. 2024: R(yᵢ) − 1/(k−1) Σ_{j≠i} R(yⱼ)."""
    expected = [
        g[i] - sum(g[j] for j in range(4) if j != i) / 3
        for g in groups(REWARDS)
        for i in range(4)
    ]
    assert found("rloo") == pytest.approx(expected, abs=1e-6)


def test_reinforce_plus_plus_standardises_token_returns_over_the_whole_step():
    """Hu et al. 2025, equations 8 to 10."""
    beta, rewards = 0.1, [1.0, 0.0]
    kl = [[0.5, -0.2, 0.3], [0.1, 0.4, 9.9]]
    lengths = [3, 2]
    returns = [
        [rewards[i] - beta * sum(kl[i][t : lengths[i]]) for t in range(lengths[i])]
        for i in range(2)
    ]
    everything = [value for row in returns for value in row]
    expected = [
        [(value - mean(everything)) / (std(everything) + SMALL) for value in row]
        for row in returns
    ]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    rows = token_advantages(
        torch.tensor(rewards), torch.tensor(kl) * mask, mask, beta
    ).tolist()
    assert rows[0] == pytest.approx(expected[0], rel=1e-4)
    assert rows[1] == pytest.approx([*expected[1], 0.0], rel=1e-4)


def test_without_kl_reinforce_plus_plus_standardises_the_rewards():
    expected = [(r - mean(REWARDS)) / (std(REWARDS) + SMALL) for r in REWARDS]
    assert found("reinforce++", beta=0.0) == pytest.approx(expected, rel=1e-4)


def test_reinforce_plus_plus_with_baseline_has_a_name():
    """Hu et al. 2025, "w/ baseline": group mean first, then the whole step's deviation."""
    centred = [r - mean(g) for g in groups(REWARDS) for r in g]
    expected = [value / (std(centred) + SMALL) for value in centred]
    assert found("reinforce++ baseline") == pytest.approx(expected, rel=1e-4)


def test_each_kind_normalised_counts_alike_whatever_its_spread():
    small = [0.50, 0.51, 0.50, 0.51]
    large = [0.0, 100.0, 100.0, 0.0]
    rewards = torch.tensor([small, large], dtype=torch.float64).T
    algorithm = Algorithm("group", "none", "token", "none")
    plain = advantages(rewards, [1, 1], 4, algorithm).tolist()
    each = advantages(rewards, [1, 1], 4, algorithm, each_normalized=True).tolist()
    assert plain[0] < -49 < 49 < plain[2]  # only the large kind is heard
    expected = [
        (s - mean(small)) / (std(small) + SMALL)
        + (b - mean(large)) / (std(large) + SMALL)
        for s, b in zip(small, large, strict=True)
    ]
    assert each == pytest.approx(expected, rel=1e-9)


def test_a_kind_that_does_not_apply_to_a_task_counts_nothing():
    nan = math.nan
    rewards = torch.tensor([[1, 0.0], [1, 1.0], [1, nan], [0, nan]])
    algorithm = algorithm_of(PolicyRecipe(algorithm="dr_grpo"))
    assert advantages(rewards, [0.5, 1.0], 2, algorithm).tolist() == [
        -0.5,
        0.5,
        0.25,
        -0.25,
    ]
    each = advantages(rewards, [0.5, 1.0], 2, algorithm, each_normalized=True)
    assert not each.isnan().any()
    assert each[1] > 0 > each[3]


@pytest.mark.parametrize(
    ("length", "expected"), [(10, 0), (80, 0), (90, -0.5), (100, -1), (120, -1)]
)
def test_dapo_punishes_softly_what_is_too_long(length, expected):
    """Yu et al. 2025, equation 13, with 100 tokens at most and a cache of 20."""
    assert length_penalty(length, 100, 20) == expected


def test_epsilon_clips_both_sides_where_the_algorithm_has_no_other_bound():
    assert algorithm_of(PolicyRecipe(algorithm="dapo")).epsilon_high == 0.28
    assert algorithm_of(PolicyRecipe(algorithm="grpo")).epsilon_high == 0.2
    assert algorithm_of(PolicyRecipe(algorithm="grpo", beta=0)).kl == "none"


def test_the_recipe_offers_all_algorithms():
    offered = PolicyRecipe.__dataclass_fields__["algorithm"].metadata["choices"]
    assert set(offered) == set(ALGORITHMS)


# Whole runs


def margin(folder):
    """Return how much likelier the labels are than the errors taught beside them."""
    model, tokenizer = load_policy(folder, CPU)
    encoder, rng, found = Encoder(tokenizer), random.Random(0), []
    for row in toy_rows():
        wrong, _ = derive.corrupted(row["turns"][0], rng, "action name")
        for text, sign in ((row["turns"][0]["response"], 1), (wrong, -1)):
            encoded = encoder.encode(sample_from_json(row), responses=[text])
            labels = torch.tensor([encoded.labels])
            with torch.no_grad():
                out = model(input_ids=torch.tensor([encoded.ids]), labels=labels)
            found.append(-sign * float(out.loss) * int((labels[:, 1:] != -100).sum()))
    return sum(found) / len(toy_rows())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_learns_to_answer_right(tmp_path, toy, name):  # noqa: F811
    """The policy was taught each label and one error beside it; the oracle tells."""
    settings = {
        "algorithm": name,
        "consistency_source": "oracle",
        "beta": 0.001,
        "learning_rate": 1e-3,
        "steps": 5,
        "evaluate_every": 5,
        "num_generations": 8,
        "micro_batch": 16,
    }
    assert run_policy(tmp_path, toy, **settings) == 0, result(tmp_path)
    assert margin(tmp_path / "checkpoints/step-000005") > margin(toy) + 0.5


@pytest.mark.parametrize("name", ["reinforce++", "rloo"])
def test_a_kl_in_the_reward_is_reported_and_starts_at_zero(
    tmp_path,
    toy,  # noqa: F811
    name,
):
    """Under adapters, and in small batches; the reference is the model without them."""
    settings = {"algorithm": name, "consistency_source": "oracle", "method": "lora"}
    status = run_policy(tmp_path, toy, learning_rate=1e-2, micro_batch=2, **settings)
    assert status == 0, result(tmp_path)
    metrics = [e["values"] for e in events(tmp_path, "metrics")]
    kl = [values["kl"] for values in metrics if "kl" in values]
    assert len(kl) == 4
    assert kl[0] == pytest.approx(0, abs=1e-4)
    assert abs(kl[-1]) > 1e-4
