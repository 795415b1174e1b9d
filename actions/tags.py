"""The six tags of the response grammar, and what a JSON value is."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

THINK_OPEN: Final = "<<think>>"
THINK_CLOSE: Final = "<</think>>"
ACTION_OPEN: Final = "<<action>>"
ACTION_CLOSE: Final = "<</action>>"
OBSERVATION_OPEN: Final = "<<observation>>"
OBSERVATION_CLOSE: Final = "<</observation>>"

TAGS: Final = (
    THINK_OPEN,
    THINK_CLOSE,
    ACTION_OPEN,
    ACTION_CLOSE,
    OBSERVATION_OPEN,
    OBSERVATION_CLOSE,
)

TAG_PATTERN: Final = re.compile(r"<</?(?:think|action|observation)>>")


def find_tag(text: str) -> str | None:
    """Return the first tag that stands in ``text``, or None."""
    match = TAG_PATTERN.search(text)
    return match.group() if match else None
