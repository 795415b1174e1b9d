"""The request size a view accepts, if more than a form's (config/web/bodies.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

View = TypeVar("View", bound=Callable[..., object])

# Somewhat more than the longest conversation that an import accepts; beyond it, the
# typed text would be lost.
LONG_TEXT: Final = 16 * 2**20
FILE: Final = 2**30


def takes(size: int) -> Callable[[View], View]:
    """Let a view accept requests of ``size`` bytes; must be its outermost decorator."""

    def mark(view: View) -> View:
        view.body_limit = size  # type: ignore[attr-defined]
        return view

    return mark
