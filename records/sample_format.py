"""Concord JSONL as people bring it: one sample as a JSON object, strictly checked.

``docs/data-formats.md`` describes the fields. A checked document is stored as it was
given; only absent optional fields get their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from actions.definitions import DefinitionError, describe, parse_definition
from actions.format_check import check_text
from actions.json_values import MAX_DEPTH, json_depth
from actions.rules import FIELDS, RuleError, rule_of
from actions.tags import ACTION_CLOSE, JSON, find_tag
from records.reading import RecordError
from records.samples import INPUT_KINDS, Context, Sample, Turn

SITUATIONS = ("normal", "exception", "interruption", "noise", "nested", "refusal")
STATUSES = ("draft", "submitted", "approved", "returned", "retired")
MAX_TURNS = 10_000


class SampleError(RecordError):
    """A sample is not of the documented form; ``field`` says where.

    ``at`` is the place inside a long value, such as "line 2, column 7".
    """

    def __init__(self, field: str, expected: str, found: str, at: str = "") -> None:
        super().__init__(f"{field}: {at}" if at else field, expected, found)
        self.field = field
        self.at = at
        self.reason = f"{at}: " * bool(at) + f"expected {expected}, found {found}"


def check_sample(document: JSON) -> Sample:
    """Check one sample; raise :class:`SampleError` for the first thing wrong."""
    form = _object(document, "sample")
    check_text_values(form)
    _only_keys(
        form,
        (
            "id",
            "scenario",
            "situation",
            "status",
            "split",
            "contexts",
            "turns",
            "meta",
        ),
        "",
    )
    turns = _list(_required(form, "turns", ""), "turns")
    if not turns:
        raise SampleError("turns", "at least one turn", "none")
    if len(turns) > MAX_TURNS:
        raise SampleError("turns", f"at most {MAX_TURNS} turns", str(len(turns)))
    status = form.get("status")
    return Sample(
        id=check_id(_required(form, "id", "")),
        scenario=_line(form.get("scenario", ""), "scenario", 80),
        situation=_one_of(form.get("situation", "normal"), "situation", SITUATIONS),
        status=None if status is None else _one_of(status, "status", STATUSES),
        split=check_split(form.get("split", "")),
        contexts=tuple(
            _check_context(context, f"contexts[{index}]")
            for index, context in enumerate(_list(form.get("contexts", []), "contexts"))
        ),
        turns=_check_turns(turns),
        meta=_check_meta(form.get("meta", {})),
    )


def check_id(value: JSON, field: str = "id") -> str:
    if not isinstance(value, str) or not value.strip():
        raise SampleError(field, "an id", describe(value))
    return _line(value, field, 200)


def check_split(value: JSON) -> str:
    split = _line(value, "split", 20)
    if split and not split.startswith("held-out"):
        raise SampleError("split", '"" or "held-out…"', describe(split))
    return split


def check_text_values(value: JSON, place: str = "") -> None:
    """Refuse what Postgres cannot keep as text: NUL characters and lone surrogates."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except (UnicodeEncodeError, RecursionError):
        _find_bad_text(value, place, 0)
        return
    # The fast way out. Only a suspicion: a text may also say backslash, u0000.
    if "\\u0000" in text or json_depth(text) > MAX_DEPTH:
        _find_bad_text(value, place, 0)


def _check_meta(value: JSON) -> dict[str, JSON]:
    """Return the meta of a sample; a rule in it must be one that can be applied."""
    meta = _object(value, "meta")
    try:
        rule_of(meta)
    except RuleError as error:
        place = f"meta.rule.{error.field}" if error.field in FIELDS else "meta.rule"
        raise SampleError(place, error.expected, describe(error.found)) from None
    return meta


