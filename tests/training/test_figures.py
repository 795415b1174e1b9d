"""The figures of a run as lines, in an order that jsonb does not keep."""

from training.figures import plain_figures

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
