"""What a first visit to each page costs, and that nothing on it is inline.

A page is fetched as a browser would: compressed, with every style, script and module its
HTML leads to. Static files count as an installation serves them, compressed once ahead.
"""

from __future__ import annotations

import gzip
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings

from tests.browser.places import PLACES, make_stage
from tests.cast import make_user, sign_in

pytestmark = pytest.mark.django_db

LIMIT = 120_000
NOT_COUNTED = "vendor/uplot/"  # the chart library
IMPORT = re.compile(
    r"""(?:^|;)\s*(?:import|export)\b[^;"']*["'](\./[^"']+)["']""", re.M
)


class Parser(HTMLParser):
    """Collect what a page loads, and what the policy would not let run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        a = dict(attributes)
        if tag == "style" or "style" in a:
            self.inline.append(f"style of <{tag}>")
        self.inline += [f"{name} of <{tag}>" for name in a if name.startswith("on")]
        if "hx-on" in " ".join(a):
            self.inline.append(f"hx-on of <{tag}>")
        if any((a.get(n) or "").startswith("javascript:") for n in ("href", "src")):
            self.inline.append(f"javascript: in <{tag}>")
        if tag == "script" and "src" not in a and a.get("type") != "application/json":
            self.inline.append("<script> without src")
        if tag == "script" and "src" in a:
            self.loads.append(a["src"])
        if tag == "link" and a.get("rel") in ("stylesheet", "icon", "modulepreload"):
            self.loads.append(a["href"])
        if tag == "img":
            self.loads.append(a["src"])


@cache
def packed(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), 9))


def static_files(addresses: list[str]) -> set[Path]:
    """Return the files behind addresses, and the modules they import."""
    found: set[Path] = set()
    waiting = [
        settings.STATIC_ROOT / address.removeprefix(settings.STATIC_URL).split("?")[0]
        for address in addresses
    ]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".js" and "vendor" not in path.parts:
            for name in IMPORT.findall(path.read_text(encoding="utf-8")):
                waiting.append((path.parent / name).resolve())
    return found


def weight(client, content: bytes, loads: list[str]) -> dict[str, int]:
    """Return the bytes of everything a first visit transfers, by name."""
    of_static = [a for a in loads if a.startswith(settings.STATIC_URL)]
    weights = {"the page": len(content)}
    for path in static_files(of_static):
        name = path.relative_to(settings.STATIC_ROOT).as_posix()
        if not name.startswith(NOT_COUNTED):
            weights[name] = packed(path)
    for address in set(loads) - set(of_static):
        answer = client.get(address, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200, address
        weights[address] = len(answer.content)
    return weights


@pytest.fixture
def stage(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return make_stage(count=24)


def visits(client, stage, **cookies):
    """Yield every place with its answer as bytes on the wire and as text."""
    for place in PLACES:
        client.logout()
        if place.who:
            sign_in(client, make_user(place.who))
        for name, value in cookies.items():
            client.cookies[name] = value
        answer = client.get(stage.address(place), headers={"Accept-Encoding": "gzip"})
        content = answer.content
        if answer.get("Content-Encoding") == "gzip":
            yield place, answer, content, gzip.decompress(content).decode()
        else:
            yield place, answer, content, content.decode()


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_page_is_light_and_has_nothing_inline(client, stage, language):
    heavy, wrong, heaviest = {}, {}, 0
    for place, answer, content, text in visits(client, stage, django_language=language):
        parser = Parser()
        parser.feed(text)
        policy = answer.get("Content-Security-Policy", "")
        if parser.inline or "default-src 'self'" not in policy or "unsafe" in policy:
            wrong[place.name] = (parser.inline, policy)
        weights = weight(client, content, parser.loads)
        heaviest = max(heaviest, sum(weights.values()))
        if sum(weights.values()) > LIMIT:
            heavy[place.name] = weights
    assert heavy == {}
    assert wrong == {}
    assert heaviest > 30_000, "the parts of the pages were not found"


def test_an_inline_part_would_be_found():
    parser = Parser()
    parser.feed('<p style="x"><a onclick="x" href="javascript:x"><script>x</script>')
    assert parser.inline == [
        "style of <p>",
        "onclick of <a>",
        "javascript: in <a>",
        "<script> without src",
    ]


def test_each_place_has_a_name_of_its_own():
    names = [place.name for place in PLACES]
    assert sorted(set(names)) == sorted(names)
