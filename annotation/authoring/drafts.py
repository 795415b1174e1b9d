"""Drafts of samples: from form fields to a document and back. No database.

The content of a draft has the form of a Concord JSONL sample that may still be invalid,
with these differences. A context may be ``{"existing": pk}``, one of the project's. The
actions of a new context are the text that was typed. A turn has a ``key`` that stays
with it when it moves. It may have ``dismissed``, the hints a person has put away, and
``blocks``, typed into block fields but not yet expressible as response text. ``advice``
says what a draft made from a sample still needs.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from django.utils.translation import gettext as _

from actions.definitions import DefinitionError, parse_definition
from actions.executor import exception_text
from actions.grammar import ActionCall
from actions.in_force import Contexts
from actions.json_values import JSONError, dump_json, load_json
from actions.tags import ACTION_CLOSE, ACTION_OPEN, JSON, THINK_CLOSE, THINK_OPEN
from annotation.authoring.draft_blocks import (
    blocks_to_keep,
    kept_blocks,
    posted_blocks,
    write_response,
)

if TYPE_CHECKING:
    from django.http import QueryDict

MAX_TURNS: Final = 200
MAX_CONTEXTS: Final = 20
MAX_REFERENCES: Final = 20
DRAFT_ONLY: Final = ("key", "dismissed", "blocks")

Content = dict[str, JSON]


@dataclass(frozen=True)
class DraftContext:
    """A context typed in this draft."""

    scope: str
    title: str
    background: str
    guideline: str
    actions: str
    problem: str


def clean(text: str) -> str:
    """Remove what the database cannot store and the line ends that browsers add."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def empty_content() -> Content:
    """Return the content of a new draft: one empty turn."""
    return {
        "scenario": "",
        "situation": "normal",
        "contexts": [],
        "turns": [new_turn("user")],
    }


def new_turn(kind: str, text: str = "", response: str = "") -> dict[str, JSON]:
    return {
        "key": "t" + secrets.token_hex(3),
        "input": {"kind": kind, "text": text},
        "response": response,
    }


# --- turns of a content ---------------------------------------------------------------


