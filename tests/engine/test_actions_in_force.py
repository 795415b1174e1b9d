"""Built-in actions where policies act: draw, own-history evaluation, whole-task RL.

One small task whose label fetches a local context, calculates, opens a file and calls
the action of the local context; what each call returned is recorded.
"""

import json

import pytest

from records.recipes import DrawRecipe, EvaluateRecipe
from tests.engine.micro import make_run, micro_tokenizer, save_micro_policy
from tests.engine.test_policy import answer_with_labels, given, make_rollouts, result
from training.engine import draw, evaluate
from training.engine.data.conversations import Encoder, sample_from_json
from training.engine.rl.environment import Environment
from training.engine.run.directory import run_program
from training.engine.sampling.sampler import PartOf

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def call(name, **parameters):
    text = json.dumps({"name": name, "parameters": parameters})
    return f"<<action>>{text}<</action>>"


PAY_BACK = {
    "name": "Pay back",
    "description": "",
    "parameters": {"sum": {"type": "any"}},
}
LOCAL = {
    "scope": "local",
    "title": "Refund rules",
    "background": "",
    "guideline": "Pay back the price and a tenth of it.",
    "actions": [PAY_BACK],
}
RULES = "Refund rules\nPay back the price and a tenth of it.\nActions: Pay back"
TURNS = [
    ("user", "I want my money back.", "<<think>>" + call("Get thinking context", query="refund")),
    ("observation", RULES, "So." + call("Open file", path="bill.txt")),
    ("observation", "20 pounds", "So." + call("Calculate", expression="20*1.1")),
    ("observation", "22 (twenty-two)", "So." + call("Pay back", sum=22)),
    ("observation", "paid", "Good.<</think>>Done."),
]  # fmt: skip


def task(contexts=(LOCAL,), turns=TURNS):
    return {
        "id": "refund",
        "situation": "normal",
        "contexts": [*contexts],
        "turns": [
            {"input": {"kind": kind, "text": text}, "response": response}
            for kind, text, response in turns
        ],
    }


ROW = task()
RECORDED = [text for _kind, text, _response in TURNS[1:]]
NO_ACTION = "Error: there is no action"


def answered(row, turn, response):
    """Return what a draw says to a response at ``turn``."""
    return draw.observe(given(row, response, turn=turn))


def led(row, *responses):
    """Return what a simulated world says to a policy's responses, from the first turn."""
    environment = Environment(sample_from_json(row))
    return [environment.reply(given(row, r, turn=n)) for n, r in enumerate(responses)]


# The label's own calls


def test_the_labels_own_calls_get_the_recorded_observations_in_a_draw(
    tmp_path, monkeypatch
):
    labels = answer_with_labels(Encoder(micro_tokenizer()))

    def say_labels(model, tokenizer, prompts, sampling, *, place, seeds, per_turn):
        return labels(model, tokenizer, prompts, sampling, place=place, seed=seeds)

    monkeypatch.setattr(draw, "answer_together", say_labels)
    policy = save_micro_policy(tmp_path / "policy")
    settings = {"responses_per_turn": 1}
    folder = tmp_path / "run"
    make_run(folder, "draw", settings, {"policy": policy}, {"train": [ROW]})
    assert run_program("draw", DrawRecipe, draw.draw, [str(folder)]) == 0
    lines = (folder / "outputs" / "responses.jsonl").read_text().splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["turn"])
    assert [row["observation"] for row in rows] == [*RECORDED, ""]
    assert {row["observation_source"] for row in rows[:-1]} == {"recorded"}


def test_the_labels_own_calls_get_the_recorded_observations_in_a_whole_task(
    monkeypatch,
):
    rollouts = make_rollouts([ROW], whole_tasks=True)
    said = answer_with_labels(rollouts.encoder)
    monkeypatch.setattr("training.engine.rl.rollouts.answer", said)
    first = rollouts.prompts[0]
    episode = rollouts.respond(None, [first], PartOf(0, 0, 1))[0][0]
    encoded = rollouts.encoder.encode(sample_from_json(ROW))
    assert first.ids + episode.ids == encoded.ids


