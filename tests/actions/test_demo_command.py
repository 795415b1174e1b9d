"""``python -m actions.demo`` shows samples."""

import json

import pytest

from actions.demo import generate
from actions.demo.__main__ import main


def test_shows_conversations_to_read(capsys):
    assert main(["--count", "2", "--seed", "4"]) == 0
    shown = capsys.readouterr().out
    for sample in generate(seed=4, count=2):
        assert f"── {sample['id']} · {sample['scenario']} · normal\n" in shown
        assert f"1. user: {sample['turns'][0]['input']['text']}\n" in shown


def test_writes_json_lines(capsys):
    main(["--count", "3", "--split", "held-out", "--jsonl"])
    lines = capsys.readouterr().out.splitlines()
    assert list(map(json.loads, lines)) == list(
        generate(seed=1, count=3, split="held-out")
    )


def test_writes_statistics(capsys):
    main(["--count", "60", "--stats", "--difficulty", "hard"])
    shown = capsys.readouterr().out
    assert "samples                60\n" in shown
    assert "refusal                10\n" in shown


def test_refuses_an_unknown_difficulty(capsys):
    with pytest.raises(SystemExit):
        main(["--difficulty", "absurd"])
    assert "invalid choice: 'absurd'" in capsys.readouterr().err


def test_refuses_more_habit_than_all(capsys):
    with pytest.raises(SystemExit):
        main(["--habit", "1.5"])
    assert "expected 0 to 1, found 1.5" in capsys.readouterr().err
