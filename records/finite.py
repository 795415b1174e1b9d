"""Numbers that are not finite, NaN and the infinities, stop a run: nothing hides them.

One NaN in a weight makes every loss NaN, and a comparison with NaN is False, so what is
not looked at passes: a run with such a weight would end *finished*. Losses, gradient
norms, scores and figures are checked where they arise; the run fails before the optimiser
moves and keeps its last good checkpoint. ``finite_weights`` looks at weights.

Plain Python: the web side reads figures with the same functions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence


class NotFiniteError(Exception):
    """A number that is NaN or infinite: what it is, its value, and where it was found."""

    def __init__(self, what: str, value: float, place: str = "") -> None:
        super().__init__(what, value, place)
        self.what, self.value = what, value
        self.places = [place] if place else []

    def __str__(self) -> str:
        where = "".join(f"{place}: " for place in self.places)
        return f"{where}expected a finite {self.what}, found {self.value}"


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """Name the place, such as the step, of a number found not finite within."""
    try:
        yield
    except NotFiniteError as error:
        error.places.insert(0, place)
        raise


def must_be_finite(value: float, what: str, place: str = "") -> float:
    """Return ``value``; raise ``NotFiniteError`` if it is NaN or infinite."""
    if not math.isfinite(value):
        raise NotFiniteError(what, value, place)
    return value


def figures_must_be_finite(values: Mapping[str, object], place: str = "") -> None:
    """Raise ``NotFiniteError`` naming the first figure that is NaN or infinite.

    A figure that has no value is None; that is not an error.
    """
    not_finite = first_not_finite(values)
    if not_finite is not None:
        raise NotFiniteError(*not_finite, place)


def first_not_finite(value: object, name: str = "") -> tuple[str, float] | None:
    """Return name and value of the first NaN or infinity within, keys joined by ``/``."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (name, value)
    within: Iterator[tuple[object, object]] = iter(())
    if isinstance(value, Mapping):
        within = iter(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        within = iter(enumerate(value))
    for key, each in within:
        not_finite = first_not_finite(each, f"{name}/{key}" if name else str(key))
        if not_finite is not None:
            return not_finite
    return None
