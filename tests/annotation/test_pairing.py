"""What becomes of the answers a draw brings back."""

import pytest

from annotation.authoring import samples
from annotation.judging import judgments
from annotation.judging.pairing import (
    ProducerFacts,
    Received,
    RefusedResponse,
    ResponseRow,
    receive_responses,
)
from annotation.models import (
    InputKind,
    Pair,
    PairOrigin,
    PairSource,
    Producer,
    ReferenceResponse,
    SampledResponse,
    SampleStatus,
    Slot,
    SlotState,
)
from tests.cast import (
    LABEL,
    SAMPLED,
    make_judgment,
    make_project,
    make_sample,
    make_user,
)

pytestmark = pytest.mark.django_db


def facts(**changes):
    return ProducerFacts(
        **{
            "run_id": 3,
            "checkpoint_id": 7,
            "checkpoint_digest": "d" * 64,
            "step": 200,
            "policy_role": "current",
            "settings": {"temperature": 1.0},
        }
        | changes
    )


def receive(sample, *texts, producer=None, turn=0, **options):
    return receive_responses(
        project=sample.project,
        producer=producer or facts(),
        responses=[
            ResponseRow(sample.external_id, turn, index, text)
            for index, text in enumerate(texts)
        ],
        **options,
    )


def test_an_answer_becomes_a_pair_with_its_slots_and_its_origin():
    sample = make_sample(project=make_project(overlap=2))
    assert receive(sample, SAMPLED) == Received(responses=1, pairs=1, slots=2)
    pair = Pair.objects.get()
    assert (pair.label_text, pair.sampled_text) == (LABEL, SAMPLED)
    assert pair.source == PairSource.PEOPLE
    assert [slot.ordinal for slot in pair.slots.order_by("place")] == [1, 2]
    answer = pair.origins.get().sampled_response
    assert (answer.producer.run_id, answer.producer.checkpoint_id) == (3, 7)
    assert (answer.producer.step, answer.index) == (200, 0)
    assert answer.producer.settings == {"temperature": 1.0}


def test_the_same_delivery_twice_adds_nothing():
    sample = make_sample()
    receive(sample, SAMPLED, LABEL, "<<think>>")
    rows = [
        model.objects.count()
        for model in (Producer, SampledResponse, Pair, PairOrigin, Slot)
    ]
    assert receive(sample, SAMPLED, LABEL, "<<think>>") == Received()
    assert rows == [
        model.objects.count()
        for model in (Producer, SampledResponse, Pair, PairOrigin, Slot)
    ]


def test_a_delivery_cut_short_is_completed_by_the_next():
    sample = make_sample()
    receive(sample, "One.")
    assert receive(sample, "One.", "Two.") == Received(responses=1, pairs=1, slots=2)


def test_equal_texts_are_one_pair_with_one_set_of_slots():
    sample = make_sample(project=make_project(overlap=2))
    assert receive(sample, "Done.", "Done.", "Gone.") == Received(
        responses=3, pairs=2, slots=4
    )
    later = facts(run_id=9, checkpoint_id=11)
    assert receive(sample, "Done.", producer=later) == Received(responses=1)
    pair = Pair.objects.get(sampled_text="Done.")
    assert pair.origins.count() == 3
    assert {origin.sampled_response.producer.run_id for origin in pair.origins.all()}


def test_equal_texts_of_two_turns_are_two_pairs():
    sample = make_sample(
        turns=((InputKind.USER, "Hi.", LABEL), (InputKind.USER, "And?", LABEL))
    )
    receive(sample, "Done.")
    assert receive(sample, "Done.", turn=1).pairs == 1


def test_current_and_initial_policy_may_be_one_checkpoint():
    sample = make_sample()
    receive(sample, "Done.")
    both = receive(sample, "Done.", producer=facts(policy_role="initial"))
    assert both == Received(responses=1)
    assert Producer.objects.count() == 2


def test_a_byte_identical_answer_is_derived_and_nobody_judges_it():
    sample = make_sample()
    assert receive(sample, LABEL) == Received(
        responses=1, pairs=1, identical=1, saved=sample.project.overlap
    )
    pair = Pair.objects.with_outcome().get()
    assert (pair.source, pair.outcome, pair.outcome_source) == (
        "identical",
        1,
        "identical",
    )
    assert not Slot.objects.exists()


RESPELLED = {
    "a space after the call": LABEL + " ",
    "a line break after the call": LABEL + "\n",
    "JSON spaces": LABEL.replace('": ', '":'),
    "JSON key order": LABEL.replace(
        '"name": "Find shops", "parameters": {"kind": "bakery"}',
        '"parameters": {"kind": "bakery"}, "name": "Find shops"',
    ),
    "two spaces": LABEL.replace("wants a", "wants  a"),
    "a step's blanks": LABEL.replace("1. Find", "1.  Find"),
}


@pytest.mark.parametrize("text", RESPELLED.values(), ids=RESPELLED.keys())
def test_an_answer_equal_in_normal_form_is_settled_by_rule(text):
    sample = make_sample(project=make_project(overlap=2))
    assert text != LABEL
    assert receive(sample, text) == Received(responses=1, pairs=1, by_rule=1, saved=2)
    pair = Pair.objects.with_outcome().get()
    assert (pair.outcome, pair.outcome_source) == (1, "rule")
    assert pair.sampled_text == text
    assert not Slot.objects.exists()
    assert not SampledResponse.objects.get().format_error


