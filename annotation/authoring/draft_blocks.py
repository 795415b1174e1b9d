"""Convert a response to editable blocks and back; no database.

Every block keeps its ``source``, the exact text it was made from. A block whose fields
still mean what its source says is written as its source, so that editing one block
changes no other character of the response.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from django.utils.translation import gettext as _

from actions.definitions import ActionDefinition, Parameter, check_parameters
from actions.grammar import ActionCall, FormatError, Response, Text, parse
from actions.json_values import JSONError, dump_json, json_equal, load_json
from actions.plans import extract_plan, find_plan
from actions.tags import (
    ACTION_CLOSE,
    ACTION_OPEN,
    JSON,
    OBSERVATION_CLOSE,
    OBSERVATION_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
)

BlockKind = Literal["thinking", "plan", "action", "observation", "answer"]
KINDS: Final[tuple[BlockKind, ...]] = (
    "thinking",
    "plan",
    "action",
    "observation",
    "answer",
)
PLANS: Final = 4
MAX_BLOCKS: Final = 100
MAX_STEPS: Final = 500

# How the text of a field is read: literally, or as JSON (literally if it is not JSON).
FieldType = Literal["text", "number", "boolean", "choice", "json", "free"]


@dataclass(frozen=True)
class Field:
    """One parameter of a call as a form shows it; ``value`` is the text in the input."""

    name: str
    type: FieldType
    value: str
    about: str = ""
    unit: str = ""
    type_name: str = ""
    is_optional: bool = False
    is_known: bool = True
    choices: tuple[tuple[str, str], ...] = ()
    problem: str = ""

    @property
    def step(self) -> str:
        return "1" if self.type_name == "integer" else "any"


@dataclass(frozen=True)
class EditBlock:
    kind: BlockKind
    source: str = ""
    text: str = ""
    steps: tuple[str, ...] = ()
    name: str = ""
    about: str = ""
    is_known: bool = False
    fields: tuple[Field, ...] = ()


# --- response to blocks ---------------------------------------------------------------


def blocks_to_edit(
    response: Response, definitions: Mapping[str, ActionDefinition]
) -> tuple[EditBlock, ...]:
    """Return the blocks of a response, in order; no text is left out."""
    blocks: list[EditBlock] = []
    for node in response.thinking:
        if isinstance(node, Text):
            blocks += _of_thinking(node.text)
        elif isinstance(node, ActionCall):
            blocks.append(
                _call_block(node.name, node.parameters, node.source, definitions)
            )
        else:
            blocks.append(EditBlock("observation", node.text, node.text))
    if response.opens and not blocks:
        blocks.append(EditBlock("thinking"))
    if response.answer:
        blocks.append(EditBlock("answer", response.answer, response.answer.strip()))
    return tuple(blocks)


def _of_thinking(text: str) -> list[EditBlock]:
    pieces: list[tuple[BlockKind, str]] = []
    for _plan in range(PLANS):
        span = find_plan(text)
        if span is None:
            break
        pieces += [
            ("thinking", text[: span.start]),
            ("plan", text[span.start : span.end]),
        ]
        text = text[span.end :]
    pieces.append(("thinking", text))
    # Blanks between blocks belong to a neighbouring block; they are not blocks
    # themselves.
    joined: list[tuple[BlockKind, str]] = []
    blanks = ""
    for kind, source in pieces:
        if source.strip():
            joined.append((kind, blanks + source))
            blanks = ""
        elif joined:
            joined[-1] = (joined[-1][0], joined[-1][1] + source)
        else:
            blanks += source
    if blanks:
        joined.append(("thinking", blanks))
    return [_text_block(kind, source) for kind, source in joined]


def _text_block(kind: BlockKind, source: str) -> EditBlock:
    if kind == "plan":
        plan = extract_plan(source)
        return EditBlock("plan", source, steps=plan.steps if plan else ())
    return EditBlock(kind, source, source.strip())


def _call_block(
    name: str,
    parameters: Mapping[str, JSON],
    source: str,
    definitions: Mapping[str, ActionDefinition],
) -> EditBlock:
    definition = definitions.get(name)
    if definition is None:
        fields = [_free_field(key, value) for key, value in parameters.items()]
        return EditBlock("action", source, name=name, fields=tuple(fields))
    problems: dict[str, str] = {}
    for error in check_parameters(definition, parameters):
        key = error.parameter.split("[")[0].split(".")[0]
        problems.setdefault(key, str(error))
    known = {parameter.name for parameter in definition.parameters}
    fields = [
        _known_field(parameter, parameters, problems.get(parameter.name, ""))
        for parameter in definition.parameters
    ]
    fields += [
        _free_field(key, value, problems.get(key, ""))
        for key, value in parameters.items()
        if key not in known
    ]
    return EditBlock(
        "action",
        source,
        name=name,
        about=definition.description,
        is_known=True,
        fields=tuple(fields),
    )


def _known_field(
    parameter: Parameter, parameters: Mapping[str, JSON], problem: str
) -> Field:
    is_given = parameter.name in parameters
    value = parameters.get(parameter.name)
    kind: FieldType
    choices: list[tuple[str, str]] = []
    if parameter.enumeration:
        kind = "choice"
        choices = [(dump_json(one), _plain(one)) for one in parameter.enumeration]
        text = dump_json(value) if is_given else ""
        if is_given and not any(
            json_equal(value, one) for one in parameter.enumeration
        ):
            choices.append((text, _plain(value)))
    elif parameter.type == "boolean" and (not is_given or isinstance(value, bool)):
        kind, text = "boolean", dump_json(value) if is_given else ""
    elif parameter.type in ("number", "integer") and (
        not is_given
        or (isinstance(value, (int, float)) and not isinstance(value, bool))
    ):
        kind, text = "number", dump_json(value) if is_given else ""
    elif parameter.type == "string" and (not is_given or isinstance(value, str)):
        kind, text = "text", str(value) if is_given else ""
    elif parameter.type in ("array", "object"):
        kind, text = "json", dump_json(value) if is_given else ""
    else:  # any type, or a value of another type than the definition's
        kind, text = "free", _free_text(value) if is_given else ""
    return Field(
        name=parameter.name,
        type=kind,
        value=text,
        about=parameter.description,
        unit=parameter.unit,
        type_name=parameter.type,
        is_optional=parameter.optional,
        choices=tuple(choices),
        problem=problem if is_given else "",
    )


def _free_field(name: str, value: JSON, problem: str = "") -> Field:
    return Field(name, "free", _free_text(value), is_known=False, problem=problem)


def _plain(value: JSON) -> str:
    return value if isinstance(value, str) else dump_json(value)


def _free_text(value: JSON) -> str:
    """Write a value so that :func:`_read_free` reads the same value."""
    if not isinstance(value, str):
        return dump_json(value)
    return value if value and _read_free(value) == value else dump_json(value)


def _read_free(text: str) -> JSON:
    try:
        return load_json(text)
    except JSONError:
        return text


# --- blocks to response ---------------------------------------------------------------


def posted_blocks(text: str) -> list[dict[str, JSON]] | None:
    """Read the blocks that a page posts for one turn; None when it posts none."""
    if not text:
        return None
    try:
        value = load_json(text)
    except JSONError:
        return None
    if not isinstance(value, list):
        return None
    return [one for one in value if isinstance(one, dict) and one.get("kind") in KINDS][
        :MAX_BLOCKS
    ]


def write_response(
    blocks: Sequence[Mapping[str, JSON]], *, inside_thinking: bool = False
) -> str:
    """Write posted blocks as a response text, which may still be invalid."""
    thinking = ""
    answer = ""
    before = ""
    has_thinking = has_answer = False
    for block in blocks:
        kind = str(block.get("kind"))
        source = _str(block.get("source"))
        if kind == "answer":
            has_answer = True
            answer += _with_blanks(source, _str(block.get("text")))
            continue
        has_thinking = True
        piece = _write_piece(kind, source, block)
        if not piece and kind != "thinking":
            continue
        on_new_line = (
            kind in ("thinking", "plan") and before in ("thinking", "plan")
        ) or (kind == "action" and not source)
        if on_new_line and thinking and not (thinking[-1:] + piece[:1]).count("\n"):
            thinking += "\n"
        thinking += piece
        before = kind
    if not has_thinking and not inside_thinking:
        return answer
    if not thinking and not has_answer and inside_thinking:
        return ""
    closes = has_answer and (bool(answer) or before != "action")
    return (
        ("" if inside_thinking else THINK_OPEN)
        + thinking
        + (THINK_CLOSE if closes else "")
        + answer
    )


def _write_piece(kind: str, source: str, block: Mapping[str, JSON]) -> str:
    if kind == "action":
        return ACTION_OPEN + _write_call(source, block) + ACTION_CLOSE
    if kind == "observation":
        return OBSERVATION_OPEN + _str(block.get("text")) + OBSERVATION_CLOSE
    if kind == "plan":
        return _write_plan(source, block)
    return _with_blanks(source, _str(block.get("text")))


def _with_blanks(source: str, text: str) -> str:
    """Replace the old text by the edited one and keep the blanks around it."""
    old = source.strip()
    if text == old:
        return source
    start = source.find(old) if old else len(source)
    return source[:start] + text + source[start + len(old) :]


def _write_plan(source: str, block: Mapping[str, JSON]) -> str:
    entries = block.get("steps")
    steps = tuple(
        line
        for one in (entries if isinstance(entries, list) else [])[:MAX_STEPS]
        if (line := " ".join(_str(one).split("\n")).strip())
    )
    old = extract_plan(source)
    if old and old.steps == steps:
        return source
    lines = [f"{number}. {step}" for number, step in enumerate(steps, start=1)]
    return _with_blanks(source, "\n".join(["Plan:", *lines])) if steps else ""


def _write_call(source: str, block: Mapping[str, JSON]) -> str:
    name = _str(block.get("name")).strip()
    parameters = read_parameters(block)
    try:
        old = parse(ACTION_OPEN + source + ACTION_CLOSE, inside_thinking=True).actions
    except FormatError:
        old = ()
    if old:
        # Keep a value that was an empty text before; an emptied field removes its
        # value.
        empty_before = {key for key, value in old[0].parameters.items() if value == ""}
        empty = [_str(one.get("name")) for one in _rows(block)]
        parameters |= {
            key: "" for key in empty if key in empty_before and key not in parameters
        }
        if old[0].name == name and (
            list(old[0].parameters)
            == [key for key in old[0].parameters if key in parameters]
            and json_equal(dict(old[0].parameters), parameters)
        ):
            return source
    return ActionCall.make(name, parameters).source


def _rows(block: Mapping[str, JSON]) -> Iterable[dict[str, JSON]]:
    rows = block.get("parameters")
    return (
        one for one in (rows if isinstance(rows, list) else []) if isinstance(one, dict)
    )


def _row_of(row: Mapping[str, JSON]) -> tuple[str, str]:
    """Return the name and the text of a posted parameter; either may be empty."""
    return _str(row.get("name")).strip(), _str(row.get("value"))


def read_parameters(block: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the parameters of a posted call; an empty field is not a parameter."""
    parameters: dict[str, JSON] = {}
    for row in _rows(block):
        name, text = _row_of(row)
        if name and text:
            parameters[name] = text if row.get("type") == "text" else _read_free(text)
    return parameters


