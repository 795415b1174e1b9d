"""The Iterations pages through the HTTP door."""

import json

import pytest
from django.utils import timezone

from annotation.models import Pair
from tests.cast import make_judgment, make_project, make_sample, make_user, sign_in
from tests.training.conftest import make_policy, make_run
from tests.training.test_iterations import (
    GOOD_RM,
    begin,
    drawn,
    ended,
    evaluation,
    fresh,
    judge_all,
    judged,
    step,
    to_compare,
    to_reward,
)
from training.iterations import advance, deeds
from training.models import Iteration, Metric, Promotion, Run
from training.runs import hints
from training.views import iterations as views

pytestmark = pytest.mark.django_db
HOME = "/p/cakes/iterations/"


@pytest.fixture(autouse=True)
def no_broker(monkeypatch):
    monkeypatch.setattr(hints.current_app, "send_task", lambda *a, **k: None)


@pytest.fixture
def project():
    project = make_project(slug="cakes", overlap=1)
    make_sample(project=project, external_id="s1")
    make_sample(project=project, external_id="s2")
    Promotion.objects.create(project=project, checkpoint=make_policy(project))
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


def do(client, number, deed, **fields):
    return client.post(f"{HOME}{number}/do/", {"deed": deed, **fields})


def filled(client):
    """Return what a browser would send of the form of a new iteration."""
    context = client.get(f"{HOME}new/").context
    forms = [context["form"], *(recipe for _, recipe in context["recipes"])]
    values = {field.html_name: field.value() for form in forms for field in form}
    return {n: v for n, v in values.items() if v is not None and v is not False}


@pytest.mark.parametrize(
    "page",
    [
        "",
        "new/",
        "series/",
        "1/",
        "1/live/",
        "1/do/",
        "1/settings/",
        "1/recipe/policy/",
    ],
)
def test_only_trainers_and_admins_come_in(client, project, page):
    begin(project)
    is_deed = page.endswith(("do/", "settings/"))
    for name, statuses in [
        ("tara", (200, 302, 409, 422)),
        ("ada", (200, 302, 409, 422)),
        ("lena", (403,)),
        ("rita", (403,)),
        ("sam", (404,)),
    ]:
        sign_in(client, make_user(name))
        ask = client.post if is_deed else client.get
        assert ask(HOME + page).status_code in statuses, name
    client.logout()
    assert ask(HOME + page).status_code == 302


def test_an_iteration_of_another_project_is_not_found(client, project, tara):
    assert client.get(HOME + "1/").status_code == 404
    assert do(client, 1, "pause").status_code == 404


def test_an_empty_project_is_told_what_an_iteration_is_and_what_it_needs(client):
    project = make_project(slug="cakes")
    sign_in(client, make_user("tara"))
    text = client.get(HOME).content.decode()
    assert "No iteration yet" in text
    assert f"/p/{project.slug}/runs/new/sft/" in text
    assert (
        "The project has no policy yet." in client.get(HOME + "new/").content.decode()
    )


def test_the_form_begins_an_iteration_with_its_recipes(client, project, tara):
    data = filled(client) | {"policy-recipe_steps": "7", "wanted_judgments": "40"}
    data["automatic"] = ["draw", "reward"]
    answer = client.post(HOME + "new/", data)
    iteration = Iteration.objects.get()
    assert answer["Location"] == f"{HOME}1/"
    assert iteration.recipes["policy"]["steps"] == 7
    assert iteration.wanted_judgments == 40
    automatic = {s.name for s in iteration.steps.filter(is_automatic=True)}
    assert automatic == {"draw", "judge", "reward"}
    assert Run.objects.get(kind="draw").created_by == tara

    # The next one starts from what this one was set to.
    deeds.stop_iteration(
        project=iteration.project, iteration=iteration, user=None, reason="for the test"
    )
    again = filled(client)
    assert again["policy-recipe_steps"] == 7
    assert again["wanted_judgments"] == 40
    assert again["automatic"] == ["draw", "reward"]


