"""The session at the Judge page, by keyboard: the strip, and closing a notice."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from annotation.models import Judgment, Project
from tests.browser.stage import fill
from tests.browser.test_judging import next_pair, ready, soon
from tests.cast import make_judgment, make_pair, make_project, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def project() -> Project:
    return make_project(name="Cake shop", slug="cake-shop", overlap=1)


def test_walks_the_strip_by_arrow_keys_and_opens_a_decision_again(sign_in, project):
    lena = make_user("lena")
    made = [
        make_judgment(make_pair(project=project), lena, verdict)
        for verdict in (1, 0, 1, 1)
    ]
    make_pair(project=project)
    page = sign_in(lena)
    pair = ready(page)
    assert page.locator("#last .square[tabindex='0']").count() == 1
    page.keyboard.press("Shift+U")
    focused = page.locator("#last .square:focus")
    expect(focused).to_have_attribute("value", str(made[3].pk))
    # The digits' and letters' meaning on the page is not the arrows'.
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(focused).to_have_attribute("value", str(made[1].pk))
    expect(page.locator(".last-name")).to_contain_text("Not consistent")
    page.keyboard.press("Home")
    expect(focused).to_have_attribute("value", str(made[0].pk))
    page.keyboard.press("ArrowLeft")
    expect(focused).to_have_attribute("value", str(made[0].pk))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert next_pair(page, pair) == str(made[1].pair_id)
    expect(page.locator(".bar > .notice")).to_contain_text("Taken back")
    assert not Judgment.objects.current().filter(pair=made[1].pair).exists()
    assert Judgment.objects.current().count() == 3


def test_escape_leaves_the_strip_and_keeps_the_decision_begun(sign_in, project):
    lena = make_user("lena")
    make_judgment(make_pair(project=project), lena, 1)
    make_pair(project=project)
    page = sign_in(lena)
    ready(page)
    page.keyboard.press("0")
    page.keyboard.press("Shift+U")
    page.keyboard.press("Escape")
    expect(page.locator("#last .square:focus")).to_have_count(0)
    assert page.locator("input[name=verdict][value='0']").is_checked()
    page.keyboard.press("s")
    page.wait_for_selector("#skip:popover-open")
    page.keyboard.press("Shift+U")
    expect(page.locator("#last .square:focus")).to_have_count(0)


def test_a_notice_is_closed_by_keyboard_and_does_not_stop_judging(sign_in, project):
    lena = make_user("lena")
    for _ in range(20):
        make_judgment(make_pair(project=project), lena, 1)
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(lena)
    pair = ready(page)
    notice = page.locator("#session .notice")
    expect(notice).to_contain_text("last 20 answers were all")
    page.locator("#session .notice button").focus()
    with page.expect_response("**/session/close/"):
        page.keyboard.press("Enter")
    expect(notice).to_have_count(0)
    page.keyboard.press("1")
    next_pair(page, pair)
    soon(lambda: Judgment.objects.count() == 21, page=page)
    assert Judgment.objects.count() == 21
    expect(notice).to_have_count(0)
    page.reload()
    ready(page)
    expect(notice).to_have_count(0)


def test_figures_come_by_themselves_after_a_post_in_the_background(sign_in, project):
    fill(project, count=3)
    lena = make_user("lena")
    page = sign_in(lena)
    ready(page)
    expect(page.locator("#today")).to_contain_text("0 of 60 today")
    make_judgment(make_pair(project=project, priority=9), lena, 1)
    page.evaluate("document.dispatchEvent(new CustomEvent('concord:recorded'))")
    expect(page.locator("#today")).to_contain_text("1 of 60 today")
    expect(page.locator("#last .square")).to_have_count(1)


def test_a_pair_fetched_ahead_does_not_bring_back_old_figures(sign_in, project):
    lena = make_user("lena")
    make_judgment(make_pair(project=project), lena, 1)
    make_pair(project=project)
    page = sign_in(lena)
    ready(page)
    page.evaluate(
        "window.before = document.querySelector('judge-figures#last').outerHTML"
    )
    make_judgment(make_pair(project=project, priority=9), lena, 0)
    page.evaluate("document.dispatchEvent(new CustomEvent('concord:recorded'))")
    expect(page.locator("#last .square")).to_have_count(2)
    page.evaluate("document.querySelector('#last').outerHTML = window.before")
    expect(page.locator("#last .square")).to_have_count(2)
    expect(page.locator("#last .square[tabindex='0']")).to_have_count(1)
