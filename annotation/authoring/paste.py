"""Read a pasted conversation as the content of a draft. No database.

Accepted are a Concord sample, an OpenAI-style chat (an object with ``messages``, or
only their list), and plain text whose lines begin with the speaker, in English or
Chinese.
"""

from __future__ import annotations

import re
from typing import Final

from django.utils.translation import gettext as _

from actions.json_values import JSONError, dump_json, load_json, quote
from actions.tags import ACTION_CLOSE, JSON, find_tag
from annotation.authoring.drafts import MAX_TURNS, Content, clean, new_turn
from records.openai_chat import KEPT, read_conversation
from records.sample_format import SampleError, check_sample
from records.samples import (
    Sample as SampleRecord,
)

MAX_CHARACTERS: Final = 1_000_000

SPEAKERS: Final = {
    "user": "user|human|customer|用户|顾客|客户|人类",
    "assistant": "assistant|ai|bot|agent|model|助手|助理|客服|模型",
    "observation": "observation|tool|result|观察|观察结果|工具|结果",
    "system": "system|系统",
}
_LABEL: Final = re.compile(
    r"[ \t]*(?:\*\*|#{1,4}[ \t]*)?(?:"
    + "|".join(f"(?P<{role}>{names})" for role, names in SPEAKERS.items())
    + r")[ \t]*(?:\*\*)?[ \t]*[:：](?:\*\*)?[ \t]?",
    re.IGNORECASE,
)


class PasteError(ValueError):
    """The pasted text cannot be read; ``place`` says where, the message says why."""

    def __init__(self, place: str, expected: str, found: str) -> None:
        self.place, self.expected, self.found = place, expected, found
        super().__init__(
            _("%(place)s: expected %(expected)s, found %(found)s")
            % {"place": place, "expected": expected, "found": found}
        )


def read_pasted(text: str) -> Content:
    """Return the content of a draft; raise :class:`PasteError` naming the place."""
    text = clean(text)
    if not text.strip():
        raise PasteError(_("line 1"), _("a conversation"), _("nothing"))
    if len(text) > MAX_CHARACTERS:
        raise PasteError(
            _("the text"),
            _("at most %(n)s characters") % {"n": MAX_CHARACTERS},
            str(len(text)),
        )
    return _from_json(text) if text.lstrip()[0] in "{[" else _from_lines(text)


def _from_json(text: str) -> Content:
    try:
        value = load_json(text.strip())
    except JSONError as error:
        if (number := _count_objects(text)) > 1:
            raise _several(number) from None
        position = len(text) - len(text.lstrip()) + error.position
        line = text.count("\n", 0, position) + 1
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        place = _("line %(line)s, column %(column)s") % {"line": line, "column": column}
        raise PasteError(place, error.expected, error.found) from None
    if isinstance(value, list):
        first = value[0] if value else None
        if isinstance(first, dict) and ("messages" in first or "turns" in first):
            if len(value) > 1:
                raise _several(len(value))
            value = first
        else:
            value = {"messages": value}
    try:
        if isinstance(value, dict) and "turns" in value:
            document: dict[str, JSON] = {"id": "pasted", **value}
            return _content(check_sample(document))
        return _content(read_conversation(value))
    except SampleError as error:
        place = f"{error.field}, {error.at}" if error.at else error.field
        raise PasteError(place, error.expected, error.found) from None


def _several(number: int) -> PasteError:
    return PasteError(
        _("the text"),
        _("one conversation; a file of several goes in by Samples, Import"),
        _("%(number)s") % {"number": number},
    )


def _count_objects(text: str) -> int:
    """Count the objects of a text of JSON Lines; 0 for any other text."""
    count = 0
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            is_object = isinstance(load_json(line.strip()), dict)
        except JSONError:
            return 0
        if not is_object:
            return 0
        count += 1
    return count


