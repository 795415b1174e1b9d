"""The parser's words on the pages, in the visitor's language."""

import pytest
from django.utils import translation

from actions.grammar import FormatError, parse
from annotation.text.grammar_messages import PHRASES, grammar_message

BROKEN = [
    "<<think>>No end",
    "Hello <<think>>late<</think>>",
    "<<think>>x<<observation>>y",
    "<<think>>x<</think>>",
    "<<think>>x<</think>>a<<action>>",
    '<<think>>x<<action>>{"parameters": {}}<</action>>',
    '<<think>>x<<action>>{"name": "", "parameters": {}}<</action>>',
    '<<think>>x<<action>>{"name": "a", "parameters": 3}<</action>>',
    "<<think>>x<<action>>[]<</action>>",
]


def error_of(text: str) -> FormatError:
    with pytest.raises(FormatError) as caught:
        parse(text)
    return caught.value


@pytest.mark.parametrize("text", BROKEN)
def test_in_english_it_is_the_parsers_own_message(text):
    error = error_of(text)
    assert grammar_message(error) == str(error)


def test_in_chinese_place_and_phrases_are_chinese():
    error = error_of("<<think>>x\ny<<action>>[]<</action>>")
    with translation.override("zh-hans"):
        said = grammar_message(error)
    assert said.startswith("第 2 行，第")
    assert "JSON 对象" in said


def test_the_parser_says_what_the_catalogue_knows():
    expected = {error_of(text).expected for text in BROKEN}
    known = {phrase for phrase in expected if phrase in PHRASES}
    # A missing key and a missing tag are named, not described.
    assert {e for e in expected - known if not e.startswith(("<<", "the key"))} == set()
