"""The thinking method's questions: asked where a response leaves them open, not else."""

from __future__ import annotations

import pytest

from actions.demo import generate
from actions.grammar import parse
from annotation.authoring.drafts import TurnTexts
from annotation.authoring.method_hints import Knowledge, hints_of_turn, source_of

PLAN = "<<think>>A task.\nPlan:\n1. Ask the street\n2. Book it<</think>>Which street?"
CALL = '<<action>>{"name": "Book", "parameters": {}}<</action>>'
SHOP = source_of("The cake shop", "We bake cakes", "Check the price of cakes first")
WINE = source_of(
    "Wine cellar", "Bottles of wine", "Ask for the vintage of the wine", key=7
)
KNOWN = Knowledge((SHOP,), (WINE,))


def codes(
    *turns: tuple[str, str],
    knowledge: Knowledge = KNOWN,
    inside=False,
):
    texts = [TurnTexts("user", text, response) for text, response in turns]
    if inside:
        texts[-1] = TurnTexts("observation", texts[-1].text, texts[-1].response)
    parsed = [parse(one.response, inside_thinking=one.inside) for one in texts]
    return [hint.code for hint in hints_of_turn(texts, parsed, knowledge)]


def test_an_answer_without_thinking_is_asked_for_its_element():
    assert "thinking" in codes(("Any cake?", "Yes."))
    assert "thinking" not in codes(
        ("Any cake?", "<<think>>The guideline says.<</think>>Yes.")
    )


def test_an_unnamed_element_is_asked_for_in_the_order_of_the_method():
    texts = [TurnTexts("user", "What price have cakes?", "<<think>>Hm.<</think>>Ten.")]
    (hint,) = hints_of_turn(texts, [parse(texts[0].response)], Knowledge((SHOP,)))
    assert hint.code == "element"
    assert "chat history, global thinking context, built-in actions, local" in hint.text
    assert "global thinking context “The cake shop”" in hint.text
    assert (
        codes(("What price?", "<<think>>The background tells it.<</think>>Ten.")) == []
    )


def test_the_last_plan_step_is_to_be_matched_with_the_input():
    open_ = ("Mill Lane.", "<<think>>Mill Lane it is.<</think>>Good.")
    assert "step" in codes(("Book it", PLAN), open_)
    said = ("Mill Lane.", "<<think>>Now step 2: Book it.\n" + CALL)
    assert "step" not in codes(("Book it", PLAN), said)
    texts = [TurnTexts("user", "Book it", PLAN), TurnTexts("user", *open_)]
    hints = hints_of_turn(texts, [parse(one.response) for one in texts], Knowledge())
    assert any("“Ask the street”" in hint.text for hint in hints)


def test_a_plan_is_asked_for_where_an_action_is_called_without_one():
    assert "plan" in codes(("A cake", f"<<think>>Buy it.\n{CALL}"))
    assert "plan" not in codes(
        ("A cake", f"<<think>>Buy.\nPlan:\n1. Look\n2. Buy\n{CALL}")
    )
    assert "short" in codes(("A cake", f"<<think>>Buy.\nPlan:\n1. Buy\n{CALL}"))


def test_a_local_context_is_offered_only_when_nothing_at_hand_covers_the_input():
    asked = ("Which wine vintage is good?", "<<think>>Hm.<</think>>Ten.")
    assert "fetch" in codes(asked)
    wine_at_hand = Knowledge((SHOP, WINE), (WINE,))
    assert "fetch" not in codes(asked, knowledge=wine_at_hand)
    assert "fetch" not in codes(("Any cakes?", "<<think>>Hm.<</think>>Ten."))
    got = '<<think>>Look.<<action>>{"name": "Get thinking context", "parameters": {"query": "wine"}}<</action>>'
    assert "fetch" not in codes((asked[0], got))


@pytest.mark.parametrize(
    ("text", "response", "code"),
    [
        ("Exception busy", "I see.<</think>>Fine.", "exception"),
        ("Exception busy", "Try it again.\n" + CALL, None),
        ("34 dollars", "Well.<</think>>Done.", "result"),
        ("34 dollars", "It is 34.<</think>>It costs 34.", None),
    ],
)
def test_a_result_is_to_be_taken_up(text, response, code):
    found = codes(("A cake", "<<think>>x\n" + CALL), (text, response), inside=True)
    assert found == ([code] if code else [])


def test_demo_samples_which_follow_the_method_are_asked_little():
    asked = turns = 0
    for sample in generate(seed=11, count=60):
        at_hand, local = [], []
        for context in sample["contexts"]:
            source = source_of(
                context["title"], context["background"], context["guideline"]
            )
            (at_hand if context["scope"] == "global" else local).append(source)
        texts = [
            TurnTexts(turn["input"]["kind"], turn["input"]["text"], turn["response"])
            for turn in sample["turns"]
        ]
        parsed = [parse(one.response, inside_thinking=one.inside) for one in texts]
        for number in range(1, len(texts) + 1):
            turns += 1
            knowledge = Knowledge(tuple(at_hand), tuple(local))
            asked += bool(hints_of_turn(texts[:number], parsed[:number], knowledge))
    assert turns > 300
    assert asked / turns < 0.1
