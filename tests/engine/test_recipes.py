"""Recipes: defaults, checks, and what the form is made from."""

import dataclasses
import re
from pathlib import Path

import pytest

from records.recipes import (
    RECIPES,
    RETIRED,
    RecipeError,
    SftRecipe,
    brought_up_to_date,
    new_recipe,
    recipe_from_json,
    recipe_to_json,
    to_show,
)
from records.recipes.groups import Critic, title_of
from records.recipes.retired import Renamed
from tests.old_recipes import old_recipe


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
    assert hang == [item.name for item in dataclasses.fields(Critic)]


@pytest.mark.parametrize("program", RECIPES)
def test_every_recipe_has_a_seed(program):
    assert recipe_from_json(program, {"seed": 7}).seed == 7


def test_settings_of_earlier_versions_are_left_out():
    settings = {"steps": 5, "copying_steps": 100}
    assert recipe_from_json("sft", settings) == SftRecipe(steps=5)
    with pytest.raises(RecipeError, match="copying_steps"):
        recipe_from_json("reward", {"copying_steps": 100})


def test_no_recipe_has_more_settings_than_a_person_can_know():
    counts = {name: len(dataclasses.fields(RECIPES[name])) for name in RECIPES}
    assert counts["policy"] <= 36
    assert sum(counts.values()) <= 120, counts


@pytest.mark.parametrize("program", RECIPES)
def test_every_setting_is_read_by_some_program(program):
    """Its name stands behind a recipe or a part of one, outside of the recipes."""
    sources = [
        path.read_text()
        for path in Path("training").rglob("*.py")
        if "migrations" not in path.parts
    ]
    unread = [
        item.name
        for item in dataclasses.fields(RECIPES[program])
        if not any(
            re.search(rf"\b(recipe|settings)\.{item.name}\b", text)
            or f'recipe.get("{item.name}"' in text
            for text in sources
        )
    ]
    assert unread == []


@pytest.mark.parametrize("program", RECIPES)
def test_a_recipe_has_its_groups_settings_with_what_is_said_of_them(program):
    recipe = RECIPES[program]
    own = {item.name: item for item in dataclasses.fields(recipe)}
    for group in recipe.__mro__[1:-1]:
        for item in dataclasses.fields(group):
            assert own[item.name].type == item.type
            assert title_of(recipe, item.name) == group.title


# Recipes of earlier versions


@pytest.mark.parametrize("program", RECIPES)
def test_a_recipe_of_before_opens_with_the_same_settings(program):
    assert recipe_from_json(program, old_recipe(program)) == RECIPES[program]()
    assert brought_up_to_date(program, old_recipe(program))[1] == []


@pytest.mark.parametrize("program", RECIPES)
def test_every_setting_of_before_is_there_or_is_said_to_be_gone(program):
    known = {item.name for item in dataclasses.fields(RECIPES[program])}
    assert set(old_recipe(program)) <= known | set(RETIRED[program])
    assert not known & set(RETIRED[program])
    for fate in RETIRED[program].values():
        if isinstance(fate, Renamed):
            assert fate.to in known
        else:
            assert fate.why.endswith(".")


@pytest.mark.parametrize(
    ("program", "settings", "expected"),
    [
        ("sft", {"decay_share": 0.2, "clip_norm": 3.0}, (0.2, 3.0)),
        ("sft", {"optimizer": "adamw"}, 0.0),
        ("policy", {"optimizer": "muon"}, 1e-3),
        ("policy", {"kl_weight": 0.5, "clip_range": 0.1}, (0.5, 0.1)),
        ("policy", {"responses_per_prompt": 6, "draw_more": 3.0}, (6, 3.0)),
        ("policy", {"updates_per_draw": 4}, 4),
        ("policy", {"backend": "vllm server"}, "vllm"),
        ("policy", {"backend": "continuous"}, "own"),
        ("reward", {"judgments": False}, 0.0),
        ("reward", {"quads": False}, ("references", "changes")),
    ],
)
def test_what_an_old_setting_said_is_kept(program, settings, expected):
    names = {
        "decay_share": ("decay_fraction", "max_grad_norm"),
        "optimizer": ("muon_learning_rate",),
        "kl_weight": ("beta", "epsilon"),
        "responses_per_prompt": ("num_generations", "oversampling"),
        "updates_per_draw": ("num_iterations",),
        "backend": ("backend",),
        "judgments": ("judged_share",),
        "quads": ("derived",),
    }[next(iter(settings))]
    recipe = recipe_from_json(program, old_recipe(program) | settings)
    read = tuple(getattr(recipe, name) for name in names)
    assert (read if len(names) > 1 else read[0]) == expected


def test_a_setting_that_was_not_left_alone_is_said_to_be_retired():
    stored = old_recipe("policy") | {"credit": "unit", "threads": 2}
    settings, messages = brought_up_to_date("policy", stored)
    assert "credit" not in settings
    assert messages == [
        "setting `credit` ('unit') is retired: an advantage belongs to the whole "
        "response.",
        "setting `threads` (2) is retired: set OMP_NUM_THREADS for the worker.",
    ]
    shown = to_show("policy", stored)
    assert shown["credit"] == "unit"
    assert "normalize_each" not in shown
    assert shown["beta"] == 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kl_weight": 0.1},
            "recipe: `kl_weight`: expected its new name, `beta`, found 0.1",
        ),
        (
            {"credit": "response"},
            "recipe: `credit`: expected to be left out (retired: an advantage belongs "
            "to the whole response), found 'response'",
        ),
    ],
)
def test_a_new_recipe_with_a_retired_setting_is_refused(settings, message):
    with pytest.raises(RecipeError) as caught:
        new_recipe("policy", settings)
    assert str(caught.value) == message
    assert new_recipe("policy", {"beta": 0.1}).beta == 0.1


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