def blocks_of_post(
    blocks: Sequence[Mapping[str, JSON]], definitions: Mapping[str, ActionDefinition]
) -> tuple[EditBlock, ...]:
    """Return posted blocks as editable blocks, including incomplete ones."""
    result = []
    for block in blocks:
        kind = next(kind for kind in KINDS if kind == block.get("kind"))
        source, text = _str(block.get("source")), _str(block.get("text"))
        if kind == "action":
            name = _str(block.get("name")).strip()
            shown = _call_block(name, read_parameters(block), source, definitions)
            left_out = _left_over(block, {field.name for field in shown.fields})
            result.append(replace(shown, fields=(*shown.fields, *left_out)))
        elif kind == "plan":
            result.append(EditBlock("plan", source, steps=_posted_steps(block)))
        else:
            result.append(EditBlock(kind, source, text))
    return tuple(result)


def _left_over(block: Mapping[str, JSON], shown: set[str]) -> Iterable[Field]:
    """Return the rows of a posted call that its text omits, each with the reason."""
    rows = [_row_of(row) for row in _rows(block)]
    last = {name: number for number, (name, text) in enumerate(rows) if name and text}
    for number, (name, text) in enumerate(rows):
        if text and not name:
            problem = _("The parameter needs a name; until then it is left out.")
        elif text and last[name] != number:
            problem = _("Another parameter has this name; this one is left out.")
        elif name and not text and name not in shown:
            problem = _("The parameter needs a value; until then it is left out.")
        else:
            continue
        yield Field(name, "free", text, is_known=False, problem=problem)


