"""Action definitions: an action's name, its parameters and its named exceptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from actions.json_values import dump_json, json_equal
from actions.tags import JSON

TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "any")


class DefinitionError(ValueError):
    """An action definition does not have the documented form."""

    def __init__(self, place: str, expected: str, found: str) -> None:
        super().__init__(f"{place or 'definition'}: expected {expected}, found {found}")
        self.place = place
        self.expected = expected
        self.found = found


@dataclass(frozen=True)
class ParameterError:
    """One thing wrong with the parameters of an action call."""

    parameter: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.parameter}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Parameter:
    """One parameter; ``schema`` keeps further JSON Schema keys unchanged."""

    name: str
    type: str = "string"
    description: str = ""
    unit: str = ""
    enumeration: tuple[JSON, ...] = field(default=(), hash=False)
    optional: bool = False
    schema: Mapping[str, JSON] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ActionException:
    """A named way for an action to fail."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class ActionDefinition:
    """An action a model may call; ``name`` is a natural phrase."""

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    exceptions: tuple[ActionException, ...] = ()
    schema: Mapping[str, JSON] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, JSON]:
        """Return the JSON form that :func:`parse_definition` reads."""
        parameters: dict[str, JSON] = {}
        for parameter in self.parameters:
            form: dict[str, JSON] = {
                "type": parameter.type,
                "description": parameter.description,
            }
            if parameter.unit:
                form["unit"] = parameter.unit
            if parameter.enumeration:
                form["enumeration"] = list(parameter.enumeration)
            if parameter.optional:
                form["optional"] = True
            if parameter.schema:
                form["schema"] = dict(parameter.schema)
            parameters[parameter.name] = form
        definition: dict[str, JSON] = {
            "name": self.name,
            "description": self.description,
            "parameters": parameters,
        }
        if self.exceptions:
            definition["exception"] = {e.name: e.description for e in self.exceptions}
        if self.schema:
            definition["schema"] = dict(self.schema)
        return definition


