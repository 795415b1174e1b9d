"""Run directories and checkpoints of an earlier version still open."""

import json
import shutil

import pytest

from records.recipes import DrawRecipe, PreferenceRecipe, RewardRecipe, SftRecipe
from tests.engine.micro import events
from tests.old_run import OLD_RUN
from training.engine import draw, preference, reward, sft
from training.engine.run.directory import run_program

# The libraries' own warnings, as in the tests of each program.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(OLD_RUN, tmp_path / "old_run")


def change(folder, **fields):
    """Set fields of a ``run.json``; an object is joined with the one that is there."""
    path = folder / "run.json"
    document = json.loads(path.read_text())
    for name, value in fields.items():
        is_object = isinstance(value, dict)
        document[name] = document[name] | value if is_object else value
    path.write_text(json.dumps(document))


def result(folder):
    return events(folder, "result")[-1]


def test_an_old_run_goes_on_from_its_checkpoint(old):
    folder = old / "sft"
    change(folder, resume="checkpoints/step-000001")
    assert run_program("sft", SftRecipe, sft.train, [str(folder)]) == 0, result(folder)
    assert result(folder)["state"] == "finished"
    assert events(folder, "checkpoint")[-1]["step"] == 2
    said = [event["message"] for event in events(folder, "log")]
    assert (
        said.count("2 answers judged consistent are learned as further wordings") == 2
    )


def test_an_old_draw_keeps_the_answers_it_has(old):
    folder = old / "draw"
    before = (folder / "outputs" / "responses.jsonl").read_text()
    assert run_program("draw", DrawRecipe, draw.draw, [str(folder)]) == 0, result(
        folder
    )
    assert result(folder)["values"]["done_before"] == 2
    assert (folder / "outputs" / "responses.jsonl").read_text() == before


def test_an_old_reward_model_scores_answers(old):
    folder = old / "draw"
    (folder / "outputs" / "responses.jsonl").unlink()
    change(folder, inputs={"reward": "../reward/checkpoints/step-000002"})
    assert run_program("draw", DrawRecipe, draw.draw, [str(folder)]) == 0, result(
        folder
    )
    assert 0 <= result(folder)["values"]["current/rm_score"] <= 1


def test_an_old_reward_run_goes_on_from_its_checkpoint(old):
    folder = old / "reward"
    change(folder, resume="checkpoints/step-000002", recipe={"steps": 3})
    status = run_program("reward", RewardRecipe, reward.main, [str(folder)])
    assert status == 0, result(folder)
    # All are reported: they are of three samples, too few to choose on some of them.
    assert result(folder)["values"]["judged/count"] == 9


def test_a_preference_model_learns_from_old_judgments(old):
    folder = old / "reward"
    change(folder, recipe={"judges": "preference"})
    status = run_program("reward", RewardRecipe, reward.main, [str(folder)])
    assert status == 0, result(folder)
    assert any("judged answers: " in e["message"] for e in events(folder, "log"))


def test_preferences_are_learned_from_old_judgments(old):
    folder = old / "reward"
    change(folder, program="preference")
    settings = {"steps": 1, "examples_per_step": 2, "max_new_tokens": 6}
    document = json.loads((folder / "run.json").read_text())
    document["recipe"] = {**settings, "held_out_samples": 1, "threads": 1}
    (folder / "run.json").write_text(json.dumps(document))
    status = run_program("preference", PreferenceRecipe, preference.main, [str(folder)])
    assert status == 0, result(folder)
