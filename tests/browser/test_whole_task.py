"""A whole task by keyboard: the turns one after the other, and back."""

from __future__ import annotations

import os

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from annotation.judging.pairing import ResponseRow, receive_responses
from annotation.judging.queue import GRACE
from annotation.models import Judgment, Project, Slot
from tests.annotation.test_claim_task import ANSWER, make_task
from tests.annotation.test_judge_page import SWAPPED
from tests.browser.stage import CAKE, CAKE_SAMPLED, PRODUCER, fill
from tests.cast import make_project, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def project() -> Project:
    return make_project(name="Cake shop", slug="cake-shop", overlap=1)


def open_task(page) -> None:
    page.goto("/p/cake-shop/judge/task/")
    page.wait_for_selector("task-stage[data-painted]")


def at_turn(page, number: int) -> None:
    page.wait_for_selector(f"#turn-{number}.current-turn[data-state='yours']")
    expect(page.locator("form.sending")).to_have_count(0)


def test_judges_all_turns_by_keyboard_and_goes_to_the_next_task(sign_in, project):
    make_task(project)
    make_task(project)
    page = sign_in(make_user("lena"))
    open_task(page)
    at_turn(page, 1)
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    at_turn(page, 2)
    page.keyboard.press("1")
    at_turn(page, 3)
    page.keyboard.press("1")
    expect(page.locator("#task-end a")).to_be_focused()
    assert [j.verdict for j in Judgment.objects.order_by("pk")] == [0, 1, 1]
    first = Judgment.objects.order_by("pk").first()
    assert first.units_that_differ == ["action/1/parameters/kind"]
    assert first.reasons == ["parameter"]
    assert all(j.seconds_spent > 0 for j in Judgment.objects.all())
    page.keyboard.press("Enter")
    page.wait_for_selector("task-stage[data-painted]")
    at_turn(page, 1)
    assert Slot.objects.leased().count() == 3


def test_undo_brings_the_last_turn_back_and_digits_choose_reasons(sign_in, project):
    make_task(project)
    page = sign_in(make_user("lena"))
    open_task(page)
    at_turn(page, 1)
    page.keyboard.press("1")
    at_turn(page, 2)
    page.keyboard.press("u")
    at_turn(page, 1)
    assert not Judgment.objects.current().exists()
    page.keyboard.press("0")
    page.keyboard.press("x")  # the proposal's unit off again
    page.keyboard.press("2")  # logic
    page.keyboard.press("k")
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    at_turn(page, 2)
    judgment = Judgment.objects.current().get()
    assert "logic" in judgment.reasons
    assert judgment.units_that_differ != ["action/1/parameters/kind"]
    assert len(judgment.units_that_differ) == 1


def test_moves_between_turns_and_asks_about_the_step_order_once(sign_in, project):
    make_task(project, answers=(SWAPPED, ANSWER, ANSWER))
    page = sign_in(make_user("lena"))
    page.expected_errors += ["422", "htmx:"]
    open_task(page)
    at_turn(page, 1)
    page.keyboard.press("n")
    at_turn(page, 2)
    page.keyboard.press("p")
    at_turn(page, 1)
    page.keyboard.press("1")
    expect(page.locator("#turn-1 [name=order_confirmed]")).to_be_visible()
    at_turn(page, 1)
    assert not Judgment.objects.exists()
    page.keyboard.press("1")
    at_turn(page, 2)
    assert Judgment.objects.get().order_confirmed


def test_a_double_press_judges_one_turn(sign_in, project):
    make_task(project)
    page = sign_in(make_user("lena"))
    open_task(page)
    at_turn(page, 1)
    page.evaluate(
        """() => { for (let i = 0; i < 2; i++) document.body.dispatchEvent(
             new KeyboardEvent("keydown", { key: "1", bubbles: true })) }"""
    )
    at_turn(page, 2)
    page.wait_for_timeout(300)
    assert Judgment.objects.count() == 1


def test_leaving_gives_the_turns_back_and_reloading_keeps_them(sign_in, project):
    make_task(project)
    page = sign_in(make_user("lena"))
    open_task(page)
    at_turn(page, 1)
    page.reload()
    page.wait_for_selector("task-stage[data-painted]")
    at_turn(page, 1)
    page.wait_for_timeout(300)
    later = timezone.now() + GRACE
    assert [slot.leased_until > later for slot in Slot.objects.leased()] == [True] * 3
    page.keyboard.press("1")
    at_turn(page, 2)
    page.goto("/p/cake-shop/work/")
    page.wait_for_timeout(500)
    soon = timezone.now() + GRACE
    assert [slot.leased_until < soon for slot in Slot.objects.leased()] == [True] * 2
    assert Judgment.objects.count() == 1


def test_a_lost_connection_loses_nothing(sign_in, project):
    make_task(project)
    page = sign_in(make_user("lena"))
    page.expected_errors += ["ERR_INTERNET_DISCONNECTED", "htmx:"]
    open_task(page)
    at_turn(page, 1)
    page.context.set_offline(True)
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("not recorded")
    page.context.set_offline(False)
    assert page.locator("#turn-1 input[name=verdict][value='0']").is_checked()
    page.keyboard.press("Enter")
    at_turn(page, 2)
    assert Judgment.objects.get().verdict == 0


@pytest.mark.skipif("SHOTS" not in os.environ, reason="pictures, when asked for")
@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_pictures(sign_in, look, width):
    project = make_project(
        name="Cake shop", slug="cake-shop", guideline="Compare.", reveal_after=True
    )
    fill(project, author=make_user("nora"), count=12)
    texts = dict(reversed(CAKE_SAMPLED))
    receive_responses(
        project=project,
        producer=PRODUCER,
        responses=[
            ResponseRow("cake-for-saturday", turn, 9, text)
            for turn, text in [
                (0, CAKE["turns"][0]["response"]),
                (1, texts[1].replace("budget", "limit")),
                (2, texts[2].replace("Sacher", "Linzer")),
            ]
        ],
        priority=9,
    )
    folder = os.environ["SHOTS"]
    page = sign_in(
        make_user("lena"),
        viewport={"width": width, "height": 900},
        color_scheme=look,
        reduced_motion="reduce",
    )
    shots = {"caret": "initial"}
    open_task(page)
    page.keyboard.press("0")
    page.screenshot(path=f"{folder}/task-{look}-{width}.png", full_page=True, **shots)
    page.keyboard.press("Enter")
    at_turn(page, 3)
    page.keyboard.press("1")
    page.wait_for_selector("task-stage:not(:has([data-state='yours']))")
    page.screenshot(
        path=f"{folder}/task-done-{look}-{width}.png", full_page=True, **shots
    )
    page.goto("/p/cake-shop/judge/")
    page.wait_for_selector("judge-stage[data-painted]")
    for _ in range(2):
        page.keyboard.press("Shift+U")
    page.screenshot(path=f"{folder}/judge-strip-{look}-{width}.png", **shots)
    Project.objects.update(calibration_percent=100)
    page.reload()
    page.wait_for_selector("judge-stage[data-painted]")
    page.keyboard.press("0")
    page.screenshot(path=f"{folder}/judge-blind-{look}-{width}.png", **shots)