def test_a_wrong_setting_is_said_at_its_field_and_nothing_is_lost(
    client, project, tara
):
    data = filled(client) | {"policy-recipe_steps": "0", "wanted_judgments": "77"}
    answer = client.post(HOME + "new/", data)
    assert answer.status_code == 422
    text = answer.content.decode()
    assert "greater than or equal to 1" in text
    assert 'value="77"' in text
    assert not Iteration.objects.exists()


def test_a_second_open_iteration_is_refused_in_words(client, project, tara):
    begin(project)
    answer = client.post(HOME + "new/", filled(client))
    assert answer.status_code == 422
    assert "open already" in answer.content.decode()


def test_the_page_counts_judgments_live_and_says_what_is_left(client, project, tara):
    begin(project, wanted_judgments=2, wanted_settled=100)
    drawn(project)
    text = client.get(HOME + "1/").content.decode()
    assert "0 of 2 judgments" in text
    assert "nobody has judged in the last seven days" in text
    live = client.get(HOME + "1/live/")
    unchanged = client.get(HOME + "1/live/", headers={"if-none-match": live["ETag"]})
    assert unchanged.status_code == 304
    make_judgment(Pair.objects.first(), make_user("lena"), 1)
    changed = client.get(HOME + "1/live/", headers={"if-none-match": live["ETag"]})
    assert changed.status_code == 200
    text = changed.content.decode()
    assert "1 of 2 judgments" in text
    assert "1 judgment in the last hour" in text
    assert "at 1 an hour" in text


def test_without_a_reward_model_no_forecast_is_made_up(client, project, tara):
    begin(project)
    text = client.get(HOME + "1/").content.decode()
    assert "the value of more judgments is not known" in text


def test_an_unchanged_policy_is_called_what_it_is(client, project, tara):
    begin(project)
    found = Iteration.objects.get()
    policy = make_run(
        project=project,
        kind="policy",
        state="finished",
        result={"chosen_step": 0, "truth": 0.5, "truth_at_start": 0.5},
    )
    found.steps.update(state="done")
    found.steps.filter(name="policy").update(run=policy)
    # As it was before such steps were passed over: promoted all the same.
    Iteration.objects.update(step="promote", state="done", ended_at=timezone.now())
    page = client.get(HOME + "1/").content.decode()
    line = page[page.index(">Promote") :]
    assert line[: line.index("</li>")].count("Unchanged") == 1
    assert "chip good" not in line[: line.index("</li>")]
    rows = client.get(HOME).content.decode()
    assert "Unchanged" in rows
    assert "Nothing better was found; the policy stays." in rows
    assert "Undecided" not in rows


def test_reward_models_that_were_not_measured_are_not_passed_over(
    client, project, tara
):
    for _number in range(2):
        checkpoint = make_policy(project, kind="reward")
        assert "judged/auc" not in checkpoint.manifest["metrics"]
    begin(project)
    text = client.get(HOME + "1/").content.decode()
    assert "2 reward models have been trained here, but none was measured" in text
    assert "No reward model has been trained" not in text


def make_reward_models(project, *models):
    for judgments, caught in models:
        checkpoint = make_policy(project, kind="reward")
        checkpoint.manifest["metrics"] = {"judged/bad_caught": caught}
        checkpoint.save()
        snapshot = checkpoint.run.snapshot
        snapshot.pk, snapshot.content_hash = None, f"{judgments:064d}"
        snapshot.counts = {"judgments": judgments}
        snapshot.save()
        Run.objects.filter(pk=checkpoint.run_id).update(snapshot=snapshot)


