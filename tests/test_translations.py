"""The catalogues say everything the pages say, in every language."""

import re
from html.parser import HTMLParser
from pathlib import Path

import polib
import pytest

from tests import catalogue

PLACE = re.compile(r"%\((\w+)\)([#0\- +]*[\d.]*\w)|%%|%[a-z]")
EVERY = [
    pytest.param(domain, path, id=f"{path.parts[-3]}-{domain}")
    for domain in catalogue.DOMAINS
    for path in catalogue.files(domain)
]


@pytest.fixture(scope="module")
def found():
    return {domain: find() for domain, find in catalogue.DOMAINS.items()}


def places(text: str) -> list[str]:
    return sorted(match.group(0) for match in PLACE.finditer(text))


def test_there_is_a_catalogue_of_both_domains_for_each_language_but_english():
    assert [each.id for each in EVERY] == ["zh_Hans-django", "zh_Hans-djangojs"]


@pytest.mark.parametrize(("domain", "path"), EVERY)
def test_every_text_is_translated_and_no_other(domain, path, found):
    entries = {catalogue.key(entry): entry for entry in polib.pofile(str(path))}
    missing = set(found[domain]) - set(entries)
    assert not missing, "run make translations, then translate what is new"
    assert not set(entries) - set(found[domain]), "run make translations"
    untranslated = [e.msgid for e in entries.values() if not catalogue.is_translated(e)]
    assert untranslated == []
    assert [e.msgid for e in entries.values() if e.fuzzy or e.obsolete] == []


@pytest.mark.parametrize(("domain", "path"), EVERY)
def test_translations_have_the_places_and_tags_of_their_texts(domain, path):
    wrong = []
    for entry in polib.pofile(str(path)):
        texts = entry.msgstr_plural.values() if entry.msgid_plural else [entry.msgstr]
        source = entry.msgid_plural or entry.msgid
        for text in texts:
            tags = [re.findall(r"</?\w+", each) for each in (source, text)]
            if places(source) != places(text) or sorted(tags[0]) != sorted(tags[1]):
                wrong.append((source, text))
            if source[:1].isspace() != text[:1].isspace() and source not in (
                " and ",
                " or ",
            ):
                wrong.append((source, text))
    assert wrong == []


@pytest.mark.parametrize(("domain", "path"), EVERY)
def test_the_compiled_catalogue_is_that_of_the_source(domain, path):
    compiled = Path(path).with_suffix(".mo")
    said = {
        catalogue.key(e): (e.msgstr, e.msgstr_plural)
        for e in polib.pofile(path)
        if catalogue.is_translated(e)
    }
    read = {
        catalogue.key(e): (e.msgstr, e.msgstr_plural) for e in polib.mofile(compiled)
    }
    assert read == said


def test_the_collector_finds_all_ways_to_say_a_text(tmp_path):
    script = (
        'gettext("a (b)");\n ngettext(\n "one", "many", n) + fill(gettext(\'it\\\'s\'))'
    )
    texts = set(catalogue._of_calls(script))
    assert texts == {
        catalogue.Text("a (b)"),
        catalogue.Text("one", "many"),
        catalogue.Text("it's"),
    }
    module = tmp_path / "module.py"
    module.write_text(
        '_("x" "y")\ngettext_lazy("z")\nngettext("1", "n", 3)\nother("no")'
    )
    texts = set(catalogue._of_python(module))
    assert texts == {
        catalogue.Text("xy"),
        catalogue.Text("z"),
        catalogue.Text("1", "n"),
    }


class Bare(HTMLParser):
    """Collect what a page says by itself, once its tags and variables are taken out."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.inside = ""
        for pattern in (
            r"\{%\s*blocktranslate.*?endblocktranslate\s*%\}",
            r"\{#.*?#\}",
            r"\{%.*?%\}",
            r"\{\{.*?\}\}",
        ):
            source = re.sub(pattern, " ", source, flags=re.DOTALL)
        self.feed(source)

    def handle_starttag(self, tag, attributes) -> None:
        self.inside = tag
        for name, value in attributes:
            if name in ("title", "aria-label", "placeholder", "alt", "data-name"):
                self.say(value or "")

    def handle_endtag(self, tag) -> None:
        self.inside = ""

    def handle_data(self, data) -> None:
        if self.inside not in ("kbd", "code"):
            self.say(data)

    def say(self, text: str) -> None:
        text = " ".join(text.split())
        if re.search("[A-Za-z]{2}", text) and text not in NAMES:
            self.said.append(text)


NAMES = {
    "held-out",
    "Concord · · Concord",
    "con",
    "cord",
    "· Concord",
    ".jsonl",
    "manifest.json",
}


def test_no_page_says_a_text_that_cannot_be_translated():
    bare = {
        path.name: said
        for path in sorted((catalogue.BASE_DIR / "templates").rglob("*.html"))
        if (said := Bare(path.read_text(encoding="utf-8")).said)
    }
    assert bare == {}


def test_a_bare_text_would_be_found():
    page = '{% if x %}<a title="Go there">{{ n }} pairs{% translate "fine" %}</a>'
    assert Bare(page).said == ["Go there", "pairs"]
