"""Local thinking contexts, found by what a task is about."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.postgres.search import (
    SearchQuery,
    SearchRank,
    SearchVector,
    SearchVectorCombinable,
    SearchVectorField,
)
from django.db import connection
from django.db.models import F, Func

from actions.builtins import LocalContext
from actions.definitions import parse_definition
from actions.words import meaning_words
from annotation.models import Project, Scope, ThinkingContext

MAX_WORDS = 32


class _ActionsVector(SearchVectorCombinable, Func):
    """The texts in the action definitions, without the keys of their JSON."""

    function = "to_tsvector"
    template = "setweight(%(function)s('english'::regconfig, %(expressions)s), 'C')"
    output_field = SearchVectorField()


def search_contexts(
    *, project: Project, query: str, limit: int = 3
) -> list[ThinkingContext]:
    """Return the local contexts of a project that share words with ``query``, best first.

    One word in common suffices, and words of the title weigh more: a policy asks in
    sentences, of which no context has every word.
    """
    asked: SearchQuery | None = None
    for word in list(dict.fromkeys(meaning_words(query)))[:MAX_WORDS]:
        one = SearchQuery(word, config="english")
        asked = one if asked is None else asked | one
    if asked is None:
        return []
    vector = (
        SearchVector("title", weight="A", config="english")
        + SearchVector("background", "guideline", weight="B", config="english")
        + _ActionsVector(F("actions"))
    )
    return list(
        ThinkingContext.objects.filter(project=project, scope=Scope.LOCAL)
        .annotate(words=vector)
        .filter(words=asked)
        .annotate(rank=SearchRank(vector, asked))
        .order_by("-rank", "pk")[:limit]
    )


def searcher(project: Project) -> Callable[[str], list[LocalContext]]:
    """Return the search that the action Get thinking context is given.

    It runs on a thread of the executor, whose connection nobody else would close.
    """

    def search(query: str) -> list[LocalContext]:
        try:
            found = search_contexts(project=project, query=query)
        finally:
            connection.close()
        return [
            LocalContext(
                context.title,
                context.background,
                context.guideline,
                tuple(parse_definition(action) for action in context.actions),
            )
            for context in found
        ]

    return search