def _find_bad_text(value: JSON, place: str, depth: int) -> None:
    if depth >= MAX_DEPTH and isinstance(value, (dict, list)):
        raise SampleError(place, f"nesting of at most {MAX_DEPTH}", "deeper nesting")
    if isinstance(value, str):
        if "\0" in value:
            position = value.index("\0")
            raise SampleError(place, "text", f"a NUL at character {position}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = f"a lone surrogate at character {error.start}"
            raise SampleError(place, "text", found) from None
    elif isinstance(value, dict):
        for key, item in value.items():
            printable = key.encode("utf-8", "backslashreplace").decode()
            printable = printable.replace("\0", "\\0")
            within = f"{place}.{printable}" if place else printable
            _find_bad_text(key, within, depth + 1)
            _find_bad_text(item, within, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find_bad_text(item, f"{place}[{index}]", depth + 1)


def _check_context(value: JSON, place: str) -> Context:
    form = _object(value, place)
    _only_keys(form, ("scope", "title", "background", "guideline", "actions"), place)
    actions = _list(form.get("actions", []), f"{place}.actions")
    names: set[str] = set()
    for index, action in enumerate(actions):
        within = f"{place}.actions[{index}]"
        try:
            name = parse_definition(action, within).name
        except DefinitionError as error:
            raise SampleError(error.place, error.expected, error.found) from None
        if name in names:
            raise SampleError(f"{within}.name", "each name once", f'"{name}" twice')
        names.add(name)
    return Context(
        scope=_one_of(
            _required(form, "scope", place), f"{place}.scope", ("global", "local")
        ),
        title=_line(_required(form, "title", place), f"{place}.title", 200),
        background=_text(form.get("background", ""), f"{place}.background"),
        guideline=_text(form.get("guideline", ""), f"{place}.guideline"),
        actions=actions,
    )


def _check_turns(values: list[JSON]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for index, value in enumerate(values):
        turn = _check_turn(value, f"turns[{index}]")
        pending = bool(turns) and turns[-1].response.endswith(ACTION_CLOSE)
        if pending != (turn.kind == "observation"):
            raise SampleError(
                f"turns[{index}].input.kind",
                "observation after a response that ends with an action"
                if pending
                else "user, as no action was called before",
                turn.kind,
            )
        turns.append(turn)
    return tuple(turns)


def _check_turn(value: JSON, place: str) -> Turn:
    form = _object(value, place)
    _only_keys(form, ("input", "response", "references", "facts", "proposal"), place)
    within = f"{place}.input"
    given = _object(_required(form, "input", place), within)
    _only_keys(given, ("kind", "text"), within)
    kind = _one_of(_required(given, "kind", within), f"{within}.kind", INPUT_KINDS)
    text = _text(_required(given, "text", within), f"{within}.text")
    refuse_tags(text, f"{within}.text")
    response = _text(_required(form, "response", place), f"{place}.response")
    references = _list(form.get("references", []), f"{place}.references")
    turn = Turn(
        kind=kind,
        text=text,
        response=response,
        references=tuple(
            _text(reference, f"{place}.references[{index}]")
            for index, reference in enumerate(references)
        ),
        facts=form.get("facts"),
        proposal=_check_proposal(form.get("proposal"), f"{place}.proposal"),
    )
    _check_response(response, kind, f"{place}.response")
    for index, reference in enumerate(turn.references):
        _check_response(reference, kind, f"{place}.references[{index}]")
    return turn


def _check_proposal(value: JSON, place: str) -> JSON:
    if value is None:
        return None
    form = _object(value, place)
    _only_keys(form, ("checkpoint", "digest", "text"), place)
    checkpoint = _required(form, "checkpoint", place)
    if not isinstance(checkpoint, int) or isinstance(checkpoint, bool):
        raise SampleError(
            f"{place}.checkpoint", "a checkpoint's number", describe(checkpoint)
        )
    for key in ("digest", "text"):
        _text(_required(form, key, place), f"{place}.{key}")
    return form


def _check_response(text: str, kind: str, place: str) -> None:
    error = check_text(text, kind == "observation")
    if error:
        at = f"line {error.line}, column {error.column}"
        raise SampleError(place, error.expected, error.found, at)


def refuse_tags(text: str, place: str) -> None:
    """Refuse a tag of the grammar in what a person or the environment says."""
    tag = find_tag(text)
    if tag:
        raise SampleError(place, "text without the tags of a response", tag)


def _required(form: Mapping[str, JSON], key: str, place: str) -> JSON:
    if key not in form:
        raise SampleError(f"{place}.{key}" if place else key, "a value", "nothing")
    return form[key]


def _only_keys(form: Mapping[str, JSON], allowed: tuple[str, ...], place: str) -> None:
    for key in form:
        if key not in allowed:
            expected = "one of " + ", ".join(allowed)
            raise SampleError(
                f"{place}.{key}" if place else key, expected, "an unknown field"
            )


def _object(value: JSON, place: str) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise SampleError(place, "an object", describe(value))
    return value


def _list(value: JSON, place: str) -> list[JSON]:
    if not isinstance(value, list):
        raise SampleError(place, "a list", describe(value))
    return value


def _text(value: JSON, place: str) -> str:
    if not isinstance(value, str):
        raise SampleError(place, "text", describe(value))
    return value


def _line(value: JSON, place: str, limit: int) -> str:
    text = _text(value, place)
    if len(text) > limit:
        raise SampleError(
            place, f"at most {limit} characters", f"{len(text)} characters"
        )
    if "\n" in text:
        raise SampleError(place, "one line", "a line break")
    return text


def _one_of(value: JSON, place: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise SampleError(place, "one of " + ", ".join(allowed), describe(value))
    return value