def _content(form: SampleRecord) -> Content:
    document = form.to_json()
    meta = dict(form.meta)
    import_data = meta.pop(KEPT, None)
    if len(form.turns) > MAX_TURNS:
        expected = _("at most %(n)s turns") % {"n": MAX_TURNS}
        raise PasteError(_("the text"), expected, str(len(form.turns)))
    turns: list[JSON] = []
    for turn in form.turns:
        turn_json = turn.to_json()
        turns.append(new_turn(turn.kind) | turn_json)
    # The person continues with the messages that have no answer yet.
    waiting = import_data.get("unanswered") if isinstance(import_data, dict) else None
    for one in waiting if isinstance(waiting, list) else []:
        if isinstance(one, dict):
            turns.append(new_turn(str(one.get("kind")), str(one.get("text"))))
    contexts: list[JSON] = [
        context.to_json() | {"actions": _pretty(context.actions)}
        for context in form.contexts
    ]
    return {
        "scenario": document["scenario"],
        "situation": document["situation"],
        "contexts": contexts,
        "turns": turns,
        "meta": meta,
    }


def _pretty(actions: list[JSON]) -> str:
    return "[" + ",\n ".join(map(dump_json, actions)) + "]"


def _from_lines(text: str) -> Content:
    turns: list[dict[str, JSON]] = []
    contexts: list[JSON] = []
    for role, line, speech in _speeches(text):
        place = _("line %(line)s") % {"line": line}
        last = turns[-1] if turns else None
        waits = last is not None and not last["response"]
        ends_in_call = last is not None and str(last["response"]).endswith(ACTION_CLOSE)
        if role == "system":
            if turns:
                raise PasteError(place, _("“System:” first"), _("it after a turn"))
            title = speech.split("\n", 1)[0][:200] or "System"
            contexts.append(
                {
                    "scope": "global",
                    "title": title,
                    "background": "",
                    "guideline": speech,
                    "actions": "[]",
                }
            )
        elif role == "assistant":
            if last is None or not waits:
                where = (
                    _("“Assistant:”") if last is None else _("a second “Assistant:”")
                )
                raise PasteError(place, _("“User:” before it"), where)
            if not speech:
                raise PasteError(place, _("what the assistant says"), _("nothing"))
            last["response"] = speech
        elif role == "user" and ends_in_call:
            raise PasteError(
                place, _("“Observation:” after an action call"), _("“User:”")
            )
        else:
            if role == "observation" and not ends_in_call:
                raise PasteError(
                    place,
                    _(
                        "“Observation:” only after a response that ends in an action call"
                    ),
                    _("“Observation:”"),
                )
            if tag := find_tag(speech):
                raise PasteError(place, _("text without the tags of a response"), tag)
            if not speech and role == "user":
                raise PasteError(place, _("what the user says"), _("nothing"))
            if waits and last is not None:
                before = last["input"]
                assert isinstance(before, dict)
                before["text"] = f"{before['text']}\n\n{speech}"
                continue
            if len(turns) >= MAX_TURNS:
                raise PasteError(
                    place, _("at most %(n)s turns") % {"n": MAX_TURNS}, _("more")
                )
            turns.append(new_turn("user" if role == "user" else "observation", speech))
    if not turns:
        raise PasteError(_("the text"), _("a line that begins with “User:”"), _("none"))
    return {
        "scenario": "",
        "situation": "normal",
        "contexts": contexts,
        "turns": [*turns],
    }


def _speeches(text: str) -> list[tuple[str, int, str]]:
    """Return for each speech its speaker, first line and text."""
    speeches: list[tuple[str, int, list[str]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        label = _LABEL.match(line)
        if label and label.lastgroup:
            speeches.append((label.lastgroup, number, [line[label.end() :]]))
        elif speeches:
            speeches[-1][2].append(line)
        elif line.strip():
            raise PasteError(
                _("line %(line)s") % {"line": number},
                _("“User:”, “Assistant:”, “用户：” or “助手：” at its beginning"),
                quote(line.strip()),
            )
    return [
        (role, number, "\n".join(lines).strip()) for role, number, lines in speeches
    ]
