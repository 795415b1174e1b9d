"""Search local thinking contexts by the words of a task."""

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
from actions.tags import JSON
from actions.words import STOP_WORDS, raw_words
from annotation.models import Project, Scope, ThinkingContext

MAX_WORDS = 32


def context_to_json(context: ThinkingContext) -> dict[str, JSON]:
    """Return a context in its Concord JSONL form."""
    return {
        "scope": context.scope,
        "title": context.title,
        "background": context.background,
        "guideline": context.guideline,
        "actions": context.actions,
    }


class _ActionsVector(SearchVectorCombinable, Func):
    """The texts in the action definitions, without the keys of their JSON."""

    function = "to_tsvector"
    template = "setweight(%(function)s('english'::regconfig, %(expressions)s), 'C')"
    output_field = SearchVectorField()


def search_contexts(
    *, project: Project, query: str, limit: int = 3
) -> list[ThinkingContext]:
    """Return a project's local contexts that share words with ``query``, best first.

    One common word is enough, and words of the title weigh more: a policy asks in
    sentences, and no context has every word of a sentence.
    """
    words = dict.fromkeys(word.casefold() for word in raw_words(query))
    search: SearchQuery | None = None
    for word in [word for word in words if word not in STOP_WORDS][:MAX_WORDS]:
        one = SearchQuery(word, config="english")
        search = one if search is None else search | one
    if search is None:
        return []
    vector = (
        SearchVector("title", weight="A", config="english")
        + SearchVector("background", "guideline", weight="B", config="english")
        + _ActionsVector(F("actions"))
    )
    return list(
        ThinkingContext.objects.filter(project=project, scope=Scope.LOCAL)
        .annotate(words=vector)
        .filter(words=search)
        .annotate(rank=SearchRank(vector, search))
        .order_by("-rank", "pk")[:limit]
    )


def find_local(*, project: Project, query: str) -> list[LocalContext]:
    """Return the result of :func:`search_contexts` in the form the action returns."""
    return [
        LocalContext(
            context.title,
            context.background,
            context.guideline,
            tuple(parse_definition(action) for action in context.actions),
        )
        for context in search_contexts(project=project, query=query)
    ]


def searcher(project: Project) -> Callable[[str], list[LocalContext]]:
    """Return the search function for the action Get thinking context.

    The executor runs it on a thread of its own, so the function closes the database
    connection of that thread.
    """

    def search(query: str) -> list[LocalContext]:
        try:
            return find_local(project=project, query=query)
        finally:
            if not connection.in_atomic_block:
                connection.close()

    return search
