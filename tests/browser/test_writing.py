"""The Write page in a real browser: it saves while one types, and says so."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from annotation.authoring.sample_rows import save_sample
from annotation.models import Draft, Sample
from tests.browser.stage import CAKE
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


# --- blocks, by keyboard ----------------------------------------------------------------


def wait_saved(page) -> None:
    expect(page.locator("#save-state")).to_contain_text("Saved")


def raw(page, turn: int = 1):
    return page.locator(f"#response-{turn}")


def focused(page) -> str:
    return page.evaluate(
        "(document.activeElement.getAttribute('aria-label') || document.activeElement.id)"
    )


def press(page, name: str, *, within: str = "#turn-1") -> None:
    """Press a button as a keyboard does: focus it, then Enter."""
    page.locator(within).get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")


def test_a_response_is_written_as_blocks_by_keyboard_alone(page):
    page.focus("#input-1")
    page.keyboard.type("A cake, please.")
    press(page, "Thinking")
    page.keyboard.type("A task.")
    expect(raw(page)).to_have_value("<<think>>A task.")
    press(page, "Plan")
    page.keyboard.type("Book it")
    page.keyboard.press("Enter")
    page.keyboard.type("Look")
    page.keyboard.press("Enter")
    page.keyboard.press("Backspace")
    assert focused(page) == "Plan step 2 of turn 1"
    page.keyboard.press("Alt+ArrowUp")
    assert focused(page) == "Plan step 1 of turn 1"
    press(page, "Answer")
    page.keyboard.type("Which one?")
    text = "<<think>>A task.\nPlan:\n1. Look\n2. Book it<</think>>Which one?"
    expect(raw(page)).to_have_value(text)
    expect(page.locator("#check-1 .problems")).to_have_count(0)
    wait_saved(page)
    assert focused(page) == "Answer of turn 1"
    assert Draft.objects.get().content["turns"][0]["response"] == text


def test_enter_splits_a_step_and_the_arrows_go_between_steps(page):
    press(page, "Plan")
    page.keyboard.type("Look and book")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Alt+ArrowDown")
    expect(raw(page)).to_have_value("<<think>>Plan:\n1. book\n2. Look and")
    page.get_by_label("Move step 2 up").focus()
    page.keyboard.press("Enter")
    expect(raw(page)).to_have_value("<<think>>Plan:\n1. Look and\n2. book")


def test_steps_are_dragged_by_their_grip(page):
    press(page, "Plan")
    page.keyboard.type("One")
    page.keyboard.press("Enter")
    page.keyboard.type("Two")
    wait_saved(page)
    steps = page.locator("[data-step]")
    steps.nth(1).locator(".grip").drag_to(
        steps.nth(0), target_position={"x": 40, "y": 2}
    )
    expect(raw(page)).to_have_value("<<think>>Plan:\n1. Two\n2. One")


def test_blocks_are_moved_and_removed_by_keyboard(page):
    raw(page).fill("<<think>>B.\nPlan:\n1. One<</think>>Yes.")
    expect(page.locator("#blocks-1 [data-block]")).to_have_count(3)
    page.get_by_label("Thinking of turn 1").focus()
    page.keyboard.press("Alt+Shift+ArrowDown")
    expect(raw(page)).to_have_value("<<think>>Plan:\n1. One\nB.\n<</think>>Yes.")
    assert focused(page) == "Thinking of turn 1"
    page.get_by_label("Remove the block: plan").focus()
    page.keyboard.press("Enter")
    expect(raw(page)).to_have_value("<<think>>B.\n<</think>>Yes.")


def test_broken_raw_text_stays_and_comes_back_as_blocks_when_mended(page):
    text = "<<think>>Hm.<</think>>Which?"
    raw(page).fill(text)
    expect(page.get_by_label("Answer of turn 1")).to_have_value("Which?")
    raw(page).fill(text.replace("<</think>>", "<</action>>"))
    expect(page.locator("#blocks-1")).to_contain_text("does not follow the grammar")
    expect(page.locator("#check-1 mark")).to_have_text("<")
    press(page, "Go there", within="#check-1")
    assert focused(page) == "response-1"
    assert page.evaluate("document.activeElement.selectionStart") == 12
    raw(page).fill(text)
    expect(page.get_by_label("Thinking of turn 1")).to_have_value("Hm.")


def test_typing_goes_on_where_it_was_while_saves_come_and_go(page):
    press(page, "Thinking")
    page.keyboard.type(
        "A long thought that is typed slowly, over some saves.", delay=25
    )
    expect(page.get_by_label("Thinking of turn 1")).to_have_value(
        "A long thought that is typed slowly, over some saves."
    )
    expect(raw(page)).to_have_value(
        "<<think>>A long thought that is typed slowly, over some saves."
    )


ACTIONS = (
    '[{"name": "Book table", "description": "Books a table.", "parameters": {"guests": '
    '{"type": "integer", "unit": "people", "description": "How many."}, "area": {"type": '
    '"string", "enumeration": ["inside", "garden"]}}, "exception": {"Full": "No table."}}]'
)


@pytest.fixture
def shop(page):
    """Give the draft a context with an action."""
    press(page, "New thinking context", within="#contexts")
    expect(page.locator("[name=new_title]")).to_be_focused()
    page.keyboard.type("The inn")
    page.fill("[name=new_actions]", ACTIONS)
    wait_saved(page)
    page.wait_for_selector("#version[value='2'], #version[value='3']", state="attached")
    page.reload()
    return page


def test_an_action_is_filled_in_as_a_form_and_its_result_picked(shop):
    page = shop
    press(page, "Book table")
    guests = page.get_by_label("guests")
    expect(guests).to_have_attribute("type", "number")
    expect(guests).to_be_focused()
    page.keyboard.type("4")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    page.keyboard.type("g")
    call = '{"name": "Book table", "parameters": {"guests": 4, "area": "garden"}}'
    expect(raw(page)).to_have_value(f"<<think>><<action>>{call}<</action>>")
    expect(page.locator("#result-1")).to_contain_text("What does “Book table” return?")
    press(page, "Ask the simulator", within="#result-1")
    expect(page.locator("#toasts")).to_contain_text("No simulator knows")
    press(page, "Exception: Full", within="#result-1")
    expect(page.locator("#input-2")).to_be_focused()
    expect(page.locator("#input-2")).to_have_value("Exception Full")


def test_another_action_name_brings_its_form_and_keeps_the_focus(shop):
    page = shop
    press(page, "Action call")
    expect(page.get_by_label("Name of the action called in turn 1")).to_be_focused()
    page.keyboard.type("Book table")
    page.keyboard.press("Enter")
    expect(page.get_by_label("guests")).to_be_visible()
    assert focused(page) == "Name of the action called in turn 1"
    press(page, "Another parameter")
    page.keyboard.type("mood")
    page.keyboard.press("Tab")
    page.keyboard.type("good")
    expect(raw(page)).to_have_value(
        '<<think>><<action>>{"name": "Book table", "parameters": {"mood": "good"}}<</action>>'
    )
    expect(page.locator("#check-1")).to_contain_text("an unknown parameter")


def test_a_hint_is_put_away_without_losing_the_place(page):
    raw(page).fill("<<think>>Hm.<</think>>Which?")
    expect(page.locator("#check-1 .hints")).to_contain_text("Which thinking element")
    page.get_by_label("Put this hint away").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#check-1 .hints")).to_have_count(0)
    expect(raw(page)).to_be_focused()


def test_another_wording_is_written_and_checked(page):
    raw(page).fill(
        "<<think>>Hm.\nPlan:\n1. Find a bakery\n2. Order cake<</think>>Which?"
    )
    wait_saved(page)
    page.wait_for_selector("#blocks-1 [data-step]")
    page.reload()
    press(page, "Write another wording")
    field = page.locator("[name=reference_text]")
    expect(field).to_be_focused()
    expect(page.locator("#turn-1 .reference")).to_contain_text("word by word")
    field.fill("<<think>>Well.\nPlan:\n1. Order cake\n2. Find a bakery<</think>>Which?")
    expect(page.locator("#turn-1 .reference")).to_contain_text("Other order, plan 1")
    press(page, "Remove", within="#turn-1 .reference")
    expect(field).to_have_count(0)


# --- nothing is lost ----------------------------------------------------------------------


def test_what_never_reached_the_server_is_offered_on_the_next_visit(page):
    page.expected_errors += ["ERR_FAILED"]
    page.fill("#input-1", "Saved.")
    page.wait_for_selector("#version[value='1']", state="attached")
    page.route("**/save/", lambda route: route.abort())
    page.fill("#input-1", "Typed on a train.")
    expect(page.locator("#save-state")).to_contain_text("Not saved")
    address = page.url
    page.goto("about:blank")
    page.unroute("**/save/")
    page.goto(address)
    assert page.input_value("#input-1") == "Saved."
    expect(page.locator("#kept")).to_contain_text("did not reach the server")
    press(page, "Bring it back", within="#kept")
    expect(page.locator("#input-1")).to_have_value("Typed on a train.")
    assert "Typed on a train." in str(Draft.objects.get().content)
    page.reload()
    expect(page.locator("#kept")).to_be_hidden()


def test_the_copy_on_the_device_can_be_thrown_away(page):
    page.expected_errors += ["ERR_FAILED"]
    page.route("**/save/", lambda route: route.abort())
    page.fill("#input-1", "Never mind.")
    expect(page.locator("#save-state")).to_contain_text("Not saved")
    address = page.url
    page.goto("about:blank")
    page.unroute("**/save/")
    page.goto(address)
    press(page, "Throw it away", within="#kept")
    page.reload()
    expect(page.locator("#kept")).to_be_hidden()
    assert page.input_value("#input-1") == ""


def test_a_lost_connection_is_made_up_for_by_itself(page):
    page.expected_errors += ["ERR_INTERNET_DISCONNECTED"]
    page.context.set_offline(True)
    page.fill("#input-1", "Typed on a train.")
    expect(page.locator("#save-state")).to_contain_text("Not saved")
    page.context.set_offline(False)
    wait_saved(page)
    assert "Typed on a train." in str(Draft.objects.get().content)


def test_two_tabs_are_put_together_part_by_part(page):
    press(page, "Add a user turn", within="#turns")
    expect(page.locator("#input-2")).to_be_focused()
    page.fill("#input-1", "One.")
    page.fill("#input-2", "Two.")
    page.wait_for_selector("#version[value='2']", state="attached")
    other = page.context.new_page()
    other.goto(page.url)
    page.fill("#input-1", "One, from the first tab.")
    page.fill("#scenario", "first")
    page.wait_for_selector("#version[value='3']", state="attached")
    other.fill("#input-1", "One, from the second tab.")
    expect(other.locator("#conflict")).to_contain_text("saved in another tab")
    assert other.evaluate("document.activeElement.id") == "input-1"
    expect(other.locator("#conflict ins")).to_have_text("first")
    rows = other.locator(".conflict-row")
    rows.nth(0).get_by_label("Keep mine").focus()
    other.keyboard.press("ArrowRight")
    press(other, "Save this choice", within="#conflict")
    expect(other.locator("#conflict .conflict")).to_have_count(0)
    content = Draft.objects.get().content
    assert content["scenario"] == "first"
    assert [turn["input"]["text"] for turn in content["turns"]] == [
        "One, from the second tab.",
        "Two.",
    ]


def test_the_others_version_is_taken_and_ones_own_is_still_offered(page):
    other = page.context.new_page()
    other.goto(page.url)
    page.fill("#input-1", "From the first tab.")
    page.wait_for_selector("#version[value='1']", state="attached")
    other.fill("#input-1", "From the second tab.")
    page.expected_errors += ["409 (Conflict)"]
    other.get_by_role("link", name="Take all of the other").focus()
    other.keyboard.press("Enter")
    expect(other.locator("#input-1")).to_have_value("From the first tab.")
    press(other, "Bring it back", within="#kept")
    expect(other.locator("#conflict")).to_contain_text("From the second tab.")


def test_a_button_pressed_twice_works_once(page):
    page.get_by_role("button", name="Add a user turn").dblclick()
    expect(page.locator("#input-2")).to_be_focused()
    expect(page.locator("#conflict .conflict")).to_have_count(0)
    expect(page.locator(".turn-edit")).to_have_count(2)


def test_over_a_slow_network_every_key_arrives(page):
    def slowly(route):
        page.wait_for_timeout(400)
        route.continue_()

    page.route("**/save/", slowly)
    press(page, "Thinking")
    page.keyboard.type("Slow but whole, to the last word.", delay=40)
    raw_text = "<<think>>Slow but whole, to the last word."
    expect(raw(page)).to_have_value(raw_text, timeout=15_000)
    expect(page.locator("#save-state")).to_contain_text("Saved", timeout=15_000)
    assert Draft.objects.get().content["turns"][0]["response"] == raw_text


# --- beginning from something ---------------------------------------------------------------


def test_a_conversation_is_pasted_looked_at_and_made_a_draft(page):
    page.expected_errors += ["422"]
    page.goto("/p/cakes/write/paste/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.insert_text("User: A cake\nAssistant:")
    press(page, "Show what it becomes", within="main")
    expect(page.get_by_role("alert").first).to_contain_text("line 2")
    page.locator("#text").fill("用户：你好\n助手：您好！")
    press(page, "Show what it becomes", within="main")
    expect(page.locator("#preview")).to_have_text("It becomes 1 turn")
    press(page, "Make it a draft", within="main")
    expect(page.locator("#input-1")).to_have_value("你好")
    expect(page.get_by_label("Answer of turn 1")).to_have_value("您好！")


def test_a_sample_becomes_another_situation_from_its_page(page):
    project = Draft.objects.get().project
    sample = save_sample(project=project, document=CAKE, author=make_user("lena"))
    page.goto(f"/p/cakes/samples/{sample.pk}/")
    page.get_by_text("Write another situation from this").focus()
    page.keyboard.press("Enter")
    press(page, "User noise", within=".duplicate")
    page.wait_for_selector("draft-editor[data-ready]")
    expect(page.locator(".advice")).to_contain_text("is off the topic")
    assert page.url.endswith("#turn-2")
    press(page, "Done, put this away", within=".advice")
    expect(page.locator(".advice")).to_have_count(0)
