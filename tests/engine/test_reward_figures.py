"""Figures of a reward model, the gate before RL, and the alarm during it."""

import math
import random

import pytest

from training.engine.reward_model.metrics import (
    BAD_CAUGHT,
    SEEN_ORDERS,
    UNSEEN_ORDERS,
    Look,
    Verdict,
    auc,
    best_look,
    best_temperature,
    best_threshold,
    calibration_error,
    gate_misses,
    log_odds,
    parted,
    probability,
    shares,
)


def verdicts(*pairs):
    return [Verdict(p, bool(consistent)) for p, consistent in pairs]


def test_auc_is_the_chance_that_a_good_pair_scores_higher():
    assert auc(verdicts((0.9, 1), (0.8, 1), (0.1, 0))) == 1.0
    assert auc(verdicts((0.1, 1), (0.9, 0))) == 0.0
    assert auc(verdicts((0.5, 1), (0.5, 0))) == 0.5
    assert auc(verdicts((0.5, 1))) is None


def test_calibration_error_is_the_mean_gap_of_the_bins():
    assert calibration_error(verdicts((1.0, 1), (0.0, 0))) == 0
    assert calibration_error(verdicts((0.75, 1), (0.75, 0))) == pytest.approx(0.25)
    assert calibration_error([]) is None


def test_the_threshold_lies_in_the_widest_gap_that_tells_best():
    found = best_threshold(verdicts((0.9, 1), (0.8, 1), (0.3, 0), (0.2, 0)))
    assert found == pytest.approx(0.55)
    assert best_threshold(verdicts((0.9, 1))) is None


def test_a_few_odd_pairs_do_not_push_the_threshold_to_an_edge():
    usual = [*[(0.999, 1)] * 9, *[(0.1, 0)] * 28]
    assert 0.1 < best_threshold(verdicts(*usual, (0.979, 0))) < 0.9
    # A third of the bad ones there is no oddity.
    assert best_threshold(verdicts(*usual, *[(0.979, 0)] * 14)) > 0.979
    # Neither is one of a hundred, where so many pairs tell it apart from chance.
    many = [*[(0.999, 1)] * 900, *[(0.1, 0)] * 2800, *[(0.979, 0)] * 28]
    assert best_threshold(verdicts(*many)) > 0.979


def test_shares_count_bad_caught_and_good_accepted():
    found = shares(verdicts((0.9, 1), (0.4, 1), (0.6, 0), (0.1, 0)), 0.5)
    assert found == {
        "accuracy": 0.5,
        "bad_caught": 0.5,
        "good_accepted": 0.5,
        "bad_precision": 0.5,
    }
    assert shares([], 0.5)["accuracy"] is None


GOOD = {SEEN_ORDERS: 0.95, UNSEEN_ORDERS: 0.92, BAD_CAUGHT: 0.88}


def misses(metrics):
    return gate_misses(metrics, balanced_order=0.9, bad_caught=0.85)


def test_the_gate_opens_when_all_figures_reach_their_bounds():
    assert misses(GOOD) == []


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            UNSEEN_ORDERS,
            0.5,
            "accuracy on balanced quads of unseen orders is 0.500, wanted at least 0.9",
        ),
        (
            BAD_CAUGHT,
            0.63,
            "share of bad held-out answers caught is 0.630, wanted at least 0.85",
        ),
        (
            BAD_CAUGHT,
            math.nan,
            "share of bad held-out answers caught is nan, wanted at least 0.85",
        ),
        (
            SEEN_ORDERS,
            None,
            "accuracy on balanced quads of seen orders was not measured, "
            "wanted at least 0.9",
        ),
    ],
)
def test_the_gate_names_what_is_missed(name, value, sentence):
    assert misses({**GOOD, name: value}) == [sentence]


def looks(*rows):
    return [Look(8 * step, score, truth) for step, (score, truth) in enumerate(rows)]


def test_the_alarm_rings_when_score_rises_and_truth_falls_twice():
    curve = looks((0.5, 0.7), (0.6, 0.71), (0.7, 0.66), (0.8, 0.6))
    reason = parted(curve, tolerance=0.02, evaluations=2)
    assert reason == (
        "score and truth part: since step 8 the reward model's score rose from 0.600 "
        "to 0.800 while held-out truth fell from 0.710 to 0.600 (step 24)"
    )


@pytest.mark.parametrize(
    "curve",
    [
        looks((0.5, 0.7), (0.8, 0.6)),  # once may be chance
        looks((0.5, 0.7), (0.6, 0.69), (0.7, 0.69)),  # within the tolerance
        looks((0.5, 0.7), (0.4, 0.5), (0.3, 0.4)),  # both fall: bad, but no hacking
        looks((0.5, 0.7), (0.6, 0.6), (0.7, 0.72)),  # it came back
        looks((0.5, 0.5), (0.6, 0.6), (0.7, 0.7)),
        [],
    ],
)
def test_the_alarm_is_silent_otherwise(curve):
    assert parted(curve, tolerance=0.02, evaluations=2) is None


def test_the_best_look_is_the_earliest_of_the_best_truth():
    curve = looks((0.5, 0.7), (0.6, 0.72), (0.9, 0.72), (0.95, 0.6))
    assert best_look(curve).step == 8
    assert best_look(curve, by_truth=False).step == 24
    assert best_look(looks((0.5, 0.7), (0.9, 0.6))).step == 0


# Calibration


def test_the_temperature_is_the_one_of_the_least_cross_entropy():
    """Verdicts drawn from known probabilities, told three times as surely as they are."""
    rng = random.Random(0)
    verdicts = []
    for _ in range(4000):
        odds = rng.gauss(0, 1.5)
        verdicts.append(
            Verdict(probability(3 * odds), rng.random() < probability(odds))
        )
    found = best_temperature(verdicts)
    assert found == pytest.approx(3, rel=0.1)

    def loss(temperature):
        return -sum(
            math.log(p if v.consistent else 1 - p)
            for v in verdicts
            for p in (probability(log_odds(v.probability) / temperature),)
        )

    assert loss(found) <= min(loss(found * 1.05), loss(found / 1.05), loss(1.0))


def test_one_verdict_alone_gives_no_temperature():
    assert best_temperature([Verdict(0.9, True), Verdict(0.8, True)]) is None


@pytest.mark.parametrize("odds", [-1e6, -3.0, 0.0, 3.0, 1e6])
def test_no_odds_are_too_large_for_a_probability(odds):
    assert 0 <= probability(odds) <= 1
    assert probability(odds) + probability(-odds) == pytest.approx(1)
