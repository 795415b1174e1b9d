"""Pages in the visitor's language: chosen once, kept, without JavaScript."""

import gzip
import re

import pytest
from django.conf import settings
from django.template.loader import get_template
from django.utils import translation

from tests.cast import make_project, make_user, sign_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def back_to_english():
    """The language of the last request stays with the thread."""
    yield
    translation.activate(settings.LANGUAGE_CODE)


def switch(client, language="zh-hans", next_="/"):
    return client.post("/i18n/setlang/", {"language": language, "next": next_})


def test_the_sign_in_page_offers_the_languages_as_a_plain_form(client):
    page = client.get("/accounts/login/?next=/p/x/").content.decode()
    assert 'action="/i18n/setlang/"' in page
    assert re.search(
        r'name="language" value="zh-hans" lang="zh-hans"\s*>简体中文<', page
    )
    assert 'name="next" value="/accounts/login/?next=/p/x/"' in page


def test_the_choice_is_kept_in_a_cookie_and_leads_back(client):
    answer = switch(client, next_="/accounts/login/?next=/p/x/")
    assert answer["Location"] == "/accounts/login/?next=/p/x/"
    cookie = answer.cookies[settings.LANGUAGE_COOKIE_NAME]
    assert (cookie.value, cookie["samesite"]) == ("zh-hans", "Lax")
    assert cookie["max-age"] == 365 * 24 * 3600
    page = client.get("/accounts/login/")
    assert '<html lang="zh-hans">' in page.content.decode()
    assert page["Content-Language"] == "zh-hans"


def test_the_switch_never_leads_to_another_site(client):
    assert switch(client, next_="https://elsewhere.example/")["Location"] == "/"


def test_a_browser_that_asks_for_chinese_gets_it(client):
    for asked in ("zh-CN,zh;q=0.9", "zh-Hans-CN", "zh"):
        page = client.get("/accounts/login/", headers={"Accept-Language": asked})
        assert '<html lang="zh-hans">' in page.content.decode(), asked
    page = client.get("/accounts/login/", headers={"Accept-Language": "fr"})
    assert '<html lang="en">' in page.content.decode()


def test_caches_are_told_what_a_page_depends_on(client):
    sign_in(client, make_user("ada"))
    page = client.get("/?choose")
    varies = {name.strip() for name in page["Vary"].split(",")}
    assert {"Accept-Language", "Cookie"} <= varies


def test_fragments_and_error_pages_follow_the_choice(client):
    project = make_project()
    sign_in(client, make_user("tara"))
    switch(client)
    fragment = client.get(f"/p/{project.slug}/runs/", headers={"HX-Request": "true"})
    assert "运行" in fragment.content.decode()
    missing = client.get("/p/none/")
    assert missing.status_code == 404
    assert '<html lang="zh-hans">' in missing.content.decode()
    assert "这里什么也没有" in missing.content.decode()


def test_the_page_of_a_failure_asks_nothing_of_the_database(
    django_assert_num_queries,
):
    with django_assert_num_queries(0), translation.override("zh-hans"):
        page = get_template("500.html").render()
    assert '<html lang="zh-hans">' in page
    assert "出错了" in page


def test_the_scripts_words_are_cached_under_an_address_that_tells_their_content(client):
    assert "/words/" not in client.get("/accounts/login/").content.decode()
    switch(client)
    page = client.get("/accounts/login/").content.decode()
    (address,) = re.findall(r'src="(/words/zh-hans/\w+\.js)"', page)
    switch(client, "en")
    # The address says the language, not the visitor.
    answer = client.get(address)
    assert "immutable" in answer["Cache-Control"]
    assert "public" in answer["Cache-Control"]
    assert answer["Content-Type"].startswith("text/javascript")
    assert '"Close": "\\u5173\\u95ed"' in answer.content.decode()
    assert client.get("/words/tlh/0.js").status_code == 404


def test_pages_travel_compressed(client):
    plain = client.get("/accounts/login/")
    packed = client.get("/accounts/login/", headers={"Accept-Encoding": "gzip"})
    assert packed["Content-Encoding"] == "gzip"
    assert b"<!doctype html>" in gzip.decompress(packed.content)
    assert len(packed.content) < len(plain.content) / 2


def test_dates_follow_the_language_and_numbers_for_machines_stay_plain(client):
    from django.template import Context, Template
    from django.utils import timezone

    template = Template(
        '{% load humanize %}{{ at|date:"SHORT_DATETIME_FORMAT" }} {{ n }} {{ n|intcomma }}'
    )
    at = timezone.datetime(2026, 11, 20, 9, 5, tzinfo=timezone.get_current_timezone())
    context = Context({"at": at, "n": 12345})
    assert template.render(context) == "20 Nov, 09:05 12345 12\u202f345"
    with translation.override("zh-hans"):
        assert template.render(context) == "11月20日 09:05 12345 12\u202f345"
