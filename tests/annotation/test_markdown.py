"""Markdown becomes HTML that can do nothing."""

import re

import pytest

from annotation.text.markdown import render_markdown
from config.state import BASE_DIR

PACKAGES = ("actions", "annotation", "config", "training")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "![x](https://elsewhere.example/pixel.png)",
        '<a href="#" style="position:fixed">x</a>',
        "<iframe src=//elsewhere.example></iframe>",
        "```html\n<script>alert(1)</script>\n```",
        "<svg/onload=alert(1)>",
    ],
)
def test_nothing_that_acts_comes_out(text):
    html = render_markdown(text).lower()
    assert not re.search(r"<(script|img|iframe|svg|style)", html)
    for tag in re.findall(r"<[^>]*>", html):
        assert not re.search(r"javascript:|data:|style=|\bon\w+=", tag), tag


def test_what_people_write_looks_as_meant():
    html = render_markdown(
        "# One\n\n**strong** and *soft*\n\n- a\n- b\n\n3. c\n\n"
        "| x | y |\n|---|---|\n| 1 | 2 |\n\n[link](https://example.org/)"
    )
    assert "<h3>One</h3>" in html
    assert "<strong>strong</strong>" in html
    assert "<li>a</li>" in html
    assert '<ol start="3">' in html
    assert "<td>2</td>" in html
    assert 'rel="noopener noreferrer"' in html


def test_html_is_shown_as_text():
    assert "&lt;b&gt;" in render_markdown("Write <b> for bold.")


PATTERN = re.compile(r"mark_safe|\|safe\b|autoescape off|SafeString\(")


def test_nothing_else_marks_html_as_safe():
    files = [
        *(p for name in PACKAGES for p in (BASE_DIR / name).rglob("*.py")),
        *(BASE_DIR / "templates").rglob("*.html"),
    ]
    found = [path.name for path in files if PATTERN.search(path.read_text())]
    assert found == ["markdown.py"]
