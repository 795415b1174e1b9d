"""Action definitions: their form, their errors, and OpenAI's form of them."""

from __future__ import annotations

import pytest

from actions.builtins import BUILT_IN_ACTIONS
from actions.definitions import (
    DefinitionError,
    check_parameters,
    from_openai,
    parse_definition,
    to_openai,
)

WEATHER = {
    "name": "Query real-time weather",
    "description": "Tell the weather.",
    "parameters": {
        "city": {"type": "string", "description": "The city."},
        "range": {
            "type": "number",
            "description": "How far around.",
            "unit": "km",
            "enumeration": [1, 10.5],
            "optional": True,
        },
    },
    "exception": {"Unknown city": "There is no such city."},
}


def test_json_form_round_trips():
    assert parse_definition(WEATHER).to_json() == WEATHER


@pytest.mark.parametrize("definition", BUILT_IN_ACTIONS, ids=lambda d: d.name)
def test_built_in_actions_round_trip(definition):
    assert parse_definition(definition.to_json()) == definition


def test_openai_form_round_trips():
    definition = parse_definition(WEATHER)
    assert from_openai(to_openai(definition)) == definition


def test_json_schema_beyond_our_words_is_kept():
    tool = {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Book.",
            "parameters": {
                "type": "object",
                "properties": {
                    "legs": {
                        "type": "array",
                        "items": {"type": "object", "required": ["day"]},
                    },
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
                "required": ["legs"],
                "additionalProperties": False,
            },
        },
    }
    definition = from_openai(tool)
    assert to_openai(definition) == tool
    assert parse_definition(definition.to_json()) == definition
    assert [str(e) for e in check_parameters(definition, {"legs": [{}]})] == [
        "legs[0].day: expected a value, found nothing"
    ]


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (3, "definition: expected an object, found 3"),
        ({"name": "A"}, "description: expected text, found nothing"),
        (
            WEATHER | {"name": " A"},
            'name: expected a name on one line without spaces around it, found " A"',
        ),
        (
            WEATHER | {"params": {}},
            "params: expected one of name, description, parameters, exception, schema, "
            "found an unknown key",
        ),
        (
            WEATHER | {"parameters": {"x": {"type": "text"}}},
            "parameters.x.type: expected one of string, number, integer, boolean, "
            'array, object, any, found "text"',
        ),
        (
            WEATHER | {"parameters": {"x": {"optional": "no"}}},
            'parameters.x.optional: expected true or false, found "no"',
        ),
        (
            WEATHER | {"exception": ["a"]},
            "exception: expected an object, found a list of 1",
        ),
    ],
)
def test_error_names_the_place(obj, message):
    with pytest.raises(DefinitionError) as caught:
        parse_definition(obj)
    assert str(caught.value) == message


def test_error_names_the_place_it_was_told():
    with pytest.raises(DefinitionError) as caught:
        parse_definition({}, "contexts[0].actions[2]")
    assert caught.value.place == "contexts[0].actions[2].name"
