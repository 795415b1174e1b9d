"""The run pages through the HTTP door: who may see them, what they show and do."""

import csv
import datetime
import io
import json
import re

import pytest
from django.utils import timezone

from records.recipes import recipe_from_json, recipe_to_json
from tests.cast import (
    LABEL,
    SAMPLED,
    make_project,
    make_sample,
    make_user,
    sign_in,
)
from tests.training.conftest import make_policy, make_run
from training.models import Metric, Run, RunNote, RunSample, RunState
from training.views import curves, run_samples
from training.wording import figures

pytestmark = pytest.mark.django_db

PAGES = [
    "/p/{slug}/runs/",
    "/p/{slug}/runs/new/sft/",
    "/p/{slug}/runs/{run}/",
    "/p/{slug}/runs/{run}/live/",
    "/p/{slug}/runs/{run}/series/",
    "/p/{slug}/runs/{run}/samples/",
    "/p/{slug}/checkpoints/",
    "/p/{slug}/checkpoints/{checkpoint}/",
    "/p/{slug}/checkpoints/{checkpoint}/download/",
    "/p/{slug}/snapshots/{snapshot}/",
]


@pytest.fixture
def project():
    project = make_project(slug="cakes")
    make_sample(project=project)
    make_sample(project=project, split="held-out")
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


@pytest.mark.parametrize("page", PAGES)
def test_only_trainers_and_admins_come_in(client, project, page):
    checkpoint = make_policy(project)
    address = page.format(
        slug=project.slug,
        run=checkpoint.run_id,
        checkpoint=checkpoint.pk,
        snapshot=checkpoint.run.snapshot_id,
    )
    for name, status in [("tara", 200), ("ada", 200), ("lena", 403), ("sam", 404)]:
        sign_in(client, make_user(name))
        assert client.get(address).status_code == status, name
    client.logout()
    assert client.get(address).status_code == 302


def test_a_foreign_run_is_not_found(client, project, tara):
    other = make_run(project=make_project())
    for page in ("", "live/", "series/", "samples/"):
        assert client.get(f"/p/cakes/runs/{other.pk}/{page}").status_code == 404
    assert client.post(f"/p/cakes/runs/{other.pk}/stop/").status_code == 404
    make_sample(project=other.project)
    foreign = make_policy(other.project)
    assert client.get(f"/p/cakes/checkpoints/{foreign.pk}/").status_code == 404
    assert client.get(f"/p/cakes/runs/compare/?run={other.pk}&run=1").status_code == 404


def test_labelers_start_and_stop_nothing(client, project):
    run = make_run(project=project)
    sign_in(client, make_user("lena"))
    assert client.post("/p/cakes/runs/new/sft/").status_code == 403
    assert client.post(f"/p/cakes/runs/{run.pk}/stop/").status_code == 403
    checkpoint = make_policy(project)
    promote = f"/p/cakes/checkpoints/{checkpoint.pk}/promote/"
    assert client.post(promote).status_code == 403


def test_the_list_filters_and_pages_by_key(
    client, project, tara, django_assert_num_queries
):
    for n in range(45):
        make_run(project=project, kind="sft" if n % 2 else "draw")
    page = client.get("/p/cakes/runs/")
    assert len(page.context["lines"]) == 40
    older = client.get("/p/cakes/runs/" + page.context["older"])
    assert len(older.context["lines"]) == 5
    assert {
        x.run.kind for x in client.get("/p/cakes/runs/?kind=sft").context["lines"]
    } == {"sft"}
    assert not client.get("/p/cakes/runs/?state=failed").context["lines"]
    assert "not understood" in client.get("/p/cakes/runs/?kind=x").content.decode()
    with django_assert_num_queries(4):  # session, user, door, runs
        client.get("/p/cakes/runs/")


def test_the_run_page_and_its_polled_part_cost_few_queries(
    client, project, tara, django_assert_max_num_queries
):
    run = running(project)
    with django_assert_max_num_queries(20):
        client.get(f"/p/cakes/runs/{run.pk}/")
    page = client.get(f"/p/cakes/runs/{run.pk}/live/")
    with django_assert_max_num_queries(5):
        answer = client.get(
            f"/p/cakes/runs/{run.pk}/live/", headers={"If-None-Match": page["ETag"]}
        )
    assert answer.status_code == 304


