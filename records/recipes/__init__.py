"""The settings of every training program, one frozen dataclass each, in a module each.

A recipe inherits the groups of settings that it shares with others (``groups``).

Plain Python (no torch), so that the web application can import it: the page form of a
new run is generated from the fields and their metadata (``fields``), and a run
directory's ``run.json`` is checked against them before any model is loaded
(``checking``).

Types are ``int``, ``float``, ``bool``, ``str`` and ``tuple[str, ...]`` only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias, get_type_hints

from records.recipes.checking import RecipeError, Setting, checked, shown
from records.recipes.draw import DrawRecipe
from records.recipes.evaluate import EvaluateRecipe
from records.recipes.policy import PolicyRecipe
from records.recipes.preference import PreferenceRecipe
from records.recipes.retired import (
    RETIRED,
    brought_up_to_date,
    refuse_retired,
    to_show,
)
from records.recipes.reward import RewardRecipe
from records.recipes.sft import SftRecipe

__all__ = [
    "RECIPES",
    "RETIRED",
    "DrawRecipe",
    "EvaluateRecipe",
    "PolicyRecipe",
    "PreferenceRecipe",
    "Recipe",
    "RecipeError",
    "RewardRecipe",
    "Setting",
    "SftRecipe",
    "brought_up_to_date",
    "new_recipe",
    "recipe_from_json",
    "recipe_to_json",
    "to_show",
]

Recipe: TypeAlias = (
    SftRecipe
    | DrawRecipe
    | RewardRecipe
    | PreferenceRecipe
    | PolicyRecipe
    | EvaluateRecipe
)

RECIPES: dict[str, type[Recipe]] = {
    "sft": SftRecipe,
    "draw": DrawRecipe,
    "reward": RewardRecipe,
    "preference": PreferenceRecipe,
    "policy": PolicyRecipe,
    "evaluate": EvaluateRecipe,
}


def recipe_from_json(program: str, obj: object) -> Recipe:
    """Return the recipe of ``program`` with the settings in ``obj``.

    Settings that ``obj`` leaves out keep their defaults. Recipes of earlier versions are
    read as well (``retired``). Raises ``RecipeError`` for an unknown program or setting,
    a wrong type, a value outside its range or choices.
    """
    if program not in RECIPES:
        raise RecipeError("program", f"one of {', '.join(RECIPES)}", repr(program))
    if not isinstance(obj, Mapping):
        raise RecipeError("recipe", "an object of settings", shown(obj))
    recipe_type = RECIPES[program]
    known = {item.name: item for item in dataclasses.fields(recipe_type)}
    types = get_type_hints(recipe_type)
    settings: dict[str, Setting] = {}
    today, _ = brought_up_to_date(program, obj)
    for name, value in today.items():
        if name not in known:
            raise RecipeError(str(name), f"a setting of {program}", "an unknown name")
        settings[name] = checked(name, value, types[name], known[name].metadata)
    # The values were checked against the field types one by one just above.
    return recipe_type(**settings)  # type: ignore[arg-type]


def new_recipe(program: str, obj: Mapping[str, object]) -> Recipe:
    """Return the recipe of a new run; raise ``RecipeError`` for retired settings too."""
    refuse_retired(program, obj)
    return recipe_from_json(program, obj)


def recipe_to_json(recipe: Recipe) -> dict[str, object]:
    """Return the settings as JSON values, in the order of the dataclass."""
    return {
        item.name: list(value) if isinstance(value, tuple) else value
        for item in dataclasses.fields(recipe)
        for value in [getattr(recipe, item.name)]
    }
