"""Exports: what was imported comes back, in both formats."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import call_command
from hypothesis import given
from hypothesis import strategies as st

from actions.demo import generate
from annotation.authoring.export import (
    export_samples,
    for_export,
    read_forms,
    sample_to_json,
)
from annotation.authoring.import_files import import_file
from annotation.models import Sample
from records.openai_chat import read_conversation, write_conversation
from records.sample_format import check_sample
from tests.annotation.test_import_chats import (
    ANSWER,
    SYSTEM,
    TOOL,
    USER,
    calling,
    result,
)
from tests.cast import make_project


def by_value(messages):
    """Messages with the arguments of their calls as JSON values."""
    return [
        message
        | {
            key: [
                call
                | {
                    "function": call["function"]
                    | {"arguments": json.loads(call["function"]["arguments"])}
                }
                for call in message[key]
            ]
            for key in ("tool_calls",)
            if key in message
        }
        for message in messages
    ]


def back(messages, **fields):
    sample = read_conversation({"id": "c", "messages": messages} | fields)
    return write_conversation(check_sample(sample.to_json()))


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ANSWER],
        [SYSTEM, SYSTEM | {"content": "More."}, USER, ANSWER, USER],
        [USER, USER, ANSWER, USER, USER],
        [ANSWER, ANSWER, USER, ANSWER],
        [USER, calling("a", content="I look."), result("a"), ANSWER],
        [USER, calling("a"), result("a"), calling("b"), result("b"), USER],
        [USER, calling("a", "b"), result("a"), result("b"), calling("c"), result("c")],
        [USER, calling("a", "b"), result("a")],
        [
            USER,
            calling("a", arguments='{"size": "<<think>>"}'),
            result("a", ""),
            ANSWER,
        ],
        [USER, ANSWER | {"reasoning_content": ""}],
        [USER, calling("a"), result("a"), ANSWER | {"reasoning_content": "So."}],
    ],
)
def test_messages_come_back(messages):
    assert by_value(back(messages)["messages"]) == by_value(messages)


def test_fields_and_tools_come_back():
    fields = {"reward": 0.5, "scenario": "shopping", "situation": "noise"}
    again = back([USER, ANSWER], tools=[TOOL], **fields)
    assert again == {"id": "c", "messages": [USER, ANSWER], "tools": [TOOL]} | fields


def test_edited_turns_are_exported_without_what_no_longer_fits():
    sample = read_conversation(
        {"id": "c", "messages": [USER, calling("a", "b"), result("a"), result("b")]}
    ).to_json()
    sample["turns"] = sample["turns"][:1]
    messages = write_conversation(check_sample(sample))["messages"]
    assert messages[1]["tool_calls"][0]["id"] == "call_1"


words = st.text(st.characters(exclude_characters="\0<", codec="utf-8"), min_size=1)
arguments = st.dictionaries(words, st.integers() | words | st.none(), max_size=3)


@st.composite
def conversations(draw):
    messages = (
        [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    )
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(0, 2))):
            messages.append({"role": "user", "content": draw(words)})
        for _ in range(draw(st.integers(0, 2))):
            count = draw(st.integers(1, 3))
            ids = [f"call-{number + k}" for k in range(count)]
            number += count
            messages.append(
                calling(
                    *ids,
                    content=draw(words | st.none()),
                    arguments=json.dumps(draw(arguments)),
                )
            )
            messages += [result(i, draw(words | st.just(""))) for i in ids]
        messages.append({"role": "assistant", "content": draw(words) + "."})
    return messages


@given(conversations())
def test_any_conversation_comes_back(messages):
    assert by_value(back(messages)["messages"]) == by_value(messages)


@pytest.mark.django_db
def test_concord_out_and_in_again_is_the_identity():
    first, second = make_project(), make_project()
    given = [
        sample
        for split, count in (("", 30), ("held-out", 6))
        for sample in generate(seed=5, count=count, split=split)
    ]
    report = import_file(project=first, format="concord", lines=map(json.dumps, given))
    assert report.new == 36
    out = list(export_samples(project=first, format="concord"))
    assert [json.loads(line) for line in out] == given
    assert import_file(project=first, format="concord", lines=out).unchanged == 36
    assert import_file(project=second, format="concord", lines=out).new == 36
    assert list(export_samples(project=second, format="concord")) == out


@pytest.mark.django_db
def test_demo_samples_can_leave_as_chats():
    project = make_project()
    given = list(generate(seed=6, count=24))
    import_file(project=project, format="concord", lines=map(json.dumps, given))
    chats = list(export_samples(project=project, format="openai-chat"))
    other = make_project()
    report = import_file(project=other, format="openai-chat", lines=chats)
    assert (report.new, report.refused) == (24, [])
    # Responses come back too; references and facts have no place in a chat.
    for before, line in zip(
        given, export_samples(project=other, format="concord"), strict=True
    ):
        after = json.loads(line)
        assert [turn["input"] for turn in after["turns"]] == [
            turn["input"] for turn in before["turns"]
        ]
        assert [turn["response"] for turn in after["turns"]] == [
            turn["response"] for turn in before["turns"]
        ]


@pytest.mark.django_db
def test_command_writes_the_chosen_samples(tmp_path):
    project = make_project()
    for split in ("", "held-out"):
        lines = map(json.dumps, generate(seed=7, count=6, split=split))
        import_file(project=project, format="concord", lines=lines)
    path = tmp_path / "out.jsonl"
    call_command(
        "export_samples",
        "--project",
        project.name,
        "--format",
        "concord",
        "--split",
        "held-out",
        "--output",
        str(path),
        stderr=StringIO(),
    )
    lines = path.read_text().splitlines()
    assert {json.loads(line)["split"] for line in lines} == {"held-out"}
    assert len(lines) == 6


@pytest.mark.django_db
def test_samples_read_as_forms_are_what_they_are_one_by_one(
    django_assert_num_queries, monkeypatch
):
    project = make_project()
    documents = [
        *generate(seed=1, count=5),
        *generate(seed=1, count=2, split="held-out"),
    ]
    documents[0] = documents[0] | {"contexts": [], "meta": {"kept": [1, None]}}
    lines = [json.dumps(document) for document in documents]
    import_file(project=project, format="concord", lines=lines)
    monkeypatch.setattr("annotation.authoring.export.BATCH", 3)
    with django_assert_num_queries(1 + 3 * 5):
        found = list(read_forms(Sample.objects.filter(project=project)))
    samples = list(for_export(Sample.objects.filter(project=project)))
    assert len(samples) == 7
    assert any(
        turn.references.all() for sample in samples for turn in sample.turns.all()
    )
    assert [(pk, form.to_json()) for pk, form in found] == [
        (sample.pk, sample_to_json(sample)) for sample in samples
    ]
