"""Another situation made from a sample: where it is put in, and what is kept."""

from __future__ import annotations

import pytest

from actions.demo import generate
from annotation.authoring.situations import (
    ADVICE,
    ASIDE,
    BREAK_OFF,
    SITUATIONS,
    NoPlace,
    derive,
)
from tests.browser.stage import CAKE

ENDED = {
    **CAKE,
    "turns": [
        *CAKE["turns"],
        {
            "input": {"kind": "user", "text": "Yes, to Mill Lane 3."},
            "response": "Done.",
        },
    ],
}


def kinds(content) -> list[str]:
    return [turn["input"]["kind"] for turn in content["turns"]]


def test_noise_stands_in_the_middle_of_the_task_and_the_rest_follows():
    derived = derive(ENDED, "noise")
    turns = derived.content["turns"]
    assert derived.turn == 4
    assert turns[3] == {"input": {"kind": "user", "text": ASIDE}, "response": ""}
    assert [*turns[:3], *turns[4:]] == ENDED["turns"]
    assert derived.content["situation"] == "noise"


def test_an_interruption_cuts_what_follows():
    derived = derive(ENDED, "interruption")
    turns = derived.content["turns"]
    assert turns[:3] == ENDED["turns"][:3]
    assert turns[3]["input"]["text"] == BREAK_OFF
    assert len(turns) == derived.turn == 4


def test_an_exception_is_one_of_the_definition_and_cuts_what_follows():
    derived = derive(ENDED, "exception")
    turns = derived.content["turns"]
    assert derived.turn == 3
    assert turns[:2] == ENDED["turns"][:2]
    assert turns[2] == {
        "input": {"kind": "observation", "text": "Exception Kitchen closed"},
        "response": "",
    }
    assert len(turns) == 3


def test_a_nested_task_waits_for_its_response():
    derived = derive(ENDED, "nested")
    assert derived.content["turns"][derived.turn - 1]["response"] == ""
    assert len(derived.content["turns"]) == len(ENDED["turns"]) + 1


def test_the_source_is_named_and_nothing_of_its_own_state_is_taken():
    content = derive(
        ENDED | {"meta": {"from": "here"}, "status": "approved"}, "noise"
    ).content
    assert content["meta"] == {"from": "here", "derived_from": "cake-for-saturday"}
    assert content["contexts"] == CAKE["contexts"]
    assert not {"id", "status", "split"} & content.keys()


def test_facts_are_kept_before_the_change_only():
    turns = [turn | {"facts": {"n": n}} for n, turn in enumerate(ENDED["turns"])]
    made = derive(ENDED | {"turns": turns}, "noise").content["turns"]
    assert ["facts" in turn for turn in made] == [True, True, True, False, False]


def test_no_place_says_why():
    with pytest.raises(NoPlace, match="has an exception in its definition"):
        derive({**CAKE, "turns": CAKE["turns"][:1]}, "exception")
    with pytest.raises(NoPlace, match="no point where the user"):
        derive({**CAKE, "turns": CAKE["turns"][1:2]}, "interruption")
    with pytest.raises(NoPlace, match="no such situation"):
        derive(CAKE, "alien")


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_demo_sample_gives_turns_that_follow_each_other(situation):
    made = 0
    for sample in generate(seed=5, count=40):
        try:
            content = derive(sample, situation).content
        except NoPlace:
            continue
        made += 1
        asked = False
        for turn in content["turns"]:
            assert (turn["input"]["kind"] == "observation") == asked
            asked = turn["response"].endswith("<</action>>")
    assert made > 20
    assert "%(turn)s" in ADVICE[situation]
