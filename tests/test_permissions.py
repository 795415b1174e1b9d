"""Who may do what, everywhere: every address, and every field that names a row.

Both are derived: addresses from the URL resolver, fields from the code that reads them.
What is not in the tables below fails, so a new address or field comes with a line here.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django import forms
from django.conf import settings
from django.contrib.auth.models import User
from django.urls import URLPattern, get_resolver, reverse

from annotation.models import (
    Membership,
    Project,
    Role,
    Slot,
)
from tests.cast import (
    make_project,
    make_user,
)
from tests.training.conftest import make_run
from tests.worlds import World, everything, make_world
from training.models import (
    InputRole,
    RunKind,
)
from training.views.forms import NewRunForm, PlaceForm
from training.views.recipe_form import RecipeForm

pytestmark = pytest.mark.django_db

# --- the tables -------------------------------------------------------------------------

ANY: tuple[str, ...] = ()
LABELER = (Role.LABELER,)
CURATOR = (Role.CURATOR,)
TRAINER = (Role.TRAINER,)
WRITERS = (Role.LABELER, Role.CURATOR)
READERS = (Role.CURATOR, Role.TRAINER)


@dataclass(frozen=True)
class Route:
    """Who may use an address, and which of its parts and fields name a row of what.

    ``roles``: one of them is needed, none for any member. ``path``, ``body``, ``query``:
    the kind of row (see ``World``) by the name of the part or field.
    """

    roles: tuple[str, ...]
    path: dict[str, str] = field(default_factory=dict)
    body: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)


LEASE = {"slot": "slot"}
INPUTS = dict.fromkeys(InputRole.values, "checkpoint")

ROUTES = {
    "annotation:project": Route(ANY),
    "annotation:judge": Route(LABELER, body=LEASE),
    "annotation:judge-skip": Route(LABELER, body=LEASE),
    "annotation:judge-undo": Route(LABELER, body={"judgment": "judgment"}),
    "annotation:judge-extend": Route(LABELER, body=LEASE),
    "annotation:judge-session": Route(LABELER),
    "annotation:judge-close-notice": Route(LABELER),
    "annotation:judge-later": Route(LABELER, body=LEASE),
    "annotation:judge-ahead": Route(LABELER, body=LEASE),
    "annotation:judge-leave": Route(LABELER, body=LEASE),
    "annotation:judge-task": Route(
        LABELER, body=LEASE | {"answer": "answer"}, query={"answer": "answer"}
    ),
    "annotation:judge-task-undo": Route(
        LABELER, body={"judgment": "judgment", "answer": "answer"}
    ),
    "annotation:judge-context": Route(LABELER, {"pk": "pair"}),
    "annotation:guideline": Route(ANY),
    "annotation:guideline-edit": Route(CURATOR),
    "annotation:guideline-preview": Route(CURATOR),
    "annotation:guideline-history": Route(ANY),
    "annotation:guideline-read": Route(LABELER),
    "annotation:example-pin": Route(CURATOR, {"pk": "settled"}),
    "annotation:example-unpin": Route(CURATOR, {"pk": "example"}),
    "annotation:write": Route(WRITERS),
    "annotation:draft-new": Route(WRITERS),
    "annotation:draft-paste": Route(WRITERS),
    "annotation:draft-duplicate": Route(WRITERS, {"pk": "own sample"}),
    "annotation:draft-revise": Route(WRITERS, {"pk": "returned"}),
    "annotation:draft": Route(WRITERS, {"pk": "draft"}, {"context": "context"}),
    "annotation:draft-save": Route(WRITERS, {"pk": "draft"}, {"context": "context"}),
    "annotation:draft-delete": Route(WRITERS, {"pk": "draft"}),
    "annotation:work": Route(LABELER),
    "annotation:samples": Route(READERS, query={"before": "sample"}),
    "annotation:coverage": Route(READERS),
    "annotation:samples-export": Route(READERS, query={"before": "sample"}),
    "annotation:samples-import": Route(CURATOR),
    "annotation:sample": Route(READERS, {"pk": "sample"}),
    "annotation:sample-approve": Route(CURATOR, {"pk": "sample"}),
    "annotation:sample-retire": Route(CURATOR, {"pk": "sample"}),
    "annotation:sample-return": Route(CURATOR, {"pk": "sample"}),
    "annotation:sample-history": Route(READERS, {"pk": "sample"}),
    "annotation:review": Route(CURATOR, query={"at": "sample"}),
    "annotation:review-bulk": Route(CURATOR, body={"keys": "sample"}),
    "annotation:disputes": Route(CURATOR, query={"at": "pair"}),
    "annotation:pair": Route(CURATOR, {"pk": "pair"}),
    "annotation:pair-settle": Route(CURATOR, {"pk": "pair"}),
    "annotation:review-approve": Route(CURATOR, {"pk": "sample"}),
    "annotation:review-return": Route(CURATOR, {"pk": "sample"}),
    "annotation:review-comment": Route(CURATOR, {"pk": "sample"}),
    "annotation:review-fix": Route(CURATOR, {"pk": "sample"}),
    "annotation:comment-resolve": Route(CURATOR, {"pk": "comment"}),
    "training:runs": Route(TRAINER, query={"before": "run"}),
    "training:run-new": Route(TRAINER, body=INPUTS | {"ask": "ask"}, query=INPUTS),
    "training:runs-compare": Route(TRAINER, query={"run": "run"}),
    "training:run": Route(TRAINER, {"pk": "run"}),
    "training:run-live": Route(TRAINER, {"pk": "run"}),
    "training:run-series": Route(TRAINER, {"pk": "run"}),
    "training:run-samples": Route(TRAINER, {"pk": "run"}),
    "training:run-stop": Route(TRAINER, {"pk": "run"}),
    "training:run-resume": Route(TRAINER, {"pk": "run"}),
    "training:run-place": Route(TRAINER, {"pk": "run"}),
    "training:iterations": Route(TRAINER),
    "training:iteration-new": Route(TRAINER),
    "training:iterations-series": Route(TRAINER),
    "training:iteration": Route(TRAINER, {"number": "iteration"}),
    "training:iteration-live": Route(TRAINER, {"number": "iteration"}),
    "training:iteration-do": Route(TRAINER, {"number": "iteration"}),
    "training:iteration-recipe": Route(TRAINER, {"number": "iteration"}),
    "training:iteration-change": Route(TRAINER, {"number": "iteration"}),
    "training:checkpoints": Route(
        TRAINER, query={"judgment": "judgment", "before": "checkpoint"}
    ),
    "training:checkpoints-retention": Route(TRAINER),
    "training:checkpoint": Route(TRAINER, {"pk": "checkpoint"}),
    "training:checkpoint-promote": Route(TRAINER, {"pk": "checkpoint"}),
    "training:checkpoint-download": Route(TRAINER, {"pk": "checkpoint"}),
    "training:checkpoint-export": Route(TRAINER, {"pk": "checkpoint"}),
    "training:draft-propose": Route(WRITERS, {"pk": "draft"}, {"context": "context"}),
    "training:draft-proposal": Route(WRITERS, {"pk": "proposal"}),
    "training:draft-proposal-use": Route(
        WRITERS, {"pk": "proposal"}, {"context": "context"}
    ),
    "training:snapshot": Route(TRAINER, {"pk": "snapshot"}),
}

# Addresses outside of every project, and those of Django itself.
ELSEWHERE = re.compile(
    r"admin:|annotation:home$|healthz$|words$|set_language$|log(in|out)$|password_"
)
# Parts of addresses that name no row: a kind from a list, the project itself.
NO_ROW_IN_PATH = {"slug": "cakes", "kind": "sft", "step": "draw"}

# Fields that name rows are those of the table above. These do not: texts, verdicts,
# filters, versions and numbers that count within what the address names.
PLAIN = {
    # judging
    "token", "since", "proof", "verdict", "reasons", "units", "seconds", "notice",
    "order_confirmed", "guideline", "reason", "more",
    # guideline
    "text", "change", "asks_to_reread", "base_version", "version", "note", "do",
    # writing
    "scenario", "situation", "turn_kind", "turn_text", "turn_response", "turn_blocks",
    "turn_key", "reference_of", "reference_text", "redraw", "other_version", "why", "save",
    "new_scope", "new_title", "new_background", "new_guideline", "new_actions",
    "propose",
    # samples and review: a name filters within the project
    "status", "split", "format", "file", "tools", "comment", "sure", "place", "author",
    "resolved", "next", "kind", "pin", "old", "new",
    # runs and iterations
    "state", "after", "all", "force", "remove", "keep_last", "keep_best",
    "is_automatic", "licence", "queue", "shares_device", "draw_next", "deed", "step",
    "seen", "wanted_judgments", "wanted_settled", "margin", "automatic",
    # the whole site
    "choose", "csrfmiddlewaretoken", "username", "password", "language",
    "old_password", "new_password1", "new_password2", "email",
}  # fmt: skip
# Settings of a recipe: texts and numbers; a base has tests of its own (test_bases.py).
PLAIN_PATTERN = re.compile(
    r"recipe_|choice-|place-|(draw|reward|policy|evaluate)-recipe_"
)


# --- addresses ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def data_dir(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    settings.CELERY_BROKER_URL = "memory://"


def routes() -> dict[str, URLPattern]:
    """Return every address below the resolver by its full name."""
    found: dict[str, URLPattern] = {}

    def walk(patterns, namespace):
        for one in patterns:
            if isinstance(one, URLPattern):
                found[f"{namespace}{one.name}"] = one
            else:
                inner = f"{one.namespace}:" if one.namespace else ""
                walk(one.url_patterns, namespace + inner)

    walk(get_resolver().url_patterns, "")
    return found


def parts_of(name: str) -> set[str]:
    return set(routes()[name].pattern.converters)


def address(name: str, world: World, slug: str, **foreign: object) -> str:
    """Return the address with the world's rows, but for those given."""
    path = {
        part: NO_ROW_IN_PATH[part] for part in parts_of(name) if part in NO_ROW_IN_PATH
    }
    path |= {part: world.number(kind) for part, kind in ROUTES[name].path.items()}
    return reverse(name, kwargs=path | {"slug": slug} | foreign)


