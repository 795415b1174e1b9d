"""Where things stand and where the focus is: toasts, sheets, and the top of a pair."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from annotation.models import Project
from tests.browser.stage import fill
from tests.browser.test_judging import next_pair, ready
from tests.cast import make_project, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SIZES = {
    "wide": {"width": 1440, "height": 900},
    "low": {"width": 1024, "height": 600},
    "phone": {"width": 390, "height": 844},
}
LONG = (
    "No connection, so this was not recorded. Your decision is still here; submit again "
    "in a moment, or look whether another tab has it already."
)
TOAST = """async (text) => {
  const address = document.querySelector("script[src*='frame']").src;
  (await import(address)).toast(text);
}"""


@pytest.fixture
def project() -> Project:
    project = make_project(name="Cake shop", slug="cake-shop")
    fill(project, count=6)
    return project


def covered(page: Page, selector: str) -> list[str]:
    """Return which of the visible buttons of ``selector`` a toast lies over."""
    return page.eval_on_selector_all(
        selector,
        """(buttons) => buttons.filter((button) => {
          const box = button.getBoundingClientRect();
          if (!box.width || box.top < 0 || box.bottom > innerHeight) return false;
          const x = box.left + box.width / 2;
          return [box.top + 1, box.bottom - 1].some((y) =>
            document.elementFromPoint(x, y)?.closest(".toasts"));
        }).map((button) => button.textContent.trim())""",
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_toast_leaves_the_buttons_of_the_bar_free_and_closes(sign_in, project, size):
    page = sign_in(make_user("lena"), viewport=SIZES[size])
    ready(page)
    for key in ("", "0"):  # a 0 brings the reasons, and the bar grows
        if key:
            page.keyboard.press(key)
        page.evaluate(TOAST, LONG)
        page.wait_for_timeout(100)
        assert covered(page, ".bar :is(button, label.btn, .why label)") == []
    close = page.get_by_role("button", name="Close")
    height = close.evaluate("one => one.getClientRects().length")
    lines = close.evaluate(
        "one => one.getBoundingClientRect().height /"
        " (parseFloat(getComputedStyle(one).lineHeight) || 22)"
    )
    assert (height, round(lines)) == (1, 1)
    close.click()
    expect(page.locator(".toasts .message")).to_have_count(0)


@pytest.mark.parametrize("size", SIZES)
def test_a_toast_leaves_the_button_free_that_brought_it(sign_in, project, size):
    page = sign_in(make_user("lena"), viewport=SIZES[size])
    page.goto("/p/cake-shop/judge/task/")
    page.wait_for_selector("[data-painted]")
    page.keyboard.press("0")
    button = page.locator(".current-turn button.submit")
    button.focus()
    # At the lower edge of the window, where toasts come.
    button.evaluate(
        "one => scrollBy(0, one.getBoundingClientRect().bottom - innerHeight + 4)"
    )
    page.evaluate(TOAST, LONG)
    page.wait_for_timeout(100)
    assert covered(page, "button:focus") == []
    expect(button).to_be_in_viewport(ratio=1)


def test_a_toast_can_be_scrolled_clear_of_the_end_of_a_page(sign_in, project):
    page = sign_in(make_user("rita"), viewport={"width": 390, "height": 700})
    page.goto("/p/cake-shop/samples/import/")
    page.evaluate(TOAST, LONG)
    page.evaluate("scrollTo(0, document.scrollingElement.scrollHeight)")
    page.wait_for_timeout(100)
    assert covered(page, "main :is(button, a.btn)") == []


def test_the_question_about_the_order_has_its_focus_on_going_back(sign_in, project):
    page = sign_in(make_user("lena"))
    pair = ready(page)
    for open_by in ("1", "click"):
        if open_by == "1":
            page.keyboard.press("1")
        else:
            page.click(".verdicts .yes")
        expect(page.locator("#order")).to_be_visible()
        expect(page.locator("#order :focus")).to_contain_text("Go back")
        page.keyboard.press("Enter")
        expect(page.locator("#order")).to_be_hidden()
        assert ready(page) == pair
        assert not page.locator("input[name=verdict]:checked").count()


@pytest.mark.parametrize("size", SIZES)
def test_every_pair_opens_at_the_top_of_the_page(sign_in, project, size):
    page = sign_in(make_user("lena"), viewport=SIZES[size])
    pair = ready(page)
    for _ in range(3):
        page.wait_for_timeout(150)
        assert page.evaluate("scrollY") == 0
        page.evaluate("scrollTo(0, 400)")
        page.keyboard.press("0")
        if not page.locator("input[name=units]:checked").count():
            page.keyboard.press("1")
        page.keyboard.press("Enter")
        pair = next_pair(page, pair)
    page.evaluate("scrollTo(0, 400)")
    page.reload()
    ready(page)
    page.wait_for_timeout(150)
    assert page.evaluate("scrollY") == 0
    page.keyboard.press("u")
    next_pair(page, pair)
    assert page.evaluate("scrollY") == 0
