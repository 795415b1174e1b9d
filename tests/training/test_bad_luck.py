"""What can go wrong at the trainer's pages: bad numbers, pasted megabytes, two tabs."""

import dataclasses
import threading

import pytest
from django.db import connection

from records.recipes import RECIPES, recipe_from_json
from tests.cast import make_project, make_sample, make_user, sign_in
from tests.training.conftest import make_policy
from tests.training.test_iterations import begin, fresh
from tests.training.test_new_run_page import filled
from training.iterations import promotion
from training.models import Iteration, Run, RunKind
from training.runs import hints, launch
from training.storage import snapshots

pytestmark = pytest.mark.django_db
BAD = ("1e309", "NaN", "-1", "", "Infinity", "1" * 5000, "\x00", "<b>x</b>")
MEGABYTE = "x" * 1_000_000


@pytest.fixture(autouse=True)
def no_broker(monkeypatch):
    monkeypatch.setattr(hints.current_app, "send_task", lambda *a, **k: None)


@pytest.fixture
def project():
    project = make_project(slug="cakes")
    make_sample(project=project, external_id="s1")
    make_sample(project=project, external_id="s2", split="held-out")
    promotion.promote(project=project, checkpoint=make_policy(project), user=None)
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


def new_run(client, kind, **fields):
    return client.post(f"/p/cakes/runs/new/{kind}/", fields)


def marked(answer):
    return {name for name, _ in answer.context["form"].errors.items()}


# Recipes


def takes_number(field):
    return getattr(field.widget, "input_type", "") == "number"


@pytest.mark.parametrize("kind", RunKind.values)
def test_a_bad_value_is_said_at_its_field_and_none_is_lost(client, project, tara, kind):
    """All settings of a recipe at once hold the same bad value."""
    shown = filled(client, project, kind)
    names = [f"recipe_{field.name}" for field in dataclasses.fields(RECIPES[kind])]
    for bad in BAD:
        answer = new_run(client, kind, **shown | dict.fromkeys(names, bad))
        assert answer.status_code == 422, bad[:10]
        numbers = {
            n for n, f in answer.context["form"].fields.items() if takes_number(f)
        }
        low_may_be = {"recipe_seed"} if bad == "-1" else set()
        assert numbers - marked(answer) <= low_may_be, bad[:10]
        text = answer.content.decode()
        assert "<b>x</b>" not in text
        if bad not in ("", "\x00", "<b>x</b>"):
            assert f'value="{bad}"' in text
    first = next(n for n, f in answer.context["form"].fields.items() if takes_number(f))
    answer = new_run(client, kind, **shown | {first: MEGABYTE})
    assert (answer.status_code, marked(answer)) == (422, {first})
    assert not Run.objects.filter(kind=kind, state="queued").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", RunKind.values)
def test_one_bad_value_starts_nothing_that_the_program_refuses(
    client, project, tara, kind
):
    """What a form takes, the program takes; an empty text may be a value."""
    shown = filled(client, project, kind)
    for field in dataclasses.fields(RECIPES[kind]):
        sent = {n: v for n, v in shown.items() if n != "ask"}
        answer = new_run(client, kind, **sent | {f"recipe_{field.name}": "-1"})
        if answer.status_code == 302:
            recipe_from_json(kind, Run.objects.latest("pk").recipe)
        else:
            assert answer.status_code == 422


def test_a_foreign_or_broken_checkpoint_number_is_said_at_its_field(
    client, project, tara
):
    other = make_project(slug="pies")
    make_sample(project=other)
    foreign = make_policy(other)
    for number in (foreign.pk, 10**30, -1, "abc", "\x00", MEGABYTE, "[1]", ""):
        answer = new_run(
            client, "draw", **filled(client, project, "draw") | {"policy": number}
        )
        assert answer.status_code == 422
        assert marked(answer) == {"policy"}
        page = client.get("/p/cakes/runs/new/draw/", {"policy": str(number)[:3000]})
        assert page.status_code == 200
    assert Run.objects.filter(kind="draw").count() == 0


# A form that is sent twice


def test_a_form_sent_twice_starts_one_run(client, project, tara):
    sent = filled(client, project)
    first, second = (new_run(client, "sft", **sent) for _ in range(2))
    assert first.status_code == second.status_code == 302
    assert first["Location"] == second["Location"]
    assert Run.objects.filter(kind="sft", state="queued").count() == 1
    # Gone back to and changed, it asks for another run; shown anew, also.
    new_run(client, "sft", **sent | {"recipe_steps": "7"})
    new_run(client, "sft", **filled(client, project))
    assert Run.objects.filter(kind="sft", state="queued").count() == 3


