"""Two versions of a draft: what differs, and one made of both."""

from __future__ import annotations

from annotation.authoring.merge import HEAD, compare, merge


def turn(key: str, text: str, response: str = "") -> dict:
    return {"key": key, "input": {"kind": "user", "text": text}, "response": response}


def content(*turns: dict, scenario: str = "cakes") -> dict:
    return {
        "scenario": scenario,
        "situation": "normal",
        "contexts": [],
        "turns": [*turns],
    }


def inputs(merged: dict) -> list[str]:
    return [one["input"]["text"] for one in merged["turns"]]


MINE = content(
    turn("a", "A"), turn("b", "B mine"), turn("m", "only mine"), scenario="pies"
)
THEIRS = content(turn("a", "A"), turn("t", "only theirs"), turn("b", "B theirs"))


def test_only_what_differs_is_shown():
    rows = {row.key: row for row in compare(MINE, THEIRS)}
    assert rows.keys() == {HEAD, "b", "m", "t"}
    assert rows["m"].theirs is None
    assert rows["t"].mine is None
    ((name, passage),) = rows["b"].mine
    assert name == "input"
    assert [p.text for p in passage.pieces if p.change == "del"] == ["mine"]
    assert [name for name, _ in rows[HEAD].mine] == ["scenario"]
    assert compare(MINE, MINE) == []


def test_nothing_taken_is_all_mine():
    assert inputs(merge(MINE, THEIRS, set())) == ["A", "B mine", "only mine"]


def test_each_part_is_taken_by_itself():
    merged = merge(MINE, THEIRS, {"b", "t"})
    assert inputs(merged) == ["A", "only theirs", "B theirs", "only mine"]
    assert merged["scenario"] == "pies"
    assert merge(MINE, THEIRS, {HEAD})["scenario"] == "cakes"


def test_everything_taken_is_all_theirs():
    merged = merge(MINE, THEIRS, {HEAD, "b", "m", "t"})
    assert merged == THEIRS


def test_an_unknown_part_changes_nothing():
    assert inputs(merge(MINE, THEIRS, {"nonsense"})) == inputs(MINE)
