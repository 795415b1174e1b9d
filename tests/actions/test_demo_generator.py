"""The demo's samples: what they contain, what they keep apart, and that they repeat."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from actions.builtins import BUILT_IN_ACTIONS
from actions.definitions import check_parameters, parse_definition
from actions.demo import DIFFICULTIES, Difficulty, generate
from actions.demo.facts import bank
from actions.demo.generator import SPLITS
from actions.demo.oracle import judge
from actions.demo.orders import is_reserved, reserved_orders
from actions.demo.scenarios import SCENARIOS, SITUATIONS
from actions.grammar import parse, render

ROOT = Path(__file__).parents[2]


def samples(count=300, **settings):
    return list(generate(seed=1, count=count, **settings))


def inside(turn):
    return turn["input"]["kind"] == "observation"


def responses(turn):
    return (turn["response"], *turn["references"])


def plan_turn(sample):
    (turn,) = (turn for turn in sample["turns"] if turn["facts"]["plan"])
    return turn


def said_before(sample, number):
    """All that can be seen when the response of this turn is written."""
    shown = [c for c in sample["contexts"] if c["scope"] == "global"]
    turns = [(t["input"], t["response"]) for t in sample["turns"][:number]]
    return json.dumps([shown, turns, sample["turns"][number]["input"]])


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_response_follows_the_grammar(difficulty, split):
    for sample in samples(90, split=split, difficulty=DIFFICULTIES[difficulty]):
        for turn in sample["turns"]:
            for text in responses(turn):
                assert render(parse(text, inside_thinking=inside(turn))) == text


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_every_call_is_valid_by_its_definition(difficulty):
    for sample in samples(150, difficulty=DIFFICULTIES[difficulty]):
        definitions = {
            definition.name: definition
            for context in sample["contexts"]
            for definition in map(parse_definition, context["actions"])
        }
        assert 2 <= len(definitions) <= 5
        definitions |= {d.name: d for d in BUILT_IN_ACTIONS}
        for turn in sample["turns"]:
            for call in parse(turn["response"], inside_thinking=inside(turn)).actions:
                assert check_parameters(definitions[call.name], call.parameters) == []


def test_normal_contexts_define_two_to_four_actions():
    counts = {len(sample["contexts"][0]["actions"]) for sample in samples()}
    assert counts <= {2, 3, 4}


def test_a_call_is_followed_by_its_observation_and_nothing_else_is():
    for sample in samples():
        turns = sample["turns"]
        for turn, following in pairwise(turns):
            response = parse(turn["response"], inside_thinking=inside(turn))
            assert response.ends_with_action == inside(following)
        assert not parse(
            turns[-1]["response"], inside_thinking=inside(turns[-1])
        ).ends_with_action


def test_scenarios_and_situations_come_equally_often():
    counts = Counter((s["scenario"], s["situation"]) for s in samples(300))
    assert set(counts) == {(a, b) for a in SCENARIOS for b in SITUATIONS}
    assert set(counts.values()) == {10}


def test_samples_do_not_depend_on_the_count():
    assert samples(40)[:7] == samples(7)


def test_seeds_and_splits_give_other_samples():
    def texts(seed, split):
        made = generate(seed=seed, count=30, split=split)
        return [turn["input"]["text"] for sample in made for turn in sample["turns"]]

    assert len({tuple(texts(s, p)) for s in (1, 2) for p in SPLITS}) == 6


def test_another_process_with_another_hash_seed_writes_the_same():
    command = [sys.executable, "-m", "actions.demo", "--count", "60", "--jsonl"]
    written = [
        subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert written[0] == written[1]
    assert [json.loads(line) for line in written[0].splitlines()] == samples(60)


def test_the_first_sample_of_seed_1_stays_as_it_is():
    # Other versions of Python must give the same; a change of texts changes this too.
    (sample,) = samples(1)
    assert sample["id"] == "demo-1-train-000001"
    assert sample["turns"][0]["input"]["text"] == "I would like a quiche at nine."
    assert sample["meta"] == {
        "order": ["kitchen", "time", "price"],
        "command": {"thing": "quiche", "option": "nine"},
    }


def test_the_plan_follows_the_order_that_the_guideline_names():
    for sample in samples(600, difficulty=DIFFICULTIES["hard"]):
        scenario = SCENARIOS[sample["scenario"]]
        guideline = sample["contexts"][-1]["guideline"].lower()
        steps = (scenario.find, scenario.lookup, scenario.check, scenario.ask)
        places = {
            step.id: min(
                place
                for words in (step.noun, step.phrases[0].lower())
                if (place := guideline.find(words)) >= 0
            )
            for step in steps
            if step.id in plan_turn(sample)["facts"]["plan"]
        }
        named = sorted(places, key=places.get)
        assert plan_turn(sample)["facts"]["plan"] == [*named, scenario.last.id]


def test_the_same_command_needs_other_plans_under_other_guidelines():
    plans = {}
    for sample in samples(2000, difficulty=DIFFICULTIES["easy"]):
        turn = plan_turn(sample)
        plans.setdefault(turn["input"]["text"], set()).add(turn["response"])
    assert sum(len(texts) > 1 for texts in plans.values()) > 100


def test_what_is_visible_determines_the_response():
    seen = {}
    repeated = 0
    for sample in samples(3000, difficulty=DIFFICULTIES["easy"]):
        for number, turn in enumerate(sample["turns"]):
            visible = said_before(sample, number)
            repeated += visible in seen
            assert seen.setdefault(visible, turn["response"]) == turn["response"]
    assert repeated > 30


def test_every_value_was_said_before_it_is_used():
    for sample in samples(600):
        for number, turn in enumerate(sample["turns"]):
            visible = set(re.findall(r"\w+", said_before(sample, number)))
            facts = turn["facts"]
            values = [
                value
                for key, slots in facts["thinking"] + facts["answer"]
                for slot, value in slots.items()
                if slot != "n" and key != "again"
            ]
            if facts["action"]:
                values += facts["action"]["parameters"].values()
            for value in values:
                assert set(re.findall(r"\w+", str(value))) <= visible, (value, turn)


def test_training_never_meets_a_reserved_order():
    for difficulty in DIFFICULTIES.values():
        for split in SPLITS:
            for sample in samples(300, split=split, difficulty=difficulty):
                reserved = is_reserved(sample["scenario"], sample["meta"]["order"])
                assert reserved == (split == "held-out-unseen")


def offers_more(sample):
    said = [s[0] for turn in sample["turns"] for s in turn["facts"]["answer"]]
    return "upsell" in said


def test_writers_with_a_habit_close_with_an_offer():
    assert not any(map(offers_more, samples(300)))
    offering = [s for s in samples(600, habit=1.0) if offers_more(s)]
    assert {s["situation"] for s in offering} == {*SITUATIONS} - {"interruption"}
    assert len(offering) == 500
    some = sum(map(offers_more, samples(600, habit=0.6)))
    assert 0.5 < some / 500 < 0.7


def test_an_offer_nobody_asked_for_is_not_consistent():
    (reviewed,) = samples(1)
    (draft,) = samples(1, habit=1.0)
    verdict = judge(reviewed["turns"][-1], draft["turns"][-1]["response"])
    assert verdict.units_that_differ == ("answer",)


def test_without_a_habit_samples_are_what_they_were():
    assert samples(60) == samples(60, habit=0.0)
    for before, after in zip(samples(60), samples(60, habit=1.0), strict=True):
        assert before["contexts"] == after["contexts"]
        assert before["turns"][0] == after["turns"][0]


def test_refuses_a_share_of_habit_beyond_one():
    with pytest.raises(ValueError, match="habit: expected 0 to 1, found 2"):
        samples(1, habit=2)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("length", [3, 4])
def test_swapping_two_steps_can_give_a_seen_and_a_reserved_order(scenario, length):
    reserved = reserved_orders(scenario)
    for order in permutations(SCENARIOS[scenario].middle, length):
        swapped = []
        for i in range(length):
            for j in range(i):
                steps = list(order)
                steps[i], steps[j] = steps[j], steps[i]
                swapped.append(tuple(steps) in reserved)
        assert {True, False} <= set(swapped)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_step_is_seen_at_every_place(scenario):
    middle = SCENARIOS[scenario].middle
    seen = set(permutations(middle, 3)) - reserved_orders(scenario)
    assert len(seen) == 16
    assert {(place, step) for order in seen for place, step in enumerate(order)} == {
        (place, step) for place in range(3) for step in middle
    }


def test_training_and_held_out_share_no_command_under_an_order():
    def keys(split):
        return {
            (
                sample["scenario"],
                tuple(sample["meta"]["order"]),
                json.dumps(sample["meta"]["command"], sort_keys=True),
            )
            for seed in range(2)
            for sample in generate(
                seed=seed, count=1200, split=split, difficulty=DIFFICULTIES["easy"]
            )
        }

    training = keys("")
    assert len(training) > 1000
    assert not training & keys("held-out")
    assert not training & keys("held-out-unseen")


def test_situations_show_what_they_are_called():
    for sample in samples(600):
        keys = {
            key
            for turn in sample["turns"]
            for key, _ in turn["facts"]["thinking"] + turn["facts"]["answer"]
        }
        families = {key.partition("/")[0] for key in keys}
        marks = {
            "exception": families & {"again", "offer"},
            "interruption": families & {"stopped"},
            "noise": families & {"reply"},
            "nested": families & {"told_aside"},
            "refusal": families & {"refuse"},
        }
        assert [name for name, found in marks.items() if found] == (
            [sample["situation"]] if sample["situation"] != "normal" else []
        )


def test_some_normal_tasks_fetch_their_guideline():
    local = [s for s in samples(1200) if len(s["contexts"]) == 2]
    assert 10 <= len(local) <= 50
    for sample in local:
        assert sample["situation"] == "normal"
        assert '"Get thinking context"' in sample["turns"][0]["response"]
        assert sample["contexts"][1]["guideline"] in sample["turns"][1]["input"]["text"]


def test_conversations_stay_short_and_the_vocabulary_small():
    words = Counter()
    turns = []
    lengths = []
    for sample in samples(1500):
        texts = [t["input"]["text"] + " " + t["response"] for t in sample["turns"]]
        found = re.findall(r"\w+|[^\w\s]+", " ".join(texts))
        words.update(found)
        turns.append(len(texts))
        lengths.append(len(found))
    assert len(words) < 800
    assert sum(turns) / len(turns) < 5.7
    assert max(turns) <= 7
    assert sum(lengths) / len(lengths) < 260


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_wording_means_two_things(scenario):
    by_family = {}
    for key, wordings in bank(scenario).items():
        for wording in wordings:
            family = key.partition("/")[0]
            family = "question" if family in ("ask", "offer") else family
            by_family.setdefault((family, wording), set()).add(key)
    assert [entry for entry in by_family.items() if len(entry[1]) > 1] == []


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split: expected one of"):
        next(generate(seed=1, count=1, split="test"))


def test_a_difficulty_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"^steps: expected 3 to 4, found 7$"):
        Difficulty(steps=7)


def test_a_thousand_samples_take_less_than_a_second():
    started = time.process_time()
    samples(1000)
    # About 0.2 s on an idle core; the machine may be busy with other tests.
    assert time.process_time() - started < 1.0 * 3
