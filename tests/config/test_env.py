from pathlib import Path

import pytest

from config import env
from config.env import EnvironmentValueError


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("Yes", True), ("on", True), ("0", False), ("false", False)],
)
def test_flag_reads_the_usual_words(monkeypatch, value, expected):
    monkeypatch.setenv("CHOICE", value)
    assert env.flag("CHOICE", not expected) is expected


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("CHOICE", "")
    assert env.flag("CHOICE", True) is True
    assert env.integer("CHOICE", 4) == 4
    assert env.text("CHOICE", "blue") == "blue"
    assert env.words("CHOICE", ["a"]) == ["a"]
    assert not env.is_set("CHOICE")


def test_a_bad_flag_names_variable_value_and_what_is_allowed(monkeypatch):
    monkeypatch.setenv("DEBUG", "maybe")
    with pytest.raises(EnvironmentValueError) as caught:
        env.flag("DEBUG")
    assert str(caught.value) == (
        "DEBUG is 'maybe'; allowed: 1, true, yes, on, 0, false, no, off"
    )


@pytest.mark.parametrize("value", ["eight", "0", "70000", "1.5"])
def test_a_bad_integer_names_variable_value_and_what_is_allowed(monkeypatch, value):
    monkeypatch.setenv("PORT", value)
    with pytest.raises(EnvironmentValueError) as caught:
        env.integer("PORT", 8000, minimum=1, maximum=65535)
    assert str(caught.value) == (
        f"PORT is '{value}'; allowed: a whole number of at least 1 and at most 65535"
    )


def test_a_text_outside_its_choices_is_refused(monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    with pytest.raises(EnvironmentValueError) as caught:
        env.text("LOG_LEVEL", "INFO", choices=("INFO", "DEBUG"))
    assert str(caught.value) == "LOG_LEVEL is 'LOUD'; allowed: INFO, DEBUG"


def test_words_are_split_at_commas(monkeypatch):
    monkeypatch.setenv("ALLOWED_HOSTS", " a.example , b.example,")
    assert env.words("ALLOWED_HOSTS") == ["a.example", "b.example"]


def test_a_path_is_absolute_and_knows_the_home(monkeypatch):
    monkeypatch.setenv("PLACE", "~/data")
    assert env.path("PLACE", Path()) == Path.home() / "data"


def test_a_secret_comes_from_its_file_without_the_line_end(monkeypatch, tmp_path):
    file = tmp_path / "key"
    file.write_text("s3cret\n")
    monkeypatch.delenv("KEY", raising=False)
    monkeypatch.setenv("KEY_FILE", str(file))
    assert env.secret("KEY") == "s3cret"


def test_a_secret_given_twice_is_refused_without_showing_it(monkeypatch, tmp_path):
    monkeypatch.setenv("KEY", "s3cret")
    monkeypatch.setenv("KEY_FILE", "/etc/key")
    with pytest.raises(EnvironmentValueError) as caught:
        env.secret("KEY")
    assert str(caught.value) == (
        "KEY_FILE is '/etc/key'; allowed: one of KEY and KEY_FILE"
    )


def test_a_missing_secret_says_both_ways_to_give_it(monkeypatch):
    monkeypatch.delenv("KEY", raising=False)
    monkeypatch.delenv("KEY_FILE", raising=False)
    with pytest.raises(EnvironmentValueError) as caught:
        env.secret("KEY")
    assert str(caught.value) == (
        "KEY is not usable; allowed: a value, or KEY_FILE naming a file"
    )


def test_an_unreadable_secret_file_is_named(monkeypatch):
    monkeypatch.delenv("KEY", raising=False)
    monkeypatch.setenv("KEY_FILE", "/nowhere/key")
    with pytest.raises(EnvironmentValueError, match=r"^KEY_FILE is '/nowhere/key'"):
        env.secret("KEY")
