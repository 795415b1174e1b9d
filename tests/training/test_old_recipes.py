"""Runs and iterations stored with the recipes of an earlier version."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from records.recipes import RECIPES, recipe_from_json, recipe_to_json
from tests.cast import make_project, make_sample, make_user, sign_in
from tests.old_recipes import old_recipe
from tests.training.conftest import make_policy, make_run
from training.iterations import advance, deeds
from training.models import RUN_STEPS, Iteration, Promotion, Run
from training.runs import control, hints, launch, prepare
from training.storage.snapshots import build_snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_broker(monkeypatch):
    monkeypatch.setattr(hints.current_app, "send_task", lambda *a, **k: None)


@pytest.fixture
def project():
    project = make_project(slug="cakes")
    make_sample(project=project)
    Promotion.objects.create(project=project, checkpoint=make_policy(project))
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


@pytest.mark.parametrize("kind", RECIPES)
def test_a_stopped_run_of_before_opens_and_goes_on(client, project, tara, kind):
    snapshot = build_snapshot(project=project, user=None)
    stored = old_recipe(kind)
    run = make_run(
        project=project, kind=kind, recipe=stored, state="stopped", snapshot=snapshot
    )
    page = client.get(f"/p/cakes/runs/{run.pk}/")
    assert page.status_code == 200
    assert "Threads" not in {setting.name for setting in page.context["recipe"]}
    control.resume_run(project=project, run=run, user=None)
    run.refresh_from_db()
    assert (run.state, run.recipe) == ("queued", stored)
    soon = timezone.now() + timedelta(minutes=5)
    Run.objects.filter(pk=run.pk).update(state="running", leased_until=soon)
    prepare.prepare_directory(run)
    document = json.loads((run.directory / "run.json").read_text())
    assert recipe_from_json(kind, document["recipe"]) == RECIPES[kind]()


@pytest.mark.parametrize("kind", RECIPES)
def test_a_run_of_before_differs_from_a_new_one_in_nothing_but_what_was_set(
    client, project, tara, kind
):
    now = recipe_to_json(RECIPES[kind]())
    one = make_run(project=project, kind=kind, recipe=old_recipe(kind))
    two = make_run(project=project, kind=kind, recipe=now)
    both = f"/p/cakes/runs/compare/?run={one.pk}&run={two.pk}"
    assert client.get(both).context["differences"] == []
    Run.objects.filter(pk=one.pk).update(recipe=old_recipe(kind) | {"threads": 2})
    assert client.get(both).context["differences"] == [("threads", ["2", "–"])]


def test_a_new_iteration_takes_over_the_recipes_of_before(client, project, tara):
    stored = old_recipe("policy") | {"kl_weight": 0.5, "credit": "unit"}
    make_run(project=project, kind="policy", recipe=stored)
    page = client.get("/p/cakes/iterations/new/")
    form = dict(page.context["recipes"])["Policy"]
    assert form["recipe_beta"].initial == 0.5
    assert "`credit` (&#x27;unit&#x27;) is retired" in page.content.decode()


def test_an_iteration_of_before_starts_its_runs_with_todays_settings(project):
    iteration = deeds.start_iteration(
        project=project, user=make_user("tara"), automatic=("draw",)
    )
    Iteration.objects.filter(pk=iteration.pk).update(
        recipes={name: old_recipe(name) for name in RUN_STEPS}
    )
    advance.advance(iteration_id=iteration.pk)
    run = Run.objects.get(kind="draw")
    assert run.recipe == recipe_to_json(RECIPES["draw"]())


def test_a_new_run_with_a_retired_setting_is_refused_and_told_what_became_of_it(
    project,
):
    for recipe, why in (
        ({"clip_norm": 2.0}, "Expected its new name, `max_grad_norm`, found 2.0."),
        (
            {"threads": 2},
            "Expected to be left out (retired: set OMP_NUM_THREADS for the worker), "
            "found 2.",
        ),
    ):
        with pytest.raises(launch.LaunchRefusedError) as caught:
            launch.start_run(
                project=project, kind="sft", recipe=recipe, inputs={}, user=None
            )
        assert caught.value.problems == {next(iter(recipe)): why}
