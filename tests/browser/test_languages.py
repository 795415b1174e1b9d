"""The language is switched from the account's menu, by keyboard, in place."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.cast import make_project, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_is_switched_by_keyboard_and_stays_where_one_was(sign_in):
    make_project(slug="cakes")
    page = sign_in(make_user("lena"))
    page.goto("/p/cakes/work/?before=5")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.locator("button.who").focus()
    page.keyboard.press("Enter")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "zh-hans":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("html[lang='zh-hans']")
    assert page.url.endswith("/p/cakes/work/?before=5")
    expect(page.get_by_role("heading", name="我的工作")).to_be_visible()
