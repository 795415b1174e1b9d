"""Two processes: a number that is not finite in one of them ends both, and says why."""

import pytest
from safetensors.torch import load_file, save_file

from tests.engine.micro import demo_rows, events, make_run, save_micro_policy
from tests.engine.processes import run_together
from tests.engine.test_finite import (
    SMALL,
    failure,
    overflow,
    rehash,
    token_in,
    treacherous,
)
from tests.engine.test_policy import GOOD, save_judge, toy, toy_rows  # noqa: F401
from tests.engine.test_several_policy import RECIPE as POLICY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def fail_together(folder, program, recipe, inputs, data):
    """Run a recipe in two processes; it fails, and within the time limit."""
    settings = {**recipe, "processes": 2}
    make_run(folder, program, settings, inputs, data)
    status, said = run_together(program, folder)
    assert status != 0, said


def test_a_gradient_of_one_process_stops_both_before_the_step(tmp_path):
    rows = demo_rows(4)
    base = save_micro_policy(tmp_path / "base", "llama")
    treacherous(base, token_in(base, rows, only=0))
    recipe = {**SMALL, "conversations_per_step": 2, "base": str(base)}
    fail_together(tmp_path / "run", "sft", recipe, None, {"train": rows})
    steps = [event["step"] for event in events(tmp_path / "run", "checkpoint")]
    last = max(steps, default=0)
    assert overflow(tmp_path / "run").startswith(
        f"step {last + 1}: expected a finite gradient norm, found what overflowed. "
    )


def test_a_score_of_one_process_stops_both(tmp_path, toy):  # noqa: F811
    judge = save_judge(tmp_path / "judge", GOOD)
    weights = load_file(judge / "model.safetensors")
    weights["score.weight"][:] = 3e38
    save_file(weights, judge / "model.safetensors", {"format": "pt"})
    recipe = {**POLICY, "consistency_source": "reward model"}
    data = {"train": toy_rows(), "held_out": toy_rows()}
    inputs = {"policy": toy, "reward": rehash(judge)}
    fail_together(tmp_path / "run", "policy", recipe, inputs, data)
    assert "expected a finite score of the reward model, found nan" in failure(
        tmp_path / "run"
    )