def test_two_reward_models_give_a_forecast_without_an_interval(client, project, tara):
    make_reward_models(project, (100, 0.6), (400, 0.8))
    begin(project, wanted_judgments=1200)
    (view,) = client.get(HOME + "1/").context["forecasts"]
    assert view.forecast.curve.at(1600) == pytest.approx(0.9, abs=0.001)
    assert "Expected after 1600 judgments: 0.900" in view.sentences[0]
    assert "an interval needs three reward models, there are two" in view.sentences[1]
    assert len(view.points) == 2
    assert view.band == ""


def test_more_reward_models_give_it_an_interval(client, project, tara):
    models = ((100, 0.61), (200, 0.7), (400, 0.81), (800, 0.855))
    make_reward_models(project, *models)
    begin(project, wanted_judgments=800)
    page = client.get(HOME + "1/")
    (view,) = page.context["forecasts"]
    low, high = view.forecast.curve.between(1600)
    assert 0.8 < low < view.forecast.curve.at(1600) < high < 0.95
    assert f"between {low:.3f} and {high:.3f} in 19 of 20" in view.sentences[0]
    assert "From 4 reward models" in view.sentences[1]
    assert f'<polygon points="{view.band}"/>' in page.content.decode()


def test_an_interval_too_wide_to_plan_by_says_so(client, project, tara):
    make_reward_models(project, (100, 0.6), (200, 0.9), (400, 0.7))
    begin(project, wanted_judgments=800)
    (view,) = client.get(HOME + "1/").context["forecasts"]
    assert any("too wide to plan by" in text for text in view.sentences)


def test_a_missed_gate_is_shown_with_a_field_for_the_reason(client, project, tara):
    iteration = to_reward(project)
    ended(step(iteration).run, metrics={"judged/bad_caught": 0.4})
    text = client.get(HOME + "1/").content.decode()
    assert "share of bad held-out answers caught is 0.400" in text
    refused = do(client, 1, "approve", step="policy", reason="")
    assert refused.status_code == 409
    assert "say why" in refused.content.decode()
    do(client, 1, "approve", step="policy", reason="Only a trial.")
    assert step(iteration).run.recipe["gate_override"] == "Only a trial."
    assert "Only a trial." in client.get(HOME + "1/").content.decode()


def test_a_refused_deed_keeps_what_was_typed(client, project, tara):
    begin(project)
    answer = do(client, 1, "skip", step="draw", reason="We have drawn enough already.")
    assert answer.status_code == 409
    text = answer.content.decode()
    assert "has not ended" in text
    assert "We have drawn enough already." in text


def test_the_alarm_is_shown_and_going_on_takes_a_reason(client, project, tara):
    iteration = to_reward(project)
    ended(step(iteration).run, metrics=GOOD_RM)
    run = step(iteration).run
    for at, score, truth in ((0, 0.5, 0.6), (10, 0.9, 0.3)):
        for name, value in (("rm_score", score), ("truth", truth)):
            Metric.objects.create(
                run=run,
                name=f"held_out/{name}",
                step=at,
                value=value,
                at=timezone.now(),
            )
    ended(run, state="stopped", result={"alarm": "score and truth part"})
    page = client.get(HOME + "1/")
    assert "Stopped by the alarm" in page.content.decode()
    names = [s["name"] for s in page.context["layout"][0]["series"]]
    assert names == ["held_out/rm_score", "held_out/truth"]
    curves = client.get(page.context["sources"][0]["url"]).json()["series"]
    assert curves["held_out/rm_score"] == [[0, 10], [0.5, 0.9]]
    assert do(client, 1, "resume", step="policy").status_code == 409
    do(client, 1, "resume", step="policy", reason="Step 0 is as good.")
    assert fresh(iteration).step == "evaluate"


def test_pause_go_on_promote_and_done_by_the_buttons(client, project, tara):
    iteration = to_compare(project)
    do(client, 1, "pause")
    assert "Paused" in client.get(HOME + "1/").content.decode()
    do(client, 1, "resume")
    text = client.get(HOME + "1/").content.decode()
    assert "Tasks complete: 0.600 after 0.500" in text
    do(client, 1, "approve", step="promote")
    assert fresh(iteration).state == "done"
    text = client.get(HOME).content.decode()
    assert "0.600" in text
    assert "after 0.500" in text


