"""Framed messages are what the chat template makes of them, whatever the tokenizer."""

import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.engine.data.conversations import Encoder
from training.engine.modeling.tokenizer import add_tags
from training.engine.run.directory import RunError

USER, ANSWER, AGAIN = "How many cakes are left?", "There are 3 left.", "Thanks."
WORDS = [f"{USER} {ANSWER} {AGAIN} user assistant system [INST] Answer this"] * 9
MARKS = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|eot|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}"
    "{% elif m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "chatml with a default system message": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind."
        "<|im_end|>\n' }}{% endif %}" + CHATML
    ),
    "llama 2": LLAMA2,
    "llama 3, which trims": (
        "{{ bos_token }}{% for m in messages %}{{ '<|user|>' + m['role'] + "
        "'<|assistant|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
        "{{ '<|user|>assistant<|assistant|>\n\n' }}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token "
        "+ '\n' }}{% endfor %}{{ '<|assistant|>\n' }}"
    ),
}


def tokenizer_of(kind, template):
    """Return a byte-level tokenizer, or one that puts a space in front of every text."""
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        alphabet = [chr(i) for i in range(33, 127)] + ["▁", "\n"]
    special = ["<unk>", "<s>", "</s>", "<pad>", *MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=list(alphabet)
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    fast.chat_template = template
    add_tags(fast)
    return fast


def framed(encoder):
    """Return a question, its answer and a second question as the policy reads them."""
    frame = encoder.frame
    ids = [*frame.before_user, *encoder.text_ids(USER), *frame.user_to_assistant]
    ids += encoder.response_ids(ANSWER)
    return ids + encoder.following("user", AGAIN, ids[-1])


def template_ids(tokenizer):
    talk = [("user", USER), ("assistant", ANSWER), ("user", AGAIN)]
    messages = [{"role": role, "content": content} for role, content in talk]
    found = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return tokenizer.encode(found, add_special_tokens=False)


@pytest.mark.parametrize("kind", ["bytes", "space in front"])
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "llama 2"])
def test_framed_messages_have_the_ids_of_the_template(kind, name):
    tokenizer = tokenizer_of(kind, TEMPLATES[name])
    assert framed(Encoder(tokenizer)) == template_ids(tokenizer)


@pytest.mark.parametrize("kind", ["bytes", "space in front"])
def test_an_answer_has_one_end_token_and_keeps_the_space_in_front(kind):
    tokenizer = tokenizer_of(kind, LLAMA2)
    ids, expected = framed(Encoder(tokenizer)), template_ids(tokenizer)
    assert ids.count(tokenizer.eos_token_id) == expected.count(tokenizer.eos_token_id)
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert f"[/INST] {ANSWER}</s><s>" in text
    # What differs is the white space before the end token.
    theirs = tokenizer.decode(expected, clean_up_tokenization_spaces=False)
    assert text.rstrip() == theirs.replace(f"{ANSWER} </s>", f"{ANSWER}</s>")


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        (("m['role'] +", "m['role'] ~ loop.index ~"), "assistant2", "assistant4"),
        (("m['content']", "m['content'] | replace('.', '!')"), "3.", "3!"),
        (
            ("m['content']", "('Now: ' if loop.last else '') + m['content']"),
            "Now: And bread?",
            "\\nAnd bread?",
        ),
    ],
)
def test_a_template_that_changes_messages_is_refused_in_a_sentence(
    change, expected, found
):
    tokenizer = tokenizer_of("bytes", CHATML.replace(*change))
    with pytest.raises(RunError) as refused:
        Encoder(tokenizer)
    said = str(refused.value)
    assert re.match("chat template: expected messages as they are", said)
    assert expected in said.split(", found ")[0]
    assert found in said.split(", found ")[1]


def test_an_answer_of_the_history_is_introduced_as_the_answer_to_come():
    template = CHATML.replace(
        "assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif"
    )
    tokenizer = tokenizer_of("bytes", template)
    frame = Encoder(tokenizer).frame
    assert tokenizer.decode(frame.user_to_assistant).endswith("assistant\n<think>\n")
