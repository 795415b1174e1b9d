"""The settings of a run in a real browser: those that a choice uses come with it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_iterations import tab_to
from tests.cast import make_project, make_sample, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def project():
    project = make_project(slug="cakes", name="Cake shop")
    make_sample(project=project)
    return project


def focus(page: Page) -> str:
    return page.evaluate("document.activeElement.id")


def test_the_critics_settings_come_with_ppo_by_keyboard(sign_in, project):
    page = sign_in(make_user("tara"))
    page.goto("/p/cakes/runs/new/policy/")
    tab_to(page, "details.advanced > summary")
    page.keyboard.press("Enter")
    expect(page.locator("#id_recipe_epsilon")).to_be_visible()
    critic = page.locator("#id_recipe_gae_lambda")
    expect(critic).to_be_hidden()
    expect(page.locator("#id_recipe_oversampling")).to_be_visible()

    page.focus("#id_recipe_algorithm")
    page.keyboard.type("ppo")
    expect(critic).to_be_visible()
    expect(page.locator("#id_recipe_oversampling")).to_be_hidden()
    assert focus(page) == "id_recipe_algorithm"
    page.focus("#id_recipe_micro_batch")
    page.keyboard.press("Tab")
    assert focus(page) == "id_recipe_muon_learning_rate"
    page.keyboard.press("Tab")
    assert focus(page) == "id_recipe_critic_learning_rate"

    page.focus("#id_recipe_algorithm")
    page.keyboard.type("rloo")
    expect(critic).to_be_hidden()
    expect(page.get_by_role("group", name="Critic")).to_be_hidden()
    page.focus("#id_recipe_muon_learning_rate")
    page.keyboard.press("Tab")
    assert focus(page) == "id_recipe_backend"


def test_what_keeps_the_form_from_being_sent_is_shown(sign_in, project):
    page = sign_in(make_user("tara"))
    page.goto("/p/cakes/runs/new/reward/")
    page.get_by_text("Advanced settings").click()
    page.fill("#id_recipe_pairwise_weight", "-1")
    page.select_option("#id_recipe_judges", "preference")
    page.get_by_text("Advanced settings").click()
    expect(page.locator("#id_recipe_pairwise_weight")).to_be_hidden()
    page.get_by_role("button", name="Start run").click()
    expect(page.locator("#id_recipe_pairwise_weight")).to_be_visible()


def test_each_recipe_of_an_iteration_follows_its_own_choices(sign_in, project):
    page = sign_in(make_user("tara"))
    page.goto("/p/cakes/iterations/new/")
    page.locator("#recipe-policy > summary").click()
    page.locator("#recipe-reward > summary").click()
    expect(page.locator("#id_reward-recipe_layout")).to_be_visible()
    expect(page.locator("#id_policy-recipe_lora_rank")).to_be_hidden()
    page.select_option("#id_policy-recipe_method", "lora")
    expect(page.locator("#id_policy-recipe_lora_rank")).to_be_visible()
    page.select_option("#id_reward-recipe_judges", "preference")
    expect(page.locator("#id_reward-recipe_layout")).to_be_hidden()


def test_without_scripts_all_settings_are_there_under_what_they_need(sign_in, project):
    page = sign_in(make_user("tara"), java_script_enabled=False)
    page.goto("/p/cakes/runs/new/policy/")
    page.get_by_text("Advanced settings").click()
    critic = page.get_by_role("group", name="Only with algorithm: ppo")
    expect(critic.locator("#id_recipe_gae_lambda")).to_be_visible()
    expect(page.get_by_text("Only with method: lora")).to_be_visible()
