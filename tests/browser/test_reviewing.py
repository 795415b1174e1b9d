"""A curator at Review, by keyboard, in a real browser; and the labeler who reads again."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from annotation.authoring.sample_rows import save_sample
from annotation.judging.guidelines import publish_guideline
from annotation.models import (
    Adjudication,
    Comment,
    GuidelineReading,
    Judgment,
    Project,
    Sample,
)
from tests.browser.stage import CAKE
from tests.cast import (
    make_judgment,
    make_pair,
    make_project,
    make_sample,
    make_user,
)

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def project() -> Project:
    return make_project(
        name="Cakes",
        slug="cakes",
        guideline="Order counts.",
        overlap=2,
        overlap_limit=2,
    )


def submitted(project: Project, external_id: str) -> Sample:
    return save_sample(
        project=project,
        document=CAKE | {"id": external_id},
        author=make_user("lena"),
        status="submitted",
    )


def desk(page: Page, external_id: str) -> None:
    """Wait until the desk shows a sample and listens."""
    page.wait_for_selector(f"review-desk[data-painted] h1:has-text('{external_id}')")


def test_goes_through_approves_and_returns_with_a_comment_at_a_step(sign_in, project):
    first, second, third = (submitted(project, f"cake-{n}") for n in "123")
    page = sign_in(make_user("rita"))
    page.goto("/p/cakes/review/")
    desk(page, "cake-1")
    page.keyboard.press("n")
    desk(page, "cake-2")
    page.keyboard.press("p")
    desk(page, "cake-1")
    page.keyboard.press("a")
    desk(page, "cake-2")
    first.refresh_from_db()
    assert first.status == "approved"

    # Walk to the third plan step of the second turn and comment on it.
    steps = page.locator("[data-place='1:plan/3']")
    for _ in range(40):
        page.keyboard.press("j")
        if steps.evaluate("one => one === document.activeElement"):
            break
    page.keyboard.press("c")
    expect(page.locator("#comment-text")).to_be_focused()
    # Keys of the desk are letters here.
    page.keyboard.type("Name the area and read it back.")
    page.keyboard.press("Control+Enter")
    note = page.locator(".with-notes .note")
    expect(note).to_contain_text("Name the area and read it back.")
    left = Comment.objects.get()
    assert (left.anchor, left.quote) == (
        "plan/3",
        "Ask the user to confirm cake and address",
    )
    second.refresh_from_db()
    assert second.status == "submitted"

    page.wait_for_selector("review-desk[data-painted]")
    page.keyboard.press("r")
    expect(page.locator("#return-comment")).to_be_focused()
    page.keyboard.press("Control+Enter")
    desk(page, "cake-3")
    second.refresh_from_db()
    third.refresh_from_db()
    assert (second.status, third.status) == ("returned", "submitted")

    author = sign_in(make_user("lena"))
    author.goto("/p/cakes/write/")
    author.click("text=Revise")
    note = author.locator("#turn-2 .note")
    expect(note).to_contain_text("on plan step 3")
    note.get_by_role("button", name="Mark as resolved").click()
    expect(author.locator("#turn-2 .note .chip.good")).to_have_text("resolved")
    left.refresh_from_db()
    assert left.resolved_by == make_user("lena")


def test_a_double_press_approves_one(sign_in, project):
    for n in "123":
        submitted(project, f"cake-{n}")
    page = sign_in(make_user("rita"))
    page.goto("/p/cakes/review/")
    desk(page, "cake-1")
    page.evaluate(
        """() => { for (let i = 0; i < 2; i++) document.body.dispatchEvent(
             new KeyboardEvent("keydown", { key: "a", bubbles: true })) }"""
    )
    desk(page, "cake-2")
    page.wait_for_timeout(300)
    assert Sample.objects.filter(status="approved").count() == 1


def test_a_fix_is_stored_under_the_authors_name(sign_in, project):
    sample = submitted(project, "cake-1")
    page = sign_in(make_user("rita"))
    page.goto("/p/cakes/review/")
    desk(page, "cake-1")
    page.keyboard.press("e")
    page.wait_for_selector("draft-editor")
    page.fill("#why", "Shorter.")
    page.locator("[name=turn_response]").first.fill("Monday to Saturday.")
    page.click("text=Submit to the curators")
    desk(page, "cake-1")
    expect(page.locator(".messages")).to_contain_text("the author stays")
    sample.refresh_from_db()
    assert (sample.author, sample.status) == (make_user("lena"), "submitted")
    assert sample.turns.first().response == "Monday to Saturday."
    page.click("text=what changed")
    expect(page.locator(".changes del").first).to_contain_text("A question about")
    expect(page.locator("table")).to_contain_text("Shorter.")


def test_approves_many_after_a_look_at_what_is_left_out(sign_in, project):
    for n in "123":
        submitted(project, f"cake-{n}")
    make_sample(
        project=project,
        external_id="mine",
        author=make_user("rita"),
        status="submitted",
    )
    page = sign_in(make_user("rita"))
    page.goto("/p/cakes/review/")
    page.get_by_role("link", name="Approve the 4 that match").press("Enter")
    expect(page.locator("table")).to_contain_text("your own")
    page.get_by_role("button", name="Approve 3 samples").press("Enter")
    expect(page.locator("h1")).to_have_text("3 samples are approved.")
    assert Sample.objects.filter(status="submitted").get().external_id == "mine"


def test_settles_a_dispute_and_pins_it(sign_in, project):
    pair = make_pair(project=project)
    make_judgment(pair, make_user("lena"), 1)
    make_judgment(pair, make_user("luis"), 0)
    page = sign_in(make_user("rita"))
    page.goto("/p/cakes/review/disputes/")
    page.wait_for_selector("dispute-desk[data-painted]")
    page.keyboard.press("0")
    expect(page.locator("input[name=reasons]:checked")).to_have_value("parameter")
    page.keyboard.press("i")
    page.keyboard.press("m")
    page.keyboard.type("A florist bakes nothing: 1 0.")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".messages")).to_contain_text("pinned to the guideline")
    word = Adjudication.objects.get()
    assert (word.verdict, word.units_that_differ) == (0, ["action/1/parameters/kind"])
    assert word.comment == "A florist bakes nothing: 1 0."
    page.goto("/p/cakes/guideline/")
    page.click("details.example summary")
    expect(page.locator("details.example")).to_contain_text("florist")


def test_a_guideline_is_written_seen_and_published(sign_in, project):
    page = sign_in(make_user("rita"))
    page.goto("/p/cakes/guideline/edit/")
    page.fill("#id_text", "Order counts.\n\n**Names** count.")
    expect(page.locator("#preview strong")).to_have_text("Names")
    page.fill("#id_change", "Names count.")
    page.keyboard.press("Enter")  # checks the form, and publishes nothing yet
    page.get_by_role("button", name="Publish").focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Guideline, version 2")


def test_a_labeler_reads_what_changed_before_a_pair_is_handed_out(sign_in, project):
    for _ in range(6):
        make_pair(project=project)
    lena = make_user("lena")
    page = sign_in(lena)
    page.goto("/p/cakes/judge/")
    page.wait_for_selector("judge-stage[data-painted]")
    publish_guideline(
        project=project,
        author=make_user("rita"),
        text="Order counts. Names count.",
        base_version=1,
        change="Names count.",
    )
    # The pair on screen, and one that was at hand already, are judged first.
    asked, stage = page.locator("guideline-reading"), "form.stage"
    decided = 0
    while not asked.count() and decided < 3:
        before = page.get_attribute(stage, "data-pair")
        page.keyboard.press("1")
        decided += 1
        page.wait_for_selector(
            f"guideline-reading, judge-stage[data-painted] "
            f"{stage}:not([data-pair='{before}'])"
        )
    # A key too many confirms nothing.
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("Please read the guideline, version 2")
    expect(page.locator(".changes ins")).to_contain_text("Names count.")
    page.wait_for_selector("guideline-reading[data-ready]")
    assert not GuidelineReading.objects.filter(user=lena).exists()
    assert Judgment.objects.filter(labeler=lena).count() == decided <= 2
    page.keyboard.press("Enter")
    page.wait_for_selector("judge-stage[data-painted] form.stage")
    assert GuidelineReading.objects.filter(user=lena, version=2).exists()
    before = page.get_attribute(stage, "data-pair")
    page.keyboard.press("1")
    page.wait_for_selector(
        f"judge-stage[data-painted] {stage}:not([data-pair='{before}'])"
    )
    page.keyboard.press("g")
    expect(page.locator("#drawer")).to_contain_text("Names count.")
