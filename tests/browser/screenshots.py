"""Take the pictures of docs/screenshots and of every page, light, dark and small.

    pytest tests/browser/screenshots.py -m browser -p no:randomly

SHOTS names another folder; with ALL=1 every page is taken, not only those of the docs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from annotation.models import Draft, Project, Sample, Slot, Touch
from annotation.samples import return_sample
from tests.browser.stage import CAKE, fill
from tests.cast import make_project, make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

FOLDER = Path(os.environ.get("SHOTS", "docs/screenshots"))
EVERYTHING = os.environ.get("ALL") == "1"
WIDE = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"}
SMALL = {"viewport": {"width": 390, "height": 844}, "reduced_motion": "reduce"}


def shoot(page, name: str, *, full: bool = False) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.evaluate("document.fonts.ready")
    # Hiding the caret would need an inline style, which the page's policy forbids.
    page.screenshot(path=FOLDER / f"{name}.png", full_page=full, caret="initial")


def make_stage() -> Project:
    project = make_project(
        name="Cake shop",
        slug="cake-shop",
        guideline="Compare what is done, not how it is said.\n\nThe order of plan steps counts.",
    )
    fill(project, author=make_user("tara"))
    lena = make_user("lena")
    content = {
        **CAKE,
        "contexts": [{"existing": project.contexts.get(title="The cake shop").pk}],
    }
    turns = [dict(turn) for turn in CAKE["turns"]]
    turns[1]["response"] = turns[1]["response"].replace("<</action>>", "")
    Draft.objects.create(
        project=project, author=lena, content=content | {"turns": turns}, version=3
    )
    back = Sample.objects.filter(project=project, status="submitted").first()
    Sample.objects.filter(pk=back.pk).update(author=lena)
    return_sample(
        sample=back,
        user=make_user("rita"),
        comment="The plan in turn 1 skips the confirmation that the guideline asks for.",
    )
    return project


def judge_some(page, project: Project, user: User) -> None:
    """Pass five other pairs first, so that the strip has something to show."""
    for key in "11011":
        page.goto(f"/p/{project.slug}/judge/")
        page.wait_for_selector("judge-stage[data-painted]")
        before = page.get_attribute("form.stage", "data-pair")
        page.keyboard.press(key)
        if page.locator("#order[open]").count():
            page.keyboard.press("y")
        if key == "0":
            if not page.locator("input[name=reasons]:checked").count():
                page.keyboard.press("1")
            page.keyboard.press("Enter")
        page.wait_for_selector(f"form.stage:not([data-pair='{before}'])")
    held = Slot.objects.filter(project=project, holder=user)
    Touch.objects.filter(user=user, pair__slots__in=held).delete()
    held.update(state="open", holder=None, leased_at=None, leased_until=None)
    Slot.objects.filter(project=project, priority=6).update(priority=0)


@pytest.mark.parametrize(
    ("look", "settings"),
    [
        ("light", WIDE | {"color_scheme": "light"}),
        ("dark", WIDE | {"color_scheme": "dark"}),
        ("mobile", SMALL | {"color_scheme": "light"}),
        ("mobile-dark", SMALL | {"color_scheme": "dark"}),
    ],
)
def test_take(sign_in, look: str, settings: dict) -> None:
    if not EVERYTHING and look == "mobile-dark":
        pytest.skip("not among the pictures of the docs")
    project = make_stage()
    lena, rita = make_user("lena"), make_user("rita")
    home = f"/p/{project.slug}"
    # The cake's pairs wait until the strip of last decisions has something in it.
    Slot.objects.filter(project=project, priority=0).update(priority=6)
    page = sign_in(lena, **settings)
    judge_some(page, project, lena)
    page.goto(f"{home}/judge/")
    page.wait_for_selector("judge-stage[data-painted]")
    if EVERYTHING:
        shoot(page, f"judge-undecided-{look}", full=True)
    page.keyboard.press("0")
    shoot(page, f"judge-{look}")
    if EVERYTHING:
        shoot(page, f"judge-full-{look}", full=True)
        page.keyboard.press("?")
        shoot(page, f"keys-{look}")
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        shoot(page, f"skip-{look}")
        page.keyboard.press("Escape")
        page.keyboard.press("h")
        page.wait_for_selector("#drawer:popover-open .block")
        shoot(page, f"drawer-{look}")
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.keyboard.press("1")
        shoot(page, f"order-{look}")
        page.keyboard.press("y")
        page.wait_for_selector("form.stage:has(.input-text.obs)")
        page.wait_for_selector("judge-stage[data-painted]")
        shoot(page, f"judge-observation-{look}")
        page.keyboard.press("0")
        page.keyboard.press("Enter")
        page.wait_for_selector("form.stage:has(.block.raw)")
        page.wait_for_selector("judge-stage[data-painted]")
        shoot(page, f"judge-raw-{look}")
        page.keyboard.press("0")
        page.keyboard.press("Enter")
        page.wait_for_selector("form.stage:not(:has(.block.raw))")
        page.wait_for_selector("judge-stage[data-painted]")
        shoot(page, f"judge-demo-{look}")
    page.goto(f"{home}/write/")
    if EVERYTHING:
        shoot(page, f"write-list-{look}")
    page.click("table a.row")
    page.wait_for_selector("draft-editor[data-ready]")
    if look == "light" or EVERYTHING:
        page.evaluate("document.querySelector('#turns').scrollIntoView()")
        page.mouse.wheel(0, -70)
        shoot(page, f"write-{look}", full=EVERYTHING)
    if EVERYTHING:
        page.goto(f"{home}/work/")
        shoot(page, f"work-{look}")
        Project.objects.update(is_paused=True)
        page.goto(f"{home}/judge/")
        shoot(page, f"paused-{look}")
        page.goto("/?choose")
        shoot(page, f"home-{look}")
        page.goto("/p/none/")
        page.expected_errors.append("404")
        shoot(page, f"404-{look}")
        page.context.clear_cookies()
        page.goto("/accounts/login/")
        shoot(page, f"login-{look}")
    page = sign_in(rita, **settings)
    page.goto(f"{home}/samples/")
    if look == "light" or EVERYTHING:
        shoot(page, f"samples-{look}")
    if EVERYTHING:
        page.goto(f"{home}/samples/coverage/")
        shoot(page, f"coverage-{look}")
        page.goto(f"{home}/samples/import/")
        shoot(page, f"import-{look}")
        page.goto(f"{home}/samples/?status=submitted")
        page.click("table a.row")
        shoot(page, f"sample-{look}", full=True)
