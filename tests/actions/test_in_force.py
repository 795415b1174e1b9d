"""Which actions a call may name: built-in, global and fetched local ones."""

from actions.builtins import BUILT_IN_ACTIONS, CALCULATE, show_context
from actions.definitions import from_openai, to_openai
from actions.grammar import ActionCall, Observation, Response, parse
from actions.in_force import (
    Contexts,
    calls_in_force,
    definitions_in_force,
    fetched_before,
)

FETCH = (
    '<<action>>{"name": "Get thinking context", "parameters": {"query": "refund"}}'
    "<</action>>"
)


def definition(name, **parameters):
    return {"name": name, "description": "", "parameters": parameters}


def contexts(*, shared=(), local=()):
    documents = [
        {"scope": "global", "title": "Shop", "actions": [*map(definition, shared)]}
    ]
    for title, names in local:
        actions = [*map(definition, names)]
        documents.append({"scope": "local", "title": title, "actions": actions})
    return Contexts.of(documents)


BUILT_IN = {one.name for one in BUILT_IN_ACTIONS}


def test_built_in_and_global_actions_are_in_force_from_the_start():
    found = definitions_in_force(contexts(shared=["Find shop"]))
    assert set(found) == BUILT_IN | {"Find shop"}


def test_an_action_of_the_global_context_goes_before_a_built_in_one_of_its_name():
    given = contexts(shared=["Calculate"], local=[("Sums", ["Calculate"])])
    found = definitions_in_force(given, ["Sums"])["Calculate"]
    assert found == given.global_actions[0] != CALCULATE


def test_a_built_in_action_goes_before_a_local_one_of_its_name():
    given = contexts(local=[("Sums", ["Calculate"])])
    assert definitions_in_force(given, ["Sums"])["Calculate"] == CALCULATE


def test_actions_of_a_local_context_are_in_force_once_it_is_fetched():
    given = contexts(local=[("Refunds", ["Pay back"]), ("Repairs", ["Mend"])])
    assert set(definitions_in_force(given)) == BUILT_IN
    shown = show_context(given.local[0])
    assert set(definitions_in_force(given, [shown])) == BUILT_IN | {"Pay back"}
    nothing = "Exception Nothing found: no thinking context fits"
    assert set(definitions_in_force(given, [nothing])) == BUILT_IN
    failed = 'Error: wrong parameters for "Get thinking context": query: …'
    assert set(definitions_in_force(given, [failed])) == BUILT_IN


def test_a_fetch_retold_in_other_words_brings_the_local_contexts_into_force():
    given = contexts(local=[("Refunds", ["Pay back"])])
    assert "Pay back" in definitions_in_force(given, ["Give the money to the buyer."])


def test_what_was_fetched_counts_from_the_next_response_on():
    first = parse("<<think>>Let me look." + FETCH)
    second = parse("Now.<</think>>Done.", inside_thinking=True)
    before = fetched_before([("A refund.", first), ("Refunds", second), ("Bye", None)])
    assert list(before) == [[], ["Refunds"], ["Refunds"]]


def test_the_result_of_another_call_fetches_nothing():
    call = parse(
        '<<think>><<action>>{"name": "Find shop", "parameters": {}}<</action>>'
    )
    assert list(fetched_before([("A refund.", call), ("Refunds", None)])) == [[], []]


def test_a_fetch_inside_a_response_counts_for_its_later_calls():
    given = contexts(local=[("Refunds", ["Pay back"])])
    pay = ActionCall.make("Pay back", {})
    fetch = ActionCall.make("Get thinking context", {"query": "refund"})
    nodes = (pay, Observation("?"), fetch, Observation("Refunds"), pay)
    response = Response(nodes, "", opens=True, closes=False)
    found = [
        pay.name in in_force for _call, in_force in calls_in_force(response, given)
    ]
    assert found == [False, False, True]
    before = fetched_before([("A refund.", response), ("paid", None)])
    assert list(before) == [[], ["Refunds"]]


def test_built_in_actions_come_back_from_openai_tools_as_themselves():
    for one in BUILT_IN_ACTIONS:
        assert from_openai(to_openai(one)) == one