def running(project, **fields):
    run = make_run(
        project=project,
        **(
            {
                "state": RunState.RUNNING,
                "leased_until": timezone.now() + timezone.timedelta(minutes=1),
                "heartbeat_at": timezone.now(),
                "started_at": timezone.now(),
                "worker": "gpu-1:77",
                "step": 40,
                "steps_total": 100,
                "token": 1,
            }
            | fields
        ),
    )
    begun = timezone.now() - timezone.timedelta(seconds=80)
    Metric.objects.bulk_create(
        Metric(
            run=run,
            name=name,
            step=step,
            value=1 / step,
            at=begun + timezone.timedelta(seconds=2 * step),
        )
        for step in range(1, 41)
        for name in ("loss", "held_out_loss", "mystery/value")
    )
    RunSample.objects.create(
        run=run,
        event_offset=1,
        step=40,
        prompt="A cake?",
        text='<<think>>Ask.\n<<action>>{"name": "Find shops", "parameters": {}}<</action>>',
        label="Sure.",
        scores={"format": 1, "consistency": -1.5},
    )
    RunNote.objects.create(run=run, message="starting", at=timezone.now())
    return run


def test_a_running_run_shows_progress_pace_and_what_happened(client, project, tara):
    run = running(project)
    text = client.get(f"/p/cakes/runs/{run.pk}/").content.decode()
    assert "step 40 of 100 · 2 min 0 s left · 2.0 s a step" in text
    assert "Running <span" in text
    assert re.search(r"heartbeat \d+ s ago", text)
    assert "<b>Find shops</b>" in text
    assert "-1.500" in text
    assert "starting" in text
    assert "hx-get" in text
    assert "Stop and keep checkpoint" in text


def test_the_polled_part_changes_with_the_run_and_ends_with_it(client, project, tara):
    run = running(project)
    address = f"/p/cakes/runs/{run.pk}/live/"
    first = client.get(address)
    headers = {"If-None-Match": first["ETag"]}
    again = client.get(address, headers=headers)
    assert again.status_code == 304
    assert again["Concord-Heartbeat"].startswith("heartbeat ")
    Run.objects.filter(pk=run.pk).update(step=41)
    assert client.get(address, headers=headers).status_code == 200
    Run.objects.filter(pk=run.pk).update(
        state="finished", ended_at=timezone.now(), result={"loss": 0.5}
    )
    last = client.get(address, headers=headers).content.decode()
    assert "hx-trigger" not in last
    assert "Draw responses" in last


def test_a_worker_without_a_sign_of_life_is_said(client, project, tara):
    run = running(project, leased_until=timezone.now() - timezone.timedelta(seconds=5))
    text = client.get(f"/p/cakes/runs/{run.pk}/live/").content.decode()
    assert "no sign of life" in text


def test_series_come_after_a_row_and_whole_after_a_new_attempt(client, project, tara):
    run = running(project)
    address = f"/p/cakes/runs/{run.pk}/series/"
    first = client.get(address).json()
    assert first["series"]["loss"][0] == list(range(1, 41))
    assert (
        client.get(f"{address}?after={first['newest']}&token=1").json()["series"] == {}
    )
    Metric.objects.create(run=run, name="late", step=40, value=3, at=timezone.now())
    new = client.get(f"{address}?after={first['newest']}&token=1").json()
    assert new["series"] == {"late": [[40], [3.0]]}
    assert (
        len(client.get(f"{address}?after={new['newest']}&token=0").json()["series"])
        == 4
    )


def rows_of(answer):
    text = b"".join(answer.streaming_content).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_curves_of_a_run_are_streamed_as_csv(client, project, tara):
    run = running(project)
    Metric.objects.create(run=run, name="=cmd()", step=1, value=2, at=timezone.now())
    answer = client.get(f"/p/cakes/runs/{run.pk}/series/?format=csv")
    assert answer.streaming
    assert f'"run-{run.pk}-curves.csv"' in answer["Content-Disposition"]
    rows = rows_of(answer)
    assert len(rows) == 3 * 40 + 1
    assert rows[0]["metric"] == "'=cmd()"  # no formula for a spreadsheet to run
    first = rows[1]
    assert (first["run"], first["metric"]) == (f"SFT {run.pk}", "held_out_loss")
    assert (first["step"], float(first["value"])) == ("1", 1.0)
    at = Metric.objects.get(run=run, name="held_out_loss", step=1).at
    assert datetime.datetime.fromisoformat(first["time"]) == at


