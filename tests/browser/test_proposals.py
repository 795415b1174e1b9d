"""A policy's proposal on the Write page, by keyboard: ask, read, take over, edit."""

from __future__ import annotations

import sys

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from annotation.models import Draft
from tests.browser.test_accessibility import OPTIONS
from tests.cast import make_user
from tests.training.conftest import make_policy, make_project_with_samples
from training.iterations.promotion import promote
from training.models import Proposal
from training.policies import proposals

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# A stand-in for the weights only: a real process that reads the real request.
POLICY = """
import json, sys
json.load(sys.stdin)
text = "<<think>>The user wants a cake.<</think>>Which flavour would you like?"
json.dump({"text": text, "format_error": ""}, sys.stdout)
"""


@pytest.fixture
def page(sign_in, settings, tmp_path):
    settings.DATA_DIR = tmp_path
    project = make_project_with_samples(slug="cakes")
    promote(project=project, checkpoint=make_policy(project), user=make_user("tara"))
    page = sign_in(make_user("lena"))
    page.goto("/p/cakes/write/")
    page.click("text=New sample")
    page.wait_for_selector("draft-editor[data-ready]")
    return page


def ask(page) -> Proposal:
    page.get_by_role("button", name="Let the policy propose a response").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#propose-1")).to_contain_text("The policy is writing")
    return Proposal.objects.get()


def violations(page) -> list[str]:
    return [
        one["id"] for one in Axe().run(page, options=OPTIONS).response["violations"]
    ]


def test_is_marked_as_a_machines_and_taken_over_with_what_was_typed(page):
    page.fill("[name=turn_text]", "A cake, please.")
    proposal = ask(page)
    assert violations(page) == []
    proposals.answer_proposal(proposal.pk, command=[sys.executable, "-c", POLICY])
    expect(page.locator("#propose-1")).to_contain_text("Proposed by a policy")
    expect(page.locator("#propose-1")).to_contain_text("Which flavour")
    assert violations(page) == []
    page.fill("[name=scenario]", "bakery")
    page.get_by_role("button", name="Take it over and edit").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**#turn-1")
    page.wait_for_selector("draft-editor[data-ready]")
    answer = page.locator("#blocks-1 [aria-label='Answer of turn 1']")
    expect(answer).to_have_value("Which flavour would you like?")
    expect(page.locator("#check-1")).to_contain_text("not edited yet")
    assert violations(page) == []
    answer.fill("Which flavour, and for how many?")
    expect(page.locator("#check-1")).to_contain_text("edited by you")
    expect(page.locator("#save-state")).to_contain_text("Saved")
    content = Draft.objects.get().content
    assert content["scenario"] == "bakery"
    assert content["turns"][0]["response"].endswith("for how many?")
    assert content["turns"][0]["proposal"]["text"].endswith("would you like?")


def test_one_that_fails_says_why_and_can_be_asked_for_again(page):
    page.fill("[name=turn_text]", "A cake, please.")
    proposal = ask(page)
    broken = "import sys; sys.exit('no room for 9 tokens')"
    proposals.answer_proposal(proposal.pk, command=[sys.executable, "-c", broken])
    expect(page.locator("#propose-1")).to_contain_text("no room for 9 tokens")
    page.get_by_role("button", name="Ask again").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#propose-1")).to_contain_text("The policy is writing")
    assert Proposal.objects.count() == 2
