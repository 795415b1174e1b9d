"""Every text that can be translated, and the catalogues of its translations.

    python -m tests.catalogue

finds the texts in templates, Python and scripts, brings ``locale/*/LC_MESSAGES/*.po`` up
to date with them (a text that is gone goes, a new one waits with an empty translation)
and compiles the ``.mo`` files that Django reads. No gettext tool is needed.
``tests/test_translations.py`` proves that nothing is missing.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polib
from django.utils.translation.template import templatize

BASE_DIR = Path(__file__).resolve().parent.parent
APPS = ("annotation", "config", "training")
FUNCTIONS = {"_", "gettext", "gettext_lazy", "gettext_noop"}
PLURALS = {"ngettext", "ngettext_lazy"}
CONTEXTS = {"pgettext", "pgettext_lazy"}
# In what templatize makes of a template, and in a script: a call with literal texts.
STRING = r"""\s*u?(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*"""
CALL = re.compile(
    rf"(?<![\w.])(?P<name>n?p?gettext|_)\((?P<arguments>{STRING}(?:,{STRING})*)"
)
LITERAL = re.compile(STRING)


@dataclass(frozen=True)
class Text:
    """One text to translate; ``plural`` and ``context`` where it has them."""

    one: str
    plural: str = ""
    context: str | None = None


Found = dict[Text, list[str]]


def pages() -> Found:
    """Return the texts of domain ``django`` with the files they stand in."""
    found: Found = {}
    for path in sorted((BASE_DIR / "templates").rglob("*.html")):
        for text in _of_calls(templatize(path.read_text(encoding="utf-8"))):
            _add(found, text, path)
    for app in APPS:
        for path in sorted((BASE_DIR / app).rglob("*.py")):
            if "engine" not in path.parts and "migrations" not in path.parts:
                for text in _of_python(path):
                    _add(found, text, path)
    from training.wording.words import texts_of_the_engine

    for one in texts_of_the_engine():
        _add(found, Text(one), BASE_DIR / "training/wording/words.py")
    return found


def scripts() -> Found:
    """Return the texts of domain ``djangojs`` with the files they stand in."""
    found: Found = {}
    for path in sorted((BASE_DIR / "static/js").rglob("*.js")):
        for text in _of_calls(path.read_text(encoding="utf-8")):
            _add(found, text, path)
    return found


def _add(found: Found, text: Text, path: Path) -> None:
    places = found.setdefault(text, [])
    name = path.relative_to(BASE_DIR).as_posix()
    if text.one and name not in places:
        places.append(name)


def _of_calls(source: str) -> Iterator[Text]:
    for call in CALL.finditer(source):
        literals = [
            ast.literal_eval(each.strip())
            for each in LITERAL.findall(call["arguments"])
        ]
        if literals[0]:
            yield _text(call["name"], literals)


def _text(function: str, literals: list[str]) -> Text:
    if function in PLURALS:
        return Text(literals[0], literals[1])
    if function in CONTEXTS:
        return Text(literals[1], context=literals[0])
    return Text(literals[0])


def _of_python(path: Path) -> Iterator[Text]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name not in FUNCTIONS | PLURALS | CONTEXTS:
            continue
        literals = [
            each.value
            for each in node.args
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        needed = 1 if name in FUNCTIONS else 2
        if len(literals) >= needed:
            yield _text(name, literals)


DOMAINS = {"django": pages, "djangojs": scripts}


def files(domain: str) -> list[Path]:
    return sorted((BASE_DIR / "locale").glob(f"*/LC_MESSAGES/{domain}.po"))


def key(entry: polib.POEntry) -> Text:
    return Text(entry.msgid, entry.msgid_plural, entry.msgctxt)


def update(path: Path, found: Found) -> int:
    """Write a catalogue anew with the texts that are there; return how many it lacks."""
    catalogue = polib.pofile(str(path), wrapwidth=88)
    known = {key(entry): entry for entry in catalogue}
    fresh = polib.POFile(wrapwidth=88)
    fresh.header, fresh.metadata = catalogue.header, catalogue.metadata
    lacking = 0
    for text, places in sorted(found.items(), key=lambda each: (each[1], each[0].one)):
        entry = known.get(text) or polib.POEntry(
            msgid=text.one,
            msgid_plural=text.plural,
            msgctxt=text.context,
            msgstr_plural={0: ""} if text.plural else {},
        )
        entry.occurrences = [(place, "") for place in places]
        entry.flags = ["python-format"] if "%(" in text.one else []
        lacking += not is_translated(entry)
        fresh.append(entry)
    fresh.save(str(path))
    fresh.save_as_mofile(str(path.with_suffix(".mo")))
    return lacking


def is_translated(entry: polib.POEntry) -> bool:
    if entry.msgid_plural:
        return bool(entry.msgstr_plural) and all(entry.msgstr_plural.values())
    return bool(entry.msgstr)


def main() -> None:
    for domain, find in DOMAINS.items():
        for path in files(domain):
            lacking = update(path, find())
            name = path.relative_to(BASE_DIR)
            sys.stdout.write(f"{name}: {lacking or 'none'} to be translated\n")


if __name__ == "__main__":
    import os

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    main()
