"""The form of a new run."""

import dataclasses
import re

import pytest

from records.recipes import RECIPES
from tests.cast import (
    make_judgment,
    make_pair,
    make_project,
    make_sample,
    make_user,
    sign_in,
)
from tests.training.conftest import make_policy
from training.iterations import promotion
from training.models import Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    project = make_project(slug="cakes")
    make_sample(project=project)
    make_sample(project=project, split="held-out")
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


def filled(client, project, kind="sft"):
    """Return what a browser would send of the form of a new run as it is shown."""
    form = client.get(f"/p/{project.slug}/runs/new/{kind}/").context["form"]
    values = {field.html_name: field.value() for field in form}
    return {n: v for n, v in values.items() if v is not None and v is not False}


def start(client, project, kind="sft", **fields):
    return client.post(
        f"/p/{project.slug}/runs/new/{kind}/", filled(client, project, kind) | fields
    )


def test_a_preference_run_starts_from_its_form(client, project, tara):
    policy = make_policy(project)
    promotion.promote(project=policy.project, checkpoint=policy, user=tara)
    pair = make_pair(project=project, slots=1)
    make_judgment(pair, make_user("lena"), 0)
    page = start(client, project, "preference", recipe_objective="kto")
    assert page.status_code == 302, page.context["form"].errors
    run = Run.objects.get(kind="preference")
    assert run.recipe["objective"] == "kto"
    assert run.snapshot.counts["pairs"] == 1
    assert client.get(run.get_absolute_url()).status_code == 200


def test_a_preference_run_without_judgments_says_what_is_missing(client, project, tara):
    promotion.promote(project=project, checkpoint=make_policy(project), user=tara)
    page = start(client, project, "preference")
    assert page.status_code == 422
    assert "No pair has been judged to an outcome yet." in page.content.decode()


def test_the_form_starts_a_run_with_its_recipe(client, project, tara):
    answer = start(client, project, recipe_steps="7", recipe_learning_rate="0.002")
    run = Run.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == f"/p/cakes/runs/{run.pk}/"
    assert (run.kind, run.state, run.created_by) == ("sft", "queued", tara)
    assert run.recipe["steps"] == 7
    assert run.recipe["learning_rate"] == 0.002
    assert run.recipe["references"] is True
    assert run.snapshot.counts["train"] == 1


def test_an_unticked_box_turns_a_setting_off(client, project, tara):
    data = filled(client, project)
    del data["recipe_references"]
    client.post("/p/cakes/runs/new/sft/", data)
    assert Run.objects.get().recipe["references"] is False


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("recipe_steps", "0", "greater than or equal to 1"),
        ("recipe_steps", "many", "Enter a whole number"),
        ("recipe_learning_rate", "2", "less than or equal to 1"),
        ("recipe_learning_rate", "nan", "Enter a number"),
        ("recipe_method", "sgd", "sgd is not one of the available choices"),
        ("policy", "999", "This project has no such checkpoint."),
    ],
)
def test_a_wrong_setting_is_said_at_its_field_and_nothing_starts(
    client, project, tara, field, value, message
):
    answer = start(client, project, **{field: value, "recipe_seed": "77"})
    assert answer.status_code == 422
    assert message in answer.context["form"].errors[field][0]
    assert 'value="77"' in answer.content.decode()
    assert not Run.objects.exists()


def policy_form(client, project, **fields):
    """Answer of the form of a policy run that starts from a policy and an oracle."""
    policy = make_policy(project)
    fields |= {"policy": policy.pk, "recipe_consistency_source": "oracle"}
    return start(client, project, "policy", **fields)


def test_settings_that_hang_on_a_choice_stand_together_under_what_they_need(
    client, project, tara
):
    page = client.get("/p/cakes/runs/new/policy/")
    groups = {
        group.only: [field.name.removeprefix("recipe_") for field in group.fields]
        for section in page.context["form"].advanced_settings
        for group in section.groups
        if group.when
    }
    assert groups["Only with algorithm: ppo"] == [
        "critic_learning_rate",
        "gae_lambda",
    ]
    assert groups["Only with method: full"] == ["muon_learning_rate"]
    html = page.content.decode()
    assert "<legend>Only with algorithm: ppo</legend>" in html
    assert "{&quot;recipe_algorithm&quot;: [&quot;ppo&quot;]}" in html


def test_every_setting_is_on_the_page_once(client, project, tara):
    for kind, recipe in RECIPES.items():
        form = client.get(f"/p/cakes/runs/new/{kind}/").context["form"]
        shown = [
            field.name
            for section in (*form.settings, *form.advanced_settings)
            for group in section.groups
            for field in group.fields
        ]
        known = [f"recipe_{item.name}" for item in dataclasses.fields(recipe)]
        assert sorted(shown) == sorted(known), kind


def test_a_setting_that_the_choice_does_not_use_is_kept_and_does_not_matter(
    client, project, tara
):
    answer = policy_form(client, project, recipe_gae_lambda="0.5")
    assert answer.status_code == 302, answer.context["form"].errors
    assert Run.objects.get(kind="policy").recipe["gae_lambda"] == 0.5


def test_a_wrong_value_is_said_even_where_the_choice_does_not_use_it(
    client, project, tara
):
    answer = policy_form(client, project, recipe_gae_lambda="7")
    assert answer.status_code == 422
    form = answer.context["form"]
    assert form.advanced_is_wrong
    assert "less than or equal to 1" in form.errors["recipe_gae_lambda"][0]


def test_a_draw_needs_a_policy_and_says_so(client, project, tara):
    page = client.get("/p/cakes/runs/new/draw/")
    assert "The project has no policy yet." in page.content.decode()
    answer = start(client, project, "draw")
    assert answer.context["form"].errors["policy"] == ["This run needs a policy."]
    checkpoint = make_policy(project)
    page = client.get(f"/p/cakes/runs/new/draw/?policy={checkpoint.pk}")
    assert page.context["form"]["policy"].value() == checkpoint.pk
    start(client, project, "draw", policy=checkpoint.pk)
    assert Run.objects.get(kind="draw").run_inputs.get().checkpoint == checkpoint


def test_a_damaged_checkpoint_is_refused_at_its_field(client, project, tara):
    checkpoint = make_policy(project)
    (checkpoint.directory / "model.safetensors").write_bytes(b"other")
    answer = start(client, project, "draw", policy=checkpoint.pk)
    (error,) = answer.context["form"].errors["policy"]
    assert re.fullmatch(
        r"It is not intact on disk: model\.safetensors was changed after it was written: "
        r"expected the hash [0-9a-f]{12}, found [0-9a-f]{12}\.",
        error,
    )


def test_a_reward_run_without_judgments_says_what_is_missing(client, project, tara):
    checkpoint = make_policy(project)
    answer = start(client, project, "reward", policy=checkpoint.pk)
    assert answer.status_code == 422
    assert "No pair has been judged to an outcome yet." in answer.content.decode()


def test_an_unknown_kind_is_not_found(client, project, tara):
    assert client.get("/p/cakes/runs/new/dance/").status_code == 404
