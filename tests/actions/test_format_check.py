"""The format check on text and on token ids."""

from __future__ import annotations

import pytest

from actions.format_check import check_text, check_token_ids
from actions.tags import TAGS

CALL = '<<action>>{"name": "A", "parameters": {}}<</action>>'
TAG_IDS = {tag: 1000 + number for number, tag in enumerate(TAGS)}


def decode(ids):
    return "".join(map(chr, ids))


def encode(*pieces):
    """Give tags passed alone their one token; spell everything else."""
    ids = []
    for piece in pieces:
        ids += [TAG_IDS[piece]] if piece in TAG_IDS else map(ord, piece)
    return ids


def check(*pieces, **options):
    return check_token_ids(encode(*pieces), TAG_IDS, decode, **options)


def test_good_responses_pass():
    assert check_text("Hello.") is None
    assert check_text(f"<<think>>{CALL}") is None
    assert check_text("so<</think>>Hello.", inside_thinking=True) is None
    assert check("<<think>>", "a", "<</think>>", "b") is None
    assert check("a", "<</think>>", "b", inside_thinking=True) is None


def test_format_error_is_returned():
    assert check_text("<<think>>a").position == 10
    assert check("<<think>>", "a").position == 10


def test_observation_is_refused_in_a_turn_and_fine_in_an_episode():
    episode = f"<<think>>{CALL}<<observation>>o<</observation>><</think>>b"
    error = check_text(episode)
    assert error.position == episode.index("<<observation>>")
    assert check_text(episode, episode=True) is None


@pytest.mark.parametrize("blanks", [" ", "\n", " \t\r\n", "\u00a0"])
def test_blanks_after_the_last_call_are_a_fault_only_where_a_text_is_learned(blanks):
    text = f"<<think>>{CALL}{blanks}"
    assert check_text(text, may_trail=True) is None
    assert check_text(text).position == len(text) - len(blanks)
    assert check_text(text).expected == "the end of the text"
    call = ["<<action>>", '{"name": "A", "parameters": {}}', "<</action>>"]
    assert check("<<think>>", *call) is None
    assert check("<<think>>", *call, blanks).expected == "the end of the text"


@pytest.mark.parametrize("tag", ["<<think>>", "<</think>>"])
def test_tag_spelt_with_other_tokens_is_refused(tag):
    pieces = ["<<think>>", "a", "<</think>>", "b"]
    at = pieces.index(tag)
    pieces[at : at + 1] = [tag[:2], tag[2:]]
    error = check(*pieces)
    assert str(error) == (
        f"line 1, column {1 if tag == '<<think>>' else 11}: expected {tag} as one "
        "token, found it spelt with other tokens"
    )


def test_no_tokens_are_no_answer():
    assert check().expected == "an answer"


def test_angle_bracket_before_a_tag_is_text():
    assert check("<<think>>", "a <", "<</think>>", "b") is None
