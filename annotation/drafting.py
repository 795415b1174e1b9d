"""Drafts of samples: from form fields to a document and back, checked while typed.

No database here. A draft's content has the form of a Concord JSONL sample that need not
be valid yet; two things differ. A context may be ``{"existing": pk}``, one of the
project's; and the actions of a new context stay the text that was typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, Literal

from actions.definitions import (
    ActionDefinition,
    DefinitionError,
    check_parameters,
    parse_definition,
)
from actions.grammar import FormatError, Response, parse
from actions.json_values import JSONError, dump_json, load_json
from actions.tags import JSON, find_tag
from annotation.blocks import Block, blocks_of_text

if TYPE_CHECKING:
    from django.http import QueryDict

MAX_TURNS: Final = 200
MAX_CONTEXTS: Final = 20

Content = dict[str, JSON]


@dataclass(frozen=True)
class Problem:
    """``error``: it cannot be submitted so; ``hint``: look at it again."""

    text: str
    level: Literal["error", "hint"] = "error"


@dataclass(frozen=True)
class DraftTurn:
    number: int
    kind: str
    text: str
    response: str
    blocks: tuple[Block, ...]
    problems: tuple[Problem, ...]
    references: int


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
    """Take out what the database cannot keep and the line ends browsers add."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def empty_content() -> Content:
    """Return the content of a new draft: one turn, nothing in it yet."""
    return {
        "scenario": "",
        "situation": "normal",
        "contexts": [],
        "turns": [_turn("user", "", "")],
    }


def _turn(kind: str, text: str, response: str) -> dict[str, JSON]:
    return {"input": {"kind": kind, "text": text}, "response": response}


def content_from_post(post: QueryDict, before: Mapping[str, JSON]) -> Content:
    """Return what a form holds.

    References and facts of a turn are not on the page: they are kept from ``before``
    while the turn's texts are what they were.
    """
    kept = {
        (turn["kind"], turn["text"], turn["response"]): turn["rest"]
        for turn in map(_texts, _turns(before))
    }
    turns: list[JSON] = []
    rows = zip_longest(
        post.getlist("turn_kind"),
        post.getlist("turn_text"),
        post.getlist("turn_response"),
        fillvalue="",
    )
    for kind, text, response in list(rows)[:MAX_TURNS]:
        kind = "observation" if kind == "observation" else "user"
        text, response = clean(text), clean(response)
        turn = _turn(kind, text, response)
        rest = kept.get((kind, text, response))
        if isinstance(rest, dict):
            turn |= rest
        turns.append(turn)
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
        "turns": turns,
    }