def test_the_labels_own_calls_get_the_recorded_observations_in_own_history(
    tmp_path, monkeypatch
):
    read = []
    labels = answer_with_labels(Encoder(micro_tokenizer()))

    def say_labels(model, tokenizer, prompts, *args, **kwargs):
        read.extend(tokenizer.decode(item.ids) for item in prompts)
        return labels(model, tokenizer, prompts, *args, **kwargs)

    monkeypatch.setattr(evaluate, "answer", say_labels)
    start = save_micro_policy(tmp_path / "policy")
    settings = {"history": "own"}
    folder = tmp_path / "run"
    make_run(folder, "evaluate", settings, {"policy": start}, {"held_out": [ROW]})
    program = evaluate.evaluate
    assert run_program("evaluate", EvaluateRecipe, program, [str(folder)]) == 0
    assert len(read) == len(TURNS), result(folder)
    assert all(text in read[-1] for text in RECORDED)
    assert NO_ACTION not in read[-1]


# Other calls


def test_calculate_computes_in_a_draw_and_in_a_whole_task():
    other = "So." + call("Calculate", expression="20+2")
    assert answered(ROW, 2, other) == ("22", "simulator")
    labels = [response for _kind, _text, response in TURNS]
    assert led(ROW, *labels[:2], other)[-1] == "22"
    wrong = "So." + call("Calculate", expression="20/0")
    assert answered(ROW, 2, wrong)[0] == "Exception Cannot calculate: division by zero"


def test_another_query_finds_the_local_context_as_the_label_read_it():
    other = "<<think>>" + call("Get thinking context", query="rules for a refund")
    assert answered(ROW, 0, other) == (RULES, "simulator")
    assert led(ROW, other) == [RULES]
    strange = "<<think>>" + call("Get thinking context", query="sailing")
    assert led(ROW, strange) == ["Exception Nothing found: no thinking context fits"]


def test_a_context_that_no_label_fetched_is_shown_as_the_action_shows_it():
    row = task(turns=[TURNS[0], ("observation", "Exception Nothing found", "Hm.")])
    other = "<<think>>" + call("Get thinking context", query="refund rules")
    assert led(row, other)[0].startswith("Refund rules\nPay back the price")
    assert '"name":"Pay back"' in led(row, other)[0].replace(": ", ":")


def test_another_call_of_an_action_that_is_not_enabled_is_refused():
    other = "So." + call("Open file", path="other.txt")
    refused = 'Error: the action "Open file" is not enabled here.'
    assert answered(ROW, 1, other) == (refused, "simulator")
    assert led(ROW, TURNS[0][2], other)[-1] == refused


def test_an_action_of_a_local_context_can_be_called_once_it_is_fetched():
    pay = "So." + call("Pay back", sum=3)
    labels = [response for _kind, _text, response in TURNS]
    assert led(ROW, *labels[:3], pay)[-1] == "not found"  # known, and this sum is not
    # The policy calculates at once, fetches nothing, and then calls as the label does.
    hasty = "<<think>>" + call("Calculate", expression="1")
    replies = led(ROW, hasty, labels[1], labels[2], labels[3])
    assert replies[:3] == ["1", "20 pounds", "22 (twenty-two)"]
    assert replies[3].startswith(NO_ACTION)


def test_the_global_context_defines_what_a_name_means():
    mine = {
        "name": "Calculate",
        "description": "",
        "parameters": {"what": {"type": "string"}},
    }
    shop = {"scope": "global", "title": "Shop", "actions": [mine]}
    row = task(contexts=[shop])
    assert led(row, "<<think>>" + call("Calculate", expression="6*7"))[0].startswith(
        'Error: wrong parameters for "Calculate"'
    )
    assert led(row, "<<think>>" + call("Calculate", what="6*7")) == ["not found"]


def test_an_action_that_exists_nowhere_is_still_said_not_to_exist():
    (reply,) = led(ROW, "<<think>>" + call("Fly away"))
    assert reply == (
        'Error: there is no action "Fly away". Actions: Calculate, '
        "Get thinking context, Open file, Search Internet, Send email."
    )