def test_settings_change_while_it_waits(client, project, tara):
    iteration = begin(project)
    data = {
        "wanted_judgments": "5",
        "wanted_settled": "50",
        "margin": "0.1",
        "automatic": ["draw"],
    }
    client.post(f"{HOME}1/settings/", data)
    assert fresh(iteration).wanted_judgments == 5
    assert not step(iteration, "reward").is_automatic
    answer = client.post(f"{HOME}1/settings/", data | {"wanted_settled": "500"})
    assert answer.status_code == 422
    assert 'value="500"' in answer.content.decode()
    assert fresh(iteration).wanted_settled == 50
    text = client.get(f"{HOME}1/").content.decode()
    assert '300 <span class="faint">→</span> <b>5</b>' in text
    assert '0.03 <span class="faint">→</span> <b>0.1</b>' in text
    assert "tara" in text.split('id="changes"')[1]


def recipe_of(client, name):
    form = client.get(f"{HOME}1/recipe/{name}/").context["recipe"]
    values = {field.html_name: field.value() for field in form}
    return {n: v for n, v in values.items() if v is not None and v is not False}


def test_the_recipe_of_a_coming_step_is_changed_on_its_own_page(client, project, tara):
    iteration = begin(project)
    before = iteration.recipes["policy"]["steps"]
    assert "/1/recipe/policy/" in client.get(HOME + "1/").content.decode()
    data = recipe_of(client, "policy") | {"recipe_steps": "7"}
    answer = client.post(f"{HOME}1/recipe/policy/", data)
    assert answer["Location"] == f"{HOME}1/"
    assert fresh(iteration).recipes["policy"]["steps"] == 7
    text = client.get(HOME + "1/").content.decode()
    assert f'{before} <span class="faint">→</span> <b>7</b>' in text
    assert recipe_of(client, "policy")["recipe_steps"] == 7
    # Sent as it stands, it is no change.
    client.post(f"{HOME}1/recipe/policy/", recipe_of(client, "policy"))
    assert iteration.changes.count() == 1


def test_a_wrong_recipe_comes_back_as_it_was_typed(client, project, tara):
    iteration = begin(project)
    data = recipe_of(client, "policy") | {
        "recipe_steps": "0",
        "recipe_learning_rate": "0.5",
    }
    answer = client.post(f"{HOME}1/recipe/policy/", data)
    assert answer.status_code == 422
    text = answer.content.decode()
    assert 'value="0.5"' in text
    assert "see the marked fields" in text
    assert fresh(iteration).recipes == iteration.recipes


def test_the_recipe_of_a_step_that_has_begun_is_shown_but_not_changed(
    client, project, tara
):
    iteration = begin(project)
    page = client.get(f"{HOME}1/recipe/draw/")
    assert "This step has begun" in page.content.decode()
    assert ">Save<" not in page.content.decode()
    data = recipe_of(client, "draw") | {"recipe_turns": "7"}
    answer = client.post(f"{HOME}1/recipe/draw/", data)
    assert answer.status_code == 422
    assert "This step has begun" in answer.content.decode()
    assert fresh(iteration).recipes == iteration.recipes
    assert "/1/recipe/draw/" not in client.get(HOME + "1/").content.decode()


@pytest.mark.parametrize("name", ["judge", "promote", "odd"])
def test_a_step_without_a_recipe_is_not_found(client, project, tara, name):
    begin(project)
    assert client.get(f"{HOME}1/recipe/{name}/").status_code == 404