# --- the tables are whole ---------------------------------------------------------------


def test_every_address_is_in_the_table():
    known = {name for name in routes() if not ELSEWHERE.match(name)}
    assert known == set(ROUTES)


def test_every_part_of_an_address_is_in_the_table():
    for name, route in ROUTES.items():
        assert parts_of(name) - set(NO_ROW_IN_PATH) == set(route.path), name


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (settings.BASE_DIR / folder).rglob("*.py")


def fields_read() -> set[str]:
    """Return the fields that code reads from a request: by name, and by its forms."""
    found: set[str] = set()
    for path in (
        *sources("annotation/views", "training/views"),
        settings.BASE_DIR / "annotation/authoring/drafts.py",
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = ast.unparse(node.func.value)
                is_read = node.func.attr in ("get", "getlist") and (
                    of.endswith((".POST", ".GET")) or of == "post"
                )
                if is_read and node.args and isinstance(node.args[0], ast.Constant):
                    found.add(node.args[0].value)
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
                of = {ast.unparse(one) for one in node.comparators}
                if of & {"request.POST", "request.GET", "post"}:
                    found.add(node.left.value)
    for form in all_forms():
        found |= set(form.base_fields)
    return found


def all_forms() -> list[type[forms.BaseForm]]:
    found = []
    for package in ("annotation", "training"):
        for info in pkgutil.iter_modules([str(settings.BASE_DIR / package)]):
            module = importlib.import_module(f"{package}.{info.name}")
            found += [
                one
                for _, one in inspect.getmembers(module, inspect.isclass)
                if issubclass(one, forms.BaseForm) and one.__module__ == module.__name__
            ]
    return found


def fields_of_runs() -> set[str]:
    """Return the fields of the forms that are made from a recipe."""
    project = make_project()
    found: set[str] = set()
    for kind in RunKind.values:
        found |= set(NewRunForm(project=project, kind=kind, chosen={}).fields)
        found |= set(RecipeForm(kind=kind).fields)
    return found | set(PlaceForm(run=make_run(project=project)).fields)


def fields_of_templates() -> set[str]:
    """Return the fields that pages send, but for names that are computed."""
    pattern = re.compile(r'<(?:input|select|textarea|button)\b[^>]*?\sname="([^"{]+)"')
    return {
        name
        for path in (settings.BASE_DIR / "templates").rglob("*.html")
        for name in pattern.findall(path.read_text(encoding="utf-8"))
    }


def test_every_field_is_in_a_table():
    naming = {name for route in ROUTES.values() for name in route.body | route.query}
    known = naming | PLAIN
    read = fields_read() | fields_of_runs() | fields_of_templates()
    unknown = {name for name in read - known if not PLAIN_PATTERN.match(name)}
    assert unknown == set(), (
        "does it name a row? Then it goes into ROUTES, else into PLAIN"
    )
    # ``place`` is a part of a sample; ``version`` counts within a guideline or a draft.
    assert naming & PLAIN == set()


def test_every_form_that_a_view_binds_has_its_fields_in_the_views_route():
    """A field that names rows somewhere is declared at every address that takes it."""
    naming = {name for route in ROUTES.values() for name in route.body}
    by_name = {form.__name__: set(form.base_fields) & naming for form in all_forms()}
    for name, route in ROUTES.items():
        view = inspect.unwrap(routes()[name].callback)
        module = ast.parse(inspect.getsource(inspect.getmodule(view)))
        functions = {
            node.name: node for node in module.body if isinstance(node, ast.FunctionDef)
        }
        taken = taken_by(functions, view.__name__, by_name, set())
        assert taken <= set(route.body), name


def taken_by(functions, name, forms_by_name, seen) -> set[str]:
    """Return the row-naming fields of the forms a function binds to a post, or calls."""
    if name in seen or name not in functions:
        return set()
    seen.add(name)
    taken: set[str] = set()
    for node in ast.walk(functions[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = node.func.id
            if called in forms_by_name and "POST" in ast.unparse(node):
                taken |= forms_by_name[called]
            taken |= taken_by(functions, called, forms_by_name, seen)
    return taken


# Who is handed over as the one who acts.
ACTORS = {"user", "curator", "editor", "author"}
# Not deeds: they read, or name a person in words.
READS = {
    "expression", "session_of", "task_of", "unread_guideline", "last_known_version",
    "progress_of", "plan_bulk", "filter", "view_for", "get_object_or_404",
}  # fmt: skip


def test_views_hand_the_project_to_every_deed_and_write_nothing_themselves():
    for path in sources("annotation/views", "training/views"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            place = f"{path.name}:{node.lineno}"
            called = ast.unparse(node.func).rpartition(".")[2]
            named = {one.arg for one in node.keywords}
            if named & ACTORS and called not in READS:
                has_it = named & {"project", "policy"}  # a retention policy is one's
                assert has_it or called == "remove_files", place
            assert not re.search(
                r"\.objects\b.*\.(create|update|delete|bulk_create|get_or_create)$",
                ast.unparse(node.func),
            ), place
            assert called not in ("save", "delete"), place


# --- playing ----------------------------------------------------------------------------


def stranger(project: Project) -> User:
    return make_user("sam")


def member_elsewhere(project: Project) -> User:
    user = make_user("ella")
    _grant(make_project(slug="elsewhere"), user)
    return user


def removed(project: Project) -> User:
    user = make_user("remo")
    _grant(project, user)
    for membership in Membership.objects.filter(project=project, user=user):
        membership.delete()
    return user


def deactivated(project: Project) -> User:
    user = make_user("dana")
    _grant(project, user)
    user.is_active = False
    user.save()
    return user


def _grant(project: Project, user: User) -> None:
    Membership.objects.bulk_create(
        Membership(project=project, user=user, role=role) for role in Role.values
    )


def send(client, method: str, where: str, data=None):
    headers = {"Accept": "application/json"} if "/judge/" in where else {}
    return getattr(client, method)(where, data or {}, headers=headers)


@pytest.mark.parametrize(
    ("visitor", "status"),
    [
        (stranger, 404),
        pytest.param(member_elsewhere, 404, marks=pytest.mark.slow),
        pytest.param(removed, 404, marks=pytest.mark.slow),
        (deactivated, 302),
        (None, 302),
    ],
)
def test_who_is_not_in_the_project_gets_nowhere(client, visitor, status):
    ours = make_world("cakes", make_user("owen"), "ours")
    if visitor is not None:
        user = visitor(ours.project)
        client.force_login(user)
    before = everything()
    for name, route in ROUTES.items():
        where = address(name, ours, "cakes")
        body = {name: ours.number(kind) for name, kind in route.body.items()}
        for method, data in (("get", {}), ("post", body)):
            response = send(client, method, where, data)
            if response.status_code == 405:
                continue
            assert response.status_code == status, f"{method} {where}"
            if status == 302:
                assert response["Location"].startswith("/accounts/login/"), where
            assert "ours" not in response.content.decode().replace(where, ""), where
    assert everything() == before


@pytest.mark.parametrize("kept", Role.values[:3])
def test_who_has_lost_the_right_role_is_told_and_does_nothing(client, kept):
    ours = make_world("cakes", make_user("owen"), "ours")
    user = make_user("lola")
    _grant(ours.project, user)
    Membership.objects.filter(user=user).exclude(role=kept).delete()
    client.force_login(user)
    before = everything()
    played = 0
    for name, route in ROUTES.items():
        if not route.roles or kept in route.roles:
            continue
        where = address(name, ours, "cakes")
        body = {name: ours.number(kind) for name, kind in route.body.items()}
        for method, data in (("get", {}), ("post", body)):
            response = send(client, method, where, data)
            if response.status_code != 405:
                played += 1
                assert response.status_code == 403, f"{method} {where}"
    assert everything() == before
    assert played > 20


LEFT_OR_THERE = pytest.mark.parametrize(
    "is_there",
    [
        pytest.param(False, id="who left it"),
        pytest.param(True, id="who is in it too", marks=pytest.mark.slow),
    ],
)


@pytest.fixture
def worlds():
    """The visitor's own project, and another one they are or were in."""
    person = make_user("pia")
    ours = make_world("cakes", person, "ours")
    theirs = make_world("tarts", person, "theirs-only")
    return person, ours, theirs


def leave(person: User, world: World) -> None:
    for membership in Membership.objects.filter(project=world.project, user=person):
        membership.delete()


@LEFT_OR_THERE
def test_no_address_reaches_a_row_of_another_project(client, worlds, is_there):
    person, ours, theirs = worlds
    if not is_there:
        leave(person, theirs)
    client.force_login(person)
    before = everything(theirs.project)
    for name, route in ROUTES.items():
        for part, kind in route.path.items():
            foreign = {part: theirs.number(kind)}
            where = address(name, ours, "cakes", **foreign)
            for method in ("get", "post"):
                response = send(client, method, where)
                if response.status_code != 405:
                    assert response.status_code == 404, f"{method} {where}"
    assert everything(theirs.project) == before


# What the fields of a form need besides the one that is played.
REST = {
    "token": "1",
    "verdict": "1",
    "reason": "Torn.",
    "since": "2026-01-01T00:00:00+00:00",
    "version": "0",
    "do": "save",
    "turn_kind": "user",
    "turn_text": "Hm?",
    "turn_response": "A.",
    "turn_key": "1",
    "propose": "1",
}
# Where a foreign row is as one that is not there, but the answer is another than 404:
# it was left out of a list, or the form comes back, or there is nothing to take back.
OTHERWISE = {
    ("judgment", "annotation:judge-undo"): (409,),
    ("judgment", "annotation:judge-task-undo"): (303,),
    ("answer", "annotation:judge-task-undo"): (303,),
    ("slot", "annotation:judge-leave"): (204,),
    ("keys", "annotation:review-bulk"): (200,),
    ("context", "annotation:draft"): (302,),
    ("context", "annotation:draft-save"): (200,),
    ("context", "training:draft-propose"): (200,),
    ("context", "training:draft-proposal-use"): (302, 409),
    **{(role, "training:run-new"): (422,) for role in INPUTS},
    ("ask", "training:run-new"): (302,),
    ("answer", "annotation:judge-task"): (303, 302),
}


# A kind of run that takes the checkpoint.
TAKES = {"initial": "evaluate", "reward": "evaluate"}
TAKES |= dict.fromkeys(["reward-2", "reward-3", "preference"], "policy")


def run_form(world: World, kind: str) -> dict[str, object]:
    """Return a filled form that starts a run, were it not for what is played."""
    form = NewRunForm(project=world.project, kind=kind, chosen={})
    initial = {n: form.get_initial_for_field(one, n) for n, one in form.fields.items()}
    filled = {n: v for n, v in initial.items() if v is not None and v is not False}
    if kind != "sft":
        filled["policy"] = world.number("checkpoint")
    return filled


def test_the_form_of_a_run_would_start_one(client):
    ours = make_world("cakes", person := make_user("pia"), "ours")
    client.force_login(person)
    for kind in ("sft", "evaluate"):
        where = address("training:run-new", ours, "cakes", kind=kind)
        page = client.post(where, run_form(ours, kind))
        assert page.status_code == 302, page.context["form"].errors


@LEFT_OR_THERE
def test_no_field_of_a_form_reaches_a_row_of_another_project(client, worlds, is_there):
    person, ours, theirs = worlds
    slot = Slot.objects.get(pk=theirs.number("slot"))
    rest = REST | {"token": slot.token, "proof": slot.lease_proof}
    rest["since"] = slot.leased_at.isoformat()
    if not is_there:
        leave(person, theirs)
    client.force_login(person)
    before = everything(theirs.project)
    played = 0
    for name, route in ROUTES.items():
        for field_name, kind in route.body.items():
            own = {one: ours.number(of) for one, of in route.body.items()}
            data = {**rest, **own, field_name: theirs.number(kind)}
            where = address(name, ours, "cakes")
            if name == "training:run-new":
                run_kind = TAKES.get(field_name, "sft")
                data = run_form(ours, run_kind) | {field_name: theirs.number(kind)}
                where = address(name, ours, "cakes", kind=run_kind)
            response = send(client, "post", where, data)
            allowed = OTHERWISE.get((field_name, name), (404,))
            assert response.status_code in allowed, f"{where} {field_name}"
            assert "theirs-only" not in response.content.decode(), (
                f"{where} {field_name}"
            )
            assert everything(theirs.project) == before, f"{where} {field_name}"
            played += 1
    assert played > 20


@LEFT_OR_THERE
def test_no_query_reaches_a_row_of_another_project(client, worlds, is_there):
    person, ours, theirs = worlds
    if not is_there:
        leave(person, theirs)
    client.force_login(person)
    before = everything(theirs.project)
    not_found = 0
    for name, route in ROUTES.items():
        for field_name, kind in route.query.items():
            where = address(name, ours, "cakes")
            page = client.get(where, {field_name: theirs.number(kind)}, follow=True)
            text = (
                b"".join(page.streaming_content) if page.streaming else page.content
            ).decode()
            # A person in both projects finds the other's name in the menu, no more.
            text = text.replace(str(theirs.project), "")
            assert page.status_code in (200, 404), f"{where} {field_name}"
            assert "theirs-only" not in text, f"{where} {field_name}"
            not_found += page.status_code == 404
    assert everything(theirs.project) == before
    assert not_found >= 2, "compare and checkpoints name a row: it is not there"
