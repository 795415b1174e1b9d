"""The lines of events.jsonl, whole or not."""

import math

import pytest

from records import events
from records.events import read_event


def test_reads_each_kind_of_event():
    at, event = read_event(b'{"event":"progress","time":17.5,"step":3,"of":9}\n')
    assert (at, event) == (17.5, events.Progress(3, 9))
    _, event = read_event(b'{"event":"metrics","step":3,"values":{"loss":1,"a":2.5}}')
    assert event == events.Metrics(3, {"loss": 1, "a": 2.5})
    assert event.numbers == {"loss": 1.0, "a": 2.5}
    _, event = read_event(
        b'{"event":"checkpoint","step":3,"path":"checkpoints/x","digest":"d",'
        b'"final":true}'
    )
    assert event == events.CheckpointWritten(3, "checkpoints/x", "d", True)
    _, event = read_event(b'{"event":"result","state":"failed","error":"no"}')
    assert event == events.Result("failed", {}, "no")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"event":"metr', "not a JSON line"),
        (b"[1]", "not a JSON object: list"),
        (b'{"event":"dance"}', "no such event: 'dance'"),
        (b'{"event":"progress","step":-1,"of":9}', "progress: step out of range: -1"),
        (
            b'{"event":"progress","step":"3","of":9}',
            "progress: step is not a whole number",
        ),
        (
            b'{"event":"metrics","step":3,"values":{"loss":"low"}}',
            "metrics: loss is not a number: 'low'",
        ),
        (b'{"event":"result","state":"bored"}', "result: no such state: 'bored'"),
        (b"\xff\xfe", "not a JSON line"),
        (b"[" * 100_000, "not a JSON line"),
    ],
)
def test_a_line_that_says_nothing_is_told_why(line, why):
    _, event = read_event(line)
    assert isinstance(event, events.Unreadable)
    assert why in event.why


def test_numbers_that_are_not_finite_are_named_and_left_out():
    _, event = read_event(
        b'{"event":"metrics","step":3,"values":{"loss":NaN,"a":1e999,"b":null,"c":2}}'
    )
    assert (event.numbers, event.not_finite) == ({"c": 2.0}, ("loss", "a"))


def test_a_program_that_ends_with_no_number_has_failed():
    _, event = read_event(
        b'{"event":"result","state":"finished","values":{"truth":{"low":NaN}},"error":""}'
    )
    assert event == events.Result(
        "failed", {"truth": {"low": None}}, "The program ended with truth/low = nan."
    )


def test_text_the_database_cannot_hold_is_replaced():
    _, event = read_event(
        b'{"event":"sample","step":1,"prompt":"a\\u0000b","text":"\\ud800","label":"x",'
        b'"scores":{"r":NaN}}'
    )
    assert event == events.ShownSample(1, "a\ufffdb", "?", "x", {"r": None})


def test_storable_keeps_what_is_fine():
    value = {"a": [1, 2.5, "ü", None, True]}
    assert events.storable(value) == value
    assert events.storable(math.inf) is None


def test_the_prefix_of_an_earlier_version_is_read_as_the_one_of_today():
    _, event = read_event(
        b'{"event":"metrics","step":3,"values":{"heldout/truth":1,"held_out/auc":0.5}}'
    )
    assert event == events.Metrics(3, {"held_out/truth": 1, "held_out/auc": 0.5})