def test_any_number_of_runs_is_compared_and_exported(
    client, project, tara, django_assert_max_num_queries
):
    runs = [running(project, recipe={"seed": n}) for n in range(12)]
    query = "&".join(f"run={run.pk}" for run in runs)
    with django_assert_max_num_queries(10):
        page = client.get(f"/p/cakes/runs/compare/?{query}")
    assert len(page.context["sources"]) == 12
    assert page.context["differences"] == [("seed", [str(n) for n in range(12)])]
    assert "Compare 12 runs" in page.content.decode()
    rows = rows_of(client.get(f"/p/cakes/runs/compare/{page.context['csv']}"))
    assert {row["run"] for row in rows} == {f"SFT {run.pk}" for run in runs}
    assert len(rows) == 12 * 3 * 40


def test_more_runs_than_a_page_can_draw_are_counted_not_dropped_in_silence(
    client, project, tara, monkeypatch
):
    monkeypatch.setattr(curves, "MOST_COMPARED", 2)
    query = "&".join(f"run={running(project).pk}" for _ in range(3))
    page = client.get(f"/p/cakes/runs/compare/?{query}")
    assert len(page.context["sources"]) == 2
    assert "1 run too many" in page.content.decode()


def test_a_sampled_text_stands_beside_its_label_with_the_differences_marked(
    client, project, tara
):
    run = make_run(project=project)
    RunSample.objects.create(
        run=run,
        event_offset=1,
        step=4,
        prompt="A cake, please.",
        text=SAMPLED,
        label=LABEL,
        scores={"format": 1.0, "consistency": 0.25},
    )
    for address in (f"/p/cakes/runs/{run.pk}/", f"/p/cakes/runs/{run.pk}/samples/"):
        text = client.get(address).content.decode()
        assert '<span class="diff">florist</span>' in text, address
        assert "0.250" in text
        assert 'name="units"' not in text  # nothing to mark here
    RunSample.objects.bulk_create(
        RunSample(run=run, event_offset=n, step=n, prompt="", text=f"text {n}")
        for n in range(2, 40)
    )
    page = client.get(f"/p/cakes/runs/{run.pk}/samples/")
    assert len(page.context["samples"]) == 30
    older = client.get(f"/p/cakes/runs/{run.pk}/samples/{page.context['older']}")
    assert len(older.context["samples"]) == 9


@pytest.mark.parametrize("sampled", ["<<think>>never closed", "It is free.", ""])
def test_a_label_that_goes_on_inside_the_thinking_is_read_so_whatever_was_sampled(
    client, project, tara, sampled
):
    run = make_run(project=project)
    label = "The room is free.<</think>>It is booked."
    RunSample.objects.create(
        run=run, event_offset=1, step=4, prompt="free", text=sampled, label=label
    )
    text = client.get(f"/p/cakes/runs/{run.pk}/samples/").content.decode()
    left = text.split("Label response")[1].split("Sampled response")[0]
    assert "Not in the response grammar" not in left
    assert "It is booked." in text


def test_an_evaluation_tells_the_gain_of_each_policy(client, project, tara):
    figure = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 40}
    gain = {"value": 0.1, "low": 0.02, "high": 0.18, "n": 40, "changed": 6}
    run = make_run(
        project=project,
        kind="evaluate",
        state="finished",
        result={
            "policies": {n: {"tasks_complete": figure} for n in ("initial", "policy")},
            "gains": {"policy": {"tasks_complete": gain}},
        },
    )
    page = client.get(f"/p/cakes/runs/{run.pk}/")
    table = page.context["tables"][1]
    assert table.title == "Gain over the initial policy, sample by sample"
    assert table.columns == ("Policy",)
    assert table.rows[0][1][0].interval == "0.020 to 0.180"
    assert "0.020 to 0.180" in page.content.decode()
    assert page.context["figures"] == ([], [])


