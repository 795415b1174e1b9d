"""Recipes: defaults, checks, and what the form is made from."""

import dataclasses
from pathlib import Path

import pytest

from records.recipes import (
    RECIPES,
    RecipeError,
    SftRecipe,
    recipe_from_json,
    recipe_to_json,
)


@pytest.mark.parametrize("program", RECIPES)
def test_defaults_lie_in_their_own_ranges(program):
    recipe = RECIPES[program]()
    assert recipe_from_json(program, recipe_to_json(recipe)) == recipe


@pytest.mark.parametrize("program", RECIPES)
def test_every_setting_has_a_help_text_and_a_plain_type(program):
    for item in dataclasses.fields(RECIPES[program]):
        assert item.metadata["help"].endswith((".", ")"))
        assert item.type in {"int", "float", "bool", "str", "tuple[str, ...]"}


@pytest.mark.parametrize("program", RECIPES)
def test_a_setting_hangs_only_on_choices_that_its_recipe_has(program):
    known = {item.name: item for item in dataclasses.fields(RECIPES[program])}
    for item in known.values():
        for name, values in item.metadata.get("when", {}).items():
            other = known[name]
            possible = other.metadata.get("choices", [True, False])
            assert values, item.name
            assert set(values) < set(possible), item.name
            # Shown with the choice, so what it hangs on is used whenever it is.
            needed = other.metadata.get("when", {})
            assert needed.items() <= item.metadata["when"].items(), item.name


def test_a_critic_is_ppos_alone():
    hang = [
        item.name
        for item in dataclasses.fields(RECIPES["policy"])
        if item.metadata.get("when") == {"algorithm": ["ppo"]}
    ]
    assert hang == [
        "critic_start",
        "critic_learning_rate",
        "critic_updates",
        "critic_warmup_steps",
        "gae_lambda",
        "discount",
        "value_clip_range",
    ]


@pytest.mark.parametrize("program", RECIPES)
def test_every_recipe_has_a_seed(program):
    assert recipe_from_json(program, {"seed": 7}).seed == 7


def test_settings_of_earlier_versions_are_left_out():
    settings = {"steps": 5, "copying_steps": 100}
    assert recipe_from_json("sft", settings) == SftRecipe(steps=5)
    with pytest.raises(RecipeError, match="copying_steps"):
        recipe_from_json("reward", {"copying_steps": 100})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stepz": 3},
            "recipe: `stepz`: expected a setting of sft, found an unknown name",
        ),
        ({"steps": "3"}, "recipe: `steps`: expected a whole number, found '3'"),
        ({"steps": 3.5}, "recipe: `steps`: expected a whole number, found 3.5"),
        ({"steps": True}, "recipe: `steps`: expected a whole number, found True"),
        ({"steps": 0}, "recipe: `steps`: expected at least 1, found 0"),
        (
            {"learning_rate": 2},
            "recipe: `learning_rate`: expected at most 1.0, found 2",
        ),
        (
            {"learning_rate": float("nan")},
            "recipe: `learning_rate`: expected a number, found nan",
        ),
        (
            {"method": "half"},
            "recipe: `method`: expected one of full, lora, found 'half'",
        ),
        ({"packing": 1}, "recipe: `packing`: expected true or false, found 1"),
        (
            ["steps"],
            "recipe: `recipe`: expected an object of settings, found ['steps']",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises(RecipeError) as caught:
        recipe_from_json("sft", settings)
    assert str(caught.value) == message


def test_unknown_programs_are_refused():
    with pytest.raises(RecipeError, match="expected one of sft, draw"):
        recipe_from_json("sing", {})


def test_whole_floats_count_as_whole_numbers():
    assert recipe_from_json("sft", {"steps": 5.0}) == SftRecipe(steps=5)


@pytest.mark.parametrize("program", RECIPES)
def test_every_recipe_has_a_program_of_its_name(program):
    text = Path(f"training/engine/{program}.py").read_text()
    assert f'sys.exit(run_program("{program}", ' in text
