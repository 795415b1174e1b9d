"""Signing in, the start page and the navigation."""

from __future__ import annotations

import re

import pytest
from django.template.loader import render_to_string
from django.test import Client

from annotation.models import Membership
from tests.cast import PASSWORD, make_pair, make_project, make_user, sign_in

pytestmark = pytest.mark.django_db


def test_sign_in_leads_to_the_work_of_ones_role(client):
    make_project(slug="cakes")
    response = client.post(
        "/accounts/login/", {"username": "lena", "password": PASSWORD}, follow=True
    )
    assert [address for address, _ in response.redirect_chain] == [
        "/",
        "/p/cakes/",
        "/p/cakes/judge/",
    ]


def test_wrong_password_is_said_and_the_name_stays(client):
    make_user("lena")
    response = client.post("/accounts/login/", {"username": "lena", "password": "no"})
    page = response.content.decode()
    assert "correct username and password" in page
    assert 'value="lena"' in page


def test_sign_out_is_a_post(client):
    sign_in(client, make_user("lena"))
    assert client.get("/accounts/logout/").status_code == 405
    client.post("/accounts/logout/")
    assert client.get("/").status_code == 302


@pytest.mark.parametrize(
    ("name", "page"), [("rita", "samples"), ("ada", "samples"), ("lena", "judge")]
)
def test_the_project_sends_each_role_to_its_page(client, name, page):
    make_project(slug="cakes")
    sign_in(client, make_user(name))
    assert client.get("/p/cakes/")["Location"] == f"/p/cakes/{page}/"


def test_members_of_several_projects_choose(client):
    make_project(name="Cakes")
    make_project(name="Bread")
    sign_in(client, make_user("lena"))
    page = client.get("/").content.decode()
    assert "Cakes" in page
    assert "Bread" in page


def test_a_member_of_nothing_is_told_so(client):
    sign_in(client, make_user("sam"))
    assert "No project yet" in client.get("/").content.decode()


def test_navigation_shows_the_pages_of_ones_roles(client):
    project = make_project(slug="cakes")
    lena = sign_in(client, make_user("lena"))
    page = client.get("/p/cakes/work/").content.decode()
    assert 'aria-current="page"' in page
    assert "/p/cakes/judge/" in page
    assert "/p/cakes/samples/" not in page
    Membership.objects.create(project=project, user=lena, role="curator")
    assert "/p/cakes/samples/" in client.get("/p/cakes/work/").content.decode()


@pytest.mark.parametrize(
    ("address", "item"),
    [
        ("judge/", "Judge"),
        ("review/", "Review"),
        ("review/disputes/", "Review"),
        ("pairs/{pair}/", "Review"),
        ("guideline/", "Review"),
        ("guideline/edit/", "Review"),
        ("guideline/history/", "Review"),
        ("samples/coverage/", "Samples"),
    ],
)
def test_navigation_marks_the_page_that_an_address_belongs_to(client, address, item):
    project = make_project(slug="cakes")
    pair = make_pair(project=project)
    rita = make_user("rita")
    Membership.objects.create(project=project, user=rita, role="labeler")
    sign_in(client, rita)
    page = client.get(f"/p/cakes/{address.format(pair=pair.pk)}").content.decode()
    assert re.findall(r'aria-current="page">([^<]*)</a>', page)[:1] == [item]
    nav = page[page.index("<nav") : page.index("</nav>")]
    assert nav.count("aria-current") == 1


def test_a_foreign_project_looks_like_none(client):
    make_project(slug="cakes")
    sign_in(client, make_user("sam"))
    foreign, none = client.get("/p/cakes/"), client.get("/p/none/")
    assert foreign.status_code == none.status_code == 404
    strip = lambda page: page.content.decode().replace("cakes", "none")  # noqa: E731
    assert "Nothing here" in strip(foreign)
    assert "Cakes" not in foreign.content.decode()


@pytest.mark.parametrize("address", ["/", "/p/cakes/", "/p/cakes/work/"])
def test_pages_need_a_sign_in(client, address):
    make_project(slug="cakes")
    assert client.get(address)["Location"].startswith("/accounts/login/")


def test_no_page_has_inline_script_or_style(client):
    make_project(slug="cakes")
    sign_in(client, make_user("ada"))
    for address in (
        "/?choose",
        "/p/cakes/judge/",
        "/p/cakes/write/",
        "/p/cakes/work/",
        "/p/cakes/samples/",
        "/p/cakes/samples/import/",
        "/p/cakes/samples/coverage/",
    ):
        response = client.get(address)
        page = response.content.decode()
        assert response.status_code == 200, address
        assert "<style" not in page
        assert " style=" not in page
        assert "javascript:" not in page
        assert page.count("<script") == page.count("<script src=")
        assert "unsafe" not in response["Content-Security-Policy"]


def test_a_stale_token_gets_a_page_that_says_so():
    client = Client(enforce_csrf_checks=True)
    response = client.post("/accounts/login/", {"username": "lena", "password": "x"})
    assert response.status_code == 403
    assert "This page is too old" in response.content.decode()


def test_staff_find_the_django_admin(client):
    make_project(slug="cakes")
    ada = sign_in(client, make_user("ada"))
    ada.is_staff = ada.is_superuser = True
    ada.save()
    page = client.get("/p/cakes/samples/").content.decode()
    assert 'href="/admin/"' in page
    for name in ("Judge", "Samples", "Runs", "Checkpoints"):
        assert f">{name}</a>" in page


def test_a_server_error_needs_no_context():
    page = render_to_string("500.html")
    assert "Something broke" in page
