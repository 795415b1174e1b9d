"""Translate the errors of the response grammar into the visitor's language.

``actions`` does not import Django, so the phrases that its parser expected and found
are translated here, where a page shows them. A phrase that quotes the text stays
unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext, gettext_noop

if TYPE_CHECKING:
    from actions.grammar import FormatError

# Phrases of actions.grammar and actions.json_values, for the message catalog.
PHRASES = (
    gettext_noop("an answer without tags, or <<think>> first"),
    gettext_noop("<<think>> at the start, or an answer without tags"),
    gettext_noop("<<action>> or <</think>>"),
    gettext_noop("an answer without tags"),
    gettext_noop("text, <<action>> or <</think>>"),
    gettext_noop("an answer"),
    gettext_noop("a JSON object"),
    gettext_noop("an action's name"),
    gettext_noop("parameters as an object"),
    gettext_noop("a JSON value"),
    gettext_noop("each key once"),
    gettext_noop("a number a double can hold"),
    gettext_noop("text"),
    gettext_noop("none"),
    gettext_noop("blanks"),
    gettext_noop("a lone surrogate"),
    gettext_noop("the end of the text"),
)


def grammar_message(error: FormatError) -> str:
    """Return what is wrong with a response and where: ``line 2, column 5: expected …``."""
    return gettext(
        "line %(line)s, column %(column)s: expected %(expected)s, found %(found)s"
    ) % {
        "line": error.line,
        "column": error.column,
        "expected": gettext(error.expected),
        "found": gettext(error.found),
    }
