"""The Iterations page in a real browser, by keyboard alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from annotation.models import Pair
from tests.cast import make_judgment, make_project, make_sample, make_user
from tests.training.conftest import make_policy
from tests.training.test_iterations import drawn, ended, fresh, judge_all, step
from training.iterations import advance
from training.models import Iteration, Promotion
from training.runs import hints

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, settings, tmp_path):
    monkeypatch.setattr(hints.current_app, "send_task", lambda *a, **k: None)
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()


@pytest.fixture
def project():
    project = make_project(slug="cakes", name="Cake shop", overlap=1)
    for name in ("s1", "s2"):
        make_sample(project=project, external_id=name)
    Promotion.objects.create(project=project, checkpoint=make_policy(project))
    return project


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until what ``selector`` names has the focus."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate(
            "selector => document.activeElement?.matches(selector)", selector
        ):
            return
    raise AssertionError(f"Tab does not lead to {selector}")


def test_a_trainer_leads_an_iteration_by_keyboard(sign_in, project):
    page = sign_in(make_user("tara"))
    page.goto("/p/cakes/iterations/")
    tab_to(page, "main a.btn.primary")
    page.keyboard.press("Enter")
    page.wait_for_url("**/iterations/new/")
    tab_to(page, "#id_wanted_judgments")
    page.keyboard.press("Control+a")
    page.keyboard.type("2")
    tab_to(page, "#recipe-policy > summary")
    page.keyboard.press("Enter")
    expect(page.locator("#id_policy-recipe_steps")).to_be_visible()
    tab_to(page, "button.primary")
    page.keyboard.press("Enter")
    page.wait_for_url("**/iterations/1/")
    iteration = Iteration.objects.get()
    expect(page.locator("li[aria-current=step] h2")).to_contain_text("Draw")

    # Work done elsewhere shows up without a reload, and without taking typed words.
    page.evaluate("window.sameDocument = true")
    drawn(project)
    expect(page.locator("li[aria-current=step] h2")).to_contain_text("Judge")
    expect(page.locator("#iteration-live")).to_contain_text("0 of 2 judgments")
    tab_to(page, "#skip-judge > summary")
    page.keyboard.press("Enter")
    tab_to(page, "#reason-skip-judge")
    page.keyboard.type("They are ea")
    make_judgment(Pair.objects.order_by("pk").first(), make_user("lena"), 1)
    expect(page.locator("#iteration-live")).to_contain_text("1 of 2 judgments")
    page.keyboard.type("sy to judge.")
    expect(page.locator("#reason-skip-judge")).to_have_value("They are easy to judge.")
    judge_all(project)
    advance.advance_all()
    expect(page.locator("li[aria-current=step] h2")).to_contain_text("Reward model")
    assert page.evaluate("window.sameDocument") is True

    # The reward model misses its gate: going on takes a reason.
    ended(step(iteration).run)
    expect(page.locator("#reason-approve-policy")).to_be_visible()
    tab_to(page, "#reason-approve-policy")
    page.keyboard.type("A trial of the page.")
    tab_to(page, "button.btn:not(.small)")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator("#iteration-live")).to_contain_text("A trial of the page.")
    assert step(iteration, "policy").run.recipe["gate_override"]

    # Pause and stop.
    tab_to(page, "#pause")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator("#iteration-live")).to_contain_text("Paused")
    tab_to(page, "#stop-iteration > summary")
    page.keyboard.press("Enter")
    tab_to(page, "#reason-stop-all")
    page.keyboard.type("Enough.")
    tab_to(page, "button.stop")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    expect(page.locator("#iteration-live")).to_contain_text("Enough.")
    assert fresh(iteration).state == "stopped"