def test_hardware_and_the_expected_end_are_shown(client, project, tara):
    hardware = {
        "host": "gpu-1",
        "cores": 8,
        "cores_used": 6.53,
        "memory": 3 << 30,
        "memory_total": 64 << 30,
        "memory_peak": 5 << 30,
        "gpus": [
            {
                "name": "H200",
                "memory": 70 << 30,
                "memory_total": 141 << 30,
                "percent": 93,
            }
        ],
    }
    run = running(project, hardware=hardware)
    text = client.get(f"/p/cakes/runs/{run.pk}/live/").content.decode()
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    assert "6.5 of 8" in text
    assert "3.0 GB of 64.0 GB" in text
    assert "70.0 GB of 141.0 GB, 93 %" in text
    assert "until about" in text


def test_long_series_are_thinned_and_keep_their_last_point(client, project, tara):
    run = make_run(project=project)
    Metric.objects.bulk_create(
        Metric(run=run, name="loss", step=n, value=n, at=timezone.now())
        for n in range(1, 4502)
    )
    Metric.objects.create(run=run, name="rare", step=9, value=1, at=timezone.now())
    series = client.get(f"/p/cakes/runs/{run.pk}/series/").json()["series"]
    assert 1000 < len(series["loss"][0]) <= 2000
    assert series["loss"][0][-1] == 4501
    assert series["rare"] == [[9], [1.0]]


def test_charts_group_what_belongs_together(client, project, tara):
    run = running(project)
    page = client.get(f"/p/cakes/runs/{run.pk}/")
    drawn = {
        c["title"]: [s["name"] for s in c["series"]] for c in page.context["layout"]
    }
    assert drawn["Loss"] == ["loss", "held_out_loss"]
    assert drawn["Value"] == ["mystery/value"]


def test_stop_and_resume_by_button(client, project, tara):
    run = running(project)
    client.post(f"/p/cakes/runs/{run.pk}/stop/")
    run.refresh_from_db()
    assert (run.state, run.stop_requested) == ("stopping", True)
    text = client.get(f"/p/cakes/runs/{run.pk}/").content.decode()
    assert "Stopping…" in text
    assert "tara asked the run to stop." in text
    Run.objects.filter(pk=run.pk).update(state="stopped", leased_until=None)
    client.post(f"/p/cakes/runs/{run.pk}/resume/")
    run.refresh_from_db()
    assert (run.state, run.stop_requested) == ("queued", False)
    answer = client.post(f"/p/cakes/runs/{run.pk}/resume/", follow=True)
    assert "Only a stopped or failed run can be resumed" in answer.content.decode()


def test_a_failed_run_shows_its_reason_and_how_to_go_on(client, project, tara):
    run = make_run(project=project, state="failed", error="The disk is full.")
    text = client.get(f"/p/cakes/runs/{run.pk}/").content.decode()
    assert "The disk is full." in text
    assert "Start again" in text


def test_evaluation_results_are_tables_with_intervals(client, project, tara):
    value = {"value": 0.5, "low": 0.4, "high": 0.61, "n": 150}
    run = make_run(
        project=project,
        kind="evaluate",
        state="finished",
        result={
            "policies": {"policy": {"turns_right": value, "errors": {"answer": 3}}},
            "by_split": {"policy": {"held-out": {"turns_right": value}}},
        },
    )
    text = client.get(f"/p/cakes/runs/{run.pk}/").content.decode()
    assert "Turns right" in text
    assert "0.400 to 0.610" in text
    assert "n = 150" in text
    assert "Held-out</h2>" in text
    assert "by kind</h2>" in text


def test_compare_draws_two_runs_and_shows_what_differs(client, project, tara):
    one = running(project, recipe={"steps": 5, "seed": 1})
    two = running(project, recipe={"steps": 9, "seed": 1})
    page = client.get(f"/p/cakes/runs/compare/?run={one.pk}&run={two.pk}")
    assert page.context["differences"] == [("steps", ["5", "9"])]
    assert len(page.context["sources"]) == 2
    alone = client.get(f"/p/cakes/runs/compare/?run={one.pk}")
    assert alone.status_code == 302


