"""The chat template of a tokenizer, taken apart into what stands around contents.

The pieces are measured when a program loads its policy: messages put into them have to
have the template's own token ids, or at least its own text. A template that changes
contents, or treats messages of one role differently, is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from actions.tags import ACTION_CLOSE
from training.engine.modeling.chat_template import render
from training.engine.modeling.tokenizer import tag_ids
from training.engine.run.directory import RunError


@dataclass(frozen=True)
class ChatFrame:
    """The fixed ids that a chat template puts around the contents of messages.

    Found once by rendering a conversation of marker texts and cutting at the markers,
    since templates treat the last message specially and some drop thinking from older
    ones: rendering grown conversations again and again would not give prefixes.

    Framed conversations are the template's own, but for two things: an answer of the
    history is introduced as the answer to come is, and no white space stands between an
    answer and the token that ends it.
    """

    before_system: tuple[int, ...]
    system_to_user: tuple[int, ...]
    before_user: tuple[int, ...]
    user_to_assistant: tuple[int, ...]
    assistant_to_user: tuple[int, ...]
    end_of_turn: int
    action_close: int
    anchor: str = ""  # what contents are tokenised after (``content_ids``)

    @property
    def stop_ids(self) -> tuple[int, int]:
        """Where generation stops: after an action call, or at the end of the turn."""
        return (self.action_close, self.end_of_turn)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatFrame:
        """Return the frame of the tokenizer's chat template.

        Raises ``ValueError`` when the template drops a message's content, ``RunError``
        when framed messages are not what the template makes of them. A template without
        a system role gets the contexts in front of the first user message.
        """
        pieces = _pieces(tokenizer)
        before_system, system_to_user = pieces.opening, _ids(tokenizer, "\n\n")
        if pieces.system:
            before_system, system_to_user = pieces.system
        # The end token: the first, but for white space in front of it. A template may
        # end an answer with plain text; the tokenizer's own end token then ends the turn.
        after = pieces.after_answer
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        end = next((i for i, token in enumerate(after) if token in special), None)
        if end is None or _text_of(tokenizer, after[:end]).strip():
            if tokenizer.eos_token_id is None:
                raise ValueError("chat template: no token ends the assistant's message")
            end, after = 0, (tokenizer.eos_token_id, *after)
        # White space in front of an answer that the prompt for one lacks is the frame's:
        # what is asked for is the answer.
        before_answer, prompt = (
            _text_of(tokenizer, ids).rstrip()
            for ids in (pieces.before_answer, pieces.prompt)
        )
        return cls(
            before_system=before_system,
            system_to_user=system_to_user,
            before_user=pieces.opening,
            user_to_assistant=(
                pieces.before_answer if before_answer == prompt else pieces.prompt
            ),
            assistant_to_user=after[end + 1 :],
            end_of_turn=after[end],
            action_close=tag_ids(tokenizer)[ACTION_CLOSE],
            anchor=pieces.anchor,
        )


@dataclass(frozen=True)
class _Pieces:
    """The ids that a template puts between contents, and how contents are tokenised."""

    opening: tuple[int, ...]
    before_answer: tuple[int, ...]
    after_answer: tuple[int, ...]
    prompt: tuple[int, ...]  # for the answer to come
    system: tuple[tuple[int, ...], tuple[int, ...]] | None  # before and after it
    anchor: str


def _pieces(tokenizer: PreTrainedTokenizerBase) -> _Pieces:
    """Return the pieces that give the template's own ids, or else its own text.

    Measured on messages of several turns. Raises ``RunError`` where no pieces do: the
    template changes contents or treats messages of one role differently.
    """
    markers = "Sentinel0", "Sentinel1", "Sentinel2", "Sentinel3"
    texts = "How many cakes?", "There are 3.", "And bread?", "None.", "Thanks."
    system = "You sell cakes."
    plain, real = render(tokenizer, _talk(markers[1:])), render(tokenizer, _talk(texts))
    with_system, real_system = "", ""
    try:
        with_system = render(tokenizer, _talk(markers[1:], markers[0]))
        real_system = render(tokenizer, _talk(texts, system))
    except ValueError:  # the template refuses the role
        with_system = ""
    found: list[tuple[_Pieces, str, str]] = []
    for anchor in ("", "\n"):
        opening, *others = _around(tokenizer, plain, markers[1:], anchor)
        before_answer, after_answer, prompt = others
        pieces = _Pieces(opening, before_answer, after_answer, prompt, None, anchor)
        whole = _ids(tokenizer, real)
        ids = [*pieces.opening, *_framed(tokenizer, pieces, texts)]
        if system in real_system and markers[0] in with_system:
            before, after = _around(tokenizer, with_system, markers, anchor)[:2]
            pieces = replace(pieces, system=(before, after))
            whole += _ids(tokenizer, real_system)
            ids += [*before, *content_ids(tokenizer, system, anchor), *after]
            ids += _framed(tokenizer, pieces, texts)
        if tuple(ids) == whole:
            return pieces
        found.append((pieces, _text_of(tokenizer, whole), _text_of(tokenizer, ids)))
    # A tokenizer that puts a space in front of texts puts one in front of contents.
    contents = (system, *texts)
    for pieces, expected, framed in found:
        if _unspaced(framed, contents) == _unspaced(expected, contents):
            return pieces
    # The sentence is of the pieces that go right the farthest.
    _, expected, framed = max(found, key=lambda each: _alike(*each[1:]))
    raise RunError("chat template", *_difference(expected, framed))


def _framed(
    tokenizer: PreTrainedTokenizerBase, pieces: _Pieces, texts: Sequence[str]
) -> list[int]:
    """Return messages of user and assistant in turn, the way the template has them."""
    ids: list[int] = []
    for number, text in enumerate(texts):
        ids += content_ids(tokenizer, text, pieces.anchor)
        ids += pieces.after_answer if number % 2 else pieces.before_answer
    return [*ids[: len(ids) - len(pieces.before_answer)], *pieces.prompt]


def _talk(contents: Sequence[str], system: str = "") -> list[dict[str, str]]:
    """Return messages of a user and an assistant in turn, after a system message."""
    roles = "user", "assistant"
    talk = [
        {"role": roles[number % 2], "content": content}
        for number, content in enumerate(contents)
    ]
    return [{"role": "system", "content": system}, *talk] if system else talk


def content_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, anchor: str
) -> tuple[int, ...]:
    """Return the ids of a content. Tags count, chat marks inside it do not.

    A user who types ``<|assistant|>`` must not be able to speak for the model. Some
    tokenizers put a space in front of a text, but not after the line break that stands
    in front of contents: what follows the ``anchor`` is cut out of both together.
    """

    def encode(text: str) -> tuple[int, ...]:
        ids = tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return tuple(ids)

    if anchor:
        before, both = encode(anchor), encode(anchor + text)
        if both[: len(before)] == before:
            return both[len(before) :]
    return encode(text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text


def _around(
    tokenizer: PreTrainedTokenizerBase,
    rendered: str,
    markers: Sequence[str],
    anchor: str,
) -> list[tuple[int, ...]]:
    """Return the ids around the markers; raise ``ValueError`` where one is missing.

    They are cut out of the ids of the whole: a tokenizer that puts a space in front of
    every text would else put one in front of every piece. Where a marker's own ids are
    not among them (it was joined with what stands before), the pieces' texts are
    tokenised.
    """
    texts = _cut(rendered, markers)
    whole = _ids(tokenizer, rendered)
    pieces: list[tuple[int, ...]] = []
    start = 0
    for marker in markers:
        ids = content_ids(tokenizer, marker, anchor)
        places = range(start, len(whole))
        at = next((i for i in places if whole[i : i + len(ids)] == ids), None)
        if at is None:
            return [_ids(tokenizer, text) for text in texts]
        pieces.append(whole[start:at])
        start = at + len(ids)
    return [*pieces, whole[start:]]


def _unspaced(text: str, contents: Sequence[str]) -> str:
    """Return the text without a space in front of each content."""
    for content in contents:
        text = text.replace(f" {content}", content)
    return text


def _difference(expected: str, found: str) -> tuple[str, str]:
    """Return where two texts begin to differ, of both what stands there."""
    same = _alike(expected, found)
    here = slice(max(0, same - 20), same + 40)
    return (
        f"messages as they are, each put into its place: {found[here]!r}",
        f"{expected[here]!r}",
    )


def _alike(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _cut(text: str, markers: Sequence[str]) -> list[str]:
    """Return the pieces of ``text`` around the markers; raise ``ValueError``."""
    pieces: list[str] = []
    for marker in markers:
        before, found, text = text.partition(marker)
        if not found:
            raise ValueError(f"chat template: the content {marker} is missing")
        pieces.append(before)
    return [*pieces, text]
