"""Enter in a line of text does nothing that a person did not ask for, on any page.

What Enter presses is the first submit button of the field's form, also one that stands
elsewhere and names the form. Every place of ``PLACES`` is visited, by its person, with and
without scripts; in every visible line Enter is pressed as it stands and, in an empty one,
with something typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from django.urls import reverse
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, Request

from annotation.models import (
    Draft,
    GuidelineVersion,
    Judgment,
    Membership,
    Sample,
    ThinkingContext,
)
from tests.browser.places import PLACES, Place, Stage, make_stage
from tests.browser.test_accessibility import Tour
from training.models import Checkpoint, Iteration, IterationChange, Promotion, Run

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LINES = ", ".join(
    f"input[type={kind}]"
    for kind in [
        "text",
        "search",
        "number",
        "email",
        "url",
        "tel",
        "password",
        "date",
        "time",
        "datetime-local",
        "month",
        "week",
    ]
)
# What may be sent by itself or by Enter: signing in, keeping a draft, skipping the pair
# whose Skip sheet is open, and what the Judge page says of its leases.
MAY_BE_SENT = re.compile(
    r"/accounts/(login|password_change)/"
    r"|/write/\d+/(save/)?"
    r"|/judge/(skip|ahead|extend|leave)/"
)
UNFOLD = """(sheets) => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  for (const one of document.querySelectorAll(".sheet[popover]")) {
    if (sheets && one.querySelector("input")) one.showPopover();
  }
}"""


@pytest.fixture
def stage(settings, tmp_path) -> Stage:
    settings.DATA_DIR = tmp_path
    return make_stage(count=12)


def what_there_is() -> dict[str, object]:
    """Return all that a press of Enter must not change."""
    return {
        "runs": set(Run.objects.values_list("pk", "state", "stop_requested")),
        "iterations": set(Iteration.objects.values_list("pk", "state", "step")),
        "changes": IterationChange.objects.count(),
        "promotions": Promotion.objects.count(),
        "files": set(Checkpoint.objects.values_list("pk", "files_removed_at")),
        "samples": set(Sample.objects.values_list("pk", "status", "split")),
        "contexts": ThinkingContext.objects.count(),
        "drafts": set(Draft.objects.values_list("pk", flat=True)),
        "judgments": Judgment.objects.count(),
        "guidelines": GuidelineVersion.objects.count(),
        "members": set(Membership.objects.values_list("pk", "role")),
    }


class Presses:
    """Presses Enter in the lines of a page, and notes what that sent or downloaded."""

    def __init__(self, stage: Stage, *, sheets: bool) -> None:
        self.stage = stage
        self.sheets = sheets  # open those that scripts would open
        self.sent: list[str] = []
        self.count = 0
        self.watched: set[int] = set()

    def watch(self, page: Page) -> None:
        if id(page) in self.watched:
            return
        self.watched.add(id(page))
        page.on("request", self.note)
        page.on("download", lambda file: self.sent.append(f"downloads {file.url}"))

    def note(self, request: Request) -> None:
        path = re.sub(r"^\w+://[^/]+", "", request.url)
        if request.method != "GET" and not MAY_BE_SENT.fullmatch(
            re.sub(r"^/p/[\w-]+", "", path.partition("?")[0])
        ):
            self.sent.append(f"{request.method} {path}")
        elif "/export" in path or "/download" in path:
            self.sent.append(f"GET {path}")

    def __call__(self, page: Page, place: Place) -> Iterator[str]:
        self.watch(page)
        page.evaluate(UNFOLD, self.sheets)
        count = page.locator(LINES).locator("visible=true").count()
        for number in range(count):
            for typed in ("", "1"):
                if not self.ready(page, place, count):
                    break
                line = page.locator(LINES).locator("visible=true").nth(number)
                with suppress(PlaywrightError):
                    if typed and line.input_value() == "":
                        line.fill(typed)
                    elif typed:
                        continue
                    name = line.get_attribute("id") or line.get_attribute("name")
                    self.sent.clear()
                    line.press("Enter")
                    self.count += 1
                    page.wait_for_timeout(120)
                yield from (f"Enter in {name} {one}" for one in self.sent)

    def ready(self, page: Page, place: Place, count: int) -> bool:
        """Bring the page back where Enter led away from it."""
        lines = page.locator(LINES).locator("visible=true")
        there = page.url.endswith(self.stage.address(place))
        if there and lines.count() == count:
            return True
        page.goto(self.stage.address(place))
        with suppress(PlaywrightError):
            place.act(page)
        page.evaluate(UNFOLD, self.sheets)
        return lines.count() == count


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_enter_in_any_line_of_any_page_does_no_harm(sign_in, visit, stage, scripts):
    tour = Tour(sign_in, visit, stage, java_script_enabled=scripts)
    press = Presses(stage, sheets=not scripts)
    found = []
    # Last the skip, which Enter does send: the pair is another's then.
    for place in sorted(PLACES, key=lambda one: one.name == "judge-skip"):
        place = place if scripts else replace(place, act=lambda page: None)
        try:
            page = tour.go(place)
        except PlaywrightError:
            page = tour.go(place)  # a busy machine: once more
        page.expected_errors.append("409")  # a draft that two windows have open
        before = what_there_is()
        found += [f"{place.name}: {each}" for each in press(page, place)]
        after = what_there_is()
        found += [f"{place.name}: changed {n}" for n in after if after[n] != before[n]]
    assert not found, "\n".join(found)
    assert press.count > 60  # the forms of runs alone have as many


def test_enter_in_the_box_that_confirms_retires_nothing(sign_in, stage):
    tour = Tour(sign_in, None, stage)
    before = what_there_is()
    page = tour.go(next(one for one in PLACES if one.name == "sample"))
    page.check("input[name=sure]")
    page.press("input[name=sure]", "Enter")
    page.wait_for_timeout(200)
    assert what_there_is() == before


def test_the_export_is_what_the_list_shows(sign_in, stage):
    tour = Tour(sign_in, None, stage)
    page = tour.go(next(one for one in PLACES if one.name == "samples"))
    page.fill("#id_text", "cake-for-saturday")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=cake-for-saturday**")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 1
    assert '"cake-for-saturday"' in lines[0]
    assert reverse("annotation:samples-export", args=["cake-shop"]) in (
        download.value.url
    )