def turns_of(content: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    turns = content.get("turns")
    if not isinstance(turns, list):
        return []
    return [turn for turn in turns if isinstance(turn, dict)]


def keyed_turns(content: Mapping[str, JSON]) -> dict[str, dict[str, JSON]]:
    """Return the turns by key; a turn without a key is keyed by its number."""
    result: dict[str, dict[str, JSON]] = {}
    for number, turn in enumerate(turns_of(content), start=1):
        key = turn.get("key")
        key = key if isinstance(key, str) and key else str(number)
        result[key if key not in result else f"{key}-{number}"] = turn
    return result


@dataclass(frozen=True)
class TurnTexts:
    kind: str
    text: str
    response: str

    @property
    def inside(self) -> bool:
        return self.kind == "observation"


def texts_of(turn: Mapping[str, JSON]) -> TurnTexts:
    turn_input = turn.get("input")
    turn_input = turn_input if isinstance(turn_input, dict) else {}
    return TurnTexts(
        str(turn_input.get("kind") or "user"),
        str(turn_input.get("text") or ""),
        str(turn.get("response") or ""),
    )


def references_of(turn: Mapping[str, JSON]) -> list[str]:
    references = turn.get("references")
    return [str(one) for one in references] if isinstance(references, list) else []


# --- from the form --------------------------------------------------------------------


def content_from_post(post: QueryDict, before: Mapping[str, JSON]) -> Content:
    """Return the content that a form holds.

    A turn whose blocks were edited last is written from them; any other turn is its raw
    text. What the page does not show is taken from ``before`` by the key of the turn.
    Facts are dropped when the text changes, because they describe the old text. A
    policy's proposal stays whatever happens to the text.
    """
    contexts: list[JSON] = [
        {"existing": int(pk)}
        for pk in post.getlist("context")
        if pk.isascii() and pk.isdigit() and len(pk) < 19
    ]
    typed = zip_longest(
        *(
            post.getlist(f"new_{name}")
            for name in ("scope", "title", "background", "guideline", "actions")
        ),
        fillvalue="",
    )
    for scope, title, background, guideline, actions in list(typed)[:MAX_CONTEXTS]:
        contexts.append(
            {
                "scope": "local" if scope == "local" else "global",
                "title": clean(title),
                "background": clean(background),
                "guideline": clean(guideline),
                "actions": clean(actions),
            }
        )
    content: Content = dict(before)
    return content | {
        "scenario": clean(post.get("scenario", "")),
        "situation": clean(post.get("situation", "normal")),
        "contexts": contexts,
        "turns": list(_posted_turns(post, before)),
    }


def _posted_turns(post: QueryDict, before: Mapping[str, JSON]) -> Iterable[JSON]:
    known = keyed_turns(before)
    references: dict[str, list[JSON]] = {}
    for key, text in zip(
        post.getlist("reference_of"), post.getlist("reference_text"), strict=False
    ):
        references.setdefault(key, []).append(clean(text))
    shows_references = "turn_key" in post
    rows = zip_longest(
        post.getlist("turn_kind"),
        post.getlist("turn_text"),
        post.getlist("turn_response"),
        post.getlist("turn_blocks"),
        post.getlist("turn_key"),
        fillvalue="",
    )
    used: set[str] = set()
    for number, (kind, text, response, blocks, key) in enumerate(rows, start=1):
        if number > MAX_TURNS:
            return
        kind = "observation" if kind == "observation" else "user"
        inside = kind == "observation"
        text, response = clean(text), clean(response)
        edited = posted_blocks(blocks)
        if edited is not None:
            response = write_response(edited, inside_thinking=inside)
        key = clean(key)[:40] or str(number)
        turn = new_turn(kind, text, response)
        if key not in used:
            used.add(key)
            turn["key"] = key
            old = known.get(key, {})
            as_it_was = texts_of(old) == TurnTexts(kind, text, response)
            turn |= {
                name: value
                for name, value in old.items()
                if name not in turn and (as_it_was or name != "facts")
            }
            if edited is None:
                to_keep = kept_blocks(
                    turn.get("blocks"), response, inside_thinking=inside
                )
            else:
                to_keep = blocks_to_keep(edited, response, inside_thinking=inside)
            turn.pop("blocks", None)
            if to_keep:
                turn["blocks"] = [*to_keep]
            if shows_references:
                turn.pop("references", None)
                if answers := references.get(key):
                    turn["references"] = answers[:MAX_REFERENCES]
        yield turn


# --- buttons --------------------------------------------------------------------------


def change_content(content: Content, deed: str) -> Content:
    """Apply a button of the page that adds, moves or removes a part."""
    name, _colon, place = deed.partition(":")
    first, _colon, rest = place.partition(":")
    turns: list[JSON] = [*turns_of(content)]
    contexts = content.get("contexts")
    contexts = [*contexts] if isinstance(contexts, list) else []
    number = _number(first)
    turn = turns_of(content)[number - 1] if 1 <= number <= len(turns) else None
    if name in ("add-user", "add-observation") and len(turns) < MAX_TURNS:
        turns.append(new_turn(name.removeprefix("add-")))
    elif name == "remove-turn" and turn is not None and len(turns) > 1:
        del turns[number - 1]
    elif name == "raise-turn" and turn is not None and number > 1:
        turns[number - 2 : number] = [turns[number - 1], turns[number - 2]]
    elif name == "add-context" and len(contexts) < MAX_CONTEXTS:
        contexts.append(
            {
                "scope": "global",
                "title": "",
                "background": "",
                "guideline": "",
                "actions": "[]",
            }
        )
    elif name == "remove-context":
        new = [one for one in contexts if isinstance(one, dict) and "title" in one]
        if 1 <= number <= len(new):
            contexts.remove(new[number - 1])
    elif name == "add-reference" and turn is not None:
        references = references_of(turn)
        if len(references) < MAX_REFERENCES:
            turns[number - 1] = turn | {
                "references": [*references, texts_of(turn).response]
            }
    elif name == "remove-reference" and turn is not None:
        references = references_of(turn)
        if 1 <= _number(rest) <= len(references):
            del references[_number(rest) - 1]
            turns[number - 1] = turn | {"references": [*references]}
    elif name == "dismiss" and turn is not None:
        turns[number - 1] = turn | {"dismissed": [*sorted({*dismissed(turn), rest})]}
    elif name == "recall" and turn is not None:
        turns[number - 1] = turn | {"dismissed": []}
    elif name == "result" and turn is not None:
        how, _colon, exception = rest.partition(":")
        if how in ("hand", "exception"):
            text = exception_text(exception) if exception else ""
            return put_result(content, number, text)
    elif name == "advice-read":
        content = {key: value for key, value in content.items() if key != "advice"}
    return content | {"turns": turns, "contexts": contexts}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def dismissed(turn: Mapping[str, JSON]) -> set[str]:
    codes = turn.get("dismissed")
    return {str(one) for one in codes} if isinstance(codes, list) else set()


def put_result(content: Content, number: int, text: str) -> Content:
    """Make ``text`` the result of the call that ends turn ``number``.

    The next observation gets the text; if none follows, a turn is inserted.
    """
    turns = turns_of(content)
    if number < len(turns) and texts_of(turns[number]).inside:
        after = turns[number]
        turns[number] = after | {"input": {"kind": "observation", "text": text}}
    elif number <= len(turns) < MAX_TURNS:
        turns.insert(number, new_turn("observation", text))
    return content | {"turns": [*turns]}


def fetch_context(
    content: Content, number: int, *, call: ActionCall, result: str
) -> Content:
    """Let turn ``number`` begin with a fetch of a thinking context.

    The call becomes the whole response of the turn and the result the input of the next
    turn. The old response and its references move to that next turn.
    """
    turns = turns_of(content)
    if not 1 <= number <= len(turns) < MAX_TURNS:
        return content
    turn = turns[number - 1]
    texts = texts_of(turn)
    source = ACTION_OPEN + call.source + ACTION_CLOSE
    first = turn | {"response": source if texts.inside else THINK_OPEN + source}
    for name in ("facts", "blocks", "references"):
        first.pop(name, None)
    after = new_turn("observation", result)
    proposal = first.pop("proposal", None)
    if proposal is not None:
        after["proposal"] = proposal
    if texts.inside:
        after["response"] = texts.response
        going_on = references_of(turn)
    else:
        after["response"] = _inside(texts.response)
        going_on = [_inside(one) for one in references_of(turn)]
    if going_on:
        after["references"] = [*going_on]
    turns[number - 1 : number] = [first, after]
    return content | {"turns": [*turns]}


def _inside(response: str) -> str:
    """Return a response as it reads when its thinking is already open."""
    if response.startswith(THINK_OPEN):
        return response.removeprefix(THINK_OPEN)
    return THINK_CLOSE + response if response.strip() else response


# --- contexts -------------------------------------------------------------------------


def existing_contexts(content: Mapping[str, JSON]) -> list[int]:
    """Return the keys of the project's contexts that the draft uses, in order."""
    contexts = content.get("contexts")
    keys = []
    for one in contexts if isinstance(contexts, list) else []:
        key = one.get("existing") if isinstance(one, dict) else None
        if isinstance(key, int):
            keys.append(key)
    return keys


def use_context(content: Content, key: int) -> Content:
    """Add one of the project's contexts to those the draft uses."""
    contexts = content.get("contexts")
    contexts = contexts if isinstance(contexts, list) else []
    if key in existing_contexts(content):
        return content
    return content | {"contexts": [*contexts, {"existing": key}]}


def typed_contexts(content: Mapping[str, JSON]) -> list[DraftContext]:
    """Return the contexts typed in the draft, each with its problems."""
    contexts = content.get("contexts")
    result = []
    for one in contexts if isinstance(contexts, list) else []:
        if not isinstance(one, dict) or "existing" in one:
            continue
        actions = one.get("actions", "")
        text = actions if isinstance(actions, str) else dump_json(actions)
        problem = "" if one.get("title") else _("The context needs a title.")
        try:
            read_definitions(text)
        except (JSONError, DefinitionError) as error:
            problem = _("Actions: %(error)s") % {"error": error}
        result.append(
            DraftContext(
                scope=str(one.get("scope", "global")),
                title=str(one.get("title", "")),
                background=str(one.get("background", "")),
                guideline=str(one.get("guideline", "")),
                actions=text,
                problem=problem,
            )
        )
    return result


def read_definitions(text: str) -> list[JSON]:
    """Read typed action definitions; raises JSONError or DefinitionError."""
    if not text.strip():
        return []
    value = load_json(text)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DefinitionError("actions", "a list of definitions", "another value")
    for index, one in enumerate(value):
        parse_definition(one, f"actions[{index}]")
    return value


def contexts_of(
    chosen: Iterable[Mapping[str, JSON]], typed: Iterable[DraftContext] = ()
) -> Contexts:
    """Return the actions of a draft's contexts, chosen (as JSONL) and typed."""
    documents = list(chosen)
    documents += [
        {
            "scope": one.scope,
            "title": one.title,
            "background": one.background,
            "guideline": one.guideline,
            "actions": read_definitions(one.actions),
        }
        for one in typed
        if not one.problem
    ]
    return Contexts.of(documents)


# --- to a document --------------------------------------------------------------------


def document_of(
    content: Mapping[str, JSON], contexts: Mapping[int, JSON], external_id: str
) -> dict[str, JSON]:
    """Return the Concord JSONL document of a draft.

    ``contexts``: the project's contexts that the draft uses, by key. Raises JSONError
    or DefinitionError when typed actions cannot be read.
    """
    documents: list[JSON] = []
    for one in content.get("contexts") or []:  # type: ignore[union-attr]
        if not isinstance(one, dict):
            continue
        existing = one.get("existing")
        if isinstance(existing, int):
            if existing in contexts:
                documents.append(contexts[existing])
        else:
            actions = one.get("actions", "")
            documents.append(
                one
                | {
                    "actions": read_definitions(actions)
                    if isinstance(actions, str)
                    else actions
                }
            )
    document = {key: content[key] for key in ("split", "meta") if key in content}
    return document | {
        "id": external_id,
        "scenario": content.get("scenario", ""),
        "situation": content.get("situation", "normal"),
        "contexts": documents,
        "turns": [_turn_document(turn) for turn in turns_of(content)],
    }


def _turn_document(turn: Mapping[str, JSON]) -> dict[str, JSON]:
    document = {key: value for key, value in turn.items() if key not in DRAFT_ONLY}
    document.pop("references", None)
    # Leave out an empty reference.
    references: list[JSON] = [one for one in references_of(turn) if one.strip()]
    return document | ({"references": references} if references else {})
