"""The form of a recipe, made from the fields of its dataclass."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from django import forms
from django.utils.translation import gettext

from records.recipes import RECIPES, brought_up_to_date
from records.recipes.groups import Compute, title_of
from training.wording.figures import capitalized
from training.wording.words import When, help_of, only_with, words

if TYPE_CHECKING:
    from actions.tags import JSON

FLOAT = forms.NumberInput(attrs={"step": "any"})


@dataclasses.dataclass(frozen=True)
class SettingGroup:
    """Neighbouring settings that are all used with the same choice, or always.

    ``when`` is that choice in JSON: names of fields, each with the values that count.
    ``only`` says it in words.
    """

    fields: list[forms.BoundField]
    when: str
    only: str


@dataclasses.dataclass(frozen=True)
class Section:
    """The settings of one group of a recipe (``records.recipes.groups``), or its own.

    ``when`` is that of its settings where all hang on one choice, as in a SettingGroup.
    """

    title: str
    groups: list[SettingGroup]

    @property
    def when(self) -> str:
        return self.groups[0].when if len(self.groups) == 1 else ""


class RecipeForm(forms.Form):
    """The recipe of a kind of run: one field per setting of its dataclass.

    A field is named ``recipe_<name>`` and has the setting's help text, unit, range and
    choices. A value that a program refuses is reported at its field. ``known`` replaces
    the defaults; it may be a recipe of an earlier version, and ``retired`` then lists
    its settings that no longer exist.
    """

    def __init__(
        self,
        *args: Any,
        kind: str,
        known: Mapping[str, JSON] | None = None,
        **kw: Any,
    ) -> None:
        super().__init__(*args, **kw)
        self.kind = kind
        recipe = RECIPES[kind]
        types = get_type_hints(recipe)
        today, self.retired = brought_up_to_date(kind, dict(known or {}))
        for setting in dataclasses.fields(recipe):
            default = (
                setting.default if setting.default is not dataclasses.MISSING else None
            )
            value = today.get(setting.name, default)
            if isinstance(value, list):  # as JSON keeps a tuple
                value = tuple(value)
            self.fields[f"recipe_{setting.name}"] = _field_of(
                setting.name, types[setting.name], value, setting.metadata
            )

    @property
    def settings(self) -> list[Section]:
        """Return the settings that people change, by section."""
        return list(self._sections(advanced=False))

    @property
    def advanced_settings(self) -> list[Section]:
        return list(self._sections(advanced=True))

    @property
    def advanced_is_wrong(self) -> bool:
        """Whether a folded setting has an error and must be shown."""
        return any(
            field.errors
            for section in self.advanced_settings
            for group in section.groups
            for field in group.fields
        )

    def _sections(self, *, advanced: bool) -> Iterator[Section]:
        """Yield the recipe's own settings first, and the compute settings last."""
        recipe = RECIPES[self.kind]
        by_title: dict[str, list[dataclasses.Field[Any]]] = {}
        for setting in dataclasses.fields(recipe):
            if bool(setting.metadata.get("advanced")) == advanced:
                title = title_of(recipe, setting.name)
                by_title.setdefault(title, []).append(setting)
        for title in sorted(by_title, key=lambda t: (t == Compute.title, t != "")):
            yield Section(
                gettext(title) if title else gettext("Recipe"),
                list(self._groups(by_title[title])),
            )

    def _groups(
        self, chosen: Sequence[dataclasses.Field[Any]]
    ) -> Iterator[SettingGroup]:
        """Yield neighbours that depend on the same choice together, others alone."""
        for _when, same in itertools.groupby(chosen, lambda s: s.metadata.get("when")):
            settings = list(same)
            when: When = settings[0].metadata.get("when") or {}
            yield SettingGroup(
                fields=[self[f"recipe_{setting.name}"] for setting in settings],
                when=json.dumps(
                    {
                        self[f"recipe_{name}"].html_name: list(values)
                        for name, values in when.items()
                    }
                )
                if when
                else "",
                only=only_with(when) if when else "",
            )

    def recipe(self) -> dict[str, object]:
        """Return the settings as :func:`training.runs.launch.start_run` takes them."""
        return {
            name.removeprefix("recipe_"): value
            for name, value in self.cleaned_data.items()
            if name.startswith("recipe_")
        }

    def add_problems(self, problems: Mapping[str, str]) -> None:
        """Show the problems of a ``LaunchRefusedError`` at their fields."""
        for name, why in problems.items():
            field = f"recipe_{name}" if f"recipe_{name}" in self.fields else name
            self.add_error(field if field in self.fields else None, why)


def _field_of(
    name: str, field_type: object, default: object, about: Mapping[str, Any]
) -> forms.Field:
    label = capitalized(words(name))
    if (unit := about.get("unit")) and unit not in name:
        label += f" ({gettext(unit)})"
    common: dict[str, Any] = {
        "label": label,
        "help_text": help_of(about),
        "initial": default,
    }
    choices = about.get("choices")
    low, high = about.get("min"), about.get("max")
    if field_type is bool:
        return forms.BooleanField(required=False, **common)
    if field_type is int:
        return forms.IntegerField(min_value=low, max_value=high, **common)
    if field_type is float:
        return forms.FloatField(min_value=low, max_value=high, widget=FLOAT, **common)
    if field_type is str and choices:
        return forms.ChoiceField(choices=[(c, c) for c in choices], **common)
    if field_type is str:
        return forms.CharField(required=False, max_length=500, **common)
    if choices:
        return forms.MultipleChoiceField(
            choices=[(c, c) for c in choices],
            required=False,
            widget=forms.CheckboxSelectMultiple,
            **common,
        )
    apart = gettext("Separate several by commas.")
    common["help_text"] = f"{common['help_text']} {apart}"
    common["initial"] = ", ".join(default) if isinstance(default, tuple) else ""
    return WordsField(required=False, **common)


class WordsField(forms.CharField):
    """Texts separated by commas."""

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        return tuple(word.strip() for word in text.split(",") if word.strip())
