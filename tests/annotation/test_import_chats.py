"""Importing OpenAI-style chats: what they become, and what is refused and why."""

from __future__ import annotations

import json

import pytest

from actions.grammar import parse
from annotation.authoring.import_files import import_file, load_tools
from annotation.models import Sample
from records.openai_chat import KEPT, read_conversation, read_tools
from records.sample_format import SampleError
from tests.cast import make_project

TOOL = {
    "type": "function",
    "function": {
        "name": "find_cake",
        "description": "Find a cake.",
        "parameters": {
            "type": "object",
            "properties": {
                "size": {"type": "integer", "description": "Guests."},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["size"],
        },
    },
}
SYSTEM = {"role": "system", "content": "# Cake shop\n\nAvailability first."}
USER = {"role": "user", "content": "A cake!"}
ANSWER = {"role": "assistant", "content": "Here it is."}
SOURCE = '{"name": "find_cake", "parameters": {"size": 8}}'


def calling(*ids, content=None, arguments='{"size":8}'):
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {
                "id": number,
                "type": "function",
                "function": {"name": "find_cake", "arguments": arguments},
            }
            for number in ids
        ],
    }


def result(number, content="found"):
    return {
        "role": "tool",
        "tool_call_id": number,
        "name": "find_cake",
        "content": content,
    }


def read(*messages, **fields):
    return read_conversation({"id": "c", "messages": list(messages)} | fields)


def turns(*messages):
    return [(t.kind, t.text, t.response) for t in read(*messages).turns]


def test_text_answer_is_a_bare_answer():
    assert turns(USER, ANSWER) == [("user", "A cake!", "Here it is.")]


def test_call_opens_the_thinking_and_the_next_message_goes_on_inside():
    assert turns(
        USER,
        calling("a", content="I look."),
        result("a", "none"),
        calling("b"),
        result("b", "one"),
        ANSWER,
    ) == [
        ("user", "A cake!", f"<<think>>I look.<<action>>{SOURCE}<</action>>"),
        ("observation", "none", f"<<action>>{SOURCE}<</action>>"),
        ("observation", "one", "<</think>>Here it is."),
    ]


def test_several_calls_in_one_message_become_turns_with_their_own_results():
    sample = read(
        USER, calling("a", "b"), result("b", "two"), result("a", "one"), ANSWER
    )
    assert [(t.kind, t.text) for t in sample.turns] == [
        ("user", "A cake!"),
        ("observation", "one"),
        ("observation", "two"),
    ]
    assert sample.meta[KEPT] == {"calls": [["a", "b"]]}


def test_system_prompt_and_tools_become_a_global_context():
    (context,) = read(SYSTEM, USER, ANSWER, tools=[TOOL]).contexts
    assert (context.scope, context.title) == ("global", "Cake shop")
    assert context.guideline == SYSTEM["content"]
    assert context.actions == [
        {
            "name": "find_cake",
            "description": "Find a cake.",
            "parameters": {
                "size": {"type": "integer", "description": "Guests."},
                "tags": {
                    "type": "array",
                    "description": "",
                    "optional": True,
                    "schema": {"items": {"type": "string"}},
                },
            },
        }
    ]


def test_tools_of_the_conversation_go_before_those_of_the_file():
    other = {"type": "function", "function": {"name": "other"}}
    document = {"id": "c", "messages": [USER, ANSWER]}
    (context,) = read_conversation(document, [TOOL]).contexts
    assert [a["name"] for a in context.actions] == ["find_cake"]
    (context,) = read_conversation(document | {"tools": [other]}, [TOOL]).contexts
    assert [a["name"] for a in context.actions] == ["other"]


def test_other_fields_are_kept_in_meta():
    sample = read(USER, ANSWER, reward=0.0, task_id=3, expected=[{"a": None}])
    assert sample.meta == {"reward": 0.0, "task_id": 3, "expected": [{"a": None}]}


def test_what_nobody_answered_is_kept_in_meta():
    bye = {"role": "user", "content": "bye"}
    assert read(USER, ANSWER, bye).meta[KEPT] == {
        "unanswered": [{"kind": "user", "text": "bye"}]
    }
    assert read(USER, calling("a"), result("a"), bye).meta[KEPT] == {
        "calls": [["a"]],
        "unanswered": [
            {"kind": "observation", "text": "found"},
            {"kind": "user", "text": "bye"},
        ],
    }


def test_user_messages_in_a_row_are_one_input():
    sample = read(USER, {"role": "user", "content": "Please."}, ANSWER)
    assert sample.turns[0].text == "A cake!\n\nPlease."
    assert sample.meta[KEPT] == {"joined": {"0": ["A cake!", "Please."]}}


def test_assistant_may_speak_first_or_twice():
    assert turns(ANSWER, USER, ANSWER, calling("a")) == [
        ("user", "", "Here it is."),
        ("user", "A cake!", "Here it is."),
        ("user", "", f"<<think>><<action>>{SOURCE}<</action>>"),
    ]


def test_reasoning_becomes_thinking():
    answer = ANSWER | {"reasoning_content": "Easy."}
    assert turns(USER, answer)[0][2] == "<<think>>Easy.<</think>>Here it is."
    assert turns(USER, calling("a"), result("a"), answer)[1][2] == (
        "Easy.<</think>>Here it is."
    )


def test_tag_in_an_argument_is_escaped_and_not_lost():
    sample = read(USER, calling("a", arguments='{"size": "<</action>>"}'))
    (call,) = parse(sample.turns[0].response).actions
    assert call.parameters == {"size": "<</action>>"}


def test_parts_of_type_text_are_put_together():
    parts = [{"type": "text", "text": "A "}, {"type": "text", "text": "cake!"}]
    assert turns({"role": "user", "content": parts}, ANSWER)[0][1] == "A cake!"


