"""What the templates need and Django's own filters do not give."""

from __future__ import annotations

from typing import Any

from django import template

register = template.Library()


@register.filter
def pairs(mapping: Any) -> list[tuple[str, Any]]:
    """Return a mapping's items; ``mapping.items`` would find a key named "items"."""
    return list(mapping.items()) if isinstance(mapping, dict) else []