def _posted_steps(block: Mapping[str, JSON]) -> tuple[str, ...]:
    steps = block.get("steps")
    return tuple(
        _str(one) for one in (steps if isinstance(steps, list) else [])[:MAX_STEPS]
    )


# --- blocks a draft keeps -------------------------------------------------------------


def blocks_to_keep(
    blocks: Sequence[Mapping[str, JSON]], text: str, *, inside_thinking: bool
) -> list[dict[str, JSON]]:
    """Return the posted blocks to store beside ``text``, which was written from them.

    Returns none when the text alone gives the same blocks.
    """
    try:
        from_text = blocks_to_edit(parse(text, inside_thinking=inside_thinking), {})
    except FormatError:
        from_text = ()
    posted = blocks_of_post(blocks, {})
    if [_typed(block) for block in posted] == [_typed(block) for block in from_text]:
        return []
    return [_tidy(block) for block in blocks]


def kept_blocks(
    blocks_json: JSON, text: str, *, inside_thinking: bool
) -> list[dict[str, JSON]]:
    """Return the stored blocks of a draft, unless its text has changed since."""
    if not isinstance(blocks_json, list):
        return []
    blocks = [
        one for one in blocks_json if isinstance(one, dict) and one.get("kind") in KINDS
    ]
    if write_response(blocks, inside_thinking=inside_thinking) != text:
        return []
    return blocks


def _typed(block: EditBlock) -> tuple[object, ...]:
    steps = [" ".join(step.split()) for step in block.steps]
    fields = [(field.name, _read_free(field.value)) for field in block.fields]
    return block.kind, block.text.strip(), steps, block.name, fields


def _tidy(block: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the known fields of a posted block, as texts the database can store."""
    result: dict[str, JSON] = {
        key: _str(block.get(key)) for key in ("kind", "source", "text", "name")
    }
    result["steps"] = [*_posted_steps(block)]
    result["parameters"] = [
        {key: _str(row.get(key)) for key in ("name", "type", "value")}
        for row in _rows(block)
    ]
    return result


def _str(value: JSON) -> str:
    text = value if isinstance(value, str) else ""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
