"""The figures of a run as lines, in an order that jsonb does not keep."""

from training.wording.figures import (
    MOST,
    folded_figures,
    headline_figures,
    plain_figures,
)

RESULT = {
    "gain": {"low": -0.01, "high": 0.11},
    "gate": {"misses": [], "passed": True},
    "steps": 12,
    "truth": 0.5,
    "cut_off": 0.25,
    "seconds": {"update": 3.7, "scoring": 0.2},
    "truth_at_start": 0.45,
}


def test_truth_comes_first_and_the_rest_by_name():
    names = [name for name, _ in plain_figures(RESULT | {"gain": 0.05})]
    assert names[:3] == ["truth at start", "truth", "gain"]
    assert names[-1] == "cut off"


def test_a_value_stands_with_its_interval():
    result = {"gain": 0.05, "gain/low": -0.01, "gain/high": 0.11}
    assert plain_figures(result) == [("gain", "0.050 (-0.010 to 0.110)")]


def test_a_bound_without_its_value_stays():
    figures = dict(plain_figures(RESULT))
    assert figures["gain, low"] == "-0.010"
    assert "gain" not in figures


def test_the_parts_of_the_time_are_told_elsewhere():
    names = [name for name, _ in plain_figures(RESULT | {"cut_off/seconds/x": 1})]
    assert not any(name.startswith("seconds, ") for name in names)
    assert plain_figures({"seconds": 19.0}) == [("seconds", "19.000")]


def test_tables_are_no_lines():
    assert plain_figures({"policies": {"policy": {}}, "gains": {"a": 1}}) == []


def test_very_many_figures_are_folded_behind_those_that_say_most():
    few = RESULT | {"judged": {"auc": 0.9}}
    assert folded_figures(few) == (plain_figures(few), [])
    many = few | {"trained_on": {f"kind {n}": n for n in range(MOST)}}
    first, rest = folded_figures(many)
    assert [name for name, _ in first][:3] == ["truth at start", "truth", "judged, AUC"]
    assert "trained on, kind 3" in dict(rest)
    assert sorted(first + rest) == sorted(plain_figures(many))


def test_runs_are_compared_by_their_headlines_and_an_evaluations_policy():
    assert headline_figures(RESULT) == {"truth at start": "0.450", "truth": "0.500"}
    value = {"value": 0.5, "low": 0.4, "high": 0.61, "n": 150}
    measured = {"turns_right": value, "errors": {"answer": 3}}
    other = {"turns_right": value | {"value": 0.1}}
    result = {"policies": {"policy": measured, "initial": other}}
    assert headline_figures(result) == {"Turns right": "0.500 (0.400 to 0.610)"}
    assert headline_figures({"policies": {"policy": 3}}) == {}