def describe(value: JSON) -> str:
    """Describe the type of ``value`` in a few words, for error messages."""
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = dump_json(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _object(value: JSON, place: str) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise DefinitionError(place, "an object", describe(value))
    return value


def _text(value: JSON, place: str) -> str:
    if not isinstance(value, str):
        raise DefinitionError(place, "text", describe(value))
    return value


def _only_keys(value: Mapping[str, JSON], allowed: Sequence[str], place: str) -> None:
    for key in value:
        if key not in allowed:
            raise DefinitionError(
                _join(place, key), "one of " + ", ".join(allowed), "an unknown key"
            )


def _name(value: JSON, place: str) -> str:
    name = _text(value, place)
    if not name or name != name.strip() or "\n" in name:
        raise DefinitionError(
            place, "a name on one line without spaces around it", describe(name)
        )
    return name


def parse_definition(obj: JSON, place: str = "") -> ActionDefinition:
    """Read an action definition; raise :class:`DefinitionError` naming the place.

    ``place`` is a prefix for the places that errors name, e.g.
    ``contexts[0].actions[2]``.
    """
    form = _object(obj, place)
    _only_keys(
        form, ("name", "description", "parameters", "exception", "schema"), place
    )
    for key in ("name", "description"):
        if key not in form:
            raise DefinitionError(_join(place, key), "text", "nothing")
    exceptions = _object(form.get("exception", {}), _join(place, "exception"))
    parameters = _object(form.get("parameters", {}), _join(place, "parameters"))
    return ActionDefinition(
        name=_name(form["name"], _join(place, "name")),
        description=_text(form["description"], _join(place, "description")),
        parameters=tuple(
            _parse_parameter(name, value, _join(_join(place, "parameters"), name))
            for name, value in parameters.items()
        ),
        exceptions=tuple(
            ActionException(
                _name(name, _join(place, "exception")),
                _text(value, _join(_join(place, "exception"), name)),
            )
            for name, value in exceptions.items()
        ),
        schema=_object(form.get("schema", {}), _join(place, "schema")),
    )


def _parse_parameter(name: str, value: JSON, place: str) -> Parameter:
    form = _object(value, place)
    _only_keys(
        form,
        ("type", "description", "unit", "enumeration", "optional", "schema"),
        place,
    )
    kind = form.get("type", "string")
    if not isinstance(kind, str) or kind not in TYPES:
        raise DefinitionError(
            _join(place, "type"), "one of " + ", ".join(TYPES), describe(kind)
        )
    enumeration = form.get("enumeration", [])
    if not isinstance(enumeration, list):
        raise DefinitionError(
            _join(place, "enumeration"), "a list of values", describe(enumeration)
        )
    optional = form.get("optional", False)
    if not isinstance(optional, bool):
        raise DefinitionError(
            _join(place, "optional"), "true or false", describe(optional)
        )
    return Parameter(
        name=_name(name, place),
        type=kind,
        description=_text(form.get("description", ""), _join(place, "description")),
        unit=_text(form.get("unit", ""), _join(place, "unit")),
        enumeration=tuple(enumeration),
        optional=optional,
        schema=_object(form.get("schema", {}), _join(place, "schema")),
    )


def from_openai(obj: JSON, place: str = "") -> ActionDefinition:
    """Read an OpenAI tool: ``{"type": "function", "function": {…}}`` or its inner part.

    ``schema`` keeps the JSON Schema keys that Concord does not use; ``strict`` is
    dropped. ``unit`` and ``exception`` are read from where :func:`to_openai` writes
    them.
    """
    form = _object(obj, place)
    if "function" in form:
        if form.get("type", "function") != "function":
            raise DefinitionError(
                _join(place, "type"), '"function"', describe(form["type"])
            )
        place = _join(place, "function")
        form = _object(form["function"], place)
    _only_keys(
        form, ("name", "description", "parameters", "strict", "exception"), place
    )
    if "name" not in form:
        raise DefinitionError(_join(place, "name"), "text", "nothing")
    within = _join(place, "parameters")
    schema = dict(_object(form.get("parameters") or {}, within))
    schema.pop("type", None)
    properties = _object(schema.pop("properties", {}), _join(within, "properties"))
    required = schema.pop("required", [])
    if not isinstance(required, list):
        raise DefinitionError(
            _join(within, "required"), "a list of names", describe(required)
        )
    exceptions = _object(form.get("exception", {}), _join(place, "exception"))
    return ActionDefinition(
        name=_name(form["name"], _join(place, "name")),
        description=_text(form.get("description") or "", _join(place, "description")),
        parameters=tuple(
            _parse_property(
                name, value, name in required, _join(_join(within, "properties"), name)
            )
            for name, value in properties.items()
        ),
        exceptions=tuple(
            ActionException(name, _text(value, _join(place, "exception")))
            for name, value in exceptions.items()
        ),
        schema=schema,
    )


def _parse_property(name: str, value: JSON, required: bool, place: str) -> Parameter:
    schema = dict(_object(value, place))
    kind = schema.get("type")
    if isinstance(kind, str) and kind in TYPES:
        del schema["type"]
    else:  # no type, or several: the schema keeps it
        kind = "any"
    enumeration = schema.pop("enum", [])
    if not isinstance(enumeration, list):
        raise DefinitionError(
            _join(place, "enum"), "a list of values", describe(enumeration)
        )
    return Parameter(
        name=_name(name, place),
        type=kind,
        description=_text(schema.pop("description", ""), _join(place, "description")),
        unit=_text(schema.pop("unit", ""), _join(place, "unit")),
        enumeration=tuple(enumeration),
        optional=not required,
        schema=schema,
    )


def to_openai(definition: ActionDefinition) -> dict[str, JSON]:
    """Return the OpenAI tool; ``unit`` and ``exception`` are written as extra keys."""
    properties: dict[str, JSON] = {}
    for parameter in definition.parameters:
        form: dict[str, JSON] = {}
        if parameter.type != "any":
            form["type"] = parameter.type
        if parameter.description:
            form["description"] = parameter.description
        if parameter.enumeration:
            form["enum"] = list(parameter.enumeration)
        if parameter.unit:
            form["unit"] = parameter.unit
        form.update(parameter.schema)
        properties[parameter.name] = form
    required: list[JSON] = [p.name for p in definition.parameters if not p.optional]
    function: dict[str, JSON] = {
        "name": definition.name,
        "description": definition.description,
        "parameters": {
            "type": "object",
            "properties": properties,
            "required": required,
            **definition.schema,
        },
    }
    if definition.exceptions:
        function["exception"] = {e.name: e.description for e in definition.exceptions}
    return {"type": "function", "function": function}


def check_parameters(
    definition: ActionDefinition, parameters: Mapping[str, JSON]
) -> list[ParameterError]:
    """Return what is wrong with the parameters of a call; an empty list means valid."""
    errors = []
    known = {parameter.name: parameter for parameter in definition.parameters}
    for name in parameters:
        if name not in known:
            expected = "one of " + ", ".join(known) if known else "no parameters"
            errors.append(ParameterError(name, expected, "an unknown parameter"))
    for parameter in definition.parameters:
        if parameter.name not in parameters:
            if not parameter.optional:
                errors.append(ParameterError(parameter.name, "a value", "nothing"))
            continue
        schema: dict[str, JSON] = dict(parameter.schema)
        if parameter.type != "any":
            schema["type"] = parameter.type
        if parameter.enumeration:
            schema["enum"] = list(parameter.enumeration)
        error = _mismatch(schema, parameters[parameter.name], parameter.name)
        if error:
            errors.append(error)
    return errors


_CHECKED_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def _mismatch(
    schema: Mapping[str, JSON], value: JSON, place: str
) -> ParameterError | None:
    """Check type, enum, items, properties and required; ignore all other keys."""
    kind = schema.get("type")
    if isinstance(kind, str) and kind in _CHECKED_TYPES:
        whole = kind == "integer" and isinstance(value, float) and value.is_integer()
        right = isinstance(value, _CHECKED_TYPES[kind]) or whole
        if isinstance(value, bool) and kind != "boolean":
            right = False
        if not right:
            return ParameterError(place, f"type {kind}", describe(value))
    choices = schema.get("enum")
    if isinstance(choices, list) and not any(json_equal(value, c) for c in choices):
        expected = "one of " + ", ".join(describe(choice) for choice in choices)
        return ParameterError(place, expected, describe(value))
    items = schema.get("items")
    if isinstance(value, list) and isinstance(items, dict):
        for index, item in enumerate(value):
            error = _mismatch(items, item, f"{place}[{index}]")
            if error:
                return error
    if isinstance(value, dict):
        required = schema.get("required")
        for name in required if isinstance(required, list) else []:
            if name not in value:
                return ParameterError(f"{place}.{name}", "a value", "nothing")
        properties = schema.get("properties")
        for name, item in value.items() if isinstance(properties, dict) else []:
            inner = properties.get(name) if isinstance(properties, dict) else None
            if isinstance(inner, dict):
                error = _mismatch(inner, item, f"{place}.{name}")
                if error:
                    return error
    return None
