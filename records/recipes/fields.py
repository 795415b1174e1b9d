"""What is said of a setting beside its type and default.

The page form of a new run is made from it. ``help`` is one sentence; ``min`` and ``max``
are inclusive; ``choices``, ``unit``; ``advanced`` settings are shown folded. ``section``
is the title of the group that a recipe's own setting is shown with. ``when`` names other
settings and the values of theirs with which alone this one is used: the form then shows
it, the program otherwise ignores it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value = TypeVar("Value")


def about(
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[str] = (),
    unit: str = "",
    advanced: bool = False,
    section: str = "",
    when: Mapping[str, Sequence[str | bool]] | None = None,
) -> dict[str, object]:
    """Return the metadata of one setting, leaving out what was not said."""
    metadata: dict[str, object] = {"help": help, "advanced": advanced}
    if min is not None:
        metadata["min"] = min
    if max is not None:
        metadata["max"] = max
    if choices:
        metadata["choices"] = list(choices)
    if unit:
        metadata["unit"] = unit
    if section:
        metadata["section"] = section
    if when:
        metadata["when"] = {name: list(values) for name, values in when.items()}
    return metadata


def changed(
    group: type[DataclassInstance], name: str, default: Value, **metadata: object
) -> Value:
    """Return the setting ``name`` of ``group`` with a default of the recipe's own.

    ``metadata`` replaces parts of what the group says of it.
    """
    (inherited,) = [item for item in dataclasses.fields(group) if item.name == name]
    return dataclasses.field(
        default=default, metadata={**inherited.metadata, **metadata}
    )
