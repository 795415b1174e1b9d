"""The Write page in a real browser: it saves while one types, and says so."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from annotation.models import Draft, Sample
from tests.cast import make_project, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def page(sign_in):
    make_project(slug="cakes")
    page = sign_in(make_user("lena"))
    page.goto("/p/cakes/write/")
    page.click("text=New sample")
    page.wait_for_selector("draft-editor[data-ready]")
    return page


def test_typing_is_saved_checked_and_shown(page):
    page.fill("[name=turn_text]", "A cake, please.")
    page.type("[name=turn_response]", "<<think>>Hm")
    expect(page.locator("#save-state")).to_contain_text("Saved")
    expect(page.locator("#check-1")).to_contain_text(
        "expected <<action>> or <</think>>"
    )
    page.type("[name=turn_response]", ".<</think>>Which one?")
    expect(page.locator("#blocks-1 [aria-label='Answer of turn 1']")).to_have_value(
        "Which one?"
    )
    expect(page.locator("#check-1 .problems")).to_have_count(0)
    assert Draft.objects.get().content["turns"][0]["response"].endswith("Which one?")
    page.reload()
    assert page.input_value("[name=turn_text]") == "A cake, please."


def test_two_tabs_conflict_and_nothing_is_lost(page):
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("draft-editor[data-ready]")
    page.fill("[name=turn_text]", "From the first tab.")
    expect(page.locator("#save-state")).to_contain_text("Saved")
    page.wait_for_function("document.querySelector('#version').value === '1'")
    other.fill("[name=turn_text]", "From the second tab.")
    expect(other.locator("#conflict")).to_contain_text("saved in another tab")
    assert other.input_value("[name=turn_text]") == "From the second tab."
    assert (
        Draft.objects.get().content["turns"][0]["input"]["text"]
        == "From the first tab."
    )
    other.click("text=Keep mine and replace it")
    expect(other.locator("#conflict .conflict")).to_have_count(0)
    assert (
        Draft.objects.get().content["turns"][0]["input"]["text"]
        == "From the second tab."
    )


def test_a_lost_connection_is_said_and_the_text_stays(page):
    page.expected_errors += ["ERR_INTERNET_DISCONNECTED", "htmx:"]
    page.context.set_offline(True)
    page.fill("[name=turn_text]", "Typed on a train.")
    expect(page.locator("#save-state")).to_contain_text("Not saved")
    page.context.set_offline(False)
    page.type("[name=turn_text]", " ")
    expect(page.locator("#save-state")).to_contain_text("Saved")
    assert "Typed on a train." in str(Draft.objects.get().content)


def test_a_sample_is_written_and_submitted(page):
    page.fill("[name=turn_text]", "A cake, please.")
    page.fill("[name=turn_response]", "Which one?")
    page.click("text=Add a user turn")
    page.wait_for_selector("#turn-2")
    page.locator("[name=turn_text]").nth(1).fill("The red one.")
    page.locator("[name=turn_response]").nth(1).fill("Done.")
    page.click("text=Submit to the curators")
    expect(page.locator(".messages")).to_contain_text("Submitted")
    sample = Sample.objects.get()
    assert sample.status == "submitted"
    assert sample.turns.count() == 2
