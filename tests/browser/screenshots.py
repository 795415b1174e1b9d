"""Take the pictures of docs/screenshots: every page and state, light, dark and small.

    pytest tests/browser/screenshots.py -m browser -p no:randomly

``SHOTS`` names another folder, ``LANGUAGE=zh-hans`` another language, ``ONLY=judge,work``
the places to visit.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page

from tests.browser.places import PLACES, Stage, make_stage
from tests.browser.test_accessibility import Tour

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

FOLDER = Path(os.environ.get("SHOTS", "docs/screenshots"))
LANGUAGE = os.environ.get("LANGUAGE", "en")
ONLY = [name for name in os.environ.get("ONLY", "").split(",") if name]
WIDE, SMALL = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
LOOKS = {
    "light": {"color_scheme": "light", "viewport": WIDE},
    "dark": {"color_scheme": "dark", "viewport": WIDE},
    "mobile": {"color_scheme": "light", "viewport": SMALL},
}
# A picture is a quarter of its PNG; Chromium itself converts it.
TO_WEBP = """async (png) => {
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").drawImage(image, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/webp", quality: 0.72 });
  const data = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
}"""


@pytest.fixture
def stage(settings, tmp_path) -> Stage:
    settings.DATA_DIR = tmp_path
    return make_stage(count=40)


def shoot(page: Page, converter: Page, path: Path) -> None:
    page.evaluate("document.fonts.ready")
    # Hiding the caret would need an inline style, which the page's policy forbids.
    png = page.screenshot(caret="initial")
    webp = converter.evaluate(TO_WEBP, base64.b64encode(png).decode())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(webp))


@pytest.mark.parametrize("look", LOOKS)
def test_take(sign_in, visit, stage, live_server, look: str) -> None:
    locale = "zh-CN" if LANGUAGE == "zh-hans" else "en-GB"
    settings = LOOKS[look] | {"reduced_motion": "reduce", "locale": locale}
    tour = Tour(sign_in, visit, stage, **settings)
    converter = visit()
    converter.goto("/accounts/login/")  # a page, for its canvas
    missed = {}
    for place in PLACES:
        if ONLY and place.name not in ONLY:
            continue
        try:
            page = tour.go(place)
        except Error as error:
            missed[place.name] = str(error)
        else:
            shoot(page, converter, FOLDER / look / f"{place.name}.webp")
    assert missed == {}
