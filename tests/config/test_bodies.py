"""How large a request may be is decided by its route, before it is read."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import URLPattern, URLResolver, get_resolver

from config.web.bodies import FORM_BYTES
from tests.cast import make_project, make_user, sign_in

pytestmark = pytest.mark.django_db
MEGABYTE = 2**20


@pytest.fixture
def rita(client):
    make_project(slug="cakes")
    return sign_in(client, make_user("rita"))


def test_a_form_of_more_than_two_megabytes_is_refused_and_the_page_says_so(
    client, rita
):
    fields = {"text": "x" * (3 * MEGABYTE)}
    response = client.post("/p/cakes/guideline/preview/", fields)
    assert response.status_code == 413
    page = response.content.decode()
    assert "This page takes at most 2.0\xa0MB, and 3.0\xa0MB were sent." in page
    assert client.post("/p/cakes/guideline/preview/", {"text": "x"}).status_code == 200


def test_a_request_that_is_too_large_is_not_parsed(client, rita, monkeypatch):
    def refuse(self, *args):
        raise AssertionError("parsed")

    target = "django.http.request.HttpRequest._load_post_and_files"
    monkeypatch.setattr(target, refuse)
    fields = {"text": "x" * (3 * MEGABYTE)}
    assert client.post("/p/cakes/guideline/preview/", fields).status_code == 413


def test_the_length_that_a_request_claims_is_what_counts(client, rita):
    response = client.generic(
        "POST", "/p/cakes/guideline/preview/", b"", CONTENT_LENGTH=str(2**60)
    )
    assert response.status_code == 413


@pytest.mark.slow
def test_long_texts_and_files_have_limits_of_their_own(client, rita):
    text = {"text": "x" * (3 * MEGABYTE)}
    assert client.post("/p/cakes/write/paste/", text).status_code == 422
    text = {"text": "x" * (17 * MEGABYTE)}
    assert client.post("/p/cakes/write/paste/", text).status_code == 413
    lines = json.dumps({"turns": None}) + "\n"
    file = SimpleUploadedFile("a.jsonl", lines.encode() * 200_000)
    fields = {"file": file, "format": "concord"}
    response = client.post("/p/cakes/samples/import/", fields)
    assert response.status_code == 200
    assert "200\u202f000 refused" in response.content.decode()


def views(resolver):
    for one in resolver.url_patterns:
        if isinstance(one, URLResolver):
            yield from views(one)
        elif isinstance(one, URLPattern):
            yield one.name, one.callback


def test_only_drafts_and_files_take_more_than_a_form():
    limits = {
        name: view.body_limit // MEGABYTE
        for name, view in views(get_resolver())
        if getattr(view, "body_limit", FORM_BYTES) > FORM_BYTES
    }
    assert limits == {
        "draft": 16,
        "draft-save": 16,
        "draft-paste": 16,
        "draft-propose": 16,
        "draft-proposal-use": 16,
        "samples-import": 1024,
    }
