"""Tokenizers: lossless, words alike everywhere, each tag one token in anybody's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actions.tags import TAGS
from tests.engine.micro import (
    demo_samples,
    micro_tokenizer,
    tokenizer_texts,
    trained_tokenizer,
)
from training.engine.modeling.chat_frame import ChatFrame
from training.engine.modeling.loading import load_policy
from training.engine.modeling.new_tokens import fit_vocabulary
from training.engine.modeling.policies import Place, save_policy
from training.engine.modeling.tokenizer import add_tags, tag_ids, train_tokenizer

CPU = Place(torch.device("cpu"), half=False)


def plain_tokenizer(template=None):
    """Return a byte-level tokenizer like that of many base models: pad is missing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["some words of prose"] * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    fast.chat_template = template
    return fast


def texts(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.decode(ids, skip_special_tokens=False)


@given(st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"])))
def test_any_text_comes_back_unchanged(text):
    assert texts(trained_tokenizer(), text) == text


def test_the_demo_comes_back_unchanged():
    tokenizer = micro_tokenizer()
    for sample in demo_samples():
        for turn in sample.turns:
            assert texts(tokenizer, turn.response) == turn.response


def test_the_same_texts_give_the_same_tokenizer():
    one, other = (train_tokenizer(tokenizer_texts(), 900) for _ in range(2))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def test_a_word_is_the_same_token_in_prose_and_in_json():
    tokenizer = micro_tokenizer()

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False)

    (word,) = ids("order")
    assert word in ids("Place the order now")
    assert word in ids('{"order": 3}')
    assert word in ids('"order"')


@pytest.mark.parametrize("make", [micro_tokenizer, plain_tokenizer])
def test_each_tag_is_one_token_that_decoding_keeps(make):
    tokenizer = make()
    add_tags(tokenizer)
    ids = tag_ids(tokenizer)
    assert len(set(ids.values())) == len(TAGS)
    for tag in TAGS:
        text = f"before{tag}after"
        encoded = tokenizer.encode(text, add_special_tokens=False)
        assert encoded.count(ids[tag]) == 1
        assert tokenizer.decode(encoded, skip_special_tokens=True) == text


def test_padding_has_a_token_of_its_own():
    tokenizer = plain_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    add_tags(tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_tags_are_added_once():
    tokenizer = plain_tokenizer()
    assert add_tags(tokenizer) > len(TAGS)
    assert add_tags(tokenizer) == 0


def test_a_saved_policy_loads_with_the_same_tokens_and_stops(tmp_path):
    tokenizer = plain_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    known = len(tokenizer)
    add_tags(tokenizer)
    fit_vocabulary(model, tokenizer, known)
    save_policy(model, tokenizer, tmp_path)
    loaded, again = load_policy(tmp_path, CPU)
    assert tag_ids(again) == tag_ids(tokenizer)
    assert again.get_vocab() == tokenizer.get_vocab()
    frame = ChatFrame.of(again)
    assert frame == ChatFrame.of(tokenizer)
    assert loaded.generation_config.eos_token_id == list(frame.stop_ids)
    assert not list(tmp_path.glob("*.bin"))
