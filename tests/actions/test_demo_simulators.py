"""The simulated world of a sample: the recorded outcomes, and "not found" elsewhere."""

from itertools import pairwise

from actions.builtins import BUILT_IN_ACTIONS
from actions.definitions import parse_definition
from actions.demo import generate
from actions.demo.simulators import handlers
from actions.executor import Executor
from actions.grammar import ActionCall, parse

SAMPLES = list(generate(seed=9, count=120))


def executor(sample, turn=0):
    definitions = [
        parse_definition(action)
        for context in sample["contexts"]
        for action in context["actions"]
    ]
    return Executor([*definitions, *BUILT_IN_ACTIONS], handlers(sample, turn=turn))


def recorded_calls(sample):
    """Yield turn number, call and recorded observation."""
    for number, (turn, following) in enumerate(pairwise(sample["turns"])):
        if following["input"]["kind"] == "observation":
            inside = turn["input"]["kind"] == "observation"
            (call,) = parse(turn["response"], inside_thinking=inside).actions
            yield number, call, following["input"]["text"]


def test_a_whole_conversation_is_replayed_with_its_exceptions():
    failed = 0
    for sample in SAMPLES:
        world = executor(sample)
        for _, call, observation in recorded_calls(sample):
            assert world.execute(call).text == observation
            failed += observation.startswith("Exception ")
    assert failed == len(SAMPLES) / 6


def test_a_world_can_be_entered_at_any_turn():
    for sample in SAMPLES:
        for number, call, observation in recorded_calls(sample):
            assert executor(sample, turn=number).execute(call).text == observation


def test_a_repeated_call_keeps_its_last_outcome():
    sample = SAMPLES[0]
    _, call, observation = next(recorded_calls(sample))
    world = executor(sample)
    assert [world.execute(call).text for _ in range(3)] == [observation] * 3


def test_other_values_are_not_found():
    sample = next(s for s in SAMPLES if s["situation"] == "normal")
    for _, call, _ in recorded_calls(sample):
        other = {
            name: value + 1 if isinstance(value, int) else "zebra"
            for name, value in call.parameters.items()
        }
        if call.name != "Get thinking context":
            observation = executor(sample).execute(ActionCall.make(call.name, other))
            assert observation.text == "not found"


def test_another_thinking_context_is_a_named_exception():
    call = ActionCall.make("Get thinking context", {"query": "sailing"})
    assert executor(SAMPLES[0]).execute(call).text == (
        "Exception Nothing found: no thinking context fits"
    )


def test_wrong_parameters_never_reach_a_handler():
    name = SAMPLES[0]["contexts"][0]["actions"][0]["name"]
    text = executor(SAMPLES[0]).execute(ActionCall.make(name, {"x": 1})).text
    assert text.startswith(f'Error: wrong parameters for "{name}"')


def test_built_in_actions_work_in_every_world():
    world = executor(SAMPLES[0])
    call = ActionCall.make("Calculate", {"expression": "6*7"})
    assert world.execute(call).text == "42"
    call = ActionCall.make("Calculate", {"expression": "1/0"})
    assert world.execute(call).text == "Exception Cannot calculate: division by zero"
    call = ActionCall.make("Open file", {"path": "a.txt"})
    assert (
        world.execute(call).text == 'Error: the action "Open file" is not enabled here.'
    )


def test_a_local_context_is_found_in_other_words_as_the_label_read_it():
    sample = next(s for s in SAMPLES if len(s["contexts"]) > 1)
    _, call, observation = next(
        found
        for found in recorded_calls(sample)
        if found[1].name == "Get thinking context"
    )
    other = ActionCall.make(call.name, {"query": f"the {call.parameters['query']}, hm"})
    assert executor(sample).execute(other).text == observation


SHOP = {"title": "Sums", "scope": "global", "actions": [
    {"name": "Calculate", "description": "", "parameters": {"what": {"type": "string"}}}
]}  # fmt: skip
NO_FILE = '<<action>>{"name": "Open file", "parameters": {"path": "a.txt"}}<</action>>'


def test_an_action_of_the_context_is_not_answered_by_the_built_in_one():
    sample = {"contexts": [SHOP], "turns": []}
    (definition,) = [parse_definition(one) for one in SHOP["actions"]]
    world = Executor([definition], handlers(sample))
    call = ActionCall.make("Calculate", {"what": "6*7"})
    assert world.execute(call).text == "not found"


def test_a_recorded_call_of_an_action_that_is_not_enabled_is_replayed():
    turns = [
        {
            "input": {"kind": "user", "text": "Read a."},
            "response": "<<think>>" + NO_FILE,
        },
        {
            "input": {"kind": "observation", "text": "Hello."},
            "response": "<</think>>Hi.",
        },
    ]
    world = Executor(BUILT_IN_ACTIONS, handlers({"contexts": [], "turns": turns}))
    for path, text in {
        "a.txt": "Hello.",
        "b.txt": 'Error: the action "Open file" is not enabled here.',
    }.items():
        assert world.execute(ActionCall.make("Open file", {"path": path})).text == text