def test_compare_shows_what_came_out_of_each_run(client, project, tara):
    one = make_run(project=project, state="finished", result={"held_out_loss": 0.25})
    two = make_run(project=project, state="failed")
    page = client.get(f"/p/cakes/runs/compare/?run={one.pk}&run={two.pk}")
    assert page.context["results"] == [("held out loss", ["0.250", ""])]
    assert "run-charts" not in page.content.decode()  # nothing to draw


def test_a_recipe_of_before_a_setting_was_there_means_its_default(
    client, project, tara
):
    now = recipe_to_json(recipe_from_json("sft", {"seed": 2}))
    one = make_run(project=project, recipe={"seed": 1})
    two = make_run(project=project, recipe=now)
    page = client.get(f"/p/cakes/runs/compare/?run={one.pk}&run={two.pk}")
    assert page.context["differences"] == [("seed", ["1", "2"])]


def test_what_an_ended_run_measured_once_is_no_curve(client, project, tara):
    run = running(project)
    Metric.objects.create(run=run, name="once", step=9, value=1, at=timezone.now())

    def drawn():
        layout = client.get(f"/p/cakes/runs/{run.pk}/").context["layout"]
        return {each["name"] for chart in layout for each in chart["series"]}

    assert "once" in drawn()  # more may follow
    Run.objects.filter(pk=run.pk).update(state="finished", leased_until=None)
    assert drawn() == {"loss", "held_out_loss", "mystery/value"}


def test_rewards_of_a_sampled_text_come_before_what_is_made_of_them(project):
    scores = {"kl": 0.5, "advantage": -1.0, "consistency": 1.0, "format": 1.0}
    sample = RunSample(step=4, text="Well.", scores=scores)
    assert run_samples.shown(sample).scores == [
        ("format", "1", "good"),
        ("consistency", "1", ""),
        ("KL", "0.500", ""),
        ("advantage", "-1", ""),
    ]


def test_pages_have_no_inline_script_or_style(client, project, tara):
    run = running(project)
    make_policy(project)
    for address in (
        "/p/cakes/runs/",
        "/p/cakes/runs/new/policy/",
        f"/p/cakes/runs/{run.pk}/",
        "/p/cakes/checkpoints/",
    ):
        text = client.get(address).content.decode()
        assert " style=" not in text
        assert "onclick" not in text
        scripts = text.split("<script")[1:]
        assert all(
            " src=" in s.split(">")[0] or "application/json" in s.split(">")[0]
            for s in scripts
        )


def test_text_of_a_program_cannot_become_markup(client, project, tara):
    run = running(project)
    evil = "</script><script>alert(1)</script>"
    RunNote.objects.create(run=run, message=evil, at=timezone.now())
    Metric.objects.create(run=run, name=evil, step=1, value=1, at=timezone.now())
    text = client.get(f"/p/cakes/runs/{run.pk}/").content.decode()
    assert "<script>alert(1)" not in text
    layout = text.split('id="chart-layout" type="application/json">')[1]
    assert evil in json.dumps(json.loads(layout.split("</script>")[0]))


def test_a_long_list_in_a_result_is_counted_not_spelled_out():
    assert figures.number_text([1, 2, 3]) == "1, 2, 3"
    assert figures.number_text([f"demo-{n}" for n in range(48)]) == "48 in all"


def test_a_run_lists_the_settings_it_uses(client, project, tara):
    def listed(**settings):
        recipe = recipe_to_json(recipe_from_json("policy", settings))
        recipe |= {"credit": "unit", "threads": 0}
        run = make_run(project=project, kind="policy", recipe={**recipe, "gone": 3})
        page = client.get(f"/p/cakes/runs/{run.pk}/")
        return {setting.name for setting in page.context["recipe"]}

    full, lora = listed(method="full"), listed(method="lora")
    assert "LoRA rank" in lora - full
    assert "Muon learning rate" in full - lora
    assert {"Gone", "Method", "Seed"} <= full & lora
    assert "Credit" in full  # retired, and not what is done now
    assert "Threads" not in full
