"""Held-out samples to choose on and to report on are never the same."""

import pytest

from training.engine.data.holdout import LEAST, is_to_choose_on, split_held_out

SAMPLES = [f"s{number}" for number in range(40)]
CHOSEN_ON = [sample for sample in SAMPLES if is_to_choose_on(sample)]
OTHERS = [sample for sample in SAMPLES if not is_to_choose_on(sample)]


def turns_of(samples):
    return [(sample, turn) for sample in samples for turn in range(3)]


def test_no_sample_is_on_both_sides_and_every_item_on_one():
    items = turns_of(SAMPLES)
    split = split_held_out(items, lambda item: item[0])
    assert split.is_split
    assert sorted([*split.choose, *split.report]) == sorted(items)
    assert not {name for name, _ in split.choose} & {name for name, _ in split.report}
    assert 12 <= len(CHOSEN_ON) <= 28  # about half


def test_a_sample_stays_on_its_side_as_the_set_grows():
    some = split_held_out(SAMPLES[:20], str)
    more = split_held_out(SAMPLES, str)
    assert set(some.choose) <= set(more.choose)
    assert set(some.report) <= set(more.report)


@pytest.mark.parametrize("few", [CHOSEN_ON, OTHERS])
def test_a_set_with_too_few_samples_on_a_side_is_not_split(few):
    many = OTHERS if few is CHOSEN_ON else CHOSEN_ON
    enough = split_held_out([*few[:LEAST], *many[:LEAST]], str)
    assert enough.is_split
    items = [*few[: LEAST - 1], *many]
    split = split_held_out(items, str)
    assert (split.choose, split.report, split.is_split) == ([], items, False)


def test_turns_of_one_sample_are_not_many_samples():
    items = turns_of([*CHOSEN_ON[: LEAST - 1], *OTHERS])
    assert not split_held_out(items, lambda item: item[0]).is_split


def test_what_is_not_enough_to_choose_on_is_all_reported():
    few = split_held_out(SAMPLES, str, lambda items: len(items) > len(CHOSEN_ON))
    assert (few.choose, few.report) == ([], SAMPLES)
    assert split_held_out(SAMPLES, str, lambda items: items == CHOSEN_ON).is_split
