"""``run.json`` and the event lines: both halves through the same classes."""

import json

import pytest

from records import events
from records.run_json import RunJson
from tests.old_run import OLD_RUN


def test_a_task_of_an_earlier_version_comes_out_as_it_went_in():
    for path in OLD_RUN.glob("*/run.json"):
        obj = json.loads(path.read_text())
        assert RunJson.from_json(obj).to_json() == obj


def test_nulls_are_left_out():
    task = RunJson.from_json(
        {"program": "sft", "inputs": {"policy": None}, "data": None, "resume": ""}
    )
    assert task == RunJson("sft")


def test_events_of_an_earlier_version_come_out_as_they_went_in():
    for path in OLD_RUN.glob("*/events.jsonl"):
        for line in path.read_bytes().splitlines(keepends=True):
            at, event = events.read_event(line)
            assert not isinstance(event, events.Unreadable), event
            assert json.loads(events.event_line(event, at)) == json.loads(line)


@pytest.mark.parametrize(
    "event",
    [
        events.Progress(1, 2),
        events.Metrics(1, {"loss": 0.5, "none": None}),
        events.ShownSample(1, "A cake?", "Sure.", "Yes.", {"rm": 0.5}),
        events.CheckpointWritten(1, "checkpoints/x", "ab" * 32, True, "policy"),
        events.Log("warning", "two lines\nof text \u2028"),
        events.Result("finished", {"loss": 0.5}, ""),
    ],
)
def test_what_is_written_is_what_is_read(event):
    line = events.event_line(event, 12.5)
    assert line.count(b"\n") == 1
    assert events.read_event(line) == (12.5, event)


def test_a_lone_surrogate_does_not_stop_a_program():
    line = events.event_line(events.Log("info", "a\ud800b"), 1.0)
    assert events.read_event(line) == (1.0, events.Log("info", "a?b"))


def test_a_number_no_database_holds_is_told():
    line = b'{"event":"metrics","step":1,"values":{"loss":1' + b"0" * 400 + b"}}"
    _, event = events.read_event(line)
    assert event == events.Unreadable("metrics: loss is too large")
