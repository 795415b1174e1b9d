"""Tokenizers: one trained on the data, and the six tags in anybody's.

The from-scratch tokenizer gives a word the same token wherever it stands, after a space
in prose or after a quote in JSON, since a small model copies what it can recognise:

* a single space between two words is not a token; decoding puts it back between two
  tokens that both have a letter or digit at the seam;
* punctuation takes the white space after it along (``". "``, ``'": '``, ``",\\n"``);
* pieces of a rare word carry a mark, so that no space comes between them; below the
  pieces are bytes, so every text has tokens and comes back unchanged (but for the mark
  itself, the control character U+001F, which is dropped).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from actions.tags import TAGS

PAD = "<|pad|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_WORD = r"[\p{L}\p{M}\p{N}_]"
_MARK = "\x1f"
_MARK_AS_BYTE = "\u011f"  # how the byte-level alphabet writes U+001F


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of at most ``vocabulary`` tokens (at least ~600) for ``texts``.

    Tags, chat marks and a padding token of its own are included. Words seen twice are
    whole tokens as far as the vocabulary reaches, most frequent first.
    """
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix=_MARK_AS_BYTE))
    tokenizer.normalizer = normalizers.Replace(_MARK, "")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"(?<={_WORD}) (?={_WORD})"), "removed"),
            pre_tokenizers.Split(
                Regex(rf"{_WORD}+|[^\p{{L}}\p{{M}}\p{{N}}_\s]+\s*|\s+"), "isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # WordPiece glues marked pieces and puts a space before all others; that space
    # becomes the mark, and the mark a space only between two words.
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix=_MARK_AS_BYTE, cleanup=False),
            decoders.Replace(" ", _MARK_AS_BYTE),
            decoders.ByteLevel(),
            decoders.Fuse(),
            decoders.Replace(Regex(rf"(?<={_WORD}){_MARK}(?={_WORD})"), " "),
            decoders.Replace(_MARK, ""),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary - len(TAGS) - 5,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=alphabet,
            continuing_subword_prefix=_MARK_AS_BYTE,
            # Without this the trainer knows the marked form of a byte only where it saw
            # one, so an unforeseen character would vanish; and it numbers them in the
            # order of a hash table, so the same data would give other tokens each time.
            special_tokens=[_MARK_AS_BYTE + letter for letter in alphabet],
        ),
    )
    trained = json.loads(tokenizer.to_str())
    trained["added_tokens"] = []  # they were special to the trainer only
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.add_tokens(_tag_tokens())
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _tag_tokens() -> list[AddedToken]:
    # Not special: special tokens vanish from the decoded text that rewards look at.
    return [AddedToken(tag, normalized=False, special=False) for tag in TAGS]


def add_tags(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give ``tokenizer`` the tags, a padding token and a chat template.

    What is there already is kept. Returns how many tokens were added.
    """
    before = len(tokenizer)
    tokenizer.add_tokens([t for t in _tag_tokens() if not _is_one_token(tokenizer, t)])
    if tokenizer.chat_template is None:
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [SYSTEM, USER, ASSISTANT, END]},
            replace_extra_special_tokens=False,
        )
        tokenizer.chat_template = CHAT_TEMPLATE
    # With pad = eos a classifier on this backbone would pool one token too early.
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.padding_side = "left"
    return len(tokenizer) - before


def _is_one_token(tokenizer: PreTrainedTokenizerBase, tag: AddedToken) -> bool:
    return len(tokenizer.encode(tag.content, add_special_tokens=False)) == 1


def tag_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the token id of each tag; raise ``ValueError`` if one is not one token."""
    ids: dict[str, int] = {}
    for tag in TAGS:
        encoded = tokenizer.encode(tag, add_special_tokens=False)
        if len(encoded) != 1:
            raise ValueError(f"tokenizer: {tag} is {len(encoded)} tokens, expected 1")
        ids[tag] = encoded[0]
    return ids
