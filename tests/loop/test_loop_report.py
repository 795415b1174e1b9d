"""The exit status of ``make loop`` follows its three promises."""

from types import SimpleNamespace

import pytest

from loop.report import Report, figure, gate_missed, verdict

PASSED = {
    "quads/seen/accuracy": 0.9,
    "quads/unseen/accuracy": 0.95,
    "judged/bad_caught": 0.85,
}


def columns(sft, rl):
    return {
        "SFT": {"tasks_complete": {"value": sft}},
        "RL": {"tasks_complete": {"value": rl}},
    }


def report(pairs=300, **reward):
    run = SimpleNamespace(result=PASSED | reward)
    return Report(pairs=pairs, runs={"reward": run})


def test_all_that_was_promised_holds():
    assert verdict(report(), columns(0.5, 0.6), "RL", True) == 0


@pytest.mark.parametrize(
    ("made", "figures", "promoted"),
    [
        (report(pairs=299), columns(0.5, 0.6), "RL"),
        (report(**{"quads/unseen/accuracy": 0.89}), columns(0.5, 0.6), "RL"),
        (report(**{"judged/bad_caught": None}), columns(0.5, 0.6), "RL"),
        (report(), columns(0.5, 0.4), "RL"),
    ],
)
def test_one_broken_promise_is_told_by_the_exit_status(made, figures, promoted):
    assert verdict(made, figures, promoted, True) == 2


def test_a_worse_policy_that_was_not_promoted_breaks_nothing():
    assert verdict(report(), columns(0.5, 0.4), "SFT", True) == 0


def test_without_an_oracle_nothing_is_claimed():
    assert verdict(report(pairs=0), {}, "SFT", False) == 0


def test_the_gate_says_which_bound_was_missed():
    assert gate_missed(PASSED) == ""
    assert "judged/bad_caught is 0.5, wanted at least 0.85" in gate_missed(
        PASSED | {"judged/bad_caught": 0.5}
    )


def test_a_figure_shows_its_interval():
    cell = {"value": 0.5, "low": 0.25, "high": 0.75}
    assert figure(cell) == "0.500 [0.250, 0.750]"
    assert figure({"value": None}) == "-"