@pytest.mark.parametrize(
    ("after", "half", "said"),
    [(0.6, 0.05, "Better"), (0.49, 0.015, "Not worse"), (0.3, 0.1, "Worse")],
)
def test_the_comparison_tells_verdict_gain_and_interval(
    client, project, tara, after, half, said
):
    to_compare(project, after=after, half=half)
    text = client.get(HOME + "1/").content.decode()
    assert f">{said}</span>" in text
    assert f"gain {after - 0.5:+.3f}, between {after - 0.5 - half:+.3f}" in text
    assert "6 of 40 held-out samples came out otherwise" in text
    assert f">{said}</span>" in client.get(HOME).content.decode()


def test_an_undecided_comparison_asks_and_says_why(client, project, tara):
    to_compare(project, after=0.55, half=0.2)
    text = client.get(HOME + "1/").content.decode()
    assert ">Undecided</span>" in text
    assert "a loss of more than 0.030 is not ruled out" in text


def test_an_unknown_deed_is_refused(client, project, tara):
    begin(project)
    assert do(client, 1, "explode").status_code == 409


def test_curves_over_iterations_lie_beside_each_other(client, project, tara):
    for number, score, verdicts in ((1, 0.6, [1, 1, 0]), (2, 0.7, [1, 1, 1])):
        iteration = judged(project, number, rm_score=score, verdicts=verdicts)
        deeds.stop_iteration(
            project=iteration.project,
            iteration=iteration,
            user=None,
            reason="for the test",
        )
    curves = client.get(HOME + "series/").json()["series"]
    assert curves["drawn/rm_score"] == [[1, 2], [0.6, 0.7]]
    assert curves["drawn/people"] == [[1, 2], [pytest.approx(2 / 3), 1.0]]
    low, high = curves["drawn/people/low"][1], curves["drawn/people/high"][1]
    assert low[0] < 2 / 3 < high[0] <= 1
    page = client.get(HOME)
    assert [c["title"] for c in page.context["layout"]] == [
        "Fresh answers",
        "Held-out samples",
    ]


def test_list_and_page_ask_the_database_little(
    client, project, tara, django_assert_max_num_queries
):
    for _ in range(3):
        iteration = to_compare(project)
        deeds.approve_step(
            project=iteration.project, iteration=iteration, name="promote", user=None
        )
        advance.advance_all()
    with django_assert_max_num_queries(10):
        assert len(client.get(HOME).context["lines"]) == 3
    iteration = to_reward(project)
    places = []
    for end in (
        {"metrics": {}},
        {},
        {"result": evaluation(0.7, 0.6)},
    ):
        with django_assert_max_num_queries(15):
            client.get(f"{HOME}4/")
        ended(step(iteration).run, **end)
        places.append(fresh(iteration).step)
        if fresh(iteration).step == "policy" and step(iteration).state == "asking":
            with django_assert_max_num_queries(15):
                client.get(f"{HOME}4/")
            deeds.approve_step(
                project=iteration.project,
                iteration=fresh(iteration),
                name="policy",
                user=None,
                reason="go",
            )
            advance.advance_all()
    assert places == ["policy", "evaluate", "compare"]
    with django_assert_max_num_queries(15):
        client.get(f"{HOME}4/")


def test_the_list_is_paged_by_number(client, project, tara, monkeypatch):
    monkeypatch.setattr(views, "LISTED", 2)
    for _ in range(3):
        iteration = begin(project)
        deeds.stop_iteration(
            project=iteration.project,
            iteration=iteration,
            user=None,
            reason="for the test",
        )
    page = client.get(HOME)
    assert [each.iteration.number for each in page.context["lines"]] == [3, 2]
    older = client.get(HOME + page.context["older"])
    assert [each.iteration.number for each in older.context["lines"]] == [1]
    assert not older.context["older"]
    assert client.get(HOME + "?before=odd").status_code == 200


def test_the_pages_have_no_inline_script_or_style(client, project, tara):
    begin(project)
    for address in (HOME, HOME + "new/", HOME + "1/"):
        text = client.get(address).content.decode()
        assert " style=" not in text
        assert "onclick" not in text
    json.dumps(client.get(HOME + "series/").json())
    judge_all(project)
