"""The web application takes in what programs of an earlier version left."""

import json
import shutil
from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.utils import timezone

from annotation.authoring.sample_rows import save_sample
from tests.cast import make_project
from tests.old_run import OLD_RUN
from tests.training.conftest import make_run
from training.models import Metric, RunNote
from training.runs import prepare
from training.runs.ingest import ingest_events, receive_outputs, register_found

pytestmark = pytest.mark.django_db


def opened(kind, **fields):
    """Return a held run whose directory is a copy of the old one."""
    document = json.loads((OLD_RUN / kind / "run.json").read_text())
    soon = timezone.now() + timedelta(minutes=5)
    held = {"state": "running", "token": 1, "leased_until": soon}
    run = make_run(
        kind=kind, recipe=document["recipe"], uuid=document["uuid"], **held, **fields
    )
    shutil.copytree(OLD_RUN / kind, run.directory)
    return run


def test_the_events_of_an_old_run_are_taken_in():
    run = opened("reward")
    assert ingest_events(run)
    assert Metric.objects.filter(run=run).exists()
    (checkpoint,) = run.checkpoints.all()
    assert (checkpoint.step, checkpoint.manifest["kind"]) == (2, "reward")
    assert run.program_state == "finished"
    assert not RunNote.objects.filter(
        run=run, message__startswith="A line of events.jsonl"
    )


def test_an_old_run_is_prepared_to_go_on_from_its_checkpoint():
    run = opened("sft")
    register_found(run)
    assert [each.step for each in run.checkpoints.all()] == [1]
    prepare.prepare_directory(run)
    document = json.loads((run.directory / "run.json").read_text())
    assert document["resume"] == "checkpoints/step-000001"
    assert [each.message for each in run.notes.all()] == ["Resumed from checkpoint 1."]


def test_old_responses_are_taken_in():
    project = make_project()
    for line in (OLD_RUN / "draw" / "data" / "train.jsonl").read_text().splitlines():
        document = json.loads(line) | {"status": "approved"}
        save_sample(project=project, document=document, author=None)
    policy = opened("sft", project=project)
    register_found(policy)
    run = opened("draw", project=project)
    run.run_inputs.create(role="policy", checkpoint=policy.checkpoints.get())
    received = receive_outputs(run)["received"]["current"]
    assert (received["responses"], received["refused"]) == (4, 0)


def test_stored_metrics_get_the_one_prefix_of_held_out_samples():
    migration = import_module("training.migrations.0016_metrics_held_out")
    run = make_run(kind="policy")
    for name in ("heldout/truth", "heldout/truth/low", "loss"):
        Metric.objects.create(run=run, name=name, step=1, value=1, at=timezone.now())
    migration.rename(apps, None)
    names = Metric.objects.filter(run=run).order_by("name")
    assert list(names.values_list("name", flat=True)) == [
        "held_out/truth",
        "held_out/truth/low",
        "loss",
    ]
