"""What a run starts from, through its form: several reward models, a preference model."""

import pytest

from tests.cast import make_project, make_sample, make_user, sign_in
from tests.training.conftest import make_checkpoint, make_policy, make_run
from tests.training.test_new_run_page import start
from training.iterations import promotion
from training.models import Run
from training.runs import launch

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    project = make_project(slug="cakes")
    make_sample(project=project)
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


def make_reward_model(project, judges="consistency", **fields):
    run = make_run(
        project=project,
        kind="reward",
        state="finished",
        recipe={"judges": judges},
        **fields,
    )
    return make_checkpoint(run)


@pytest.fixture
def models(project, tara):
    """Return a promoted policy, three reward models and a preference model, by role."""
    policy = make_policy(project)
    promotion.promote(project=policy.project, checkpoint=policy, user=tara)
    third, second, first = (make_reward_model(project) for _ in range(3))
    return {
        "policy": policy,
        "reward": first,
        "reward-2": second,
        "reward-3": third,
        "preference": make_reward_model(project, judges="preference"),
    }


def keys(models, *roles):
    return {role: models[role].pk for role in roles}


def problems(page):
    assert page.status_code == 422
    return {
        name: [str(each) for each in errors]
        for name, errors in page.context["form"].errors.items()
    }


def test_each_picker_offers_what_its_role_takes(client, project, models):
    form = client.get("/p/cakes/runs/new/policy/").context["form"]
    offered = {
        role: {c.pk for c in form.fields[role].queryset}
        for role in ("policy", "reward", "reward-2", "reward-3", "preference")
    }
    judges = {models[role].pk for role in ("reward", "reward-2", "reward-3")}
    assert offered == {
        "policy": {models["policy"].pk},
        "reward": judges,
        "reward-2": judges,
        "reward-3": judges,
        "preference": {models["preference"].pk},
    }


def test_the_newest_of_each_is_chosen_and_an_ensemble_never_by_itself(
    client, project, models
):
    form = client.get("/p/cakes/runs/new/policy/").context["form"]
    assert form["reward"].value() == models["reward"].pk
    assert form["preference"].value() == models["preference"].pk
    assert form["reward-2"].value() is None
    assert form["reward-3"].value() is None


def test_a_reward_run_from_before_there_were_preference_models_judges_consistency(
    client, project, models
):
    old = make_checkpoint(make_run(project=project, kind="reward", state="finished"))
    form = client.get("/p/cakes/runs/new/policy/").context["form"]
    assert form["reward"].value() == old.pk
    assert form["preference"].value() == models["preference"].pk


def test_the_form_starts_a_run_with_all_of_them(client, project, models):
    page = start(client, project, "policy", **keys(models, "reward-2", "reward-3"))
    assert page.status_code == 302, page.context["form"].errors
    run = Run.objects.get(kind="policy")
    found = {each.role: each.checkpoint for each in run.run_inputs.all()}
    assert found == {**models, "initial": models["policy"]}


def test_the_lineage_shows_them_both_ways(client, project, models):
    start(client, project, "policy", **keys(models, "reward-2"))
    run = Run.objects.get(kind="policy")
    page = client.get(run.get_absolute_url()).content.decode()
    for text in ("second reward model", "preference model"):
        assert text in page
    for role, said in (
        ("reward-2", "as second reward model"),
        ("preference", "as preference model"),
    ):
        page = client.get(models[role].get_absolute_url()).content.decode()
        assert f"Policy {run.pk}</a>" in page
        assert said in page


def test_the_same_model_twice_is_refused_at_its_field(client, project, models):
    twice = {"reward-2": models["reward"].pk, "reward-3": models["reward"].pk}
    page = start(client, project, "policy", **twice)
    said = "This is the reward model already: models that judge together must differ."
    assert problems(page) == {"reward-2": [said], "reward-3": [said]}
    assert not Run.objects.filter(kind="policy").exists()


def test_a_second_without_a_first_is_refused(client, project, models):
    page = start(
        client,
        project,
        "policy",
        reward="",
        recipe_consistency_source="oracle",
        **keys(models, "reward-2"),
    )
    assert problems(page) == {
        "reward-2": ["Choose the first reward model before another."]
    }


def test_a_model_of_the_other_sort_is_refused_by_the_deed(project, models, tara):
    """The pickers do not offer it; who calls the deed is told why."""
    with pytest.raises(launch.LaunchRefusedError) as caught:
        launch.start_run(
            project=project,
            kind="policy",
            recipe={},
            inputs={
                "policy": models["policy"],
                "reward": models["preference"],
                "preference": models["reward"],
            },
            user=tara,
        )
    assert caught.value.problems == {
        "reward": "This is a preference model, which scores an answer by itself. Here "
        "one is needed that judges consistency with a label.",
        "preference": "This model judges consistency with a label. Here a preference "
        "model is needed, which scores an answer by itself.",
    }


def test_a_forged_choice_is_refused_at_its_picker(client, project, models):
    page = start(client, project, "policy", preference=models["reward"].pk)
    assert problems(page) == {"preference": ["This project has no such checkpoint."]}


def test_other_kinds_of_runs_take_no_ensemble(client, project, models):
    form = client.get("/p/cakes/runs/new/evaluate/").context["form"]
    assert "reward" in form.fields
    assert "reward-2" not in form.fields
    assert "preference" not in form.fields


def test_a_preference_model_leads_to_a_policy_run_with_it(client, project, models):
    page = client.get(models["preference"].get_absolute_url()).content.decode()
    assert f"/p/cakes/runs/new/policy/?preference={models['preference'].pk}" in page
    page = client.get(models["reward"].get_absolute_url()).content.decode()
    assert f"/p/cakes/runs/new/policy/?reward={models['reward'].pk}" in page
