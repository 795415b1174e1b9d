"""Markdown as safe HTML: the only module that marks HTML from people's text as safe.

The text is CommonMark with tables; HTML in it is shown as text. The output is also
sanitized, by a maintained library for that purpose.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

TAGS: Final = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "a"),
    *("ul", "ol", "li", "h3", "h4", "h5", "h6"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
# A guideline is shown under the h2 of a drawer or the h1 of its page.
HEADINGS: Final = {"h1": "h3", "h2": "h4", "h3": "h5"}

_READER: Final = MarkdownIt("commonmark", {"html": False}).enable(
    ["table", "strikethrough"]
)


@lru_cache(maxsize=64)
def render_markdown(text: str) -> SafeString:
    """Return the text as HTML without scripts, styles, pictures or foreign tags."""
    tokens = _READER.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = HEADINGS.get(token.tag, "h6")
    html = _READER.renderer.render(tokens, _READER.options, {})
    clean = nh3.clean(
        html,
        tags=TAGS,
        attributes={"a": {"href", "title"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )
    return mark_safe(clean)
