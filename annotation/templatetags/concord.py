"""Template filters that Django does not have."""

from __future__ import annotations

from typing import Any

from django import template

from annotation.authoring.situations import SITUATIONS
from annotation.models import Situation

register = template.Library()


@register.filter
def pairs(mapping: Any) -> list[tuple[str, Any]]:
    """Return a mapping's items; ``mapping.items`` could be its key "items"."""
    return list(mapping.items()) if isinstance(mapping, dict) else []


@register.filter
def at(mapping: Any, key: Any) -> Any:
    """Return a mapping's value for a key, or an empty list."""
    return mapping.get(key, []) if isinstance(mapping, dict) else []


@register.simple_tag
def duplicable_situations() -> list[tuple[str, str]]:
    """Return the situations that a sample can be made into, with their names."""
    return [(name, str(Situation(name).label)) for name in SITUATIONS]
