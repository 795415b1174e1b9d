"""How large a request a view takes, where it takes more than a form (config/web/bodies.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

View = TypeVar("View", bound=Callable[..., object])

# The longest conversation that an import takes, and then some: of more, what was typed
# would be lost.
LONG_TEXT: Final = 16 * 2**20
FILE: Final = 2**30


def takes(size: int) -> Callable[[View], View]:
    """Let a view take requests of ``size`` bytes; the outermost of its decorators."""

    def mark(view: View) -> View:
        view.body_limit = size  # type: ignore[attr-defined]
        return view

    return mark