def _turns(content: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    turns = content.get("turns")
    if not isinstance(turns, list):
        return []
    return [turn for turn in turns if isinstance(turn, dict)]


def _texts(turn: Mapping[str, JSON]) -> dict[str, JSON]:
    given = turn.get("input")
    given = given if isinstance(given, dict) else {}
    return {
        "kind": str(given.get("kind") or "user"),
        "text": str(given.get("text") or ""),
        "response": str(turn.get("response") or ""),
        "rest": {
            key: value
            for key, value in turn.items()
            if key not in ("input", "response")
        },
    }


def change_content(content: Content, deed: str) -> Content:
    """Apply a button of the page that adds, moves or takes away a part."""
    name, _, place = deed.partition(":")
    turns: list[JSON] = [*_turns(content)]
    contexts = content.get("contexts")
    contexts = [*contexts] if isinstance(contexts, list) else []
    number = int(place) if place.isascii() and place.isdigit() and len(place) < 6 else 0
    if name in ("add-user", "add-observation") and len(turns) < MAX_TURNS:
        turns.append(_turn(name.removeprefix("add-"), "", ""))
    elif name == "remove-turn" and 1 <= number <= len(turns) and len(turns) > 1:
        del turns[number - 1]
    elif name == "raise-turn" and 2 <= number <= len(turns):
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
    return content | {"turns": turns, "contexts": contexts}


def existing_contexts(content: Mapping[str, JSON]) -> list[int]:
    """Return the keys of the project's contexts that the draft uses, in order."""
    contexts = content.get("contexts")
    keys = []
    for one in contexts if isinstance(contexts, list) else []:
        key = one.get("existing") if isinstance(one, dict) else None
        if isinstance(key, int):
            keys.append(key)
    return keys


def typed_contexts(content: Mapping[str, JSON]) -> list[DraftContext]:
    """Return the contexts typed in the draft, each with what is wrong with it."""
    contexts = content.get("contexts")
    result = []
    for one in contexts if isinstance(contexts, list) else []:
        if not isinstance(one, dict) or "existing" in one:
            continue
        actions = one.get("actions", "")
        text = actions if isinstance(actions, str) else dump_json(actions)
        problem = "" if one.get("title") else "The context needs a title."
        try:
            read_definitions(text)
        except (JSONError, DefinitionError) as error:
            problem = f"Actions: {error}"
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


def definitions_of(actions: Iterable[JSON]) -> dict[str, ActionDefinition]:
    """Return the definitions that can be read, by name; others are passed over."""
    found: dict[str, ActionDefinition] = {}
    for one in actions:
        try:
            definition = parse_definition(one)
        except DefinitionError:
            continue
        found[definition.name] = definition
    return found


def check_turns(
    content: Mapping[str, JSON], definitions: Mapping[str, ActionDefinition]
) -> list[DraftTurn]:
    """Return the draft's turns as blocks, each with what is wrong and where."""
    result: list[DraftTurn] = []
    awaits_result = False
    turns = _turns(content)
    for number, turn in enumerate(turns, start=1):
        texts = _texts(turn)
        kind, text, response = (
            str(texts[name]) for name in ("kind", "text", "response")
        )
        inside = kind == "observation"
        problems: list[Problem] = []
        if inside and not awaits_result:
            problems.append(
                Problem(
                    "An observation follows a response that ends in an action call; "
                    "the turn before does not."
                )
            )
        elif awaits_result and not inside:
            problems.append(
                Problem(
                    "The turn before ends in an action call: its observation comes next."
                )
            )
        if not text.strip() and not inside:
            problems.append(Problem("The user says nothing yet.", "hint"))
        elif tag := find_tag(text):
            problems.append(Problem(f"The input holds the tag {tag}."))
        parsed: Response | None = None
        if not response.strip():
            problems.append(Problem("The response is empty.", "hint"))
        else:
            try:
                parsed = parse(response, inside_thinking=inside)
            except FormatError as error:
                problems.append(Problem(f"Response, {error}."))
        if parsed:
            problems += _call_problems(parsed, definitions)
            if parsed.ends_with_action and number == len(turns):
                problems.append(
                    Problem("The conversation ends in an action call.", "hint")
                )
        awaits_result = bool(parsed and parsed.ends_with_action)
        references = turn.get("references")
        result.append(
            DraftTurn(
                number=number,
                kind=kind,
                text=text,
                response=response,
                blocks=blocks_of_text(response, inside_thinking=inside)
                if parsed
                else (),
                problems=tuple(problems),
                references=len(references) if isinstance(references, list) else 0,
            )
        )
    return result


def _call_problems(
    response: Response, definitions: Mapping[str, ActionDefinition]
) -> list[Problem]:
    problems = []
    for call in response.actions:
        definition = definitions.get(call.name)
        if definition is None:
            if definitions:
                known = ", ".join(sorted(definitions)[:6])
                problems.append(
                    Problem(f"No action is named “{call.name}” here: {known}.", "hint")
                )
            continue
        problems += [
            Problem(f"{call.name}: {error}", "hint")
            for error in check_parameters(definition, call.parameters)
        ]
    return problems


def document_of(
    content: Mapping[str, JSON], contexts: Mapping[int, JSON], external_id: str
) -> dict[str, JSON]:
    """Return the Concord JSONL document of a draft.

    ``contexts``: the project's contexts the draft uses, by key. Raises JSONError or
    DefinitionError when typed actions cannot be read.
    """
    found: list[JSON] = []
    for one in content.get("contexts") or []:  # type: ignore[union-attr]
        if not isinstance(one, dict):
            continue
        existing = one.get("existing")
        if isinstance(existing, int):
            if existing in contexts:
                found.append(contexts[existing])
        else:
            actions = one.get("actions", "")
            found.append(
                one
                | {
                    "actions": read_definitions(actions)
                    if isinstance(actions, str)
                    else actions
                }
            )
    kept = {key: content[key] for key in ("split", "meta") if key in content}
    return kept | {
        "id": external_id,
        "scenario": content.get("scenario", ""),
        "situation": content.get("situation", "normal"),
        "contexts": found,
        "turns": [*_turns(content)],
    }
