"""The plain figures of an iteration: the alarm, the learning curve, the comparison."""

import pytest

from training.cycle import Fresh, comparison, hacking
from training.forecasting import Known, learning_curve


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
    assert not found.is_worse
    assert comparison({}) is None
    assert comparison({"policies": {"policy": {}, "initial": {}}}) is None
    assert comparison({"policies": {"policy": {"turns_right": value}}}) is None