OTHERWISE = {
    "another value": LABEL.replace("bakery", "florist"),
    "a space in a value": LABEL.replace('"bakery"', '"bakery "'),
    "another case": LABEL.replace("a cake.", "A CAKE."),
    "steps the other way round": LABEL.replace(
        "1. Find a bakery.\n2. Order the cake.",
        "1. Order the cake.\n2. Find a bakery.",
    ),
    "a plan on one line": LABEL.replace("Plan:\n1.", "Plan: 1."),
}


@pytest.mark.parametrize("text", OTHERWISE.values(), ids=OTHERWISE.keys())
def test_an_answer_that_says_something_else_goes_to_people(text):
    sample = make_sample(project=make_project(overlap=2))
    assert text != LABEL
    assert receive(sample, text) == Received(responses=1, pairs=1, slots=2)


def test_an_answer_equal_to_a_reference_is_settled_by_rule():
    sample = make_sample(
        turns=(("user", "Eight cakes?", "Yes, 1,200 cakes are here."),)
    )
    ReferenceResponse.objects.create(
        turn=sample.turns.get(), position=0, text="Of course: 1,200 cakes."
    )
    found = receive(sample, "Of course: 1,200 cakes.", "Of course:  1200.0 cakes.")
    assert (found.by_rule, found.slots) == (2, 0)


def test_a_tag_spelt_with_other_tokens_is_not_settled_as_equal():
    sample = make_sample()
    row = ResponseRow(sample.external_id, 0, 0, LABEL + " ", format_error="a tag")
    found = receive_responses(project=sample.project, producer=facts(), responses=[row])
    assert (found.by_rule, found.malformed) == (0, 1)


def test_a_malformed_answer_is_derived_unless_people_are_asked():
    sample = make_sample()
    assert receive(sample, "<<think>>") == Received(responses=1, pairs=1, malformed=1)
    pair = Pair.objects.with_outcome().get()
    assert (pair.outcome, pair.outcome_source) == (0, "format")
    assert SampledResponse.objects.get().format_error
    other = make_sample()
    assert receive(other, "<<think>>", judge_malformed=True).slots == 2


def test_a_turn_inside_thinking_is_parsed_so():
    sample = make_sample(
        turns=((InputKind.OBSERVATION, "3 shops", "I see.<</think>>Three shops."),)
    )
    assert receive(sample, "I see.<</think>>Two shops.").malformed == 0


def test_a_row_without_its_turn_is_refused_and_the_rest_kept():
    sample = make_sample()
    received = receive_responses(
        project=sample.project,
        producer=facts(),
        responses=[
            ResponseRow("no-such", 0, 0, "Done."),
            ResponseRow(sample.external_id, 5, 0, "Done."),
            ResponseRow(sample.external_id, 0, 0, "Done."),
        ],
    )
    assert received.responses == 1
    assert received.refused == (
        RefusedResponse("no-such", 0, 0, "no such sample or turn here"),
        RefusedResponse(sample.external_id, 5, 0, "no such sample or turn here"),
    )


def test_samples_of_another_project_are_not_found():
    sample = make_sample()
    received = receive_responses(
        project=make_project(),
        producer=facts(),
        responses=[ResponseRow(sample.external_id, 0, 0, "Done.")],
    )
    assert len(received.refused) == 1


def test_the_author_never_meets_the_pair():
    sample = make_sample(author=make_user("lena"))
    receive(sample, "Done.")
    found = judgments.claim_slot(project=sample.project, user=make_user("lena"))
    assert found == judgments.NothingToDo("nothing for you")


def test_a_later_edit_leaves_judged_texts_alone():
    sample = make_sample()
    receive(sample, "Done.")
    sample.turns.update(response="A new label.")
    assert Pair.objects.get().label_text == LABEL
    more = receive(sample, "Done.", producer=facts(run_id=4))
    assert more == Received(responses=1, pairs=1, slots=2)


def test_a_settled_pair_sampled_again_is_not_judged_again():
    sample = make_sample(project=make_project(overlap=1, overlap_limit=1))
    receive(sample, "Done.")
    make_judgment(Pair.objects.get(), make_user("lena"), 1)
    sample.project.overlap = sample.project.overlap_limit = 3
    sample.project.save()
    assert receive(sample, "Done.", producer=facts(run_id=4)).slots == 0


def test_pairs_of_a_returned_sample_come_back_when_it_is_approved():
    sample = make_sample(status=SampleStatus.APPROVED)
    rita = make_user("rita")
    receive(sample, "Done.")
    samples.return_sample(
        project=sample.project, sample=sample, user=rita, comment="Which cake?"
    )
    assert set(Slot.objects.values_list("state", flat=True)) == {SlotState.CLOSED}
    assert receive(sample, "Done.", "New.", producer=facts(run_id=4)).slots == 0
    samples.submit_sample(project=sample.project, sample=sample, user=rita)
    samples.approve_sample(project=sample.project, sample=sample, user=rita)
    states = list(Slot.objects.values_list("pair__sampled_text", "state", "ordinal"))
    assert sorted(states) == [
        ("Done.", "open", 1),
        ("Done.", "open", 2),
        ("New.", "open", 1),
        ("New.", "open", 2),
    ]


def test_priority_goes_to_the_slots():
    receive(make_sample(), "Done.", priority=4)
    assert set(Slot.objects.values_list("priority", flat=True)) == {4}


def test_a_large_delivery_costs_few_queries(django_assert_max_num_queries):
    sample = make_sample()
    with django_assert_max_num_queries(30):
        receive(sample, *(f"Answer {number}." for number in range(900)))
    assert Slot.objects.count() == 1800
