"""Keys that an input method uses to choose and confirm a word are no commands anywhere.

Safari ends the composition first and sends the keydown after it, with the key code 229 and
no longer as composing; Chrome and Firefox send it while composing.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from annotation.models import Draft, Judgment, Project, Sample, Skip
from tests.browser.stage import fill
from tests.cast import make_project, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# How browsers send a key that belongs to a word: what comes before it, and what it says.
WAYS = {
    "safari": "compositionend, keyCode 229",
    "composing": "isComposing",
    "after": "compositionend, then an ordinary keydown of the same key",
}
SEND = """([key, way]) => {
  const at = document.activeElement ?? document.body;
  const bubbles = { bubbles: true, cancelable: true };
  const composed = (name) => at.dispatchEvent(new CompositionEvent(name, { ...bubbles, data: "蛋糕" }));
  const keydown = (more) => at.dispatchEvent(new KeyboardEvent("keydown", { ...bubbles, key, ...more }));
  composed("compositionstart");
  if (way === "composing") keydown({ keyCode: 229, isComposing: true });
  composed("compositionend");
  if (way === "safari") keydown({ keyCode: 229, which: 229 });
  if (way === "after") keydown({ keyCode: key === "Enter" ? 13 : key.charCodeAt(0) });
  at.dispatchEvent(new KeyboardEvent("keyup", { ...bubbles, key }));
}"""


def compose(page: Page, key: str, way: str) -> None:
    page.evaluate(SEND, [key, way])
    page.wait_for_timeout(250)


@pytest.fixture
def project() -> Project:
    project = make_project(name="Cake shop", slug="cake-shop")
    fill(project, count=6)
    return project


def ready(page: Page) -> str:
    page.wait_for_selector("judge-stage[data-painted] form.stage:not(.sending)")
    return page.get_attribute("form.stage", "data-pair")


@pytest.mark.parametrize("way", WAYS)
def test_the_enter_of_a_word_does_not_skip_the_pair(sign_in, project, way):
    page = sign_in(make_user("lena"))
    pair = ready(page)
    page.keyboard.press("s")
    page.fill("#skip-more", "看不清")
    page.focus("#skip-more")
    compose(page, "Enter", way)
    assert ready(page) == pair
    expect(page.locator("#skip")).to_be_visible()
    assert not Skip.objects.exists()
    page.keyboard.press("Enter")  # an Enter of one's own does, at once
    page.wait_for_selector(f"form.stage:not([data-pair='{pair}'])")


@pytest.mark.parametrize("way", WAYS)
def test_no_key_of_a_word_judges_or_leaves_a_pair(sign_in, project, way):
    page = sign_in(make_user("lena"))
    for address in ("/p/cake-shop/judge/", "/p/cake-shop/judge/task/"):
        page.goto(address)
        page.wait_for_selector("[data-painted]")
        before = page.locator("form.stage input[name=slot]").first.input_value()
        for key in ("1", "0", "Enter", "s", "l", "u", "n", "x", "?", "h", "Escape"):
            compose(page, key, way)
        assert not page.locator("input[name=verdict]:checked").count()
        assert not page.locator(":popover-open, dialog[open]").count()
        now = page.locator("form.stage input[name=slot]").first.input_value()
        assert now == before
    assert not Judgment.objects.exists()


@pytest.mark.parametrize("way", WAYS)
def test_no_key_of_a_word_approves_returns_or_settles(sign_in, project, way):
    page = sign_in(make_user("rita"))
    page.goto("/p/cake-shop/review/")
    page.wait_for_selector("review-desk[data-painted]")
    before = set(Sample.objects.values_list("pk", "status"))
    for key in ("a", "e", "r", "c", "n", "j", "?"):
        compose(page, key, way)
    assert "/review/" in page.url
    assert "at=" not in page.url
    assert not page.locator(":popover-open").count()
    assert set(Sample.objects.values_list("pk", "status")) == before
    assert not Draft.objects.exists()


@pytest.mark.parametrize("way", WAYS)
def test_the_enter_of_a_word_does_not_split_a_plan_step(sign_in, project, way):
    page = sign_in(make_user("lena"))
    page.goto("/p/cake-shop/write/")
    page.click("text=New sample")
    page.wait_for_selector("draft-editor[data-ready]")
    page.fill("#response-1", "<<think>>Plan:\n1. 查看\n2. 订购<</think>>好")
    step = page.locator("[data-step] textarea").first
    step.wait_for()
    step.focus()
    compose(page, "Enter", way)
    assert page.locator("[data-step]").count() == 2
    page.locator("[data-step] textarea").first.fill("")
    compose(page, "Backspace", way)
    assert page.locator("[data-step]").count() == 2


def test_a_fast_enter_after_a_word_chosen_by_key_still_counts(sign_in, project):
    """In Chrome the key that ends a word comes before compositionend: the next is another."""
    page = sign_in(make_user("lena"))
    pair = ready(page)
    page.keyboard.press("s")
    page.fill("#skip-more", "看不清")
    page.focus("#skip-more")
    page.evaluate(SEND, ["Enter", "composing"])
    page.keyboard.press("Enter")
    page.wait_for_selector(f"form.stage:not([data-pair='{pair}'])")