def test_a_form_sent_again_later_starts_another_run(client, project, tara, monkeypatch):
    sent = filled(client, project)
    new_run(client, "sft", **sent)
    monkeypatch.setattr(launch, "TWICE", launch.TWICE * 0)
    assert new_run(client, "sft", **sent).status_code == 302
    assert Run.objects.filter(kind="sft", state="queued").count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_form_sent_twice_at_once_starts_one_run(project, monkeypatch):
    ask = "2b3a61a5-1d2c-4d4d-9a57-63c2a2a5d0a1"
    both = threading.Barrier(2, timeout=20)
    build = launch.build_snapshot

    def build_together(**facts):
        both.wait()  # both have looked and seen no run
        return build(**facts)

    monkeypatch.setattr(launch, "build_snapshot", build_together)
    found = []

    def start():
        try:
            found.append(
                launch.start_run(
                    project=project,
                    kind="sft",
                    recipe={},
                    inputs={},
                    user=None,
                    ask=ask,
                ).pk
            )
        finally:
            connection.close()

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len(set(found)) == 1
    assert Run.objects.filter(state="queued").count() == 1


# Two tabs


def recipe_sent(client, **fields):
    page = client.get("/p/cakes/iterations/1/recipe/policy/")
    form = page.context["recipe"]
    values = {f.html_name: f.value() for f in form}
    sent = {n: v for n, v in values.items() if v is not None and v is not False}
    return sent | {"seen": page.context["seen"]} | fields


def test_a_recipe_changed_in_another_tab_is_not_written_over_unseen(
    client, project, tara
):
    iteration = begin(project)
    address = "/p/cakes/iterations/1/recipe/policy/"
    first = recipe_sent(client, recipe_steps="7")
    second = recipe_sent(client, recipe_seed="9")
    assert client.post(address, first).status_code == 302
    answer = client.post(address, second)
    assert answer.status_code == 422
    assert "tara has changed this meanwhile: steps." in answer.content.decode()
    assert answer.context["recipe"]["recipe_seed"].value() == "9"
    assert fresh(iteration).recipes["policy"]["steps"] == 7
    # Having read that, one may save it all the same.
    assert (
        client.post(address, second | {"seen": answer.context["seen"]}).status_code
        == 302
    )
    assert fresh(iteration).recipes["policy"]["seed"] == 9


def test_settings_changed_in_another_tab_are_not_written_over_unseen(
    client, project, tara
):
    iteration = begin(project)
    shown = client.get("/p/cakes/iterations/1/").context["seen"]
    sent = {
        "wanted_judgments": "5",
        "wanted_settled": "50",
        "margin": "0.1",
        "automatic": ["draw"],
        "seen": shown,
    }
    address = "/p/cakes/iterations/1/settings/"
    assert client.post(address, sent).status_code == 302
    answer = client.post(address, sent | {"wanted_judgments": "6"})
    assert answer.status_code == 422
    text = answer.content.decode()
    found = text.split("has changed this meanwhile: ")[1].split(".")[0]
    assert {"wanted judgments", "margin", "automatic"} <= set(found.split(", "))
    assert 'value="6"' in text
    assert fresh(iteration).wanted_judgments == 5


# Iterations


@pytest.mark.parametrize("deed", ["stop", "skip", "approve", "resume"])
@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("\x00", "Reason: expected text, found a null character."),
        (MEGABYTE, "Reason: expected at most 1000 characters, found 1000000."),
    ],
)
def test_a_reason_that_cannot_be_kept_is_refused(
    client, project, tara, deed, reason, said
):
    begin(project)
    sent = {"deed": deed, "step": "draw", "reason": reason}
    answer = client.post("/p/cakes/iterations/1/do/", sent)
    assert answer.status_code == 409
    assert said in answer.content.decode()
    assert answer.context["typed"]["reason"] == reason
    assert Iteration.objects.get().state == "going"


def test_lines_of_a_reason_count_as_in_the_page(client, project, tara):
    begin(project)
    sent = {"deed": "stop", "step": "all", "reason": "\r\n".join("x" * 500)}
    assert client.post("/p/cakes/iterations/1/do/", sent).status_code == 302
    assert Iteration.objects.get().state == "stopped"


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_setting_of_an_iteration_is_said_and_kept(client, project, tara, bad):
    iteration = begin(project)
    sent = {"wanted_judgments": bad, "wanted_settled": bad, "margin": bad}
    answer = client.post("/p/cakes/iterations/1/settings/", sent | {"seen": bad})
    assert answer.status_code == 422
    assert set(answer.context["form"].errors) == set(sent)
    assert fresh(iteration).margin == iteration.margin


# Disks


@pytest.mark.parametrize("kind", ["sft", "draw"])
def test_a_full_disk_is_said_on_the_form_and_starts_nothing(
    client, project, tara, monkeypatch, kind
):
    def full(*args):
        raise OSError(28, "No space left on device")

    sent = filled(client, project, kind)
    monkeypatch.setattr(snapshots, "_write_files", full)
    answer = new_run(client, kind, **sent)
    assert answer.status_code == 422
    assert "Its data could not be written: [Errno 28] No space left on device" in (
        answer.content.decode()
    )
    assert not Run.objects.filter(state="queued").exists()
