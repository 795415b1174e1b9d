"""A pasted conversation: what it becomes, or where it cannot be read."""

from __future__ import annotations

import json

import pytest

from annotation.authoring.paste import PasteError, read_pasted
from tests.browser.stage import CAKE


def rows(content) -> list[tuple[str, str, str]]:
    return [
        (turn["input"]["kind"], turn["input"]["text"], turn["response"])
        for turn in content["turns"]
    ]


def test_plain_lines_become_turns():
    content = read_pasted(
        "System: Be kind.\nAlways.\nUser: Hello\nthere.\n\nAssistant: Hi.\n**User:** Bye."
    )
    assert rows(content) == [("user", "Hello\nthere.", "Hi."), ("user", "Bye.", "")]
    assert content["contexts"][0]["guideline"] == "Be kind.\nAlways."


def test_chinese_speakers_are_known():
    content = read_pasted("用户：你好\n助手：您好！\n顾客: 再见")
    assert rows(content) == [("user", "你好", "您好！"), ("user", "再见", "")]


def test_the_grammar_stays_and_a_result_follows_its_call():
    call = '<<think>>Hm.<<action>>{"name": "A", "parameters": {}}<</action>>'
    content = read_pasted(
        f"User: Go\nAssistant: {call}\nObservation: ok\nAssistant: Fine.<</think>>Done."
    )
    assert rows(content) == [
        ("user", "Go", call),
        ("observation", "ok", "Fine.<</think>>Done."),
    ]


def test_two_user_lines_in_a_row_are_one_input():
    assert rows(read_pasted("User: a\nUser: b\nAssistant: c")) == [
        ("user", "a\n\nb", "c")
    ]


def test_an_openai_chat_is_read_with_its_tools_and_its_open_end():
    chat = {
        "messages": [
            {"role": "system", "content": "A shop."},
            {"role": "user", "content": "Any cake?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "find", "arguments": '{"what": "cake"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "two"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Thanks, and pie?"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "find",
                    "parameters": {
                        "type": "object",
                        "properties": {"what": {"type": "string"}},
                    },
                },
            }
        ],
    }
    content = read_pasted(json.dumps(chat))
    assert [row[0] for row in rows(content)] == ["user", "observation", "user"]
    assert rows(content)[2] == ("user", "Thanks, and pie?", "")
    assert json.loads(content["contexts"][0]["actions"])[0]["name"] == "find"
    assert "openai-chat" not in content["meta"]
    assert rows(read_pasted(json.dumps(chat["messages"]))) == rows(content)


def test_a_concord_sample_is_read():
    assert len(read_pasted(json.dumps(CAKE, indent=1))["turns"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  ", "line 1: expected a conversation, found nothing"),
        ("\nHello\nUser: x", "line 2: expected “User:”"),
        ("Assistant: Hi", "line 1: expected “User:” before it, found “Assistant:”"),
        ("User: a\nAssistant: b\nAssistant: c", "line 3: expected “User:” before it"),
        ("User: a\nAssistant:\nUser: b", "line 2: expected what the assistant says"),
        ("User:\nAssistant: b", "line 1: expected what the user says"),
        (
            "User: a\nAssistant: b\nObservation: c",
            "line 3: expected “Observation:” only",
        ),
        ("User: a <<think>>\nAssistant: b", "line 1: expected text without the tags"),
        ("User: a\nAssistant: b\nSystem: c", "line 3: expected “System:” first"),
        ('{"messages": [\n {"role": "user" "content": 1}]}', "line 2, column 18: "),
        ('{"messages": [{"role": "alien"}]}', "messages[0].role: expected one of"),
        ('[{"role": "user", "content": "x"}]', "messages: expected a message of"),
        ('{"turns": [{"input": {}}]}', "turns[0].input.kind: expected"),
        ("[" * 5000, "line 1, column"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(text, message):
    with pytest.raises(PasteError) as error:
        read_pasted(text)
    assert str(error.value).startswith(message)


CHAT = (
    '{"messages": [{"role": "user", "content": "A."},'
    ' {"role": "assistant", "content": "B."}]}'
)


@pytest.mark.parametrize("text", [f"{CHAT}\n{CHAT}\n", f"[{CHAT},\n {CHAT}]"])
def test_several_conversations_are_named_in_one_sentence(text):
    with pytest.raises(PasteError) as error:
        read_pasted(text)
    assert str(error.value) == (
        "the text: expected one conversation; a file of several goes in by Samples, "
        "Import, found 2"
    )


def test_a_list_of_one_conversation_is_that_conversation():
    assert read_pasted(f"[{CHAT}]")["turns"][0]["response"] == "B."
