"""A labeler at the Judge page, by keyboard, in a real browser."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from annotation.models import Judgment, Project, Skip, Slot
from tests.browser.stage import fill
from tests.cast import PASSWORD, make_judgment, make_pair, make_project, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def project() -> Project:
    return make_project(name="Cake shop", slug="cake-shop")


def ready(page: Page) -> str:
    """Wait until a pair is painted; return its number."""
    page.wait_for_selector("judge-stage[data-painted] form.stage:not(.sending)")
    return page.get_attribute("form.stage", "data-pair")


def next_pair(page: Page, before: str) -> str:
    page.wait_for_selector(f"form.stage:not([data-pair='{before}'])")
    return ready(page)


def soon(check, *, page: Page | None = None, seconds: float = 15.0) -> None:
    """Wait until ``check()`` holds: decisions are sent behind the person's back.

    With ``page`` its requests that go through this process come through meanwhile.
    """
    end = time.monotonic() + seconds
    while not check() and time.monotonic() < end:
        if page:
            page.wait_for_timeout(20)
        else:
            time.sleep(0.02)
    assert check()


def in_seconds(seconds: int) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def decided(count: int, *, page: Page | None = None) -> None:
    soon(lambda: Judgment.objects.current().count() == count, page=page)


def marked(page: Page) -> list[str]:
    return page.eval_on_selector_all(
        "input[name=units]:checked", "boxes => boxes.map(box => box.value)"
    )


def test_judges_ten_pairs_by_keyboard_and_undoes_one(sign_in, project):
    fill(project, count=12)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    for number in range(10):
        if number % 2:
            page.keyboard.press("0")
            if not marked(page):
                page.keyboard.press("1")
            page.keyboard.press("Enter")
        else:
            page.keyboard.press("1")
            if page.locator("#order[open]").count():
                page.keyboard.press("y")
        last, pair = pair, next_pair(page, pair)
    decided(10)
    expect(page.locator("#today")).to_contain_text("10 of 60 today")
    assert page.locator(".last .dot").count() == 10
    page.keyboard.press("u")
    assert next_pair(page, pair) == last
    decided(9)
    expect(page.locator(".bar > .notice")).to_contain_text("Taken back")
    verdicts = [j.verdict for j in Judgment.objects.current().order_by("pk")]
    assert verdicts == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert all(j.reasons for j in Judgment.objects.current().filter(verdict=0))
    assert all(j.seconds_spent > 0 for j in Judgment.objects.current())


def test_double_press_counts_once(sign_in, project):
    for _ in range(3):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    # Both presses happen before the browser can hear from the server.
    page.evaluate(
        """() => { for (let i = 0; i < 2; i++) document.body.dispatchEvent(
             new KeyboardEvent("keydown", { key: "1", bubbles: true })) }"""
    )
    next_pair(page, pair)
    decided(1)
    page.wait_for_timeout(300)
    assert Judgment.objects.count() == 1


def test_a_held_key_decides_nothing(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    ready(page)
    page.evaluate(
        """() => document.body.dispatchEvent(
             new KeyboardEvent("keydown", { key: "1", bubbles: true, repeat: true }))"""
    )
    page.keyboard.press("Control+1")
    page.wait_for_timeout(300)
    assert not Judgment.objects.exists()


def test_nothing_counts_before_the_pair_is_painted(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    page.evaluate(
        """() => {
             const stage = document.querySelector("judge-stage");
             stage.replaceWith(stage.cloneNode(true));
             htmx.process(document.querySelector("judge-stage"));
             document.body.dispatchEvent(
               new KeyboardEvent("keydown", { key: "1", bubbles: true }));
           }"""
    )
    page.wait_for_timeout(300)
    assert not Judgment.objects.exists()
    page.keyboard.press("1")
    next_pair(page, pair)
    decided(1)


def test_keys_are_dead_in_sheets_and_while_typing(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    ready(page)
    page.keyboard.press("?")
    page.keyboard.press("1")
    page.keyboard.press("0")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.fill("#skip-more", "")
    page.type("#skip-more", "10 jokes")
    page.wait_for_timeout(200)
    assert page.input_value("#skip-more") == "10 jokes"
    assert not Judgment.objects.exists()
    assert not page.locator("input[name=verdict]:checked").count()


def test_skip_by_keyboard_needs_a_reason_and_goes_on(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    page.keyboard.press("s")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    next_pair(page, pair)
    soon(Skip.objects.exists)
    assert Skip.objects.get().reason == "I lack the background"


def test_zero_marks_the_proposal_and_x_changes_it(sign_in, project):
    make_pair(project=project)
    make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    page.keyboard.press("0")
    assert marked(page) == ["action/1/parameters/kind"]
    expect(
        page.get_by_label("5Parameter", exact=True).or_(
            page.locator("input[name=reasons][value=parameter]")
        )
    ).to_be_checked()
    page.keyboard.press("k")
    page.keyboard.press("x")
    page.keyboard.press("x")
    page.keyboard.press("k")
    page.keyboard.press("x")
    assert marked(page) == ["plan/2", "action/1/parameters/kind"]
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    next_pair(page, pair)
    decided(1)
    judgment = Judgment.objects.get()
    assert judgment.units_that_differ == ["plan/2", "action/1/parameters/kind"]
    assert set(judgment.reasons) == {"content", "logic", "parameter"}


def test_a_click_on_a_unit_before_deciding_means_not_consistent(sign_in, project):
    make_pair(project=project)
    make_pair(project=project)
    page = sign_in(make_user("lena"))
    ready(page)
    page.locator(".steps li", has_text="Order the cake.").last.click()
    assert marked(page) == ["plan/2"]
    assert page.locator("input[name=verdict][value='0']").is_checked()
    page.locator(".block.think").first.click()
    assert marked(page) == ["thinking", "plan/2"]
    page.locator(".block.think").first.click()
    assert marked(page) == ["plan/2"]
    page.keyboard.press("0")
    assert marked(page) == ["action/1/parameters/kind"]
    page.keyboard.press("Escape")
    assert not page.locator("input[name=verdict]:checked").count()
    assert not Judgment.objects.exists()


def test_another_step_order_asks_once(sign_in, project):
    fill(project, count=6)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    page.keyboard.press("1")
    expect(page.locator("#order")).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    expect(page.locator("#order")).to_be_hidden()
    assert not Judgment.objects.exists()
    page.keyboard.press("1")
    expect(page.locator("#order")).to_be_visible()
    page.keyboard.press("y")
    next_pair(page, pair)
    decided(1)
    assert Judgment.objects.get().order_confirmed


def test_two_tabs_show_one_pair_and_the_second_is_told(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    other = page.context.new_page()
    other.goto("/p/cake-shop/judge/")
    assert ready(other) == pair
    page.expected_errors += ["409"]
    page.keyboard.press("1")
    following = next_pair(page, pair)
    decided(1)
    other.keyboard.press("0")
    other.keyboard.press("Enter")
    expect(other.locator(".bar > .notice")).to_contain_text("judged this pair already")
    # What was chosen is still there to see; the pair can only be left.
    assert ready(other) == pair
    assert marked(other) == ["action/1/parameters/kind"]
    other.keyboard.press("1")
    assert ready(other) == pair
    other.keyboard.press("Enter")
    assert next_pair(other, pair) == following
    assert Judgment.objects.count() == 1
    assert Slot.objects.leased().count() == 1


def test_a_late_judgment_is_told(sign_in, project):
    pair = make_pair(project=project, slots=1)
    make_pair(project=project)
    page = sign_in(make_user("lena"))
    shown = ready(page)
    Slot.objects.filter(state="leased").update(leased_until="2020-01-01T00:00Z")
    make_judgment(pair, make_user("luis"), 1)
    page.keyboard.press("1")
    next_pair(page, shown)
    expect(page.locator(".bar > .notice")).to_contain_text("does not count")


def test_a_lost_connection_keeps_the_decision_and_sends_it_once(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    page.expected_errors += ["ERR_INTERNET_DISCONNECTED", "htmx:"]
    pair = ready(page)
    page.context.set_offline(True)
    page.keyboard.press("1")
    expect(page.locator("#toasts")).to_contain_text("No connection")
    page.context.set_offline(False)
    next_pair(page, pair)
    decided(1)
    expect(page.locator("#toasts")).to_be_empty()


def test_an_ended_session_keeps_the_decision_on_the_page(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    page.expected_errors += ["403", "htmx:"]
    ready(page)
    page.context.clear_cookies(name="sessionid")
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text(re.compile("[Ss]ign"))
    assert marked(page) == ["action/1/parameters/kind"]
    assert not Judgment.objects.exists()
    # Signing in again in another tab is enough: the page goes on where it was.
    other = page.context.new_page()
    other.goto("/accounts/login/")
    other.fill("#id_username", "lena")
    other.fill("#id_password", PASSWORD)
    other.click("button[type=submit]")
    ready(other)
    page.keyboard.press("Enter")
    page.wait_for_selector("form.stage:not(:has(input[name=verdict]:checked))")
    decided(1)
    assert Judgment.objects.get().units_that_differ == ["action/1/parameters/kind"]


def test_the_lease_is_extended_while_somebody_works(sign_in, project):
    make_pair(project=project)
    Project.objects.update(lease_seconds=15)
    page = sign_in(make_user("lena"))
    ready(page)
    before = Slot.objects.get(state="leased").leased_until
    with page.expect_response("**/judge/extend/", timeout=15_000):
        page.mouse.move(300, 300)
        page.mouse.move(320, 320)
    assert Slot.objects.get(state="leased").leased_until > before


def test_drawers_show_history_and_contexts(sign_in, project):
    fill(project, count=6)
    page = sign_in(make_user("lena"))
    ready(page)
    page.keyboard.press("h")
    expect(page.locator("#drawer")).to_contain_text(
        "Hello, are you open on Sundays too?"
    )
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.locator("#contexts summary")).to_be_in_viewport()


def test_it_works_without_javascript(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"), java_script_enabled=False)
    first = page.get_attribute("form.stage", "data-pair")
    page.locator(".verdicts .no").click()
    page.locator("button.submit").click()
    assert page.get_attribute("form.stage", "data-pair") != first
    assert Judgment.objects.get().units_that_differ == ["action/1/parameters/kind"]
    page.locator("button.undo").click()
    assert page.get_attribute("form.stage", "data-pair") == first


def test_nothing_is_wider_than_a_small_screen(sign_in, project):
    fill(project, count=6)
    page = sign_in(make_user("lena"), viewport={"width": 360, "height": 740})
    ready(page)
    page.keyboard.press("0")
    for _ in range(3):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.keyboard.press("Enter")
        page.wait_for_timeout(150)
    for address in ("write/", "work/"):
        page.goto(f"/p/cake-shop/{address}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


# --- the pair after this one ------------------------------------------------------------


def at_hand(page: Page) -> None:
    """Wait until the next pair is leased ahead and the page has it."""
    page.wait_for_selector("judge-stage[data-next-at-hand]")
    assert Slot.objects.filter(is_ahead=True).exists()


def hold_back(page: Page, address: str, seconds: float) -> None:
    """Let requests to ``address`` take so long."""

    def handle(route):
        time.sleep(seconds)
        route.continue_()

    page.route(address, handle)


def test_the_next_pair_is_on_screen_before_the_server_answers(sign_in, project):
    for _ in range(4):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    at_hand(page)
    held = []
    page.route("**/judge/", lambda route: held.append(route))
    page.keyboard.press("1")
    assert next_pair(page, pair) != pair
    assert not Judgment.objects.exists()
    assert len(held) == 1
    held[0].continue_()
    decided(1)
    soon(lambda: Slot.objects.leased().count() == 2)
    # What is on screen has a whole lease; one slot is ahead.
    slot = Slot.objects.leased().get(is_ahead=False)
    assert str(slot.pair_id) == page.get_attribute("form.stage", "data-pair")
    assert (slot.leased_until - slot.leased_at).total_seconds() == 600


def test_on_a_slow_line_every_decision_arrives_once_and_in_order(sign_in, project):
    for _ in range(5):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    hold_back(page, re.compile(r"/judge/(ahead/)?$"), 0.4)
    seen = []
    for key in ("1", "0", "1", "0"):
        seen.append(int(pair))
        page.keyboard.press(key)
        if key == "0":
            page.keyboard.press("Enter")
        pair = next_pair(page, pair)
    decided(4, page=page)
    page.unroute_all()
    found = Judgment.objects.order_by("pk").values_list("pair", "verdict")
    assert list(found) == list(zip(seen, [1, 0, 1, 0], strict=True))


def test_a_reload_shows_the_pair_that_was_on_screen(sign_in, project):
    for _ in range(3):
        make_pair(project=project, slots=1)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    at_hand(page)
    page.reload()
    assert ready(page) == pair
    at_hand(page)
    assert Slot.objects.leased().count() == 2


def test_a_pair_ahead_that_ran_out_is_taken_up_anew_before_it_is_shown(
    sign_in, project
):
    for _ in range(3):
        make_pair(project=project, slots=1)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    at_hand(page)
    ahead = Slot.objects.get(is_ahead=True)
    Slot.objects.filter(pk=ahead.pk).update(leased_until="2020-01-01T00:00Z")
    make_judgment(ahead.pair, make_user("luis"), 1)
    # The page's own clock says so too.
    page.evaluate("Date.now = () => performance.timeOrigin + performance.now() + 1e6")
    page.keyboard.press("1")
    following = next_pair(page, pair)
    assert following != str(ahead.pair_id)
    decided(2)
    held = Slot.objects.filter(holder=make_user("lena"), is_ahead=False)
    soon(lambda: [str(slot.pair_id) for slot in held.all()] == [following])


def test_a_pair_ahead_that_passed_on_is_told_as_soon_as_it_is_shown(sign_in, project):
    for _ in range(3):
        make_pair(project=project, slots=1)
    page = sign_in(make_user("lena"))
    page.expected_errors += ["409"]
    pair = ready(page)
    at_hand(page)
    ahead = Slot.objects.get(is_ahead=True)
    Slot.objects.filter(pk=ahead.pk).update(leased_until="2020-01-01T00:00Z")
    make_judgment(ahead.pair, make_user("luis"), 1)
    page.keyboard.press("1")
    assert next_pair(page, pair) == str(ahead.pair_id)
    expect(page.locator(".bar > .notice")).to_contain_text("passed on to someone else")
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    next_pair(page, str(ahead.pair_id))
    decided(3)
    assert Judgment.objects.get(labeler=make_user("lena"), verdict=0).is_extra
    expect(page.locator(".bar > .notice")).to_contain_text("does not count")


def test_a_refused_decision_brings_the_person_back_to_what_they_chose(sign_in, project):
    for _ in range(3):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    page.expected_errors += ["500"]
    pair = ready(page)
    at_hand(page)
    page.route("**/judge/", lambda route: route.fulfill(status=500, body="Oops"))
    page.keyboard.press("0")
    page.keyboard.press("k")
    page.keyboard.press("x")
    chosen = marked(page)
    assert len(chosen) == 2
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("Your decision is still here")
    assert ready(page) == pair
    assert marked(page) == chosen
    page.unroute("**/judge/")
    page.keyboard.press("Enter")
    next_pair(page, pair)
    decided(1)
    assert Judgment.objects.get().units_that_differ == chosen


def test_undo_right_after_a_decision_brings_that_pair_back(sign_in, project):
    for _ in range(4):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    at_hand(page)
    hold_back(page, "**/judge/", 0.3)
    page.keyboard.press("1")
    following = next_pair(page, pair)
    page.keyboard.press("u")
    assert next_pair(page, following) == pair
    page.unroute_all()
    assert not Judgment.objects.current().exists()
    expect(page.locator(".bar > .notice")).to_contain_text("Taken back")
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    assert next_pair(page, pair) == following
    decided(1)


def test_later_brings_the_pair_again_after_the_others(sign_in, project):
    for _ in range(3):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = first = ready(page)
    page.keyboard.press("l")
    met = []
    for _ in range(3):
        pair = next_pair(page, pair)
        met.append(pair)
        page.keyboard.press("1")
    page.wait_for_selector("[data-nothing]")
    decided(3)
    assert met[-1] == first
    assert len(set(met)) == 3
    assert not Skip.objects.exists()


def test_the_first_difference_has_the_focus_when_a_pair_arrives(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    for _ in range(2):
        focused = page.locator("input[name=units]:focus")
        expect(focused).to_have_value("action/1/parameters/kind")
        expect(page.locator(".unit.current").last).to_be_in_viewport()
        assert not page.locator("input[name=verdict]:checked").count()
        page.keyboard.press("1")
        if page.locator("form.stage").count():
            page.wait_for_selector(f"form.stage:not([data-pair='{pair}'])")


def test_keys_are_dead_on_a_focused_button(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    ready(page)
    page.keyboard.press("0")
    page.locator("button[popovertarget=keys]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#keys")).to_be_visible()
    page.wait_for_timeout(200)
    assert not Judgment.objects.exists()


@pytest.mark.parametrize("key", ["Control+Enter", "Enter"])
def test_enter_in_the_words_of_a_skip_sends_the_skip(sign_in, project, key):
    for _ in range(3):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    # A decision stands ready behind the sheet: it must not be what is sent.
    page.keyboard.press("0")
    page.keyboard.press("s")
    page.keyboard.press("2")
    page.fill("#skip-more", "half a sentence")
    page.keyboard.press(key)
    next_pair(page, pair)
    soon(Skip.objects.exists)
    assert Skip.objects.get().reason.endswith("looks wrong: half a sentence")
    assert not Judgment.objects.exists()


def test_not_consistent_without_a_word_why_stays_on_the_page(sign_in, project):
    for _ in range(2):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    page.keyboard.press("0")
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    expect(page.locator(".bar > .notice")).to_contain_text("Mark a unit that differs")
    assert ready(page) == pair
    assert not Judgment.objects.exists()


# --- leaving ----------------------------------------------------------------------------


def test_leaving_gives_both_pairs_back(sign_in, project):
    for _ in range(2):
        make_pair(project=project, slots=1)
    page = sign_in(make_user("lena"))
    ready(page)
    at_hand(page)
    page.goto("/p/cake-shop/work/")
    soon(lambda: not Slot.objects.filter(leased_until__gt=in_seconds(11)).exists())
    assert Slot.objects.filter(is_ahead=True, leased_until__lte=in_seconds(0)).exists()
    # Coming back in time finds the same pair.
    page.go_back()
    ready(page)
    at_hand(page)
    soon(lambda: Slot.objects.filter(leased_until__gt=in_seconds(500)).count() == 1)


def test_closing_one_tab_keeps_the_pair_that_another_shows(sign_in, project):
    for _ in range(3):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    at_hand(page)
    other = page.context.new_page()
    other.goto("/p/cake-shop/judge/")
    assert ready(other) == pair
    at_hand(other)
    other.close(run_before_unload=True)
    page.wait_for_timeout(500)
    assert Slot.objects.filter(leased_until__gt=in_seconds(60)).count() == 2
    page.keyboard.press("1")
    next_pair(page, pair)
    decided(1)
    assert not Judgment.objects.get().is_extra
    # The last tab gives them back.
    at_hand(page)
    page.goto("/p/cake-shop/work/")
    soon(lambda: not Slot.objects.filter(leased_until__gt=in_seconds(11)).exists())


def test_a_decision_not_sent_yet_is_sent_when_the_page_is_left(sign_in, project):
    for _ in range(3):
        make_pair(project=project)
    page = sign_in(make_user("lena"))
    pair = ready(page)
    at_hand(page)
    hold_back(page, "**/judge/ahead/", 0.5)
    page.keyboard.press("1")
    pair = next_pair(page, pair)
    page.keyboard.press("1")
    page.goto("/p/cake-shop/work/")
    decided(2)
    assert Judgment.objects.count() == 2
