"""A response as blocks to edit: exact both ways, and typed by the definition."""

from __future__ import annotations

import json

import pytest

from actions.definitions import parse_definition
from actions.demo import generate
from actions.grammar import parse
from annotation.authoring.draft_blocks import (
    blocks_of_post,
    blocks_to_edit,
    posted_blocks,
    write_response,
)

BOOK = parse_definition(
    {
        "name": "Book table",
        "description": "Books.",
        "parameters": {
            "guests": {"type": "integer", "unit": "people", "description": "How many."},
            "area": {"type": "string", "enumeration": ["inside", "garden"]},
            "quiet": {"type": "boolean", "optional": True},
            "note": {"type": "string", "optional": True},
            "tags": {"type": "array", "optional": True},
        },
    }
)
CALL = '<<action>>{"name": "Book table", "parameters": {"guests": 4, "area": "garden"}}<</action>>'


def posted(blocks) -> list[dict]:
    """Post blocks as the page does, nothing changed."""
    found = []
    for block in blocks:
        one = {"kind": block.kind, "source": block.source}
        if block.kind == "plan":
            one["steps"] = list(block.steps)
        elif block.kind == "action":
            one["name"] = block.name
            one["parameters"] = [
                {"name": f.name, "type": f.type, "value": f.value} for f in block.fields
            ]
        else:
            one["text"] = block.text
        found.append(one)
    return found


def edit(text: str, *, inside: bool = False, definitions=None) -> list[dict]:
    response = parse(text, inside_thinking=inside)
    return posted(blocks_to_edit(response, definitions or {}))


def test_every_demo_response_comes_back_to_the_letter():
    count = 0
    for sample in generate(seed=3, count=30):
        definitions = {
            action["name"]: parse_definition(action)
            for context in sample["contexts"]
            for action in context["actions"]
        }
        for turn in sample["turns"]:
            inside = turn["input"]["kind"] == "observation"
            for text in [turn["response"], *turn["references"]]:
                for known in ({}, definitions):
                    blocks = edit(text, inside=inside, definitions=known)
                    assert write_response(blocks, inside_thinking=inside) == text
                    count += 1
    assert count > 300


@pytest.mark.parametrize(
    "text",
    [
        " Hi ",
        "<<think>><</think>>Hi",
        "<<think>>  \n<</think>> Hi \n",
        "<<think>>a\n\nPlan:\n 3) x \n9. y\n\nmore<</think>>c",
        '<<think>>\n<<action>>{"name": "A", "parameters": {"x": "8", "y": 8, "z": "", '
        '"w": null, "v": "true"}}<</action>><<observation>> o <</observation>> b<</think>>c',
        '<<think>><<action>>{ "parameters": {}, "name":"A" }<</action>>',
    ],
)
def test_unusual_spacing_and_values_come_back_to_the_letter(text):
    assert write_response(edit(text)) == text


def test_editing_one_block_leaves_every_other_character_alone():
    text = f"<<think>>Hm. \nPlan:\n1) Ask\n2) Book\n\n{CALL}"
    blocks = edit(text)
    blocks[0]["text"] = "Well."
    assert write_response(blocks) == text.replace("Hm.", "Well.")
    blocks[1]["steps"] = ["Book", "Ask"]
    assert write_response(blocks) == (
        f"<<think>>Well. \nPlan:\n1. Book\n2. Ask\n\n{CALL}"
    )


def test_a_new_plan_and_call_stand_on_lines_of_their_own():
    blocks = [
        {"kind": "thinking", "text": "A task."},
        {"kind": "plan", "steps": ["Ask", "", " Book \n it "]},
        {"kind": "thinking", "text": "Go."},
        {"kind": "action", "name": "A", "parameters": []},
    ]
    assert write_response(blocks) == (
        "<<think>>A task.\nPlan:\n1. Ask\n2. Book   it\nGo.\n"
        '<<action>>{"name": "A", "parameters": {}}<</action>>'
    )


def test_inside_thinking_nothing_is_opened_again():
    blocks = [
        {"kind": "thinking", "text": "It is free."},
        {"kind": "answer", "text": "Yes."},
    ]
    assert write_response(blocks, inside_thinking=True) == "It is free.<</think>>Yes."
    assert write_response([], inside_thinking=True) == ""
    assert write_response([]) == ""


def test_fields_follow_the_definition():
    (block,) = blocks_to_edit(parse("<<think>>" + CALL), {"Book table": BOOK})
    fields = {field.name: field for field in block.fields}
    assert [field.type for field in block.fields] == [
        "number",
        "choice",
        "boolean",
        "text",
        "json",
    ]
    assert (fields["guests"].unit, fields["guests"].step) == ("people", "1")
    assert fields["area"].choices == (('"inside"', "inside"), ('"garden"', "garden"))
    assert fields["quiet"].is_optional
    assert fields["guests"].about == "How many."


def test_typed_fields_become_values_of_their_type():
    (call,) = edit("<<think>>" + CALL, definitions={"Book table": BOOK})
    values = dict(
        zip(
            ["guests", "area", "quiet", "note", "tags"],
            ["6", '"inside"', "true", "12", '["a"]'],
            strict=True,
        )
    )
    for row in call["parameters"]:
        row["value"] = values[row["name"]]
    (action,) = parse(write_response([call])).actions
    assert action.parameters == {
        "guests": 6,
        "area": "inside",
        "quiet": True,
        "note": "12",
        "tags": ["a"],
    }
    for row in call["parameters"]:
        row["value"] = ""
    assert parse(write_response([call])).actions[0].parameters == {}


def test_a_value_of_another_type_is_kept_and_named():
    wrong = CALL.replace("4", '"four"').replace('"area"', '"colour"')
    (block,) = blocks_to_edit(parse("<<think>>" + wrong), {"Book table": BOOK})
    fields = {field.name: field for field in block.fields}
    assert fields["guests"].type == "free"
    assert "expected type integer" in fields["guests"].problem
    assert not fields["colour"].is_known
    assert "unknown parameter" in fields["colour"].problem
    text = write_response(posted([block]))
    assert parse(text).actions[0].parameters == {"guests": "four", "colour": "garden"}


def test_a_tag_typed_into_a_value_cannot_break_the_response():
    call = {
        "kind": "action",
        "name": "A",
        "parameters": [{"name": "x", "type": "text", "value": "<</action>>"}],
    }
    assert parse(write_response([call])).actions[0].parameters == {"x": "<</action>>"}


def test_empty_blocks_are_drawn_as_they_were_posted():
    blocks = blocks_of_post(
        [{"kind": "plan", "steps": [""]}, {"kind": "action", "name": "Book table"}],
        {"Book table": BOOK},
    )
    assert blocks[0].steps == ("",)
    assert [field.name for field in blocks[1].fields][:2] == ["guests", "area"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "7", "null", '[[1], {"kind": "alien"}, {"kind": 5}]', "[" * 3000],
)
def test_nonsense_is_no_block(text):
    assert not posted_blocks(text)


@pytest.mark.parametrize(
    "block",
    [
        {"kind": "plan", "steps": "x"},
        {"kind": "plan", "steps": [1, None, {}]},
        {"kind": "action", "name": 5, "parameters": [1, {"name": []}]},
        {"kind": "action", "source": "{oops", "parameters": {"a": 1}},
        {"kind": "answer", "text": ["x"], "source": 3},
    ],
)
def test_odd_blocks_give_a_text_and_no_error(block):
    assert isinstance(write_response([json.loads(json.dumps(block))]), str)
    blocks_of_post([block], {"Book table": BOOK})
