"""The response grammar: what parses, what does not, and where it says so."""

from __future__ import annotations

import pytest

from actions.grammar import (
    ActionCall,
    FormatError,
    Observation,
    Response,
    Text,
    join_episode,
    parse,
    render,
    split_episode,
)

CALL = '<<action>>{"name": "Look up", "parameters": {"city": "Oslo"}}<</action>>'
EPISODE = (
    f"<<think>>I look.{CALL}<<observation>>rain<</observation>>It rains.<</think>>Rain."
)


def test_bare_answer_has_no_thinking():
    assert parse("Hello.") == Response((), "Hello.", opens=False, closes=False)


def test_thinking_then_answer():
    response = parse("<<think>>Easy.<</think>>Four.")
    assert response == Response((Text("Easy."),), "Four.", opens=True, closes=True)


def test_response_may_end_with_an_action():
    response = parse(f"<<think>>I look.{CALL}")
    assert response.ends_with_action
    assert (response.opens, response.closes, response.answer) == (True, False, "")
    assert response.actions[0].name == "Look up"
    assert response.actions[0].parameters == {"city": "Oslo"}


def test_observation_turn_continues_inside_the_thinking():
    response = parse("It rains.<</think>>Rain.", inside_thinking=True)
    assert response == Response((Text("It rains."),), "Rain.", opens=False, closes=True)
    assert response.continues


def test_whole_episode_holds_its_observations():
    nodes = parse(EPISODE).thinking
    assert [type(node) for node in nodes] == [Text, ActionCall, Observation, Text]


def test_episode_splits_into_turns_and_joins_again():
    episode = split_episode(EPISODE)
    assert episode.responses == (
        f"<<think>>I look.{CALL}",
        "It rains.<</think>>Rain.",
    )
    assert episode.observations == ("rain",)
    assert join_episode(episode) == EPISODE


@pytest.mark.parametrize(
    "source",
    [
        '{"name":"A","parameters":{}}',
        ' \n{ "parameters" : {"x": 1.50, "é": "\\u00e9"} , "name" : "A" }\n ',
    ],
)
def test_call_keeps_its_source(source):
    text = f"<<think>><<action>>{source}<</action>>"
    assert render(parse(text)) == text
    assert parse(text).actions[0].source == source


def test_made_call_escapes_tags_in_values():
    call = ActionCall.make("Say", {"text": "a <</action>> b"})
    text = f"<<think>><<action>>{call.source}<</action>>"
    assert parse(text).actions[0].parameters == {"text": "a <</action>> b"}


@pytest.mark.parametrize(
    ("text", "inside", "message"),
    [
        ("", False, "line 1, column 1: expected an answer, found the end of the text"),
        ("  ", False, "line 1, column 1: expected an answer, found blanks"),
        (
            "<<think>>a\nb",
            False,
            "line 2, column 2: expected <<action>> or <</think>>, "
            "found the end of the text",
        ),
        (
            "<<think>>a<</think>>",
            False,
            "line 1, column 21: expected an answer, found the end of the text",
        ),
        (
            "Hi <<think>>a<</think>>b",
            False,
            "line 1, column 1: expected <<think>> at the start, or an answer without "
            "tags, found 'Hi <<think>>a<</think>>b'",
        ),
        (
            CALL,
            False,
            "line 1, column 1: expected an answer without tags, or <<think>> first, "
            "found <<action>>",
        ),
        (
            "<<think>>a<</think>>b<<observation>>",
            False,
            "line 1, column 22: expected an answer without tags, found <<observation>>",
        ),
        (
            "<<think>>a<<think>>b",
            False,
            "line 1, column 11: expected text, <<action>> or <</think>>, "
            "found <<think>>",
        ),
        (
            "<<think>>a<<observation>>b<</observation>>",
            False,
            "line 1, column 11: expected text, <<action>> or <</think>>, "
            "found <<observation>>",
        ),
        (
            f"<<think>>{CALL} text<</think>>a",
            False,
            "line 1, column 82: expected <<observation>> or the end of the text, "
            "found ' text<</think>>a'",
        ),
        (
            "<<think>>a<</think>>b",
            True,
            "line 1, column 1: expected text, <<action>> or <</think>>, "
            "found <<think>>",
        ),
        (
            "just text",
            True,
            "line 1, column 10: expected <<action>> or <</think>>, "
            "found the end of the text",
        ),
        ("a\ud800b", False, "line 1, column 2: expected text, found a lone surrogate"),
    ],
)
def test_error_says_where_what_and_instead_of_what(text, inside, message):
    with pytest.raises(FormatError) as caught:
        parse(text, inside_thinking=inside)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "expected JSON (Expecting value), found end"),
        ("{name: 1}", "found 'name: 1}'"),
        ("[]", "expected a JSON object, found a list of 0"),
        ('"x"', 'expected a JSON object, found "x"'),
        ('{"name": "A"}', 'expected the key "parameters", found none'),
        ('{"parameters": {}}', 'expected the key "name", found none'),
        (
            '{"name": "A", "parameters": {}, "id": 1}',
            """expected only the keys "name" and "parameters", found 'id'""",
        ),
        ('{"name": "", "parameters": {}}', 'expected an action\'s name, found ""'),
        ('{"name": 3, "parameters": {}}', "expected an action's name, found 3"),
        (
            '{"name": "A", "parameters": []}',
            "expected parameters as an object, found a list of 0",
        ),
        (
            '{"name": "A", "parameters": {"a": 1, "a": 2}}',
            "expected each key once, found 'a' twice",
        ),
        ('{"name": "A", "parameters": {"a": NaN}}', "found NaN"),
        ('{"name": "A", "parameters": {"a": -Infinity}}', "found -Infinity"),
        ('{"name": "A", "parameters": {"a": 1e999}}', "a double can hold"),
        (
            '{"name": "A", "parameters": {"a": ' + "9" * 5000 + "}}",
            "expected a number of at most 100 digits, found 5000 digits",
        ),
        (
            '{"name": "A", "parameters": {"a": "\\ud800"}}',
            "expected text, found a lone surrogate",
        ),
        (
            '{"name": "A", "parameters": {"a": ' + "[" * 100_000,
            "expected nesting of at most 64, found deeper nesting",
        ),
        ('{"name": "A", "parameters": {"a": "<<think>>"}}', "expected <</action>>"),
    ],
)
def test_bad_call_is_a_format_error(source, message):
    with pytest.raises(FormatError) as caught:
        parse(f"<<think>>a\n<<action>>{source}<</action>>")
    assert message in str(caught.value)
    assert caught.value.line == 2


def test_error_inside_the_json_points_at_its_character():
    text = '<<think>><<action>>{"name": "A", }<</action>>'
    with pytest.raises(FormatError) as caught:
        parse(text)
    assert text[caught.value.position] == "}" or text[caught.value.position] == ","


def test_plan_is_read_from_the_thinking():
    response = parse("<<think>>So.\nPlan:\n1. Look\n2. Tell\n<</think>>Fine.")
    assert response.plan is not None
    assert response.plan.steps == ("Look", "Tell")
    assert parse("Plan:\n1. Look").plan is None
