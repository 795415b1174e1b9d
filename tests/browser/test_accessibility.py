"""Every page and state: WCAG 2.2 A and AA by axe-core, and no sideways scrolling.

axe-core comes into the page by the debugger (``page.evaluate``), which the page's content
security policy does not concern; the policy stays enforced while it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page

from tests.browser.places import PLACES, Place, Stage, make_stage
from tests.cast import make_user

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
OPTIONS = {
    "resultTypes": ["violations"],
    "runOnly": {"type": "tag", "values": RULES},
    # Part of WCAG 2.2 AA and yet switched off by default.
    "rules": {"target-size": {"enabled": True}},
}
LOOKS = {
    "light-1440": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark-390": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture
def stage(settings, tmp_path) -> Stage:
    settings.DATA_DIR = tmp_path
    return make_stage(count=12)


class Tour:
    """One window for each person, led from place to place."""

    def __init__(self, sign_in, visit, stage: Stage, **look) -> None:
        self.sign_in, self.visit = sign_in, visit
        self.stage, self.look = stage, look
        self.windows: dict[str, Page] = {}

    def go(self, place: Place) -> Page:
        if place.who not in self.windows:
            self.windows[place.who] = (
                self.sign_in(make_user(place.who), **self.look)
                if place.who
                else self.visit(**self.look)
            )
        page = self.windows[place.who]
        page.set_default_timeout(4_000)
        page.expected_errors.extend(place.errors)
        page.goto(self.stage.address(place))
        place.act(page)
        return page

    def visit_all(self, look: Callable[[Page], Iterable[str]]) -> list[str]:
        """Return what ``look`` says of each place, with the place's name."""
        said = []
        for place in PLACES:
            try:
                said += [f"{place.name}: {each}" for each in look(self.go(place))]
            except PlaywrightError as error:
                said.append(f"{place.name}: not reached: {str(error)[:300]}")
        return said


def violations(page: Page) -> Iterator[str]:
    for violation in Axe().run(page, options=OPTIONS).response["violations"]:
        for node in violation["nodes"]:
            why = node["any"][0]["message"] if node["any"] else ""
            yield f"{violation['id']}: {node['target']} {node['html'][:160]} {why}"


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_on_any_page(sign_in, visit, stage, look) -> None:
    tour = Tour(sign_in, visit, stage, reduced_motion="reduce", **LOOKS[look])
    found = tour.visit_all(violations)
    assert not found, "\n".join(found)


def sideways(page: Page) -> Iterator[str]:
    width = page.evaluate("document.scrollingElement.scrollWidth")
    if width > 360:
        yield f"{width} pixels wide"


def test_no_page_scrolls_sideways_at_360_pixels(sign_in, visit, stage) -> None:
    tour = Tour(sign_in, visit, stage, viewport={"width": 360, "height": 740})
    found = tour.visit_all(sideways)
    assert not found, "\n".join(found)


def moving(page: Page) -> list[str]:
    return page.evaluate(
        """() => [...document.querySelectorAll("*")].filter((element) =>
          ["", "::before", "::after"].some((part) => {
            const style = getComputedStyle(element, part || null);
            return style.scrollBehavior === "smooth" ||
              style.animationName !== "none" ||
              style.transitionDuration.split(",").some((each) => parseFloat(each) > 0);
          })).map((element) => element.outerHTML.slice(0, 80))"""
    )


def test_nothing_moves_for_those_who_ask_for_it(sign_in, visit, stage) -> None:
    tour = Tour(sign_in, visit, stage, reduced_motion="reduce")
    found = tour.visit_all(moving)
    assert not found, "\n".join(found)
