"""Local thinking contexts are found by what a task is about."""

from __future__ import annotations

import pytest

from actions.builtins import BUILT_IN_ACTIONS, built_in_handlers
from actions.executor import Executor
from actions.grammar import ActionCall
from annotation.authoring.contexts import search_contexts, searcher
from annotation.models import Scope, ThinkingContext
from tests.cast import make_project

pytestmark = pytest.mark.django_db


def make_context(project, title, guideline="", scope=Scope.LOCAL, **fields):
    return ThinkingContext.objects.create(
        project=project,
        title=title,
        guideline=guideline,
        scope=scope,
        content_hash=title,
        **fields,
    )


def titles(project, query, **limits):
    found = search_contexts(project=project, query=query, **limits)
    return [context.title for context in found]


@pytest.fixture
def project():
    project = make_project()
    make_context(project, "Birthday cakes", "Ask for the number of guests.")
    make_context(project, "Flights", "A guest may carry a cake on board.")
    make_context(
        project,
        "Lamps",
        actions=[{"name": "Dim light", "description": "Make it darker."}],
    )
    make_context(project, "Cakes for all", scope=Scope.GLOBAL)
    make_context(make_project(), "Cakes elsewhere")
    return project


def test_best_match_comes_first(project):
    assert titles(project, "How do I order a cake?") == ["Birthday cakes", "Flights"]


def test_limit_holds(project):
    assert titles(project, "cakes", limit=1) == ["Birthday cakes"]


def test_actions_are_searched_but_not_the_keys_of_their_json(project):
    assert titles(project, "dimming the lights") == ["Lamps"]
    assert titles(project, "description parameters") == []


@pytest.mark.parametrize("query", ["", "the", "!?&|():*'\"\\", "a\0b", "cake " * 5000])
def test_any_query_is_answered(project, query):
    assert "Lamps" not in titles(project, query)


def test_policy_gets_the_context_as_text(project):
    executor = Executor(BUILT_IN_ACTIONS, built_in_handlers(searcher(project)))
    call = ActionCall.make("Get thinking context", {"query": "xylophone"})
    # The handler's thread has a connection of its own and sees committed rows only, so
    # what is shown here is that it reaches the database and says that nothing fits.
    assert executor.execute(call).text == (
        "Exception Nothing found: no thinking context fits"
    )
    assert searcher(project)("dim")[0].actions[0].name == "Dim light"
