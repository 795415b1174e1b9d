"""Credit by unit: whose token is whose, and what it is pushed by."""

import itertools

import pytest

from actions.demo import oracle
from tests.engine.micro import demo_rows, micro_tokenizer
from training.engine.reward_model.model import Pair, units_of
from training.engine.rl.unit_credit import (
    STRUCTURE,
    Piece,
    token_owners,
    unit_advantages,
    unit_spans,
)

LABEL = (
    "<<think>>This is a new task.\nPlan:\n1. Get the price\n2. Find the shelf\n"
    '<<action>>{"name": "Get price", "parameters": {"item": "hat"}}<</action>>'
)


def spans_of(label, text, kind="user"):
    return unit_spans(units_of(Pair(label, text, kind)), text)


def test_each_unit_is_found_where_it_stands():
    found = {
        key: [LABEL[a:b] for a, b in spans]
        for key, spans in spans_of(LABEL, LABEL).items()
    }
    assert found == {
        "thinking": ["This is a new task."],
        "plan/1": ["Get the price"],
        "plan/2": ["Find the shelf"],
        "action/1/name": ["Get price"],
        "action/1/parameters/item": ["hat"],
    }


def test_the_answer_is_what_follows_the_thinking():
    text = "It is 5.<</think>>It costs 5."
    found = spans_of(text, text, "observation")
    assert [text[a:b] for a, b in found["answer"]] == ["It costs 5."]
    assert [text[a:b] for a, b in found["result"]] == ["It is 5."]


def test_a_unit_that_the_sample_lacks_has_no_place():
    assert "plan/2" not in spans_of(LABEL, LABEL.replace("\n2. Find the shelf", ""))


def test_every_unit_of_every_demo_label_has_a_place_of_its_own():
    for row in demo_rows():
        for turn in row["turns"]:
            text = turn["response"]
            spans = spans_of(text, text, turn["input"]["kind"])
            assert set(spans) == set(oracle.judge(turn, text).units)
            taken = sorted(span for places in spans.values() for span in places)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(taken))


def test_tokens_belong_to_their_unit_and_the_rest_to_the_structure():
    tokenizer = micro_tokenizer()
    ids = tokenizer.encode(LABEL, add_special_tokens=False)
    owners = token_owners(ids, tokenizer.decode, spans_of(LABEL, LABEL))
    texts = {}
    for token, owner in zip(ids, owners, strict=True):
        texts.setdefault(owner, []).append(token)
    assert tokenizer.decode(texts["plan/1"]).strip() == "Get the price"
    assert tokenizer.decode(texts["action/1/parameters/item"]).strip(' "}') == "hat"
    assert owners[0] == owners[-1] == STRUCTURE  # <<think>> and <</action>>


def piece(price, shelf, turn=0):
    owners = (STRUCTURE, "price", "price", "shelf")
    return Piece(turn, owners, {STRUCTURE: 1.0, "price": price, "shelf": shelf})


def test_a_wrong_unit_blames_its_own_tokens_only():
    group = [[piece(1.0, 1.0)], [piece(0.0, 1.0)]]
    ((right,), (wrong,)) = unit_advantages(group, least_spread=0.1)
    assert right == pytest.approx([0, 1, 1, 0], abs=1e-3)
    assert wrong == pytest.approx([0, -1, -1, 0], abs=1e-3)


def test_advantages_of_a_unit_sum_to_zero_over_the_group():
    group = [[piece(x, y)] for x, y in ((1, 0.2), (0, 0.9), (0.5, 0.4))]
    found = unit_advantages(group, least_spread=0.0)
    for column in range(4):
        assert sum(row[0][column] for row in found) == pytest.approx(0, abs=1e-9)


def test_a_spread_too_small_to_mean_anything_pushes_nothing():
    group = [[piece(0.51, 1.0)], [piece(0.52, 1.0)]]
    assert unit_advantages(group, least_spread=0.1) == [[[0.0] * 4], [[0.0] * 4]]


def test_an_ill_formed_response_is_blamed_as_a_whole():
    broken = Piece(0, (STRUCTURE,) * 3, {STRUCTURE: 0.0})
    ((good,), (bad,)) = unit_advantages([[piece(1, 1)], [broken]], least_spread=0.1)
    assert bad == pytest.approx([-1, -1, -1], abs=1e-3)
    assert good == pytest.approx([1, 0, 0, 0], abs=1e-3)


def test_each_turn_has_a_baseline_of_its_own():
    group = [[piece(1, 1, turn=0), piece(0, 1, turn=1)], [piece(1, 1, turn=0)]]
    found = unit_advantages(group, least_spread=0.1)
    assert all(value == 0 for row in found for values in row for value in values)