def test_conversation_without_id_gets_one_from_its_content():
    first = read_conversation({"messages": [USER, ANSWER]})
    assert first.id == read_conversation({"messages": [USER, ANSWER]}).id
    assert first.id != read_conversation({"messages": [USER, USER, ANSWER]}).id


def test_whole_number_id_becomes_text():
    assert read(USER, ANSWER, id=7).id == "7"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", 'messages: expected a list of messages, found "hello"'),
        ([], "messages: expected a message of the assistant, found none"),
        ([USER], "messages: expected a message of the assistant, found none"),
        ([USER, 3], "messages[1]: expected an object, found 3"),
        (
            [{"role": "robot"}],
            "messages[0].role: expected one of system, user, assistant, tool, "
            'found "robot"',
        ),
        (
            [USER, SYSTEM],
            'messages[1].role: expected system messages first, found "system"',
        ),
        (
            [{"role": "user", "content": None}],
            "messages[0].content: expected text, found nothing",
        ),
        (
            [USER | {"content": [{"type": "image_url"}]}],
            "messages[0].content[0]: expected a part of type text, "
            "found an object of 1 keys",
        ),
        (
            [USER, {"role": "assistant", "content": " "}],
            "messages[1].content: expected text or tool_calls, found nothing",
        ),
        (
            [USER, ANSWER | {"function_call": {"name": "a"}}],
            "messages[1].function_call: expected no field but role, content, "
            "tool_calls, reasoning_content, found an object of 1 keys",
        ),
        (
            [USER | {"content": "say <<think>>"}],
            "messages[0].content: expected text without the tags of a response, "
            "found <<think>>",
        ),
        (
            [USER, calling("a"), result("a", "<</observation>>")],
            "messages[2].content: expected text without the tags of a response, "
            "found <</observation>>",
        ),
        (
            [USER | {"content": "a\0"}],
            "messages[0].content: expected text, found a NUL at character 1",
        ),
        (
            [USER, calling("a"), USER, ANSWER],
            "messages[1].tool_calls[0]: expected a tool message with its result, "
            "found none",
        ),
        (
            [USER, calling("a", "b"), result("b"), ANSWER],
            "messages[1].tool_calls[0]: expected a tool message with its result, "
            "found none",
        ),
        (
            [USER, calling("a"), result("x")],
            "messages[2].tool_call_id: expected the id of a call without result in the "
            'message before, found "x"',
        ),
        (
            [USER, calling("a"), result("a"), result("a")],
            "messages[3].tool_call_id: expected the id of a call without result in the "
            'message before, found "a"',
        ),
        (
            [USER, calling("a", "a")],
            'messages[1].tool_calls[1].id: expected each id once, found "a"',
        ),
        (
            [USER, ANSWER, result("a")],
            "messages[2]: expected a tool message only after the tool_calls it "
            "answers, found another",
        ),
        (
            [USER, calling("a"), result("a"), USER, ANSWER],
            "messages[3]: expected a message of the assistant after a tool's result, "
            "found one of the user",
        ),
        (
            [USER, calling("a"), result("a") | {"name": "other"}],
            'messages[2].name: expected "find_cake", found "other"',
        ),
        (
            [USER, calling("a", arguments="{size: 8}")],
            "messages[1].tool_calls[0].function.arguments: character 1: expected JSON "
            "(Expecting property name enclosed in double quotes), found 'size: 8}'",
        ),
        (
            [USER, calling("a", arguments="[8]")],
            "messages[1].tool_calls[0].function.arguments: expected a JSON object, "
            "found a list of 1",
        ),
        (
            [USER, calling("a", arguments='{"a": "\\u0000"}')],
            "messages[1].tool_calls[0].function.arguments.a: expected text, "
            "found a NUL at character 0",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_with_field_and_reason(messages, message):
    with pytest.raises(SampleError) as caught:
        read_conversation({"id": "c", "messages": messages})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        (3, "tools: expected a list of tools, found 3"),
        ([{}], "tools[0].name: expected text, found nothing"),
        (
            [{"type": "function", "function": {"name": "a", "parameters": []}}, 1],
            "tools[1]: expected an object, found 1",
        ),
        (
            [{"name": "a", "parameters": {"properties": {"x": {"enum": 1}}}}],
            "tools[0].parameters.properties.x.enum: expected a list of values, found 1",
        ),
    ],
)
def test_bad_tools_are_refused(tools, message):
    with pytest.raises(SampleError) as caught:
        read_tools(tools)
    assert str(caught.value) == message


def test_bad_file_of_tools_is_named(tmp_path):
    path = tmp_path / "tools.json"
    path.write_text("[")
    with pytest.raises(SampleError, match=f"{path}: character 1: expected JSON"):
        load_tools(path)


@pytest.mark.django_db
def test_chats_import_once_and_bad_ones_are_reported():
    project = make_project()
    good = json.dumps({"id": "c", "messages": [SYSTEM, USER, ANSWER], "reward": 1.0})
    bad = json.dumps({"id": "d", "messages": [USER]})
    for new, unchanged in ((1, 0), (0, 1)):
        report = import_file(
            project=project,
            format="openai-chat",
            lines=[good, bad],
            tools=[TOOL],
            status="approved",
        )
        assert (report.new, report.unchanged) == (new, unchanged)
        assert [str(refusal) for refusal in report.refused] == [
            "lines:2: messages: expected a message of the assistant, found none"
        ]
    assert Sample.objects.get().status == "approved"


@pytest.mark.django_db
def test_a_list_of_messages_is_one_conversation(tmp_path):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([USER, ANSWER], indent=1))
    report = import_file(project=make_project(), format="openai-chat", path=path)
    assert str(report) == "1 conversations: 1 new, 0 unchanged, 0 refused"
