"""The plain figures of an iteration: the alarm, the learning curve, the comparison."""

import math
import random

import pytest

from training.iterations.forecast import Known, learning_curve
from training.iterations.metrics import Comparison, Fresh, comparison, hacking


def fresh(rm_score, people, answers=400):
    return Fresh("policy", "current", rm_score, people, answers)


def test_score_up_and_people_down_is_the_alarm():
    assert "the score rose" in hacking(fresh(0.7, 0.8), fresh(0.9, 0.6))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (fresh(0.9, 0.8), fresh(0.7, 0.6)),  # both down: a bad policy, but no hacking
        (fresh(0.7, 0.6), fresh(0.9, 0.8)),  # both up
        (fresh(0.7, 0.80), fresh(0.9, 0.79)),  # within the tolerance
        (fresh(0.7, 0.8, 10), fresh(0.9, 0.6, 10)),  # ten answers: chance does that
        (fresh(None, 0.8), fresh(0.9, 0.6)),  # not scored
        (fresh(0.7, 0.0, 0), fresh(0.9, 0.0, 0)),  # not judged
    ],
)
def test_what_is_no_alarm(before, after):
    assert hacking(before, after) == ""


def test_a_power_law_is_found_again():
    curve = learning_curve([Known(n, 1 - 2 * n**-0.5) for n in (100, 400, 1600)])
    assert curve.at(6400) == pytest.approx(0.975)
    assert curve.needed_for(0.975) == pytest.approx(6400, abs=2)
    assert curve.spread == pytest.approx(0, abs=1e-9)


def test_one_size_gives_no_curve():
    assert learning_curve([]) is None
    assert learning_curve([Known(300, 0.8), Known(300, 0.9)]) is None
    assert learning_curve([Known(0, 0.5), Known(300, 0.9)]) is None


def test_a_curve_that_does_not_rise_promises_nothing():
    curve = learning_curve([Known(100, 0.9), Known(400, 0.8)])
    assert not curve.grows
    assert curve.at(100_000) == curve.at(100)
    assert curve.needed_for(0.95) is None


def test_a_perfect_reward_model_does_not_break_the_fit():
    curve = learning_curve([Known(100, 0.9), Known(400, 1.0)])
    assert 0.9 < curve.at(200) < 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_models_have_no_interval(count):
    known = [Known(100 * 4**i, 1 - 2 * (100 * 4**i) ** -0.5) for i in range(count)]
    curve = learning_curve(known)
    assert curve is None or curve.between(1000) is None


def test_the_interval_is_that_of_the_regression_in_the_textbook():
    # Log errors 0.1 above and below a line, at four sizes e apart, so that by hand:
    # t(2) = 4.303, s² = 4 · 0.1² / 2, Σ (x − mean)² = 5, and the next lies 2.5 off it.
    noise = (0.1, -0.1, -0.1, 0.1)
    known = [
        Known(round(100 * math.e**i), 1 - math.exp(-1 - 0.5 * i + noise[i]))
        for i in range(4)
    ]
    curve = learning_curve(known)
    at = round(100 * math.e**4)
    half = 4.303 * math.sqrt(0.04 / 2) * math.sqrt(1 + 1 / 4 + 2.5**2 / 5)
    low, high = curve.between(at)
    error = 1 - curve.at(at)
    assert math.log((1 - low) / error) == pytest.approx(half, rel=0.02)
    assert math.log(error / (1 - high)) == pytest.approx(half, rel=0.02)
    assert low < curve.at(at) < high


def test_the_interval_holds_what_comes_next_about_19_times_in_20():
    rng = random.Random(1)
    sizes = (100, 300, 900, 2700)

    def figure(judgments):
        return 1 - 2 * judgments**-0.4 * math.exp(rng.gauss(0, 0.2))

    inside = 0
    for _ in range(2000):
        curve = learning_curve([Known(n, figure(n)) for n in sizes])
        low, high = curve.between(8100)
        inside += low <= figure(8100) <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)


def test_three_models_say_little_and_more_say_more():
    def width(count):
        known = [
            Known(100 * 2**i, 1 - 2 * (100 * 2**i) ** -0.5 * (1.1, 0.9)[i % 2])
            for i in range(count)
        ]
        low, high = learning_curve(known).between(100 * 2**count)
        return high - low

    assert width(3) > 2 * width(6)
    assert width(3) <= 1


def test_models_that_do_not_get_better_have_the_interval_of_their_mean():
    curve = learning_curve([Known(100, 0.9), Known(200, 0.86), Known(400, 0.84)])
    assert not curve.grows
    assert curve.between(1000) == curve.between(100_000)
    low, high = curve.between(1000)
    assert low < 0.84 < high


@pytest.mark.parametrize(
    ("interval", "verdict", "is_passed"),
    [
        ((0.01, 0.2), "better", True),
        ((0.0, 0.0), "not worse", True),  # no sample came out otherwise
        ((-0.03, 0.05), "not worse", True),
        ((-0.03, -0.01), "not worse", True),  # a loss, but within the margin
        ((-0.031, 0.2), "undecided", False),
        ((-0.2, 0.0), "undecided", False),
        ((-0.2, -0.01), "worse", False),
        (None, "undecided", False),
    ],
)
def test_the_whole_interval_decides(interval, verdict, is_passed):
    found = Comparison("truth", 0.5, 0.6, gain_interval=interval, margin=0.03)
    assert (found.verdict, found.is_passed) == (verdict, is_passed)


def test_a_comparison_reads_the_paired_gain():
    figure = {"value": 0.5}
    gain = {"value": 0.1, "low": 0.02, "high": 0.2, "n": 40, "changed": 6}
    result = {
        "policies": {
            "policy": {"tasks_complete": {"value": 0.6}},
            "initial": {"tasks_complete": figure},
        },
        "gains": {"policy": {"tasks_complete": gain}},
    }
    found = comparison(result, margin=0.05)
    assert found.gain_interval == (0.02, 0.2)
    assert (found.samples, found.changed, found.margin) == (40, 6, 0.05)
    for broken in ({}, {"policy": 3}, {"policy": {"tasks_complete": [1]}}, 7):
        assert comparison({**result, "gains": broken}).gain_interval is None


def test_a_comparison_reads_the_first_measure_of_truth_that_both_have():
    value = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    better = {**value, "value": 0.7}
    found = comparison(
        {
            "policies": {
                "policy": {"turns_right": better},
                "initial": {"turns_right": value},
            }
        }
    )
    assert (found.measure, found.before, found.after) == ("turns_right", 0.5, 0.7)
    # Two intervals of shares are not the interval of their difference.
    assert (found.verdict, found.is_passed) == ("undecided", False)
    assert comparison({}) is None
    assert comparison({"policies": {"policy": {}, "initial": {}}}) is None
    assert comparison({"policies": {"policy": {"turns_right": value}}}) is None
