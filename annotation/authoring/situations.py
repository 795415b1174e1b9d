"""Make another situation from a sample: a starting point, and what is left to write.

Plain functions over Concord JSONL documents; no database. The inserted text is a first
wording to edit, and the person writes the response to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from actions.executor import exception_text
from actions.grammar import ActionCall, FormatError, parse
from actions.tags import JSON
from annotation.authoring.drafts import Content, contexts_of, texts_of, turns_of

SITUATIONS: Final = ("noise", "interruption", "exception", "nested")

# A user's text, part of the sample and in its language: English, like the demo data.
ASIDE: Final = "By the way, what a day. Have you seen the weather?"
BREAK_OFF: Final = "Stop, please. I do not need this any more."
OTHER_TASK: Final = "Before we go on, can you quickly look up something else for me?"

ADVICE: Final[Mapping[str, str]] = {
    "noise": gettext_noop(
        "Turn %(turn)s is off the topic. Write a response that answers it in a word, "
        "keeps the plan as it is, and comes back to the step that waits. What follows is "
        "the old conversation: see whether it still fits."
    ),
    "interruption": gettext_noop(
        "In turn %(turn)s the user breaks the task off; what followed is cut away. Write "
        "a response that drops the plan and says what has and has not been done."
    ),
    "exception": gettext_noop(
        "In turn %(turn)s the action now fails; what followed is cut away. Write what "
        "the guideline asks for: try again, another way, ask the user, or give up, and "
        "then the rest of the conversation."
    ),
    "nested": gettext_noop(
        "In turn %(turn)s the user asks for another task in the middle of this one. Say "
        "what it is, write its response with what it needs, and come back to the step "
        "that waits. What follows is the old conversation: see whether it still fits."
    ),
}


class NoPlace(ValueError):
    """The sample has no turn for the situation; the message says why."""


@dataclass(frozen=True)
class Derived:
    """The content of a draft, and the number (from 1) of the turn to write next."""

    content: Content
    turn: int


def derive(document: Mapping[str, JSON], situation: str) -> Derived:
    """Make another situation of a sample; raise :class:`NoPlace` when none fits.

    The new content has no id, status or split, and ``meta.derived_from`` names the
    sample. Turns up to the change stay unchanged. Later turns lose their facts, which
    describe another conversation.
    """
    turns = turns_of(document)
    if situation == "exception":
        turns, number = _with_exception(document, turns)
    elif situation in ("noise", "nested"):
        number = _user_place(turns)
        text = ASIDE if situation == "noise" else OTHER_TASK
        turns[number - 1 : number - 1] = [_user_turn(text)]
    elif situation == "interruption":
        number = _user_place(turns)
        turns[number - 1 :] = [_user_turn(BREAK_OFF)]
    else:
        raise NoPlace(_("“%(name)s” is no such situation.") % {"name": situation})
    turns[number:] = [
        {key: value for key, value in turn.items() if key != "facts"}
        for turn in turns[number:]
    ]
    meta = document.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    content: Content = {
        "scenario": document.get("scenario", ""),
        "situation": situation,
        "contexts": document.get("contexts", []),
        "turns": [*turns],
        "meta": meta | {"derived_from": document.get("id", "")},
        "advice": {"situation": situation, "turn": number},
    }
    return Derived(content, number)


def _user_turn(text: str) -> dict[str, JSON]:
    return {"input": {"kind": "user", "text": text}, "response": ""}


def _user_place(turns: list[dict[str, JSON]]) -> int:
    """Return the number for a new user turn in the middle of the task.

    That is before the second user turn after a plan, else before the last user turn,
    else after everything.
    """
    users = [
        number
        for number, turn in enumerate(turns, start=1)
        if number > 1 and not texts_of(turn).inside
    ]
    planned = next(
        (
            number
            for number, turn in enumerate(turns, start=1)
            if "\n1. " in texts_of(turn).response or "Plan:" in texts_of(turn).response
        ),
        0,
    )
    after = [number for number in users if number > planned]
    if after:
        return after[0]
    if not turns or texts_of(turns[-1]).response.endswith("<</action>>"):
        raise NoPlace(
            _("The sample has no point where the user could say something else.")
        )
    return users[-1] if users else len(turns) + 1


def _with_exception(
    document: Mapping[str, JSON], turns: list[dict[str, JSON]]
) -> tuple[list[dict[str, JSON]], int]:
    contexts = document.get("contexts")
    objects = [
        one
        for one in (contexts if isinstance(contexts, list) else [])
        if isinstance(one, dict)
    ]
    exceptions_of = {
        name: one.exceptions
        for name, one in contexts_of(objects).every_action().items()
    }
    for number in range(len(turns), 1, -1):
        texts = texts_of(turns[number - 1])
        call = _last_call(turns[number - 2])
        if not texts.inside or call is None or texts.text.startswith("Exception "):
            continue
        exceptions = exceptions_of.get(call.name, ())
        if exceptions:
            text = exception_text(exceptions[0].name)
            failed: dict[str, JSON] = {
                "input": {"kind": "observation", "text": text},
                "response": "",
            }
            return [*turns[: number - 1], failed], number
    raise NoPlace(
        _("No action that is called here has an exception in its definition.")
    )


def _last_call(turn: Mapping[str, JSON]) -> ActionCall | None:
    texts = texts_of(turn)
    try:
        response = parse(texts.response, inside_thinking=texts.inside)
    except FormatError:
        return None
    return response.actions[-1] if response.ends_with_action else None
