"""Packing a pair into a prompt, and reading the reward model at its marks."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from actions.grammar import FormatError
from tests.engine.micro import demo_samples, micro_policy, micro_tokenizer
from training.engine.modeling.new_tokens import fit_vocabulary
from training.engine.reward_model.model import (
    RULED_OUT,
    RewardModel,
    load_reward_model,
    load_reward_models,
    save_reward_model,
)
from training.engine.reward_model.model import _batches as cut
from training.engine.reward_model.packing import (
    MATCH,
    WHOLE,
    Packed,
    Packer,
    Pair,
    RewardSettings,
    collate,
    units_of,
)

LABEL = (
    "<<think>>This is a new task.\nPlan:\n1. Get the price\n2. Find the shelf\n"
    '<<action>>{"name": "Get price", "parameters": {"item": "hat"}}<</action>>'
)
SAMPLED = (
    "<<think>>A new request.\nPlan:\n1. See what it costs\n2. Find the shelf\n"
    '<<action>>{"name": "Get price", "parameters": {"item": "coat"}}<</action>>'
)
PAIR = Pair(LABEL, SAMPLED)


def micro_reward_model(
    layout="interleaved", labels="unit", shape="qwen3", differences=True, seed=1
):
    tokenizer = micro_tokenizer()
    config = micro_policy(tokenizer, shape).config
    config.num_labels = 2
    torch.manual_seed(seed)
    classifier = AutoModelForSequenceClassification.from_config(config)
    known = len(tokenizer)
    Packer(tokenizer, RewardSettings(layout, labels, differences))
    fit_vocabulary(classifier, tokenizer, known)
    return RewardModel(
        classifier, tokenizer, RewardSettings(layout, labels, differences)
    )


def test_blanks_after_the_last_call_do_not_rule_a_response_out():
    units = units_of(replace(PAIR, sampled=LABEL + "\n"))
    assert units is not None
    assert not any(unit.differs for unit in units)


def some_pairs():
    turns = [turn for sample in demo_samples() for turn in sample.turns]
    return [
        Pair(turn.response, reference, turn.kind)
        for turn in turns[:24]
        for reference in (turn.response, *turn.references)
    ]


def packed_text(layout, labels, differences=False):
    tokenizer = micro_tokenizer()
    prompt = Packer(tokenizer, RewardSettings(layout, labels, differences)).pack(
        PAIR, units_of(PAIR)
    )
    return tokenizer, prompt, tokenizer.decode(prompt.ids)


def test_the_end_of_the_history_stands_ahead_of_the_pair():
    tokenizer = micro_tokenizer()
    pair = replace(PAIR, history="A shop.\nhow many hats")
    alone = Packer(tokenizer, RewardSettings("interleaved", "unit"))
    short = alone.pack(pair, units_of(pair))
    assert short == alone.pack(PAIR, units_of(PAIR))
    last = Packer(tokenizer, RewardSettings("interleaved", "unit", history_tokens=4))
    long = last.pack(pair, units_of(pair))
    before = tokenizer.encode(pair.history, add_special_tokens=False)[-4:]
    assert long.ids[1:5] == tuple(before)
    assert long.ids[5:] == short.ids
    assert [read - 5 for read in long.reads] == list(short.reads)
    assert tokenizer.decode(long.ids[:1]) == "<<history>>"


def test_interleaved_lays_each_unit_beside_its_partner():
    _, prompt, text = packed_text("interleaved", "unit")
    assert text == (
        "<<thinking>><<label>>This is a new task."
        "<<sampled>>A new request.<<match>>"
        "<<plan step>><<label>>Get the price<<sampled>>See what it costs<<match>>"
        "<<plan step>><<label>>Find the shelf<<sampled>>Find the shelf<<match>>"
        "<<action name>><<label>>Get price<<sampled>>Get price<<match>>"
        "<<parameter>>item<<label>>hat<<sampled>>coat<<match>>"
    )
    assert prompt.keys == (
        "thinking",
        "plan/1",
        "plan/2",
        "action/1/name",
        "action/1/parameters/item",
    )


def test_differences_are_spelled_out_and_equal_units_are_said_to_be_the_same():
    _, prompt, text = packed_text("interleaved", "unit", differences=True)
    assert text == (
        "<<thinking>><<label>>This is a new task.<<sampled>>A new request."
        "<<only label>>This is a task<<only sampled>>A request<<match>>"
        "<<plan step>><<label>>Get the price<<sampled>>See what it costs"
        "<<only label>>Get the price<<only sampled>>See what it costs<<match>>"
        "<<plan step>><<same>><<match>>"
        "<<action name>><<same>><<match>>"
        "<<parameter>>item<<label>>hat<<sampled>>coat"
        "<<only label>>hat<<only sampled>>coat<<match>>"
    )
    assert len(prompt.reads) == 5


def test_sequential_with_a_final_label_is_label_then_sample_then_one_mark():
    _, prompt, text = packed_text("sequential", "final")
    assert text == f"<<label>>{LABEL}<<sampled>>{SAMPLED}<<match>>"
    assert prompt.keys == (WHOLE,)
    assert prompt.reads == (len(prompt.ids) - 1,)


def test_sequential_with_unit_labels_marks_the_units_of_the_sample():
    _, prompt, text = packed_text("sequential", "unit")
    assert text.startswith(f"<<label>>{LABEL}<<sampled>>{SAMPLED}<<thinking>>")
    assert text.endswith("<<parameter>>item<<sampled>>coat<<match>>")
    assert len(prompt.keys) == 5


@pytest.mark.parametrize("layout", ["sequential", "interleaved"])
@pytest.mark.parametrize("labels", ["final", "unit"])
def test_every_read_is_at_a_mark_and_every_mark_is_read(layout, labels):
    tokenizer, prompt, _ = packed_text(layout, labels)
    mark = tokenizer.convert_tokens_to_ids(MATCH)
    assert [i for i, id in enumerate(prompt.ids) if id == mark] == list(prompt.reads)


def test_a_unit_that_one_side_lacks_has_nothing_after_its_mark():
    pair = Pair("Yes.", "<<think>>So.<</think>>Yes.")
    prompt_text = micro_tokenizer()
    packer = Packer(prompt_text, RewardSettings("interleaved", "unit"))
    text = prompt_text.decode(packer.pack(pair, units_of(pair)).ids)
    assert text.startswith("<<thinking>><<label>><<sampled>>So.<<only label>>")


def test_a_mark_written_in_a_response_is_no_mark():
    tokenizer = micro_tokenizer()
    packer = Packer(tokenizer, RewardSettings("interleaved", "unit"))
    pair = Pair("Fine.", "Fine.<<match>><<label>>")
    prompt = packer.pack(pair, units_of(pair))
    marks = tokenizer.convert_tokens_to_ids([MATCH, "<<label>>"])
    assert sum(id in marks for id in prompt.ids) == 2  # one of each: its own


def test_padding_has_a_token_of_its_own():
    tokenizer = micro_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    Packer(tokenizer, RewardSettings("interleaved", "unit"))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("shape", ["qwen3", "llama"])
@pytest.mark.parametrize("labels", ["final", "unit"])
def test_logits_are_equal_under_left_right_and_no_padding(shape, labels):
    model = micro_reward_model(labels=labels, shape=shape)
    prompts = [model.packer.pack(pair, units_of(pair)) for pair in some_pairs()[:12]]
    assert len({len(prompt.ids) for prompt in prompts}) > 3
    alone = [model.read([prompt])[0] for prompt in prompts]
    for side in ("left", "right"):
        together = model.read(prompts, side)
        for one, other in zip(alone, together, strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_a_final_read_is_what_transformers_pools():
    model = micro_reward_model("sequential", "final")
    prompts = [model.packer.pack(pair, units_of(pair)) for pair in some_pairs()[:6]]
    batch = collate(prompts, model.tokenizer.pad_token_id)
    with torch.inference_mode():
        logits = model.reader.classifier(batch.input_ids, batch.attention_mask).logits
    ours = [odds for row in model.read(prompts) for odds in row]
    assert ours == pytest.approx((logits[:, 1] - logits[:, 0]).tolist(), abs=1e-5)


def test_scores_keep_their_order_whatever_the_batches():
    model = micro_reward_model()
    pairs = some_pairs()
    alone = [model.score([pair])[0].logit for pair in pairs]
    for budget in (1, 300, 100_000):
        together = model.score(pairs, batch_tokens=budget)
        assert [score.logit for score in together] == pytest.approx(alone, abs=1e-5)


def test_the_score_is_the_minimum_over_the_units():
    score = micro_reward_model().score([PAIR])[0]
    assert set(score.units) == {
        "thinking",
        "plan/1",
        "plan/2",
        "action/1/name",
        "action/1/parameters/item",
    }
    assert score.logit == min(score.units.values())
    assert score.probability == pytest.approx(1 / (1 + 2.718281828**-score.logit))


@pytest.mark.parametrize(
    "sampled",
    [
        "<<think>>never closed",
        "<<think>>a<</think>>",
        LABEL + "<<observation>>mine<</observation>>So.<</think>>Done.",
    ],
)
def test_an_ill_formed_sample_is_ruled_out_without_asking_the_model(sampled):
    model = micro_reward_model()
    model.reader = None  # asking it would fail
    score = model.score([Pair(LABEL, sampled)])[0]
    assert score.logit == RULED_OUT
    assert not model.accepts(score)


def test_an_ill_formed_label_is_an_error():
    with pytest.raises(FormatError):
        micro_reward_model().score([Pair("<<think>>never closed", "Yes.")])


def test_a_saved_model_scores_as_before(tmp_path):
    model = micro_reward_model()
    settings = RewardSettings("interleaved", "unit", threshold=0.25)
    save_reward_model(tmp_path, model.reader.classifier, model.tokenizer, settings)
    loaded = load_reward_model(tmp_path)
    assert loaded.settings == settings
    before, after = model.score(some_pairs()), loaded.score(some_pairs())
    assert [s.logit for s in before] == pytest.approx(
        [s.logit for s in after], abs=1e-6
    )
    assert not list(tmp_path.glob("*.bin"))


def test_long_and_short_prompts_share_no_large_batch():
    prompts = [Packed((0,) * (50 + 10 * n), (0,), (WHOLE,)) for n in range(40)]
    batches = cut(prompts, 4096)
    assert [prompt for batch in batches for prompt in batch] == prompts
    for batch in batches:
        lengths = [len(prompt.ids) for prompt in batch]
        assert len(batch) * max(lengths) <= 4096
        # A batch may stretch while it is small; past that, padding is bounded.
        large = [n for i, n in enumerate(lengths, 1) if i * n > 4096 // 8]
        assert all(length <= 1.15 * lengths[0] for length in large[1:])


def test_bf16_products_move_the_scores_a_little_only():
    model = micro_reward_model()
    exact = [score.probability for score in model.score(some_pairs())]
    model.half = True
    rough = [score.probability for score in model.score(some_pairs())]
    assert rough != exact
    assert rough == pytest.approx(exact, abs=0.02)


def test_every_batch_size_gives_the_same_scores():
    model = micro_reward_model()
    whole = [score.logit for score in model.score(some_pairs())]
    alone = [score.logit for score in model.score(some_pairs(), batch_tokens=1)]
    left = [score.logit for score in model.score(some_pairs(), side="left")]
    assert alone == pytest.approx(whole, abs=1e-4)
    assert left == pytest.approx(whole, abs=1e-4)


# Beginnings


# A temperature, and several models as one


def test_a_temperature_divides_the_log_odds_and_is_kept_on_disk(tmp_path):
    model = micro_reward_model()
    pair = some_pairs()[0]
    plain = model.score([pair])[0]
    warm = replace(model.settings, temperature=2.0)
    save_reward_model(tmp_path, model.reader.classifier, model.tokenizer, warm)
    found = load_reward_model(tmp_path).score([pair])[0]
    assert found.logit == pytest.approx(plain.logit / 2, abs=1e-4)
    assert found.units == pytest.approx(
        {key: logit / 2 for key, logit in plain.units.items()}, abs=1e-4
    )


def test_of_several_models_the_strictest_counts_beyond_its_own_threshold(tmp_path):
    inputs, members = {}, []
    for number, (name, threshold) in enumerate([("reward", 0.3), ("reward-2", 0.7)]):
        model = micro_reward_model(seed=number)
        settings = replace(model.settings, threshold=threshold)
        folder = tmp_path / name
        folder.mkdir()
        save_reward_model(folder, model.reader.classifier, model.tokenizer, settings)
        inputs[name] = folder
        members.append(load_reward_model(folder))
    pairs = some_pairs()
    alone = [member.score(pairs) for member in members]
    together = load_reward_models({**inputs, "policy": tmp_path})
    for number, score in enumerate(together.score(pairs)):
        above = [
            scores[number].logit - math.log(t / (1 - t))
            for scores, t in zip(alone, (0.3, 0.7), strict=True)
        ]
        assert score.logit == pytest.approx(min(above), abs=1e-5)
        assert together.accepts(score) == all(
            member.accepts(scores[number])
            for member, scores in zip(members, alone, strict=True)
        )
    assert isinstance(load_reward_models({"reward": inputs["reward"]}), RewardModel)
    assert load_reward_models({"policy": tmp_path}) is None
