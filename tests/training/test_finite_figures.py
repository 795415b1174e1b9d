"""What a program measured and is no number is not hidden, and promotes nothing."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from records.checkpoints import CheckpointError, verify_checkpoint
from tests.cast import make_user
from tests.training.conftest import make_checkpoint, make_run
from training.iterations.promotion import (
    PromotionRefusedError,
    promote,
)
from training.models import Promotion
from training.runs import hints, ingest
from training.runs.first_policy import promote_the_first
from training.runs.ingest import OutputError, ingest_events, receive_outputs

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_broker(monkeypatch):
    monkeypatch.setattr(hints.current_app, "send_task", lambda *a, **k: None)


def held():
    soon = timezone.now() + timedelta(minutes=5)
    return {"state": "running", "token": 1, "leased_until": soon}


def measured(checkpoint, **figures):
    """Say other figures in the row of a checkpoint, as an older program did."""
    checkpoint.manifest = {**checkpoint.manifest, "metrics": figures}
    checkpoint.save()
    return checkpoint


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999"])
def test_a_checkpoint_with_a_figure_that_is_no_number_is_not_taken_in(number):
    checkpoint = make_checkpoint(make_run())
    manifest = checkpoint.directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0.5", number))
    with pytest.raises(
        CheckpointError,
        match=r"`metrics.loss`: expected a finite number, found -?(nan|inf)$",
    ):
        verify_checkpoint(checkpoint.directory)


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "held_out_loss"])
def test_the_first_policy_needs_figures_that_are_numbers(name):
    run = make_run(state="finished")
    measured(make_checkpoint(run), **{"loss": 0.1, "gradient_norm": 1.0, name: None})
    promote_the_first(run)
    assert not Promotion.objects.exists()
    (note,) = run.notes.all()
    assert (note.level, note.message) == (
        "error",
        "Not made the project's policy. "
        f"Its {name.replace('_', ' ')} is not a finite number.",
    )


def test_the_first_policy_is_promoted_with_numbers_and_without_what_was_not_measured():
    run = make_run(state="finished")
    final = measured(make_checkpoint(run), loss=0.1, token_accuracy=None)
    promote_the_first(run)
    assert Promotion.objects.get().checkpoint == final


def test_a_person_may_promote_it_with_a_reason_only():
    run = make_run(state="finished")
    checkpoint = measured(make_checkpoint(run), loss=None)
    tara = make_user("tara")
    with pytest.raises(PromotionRefusedError, match="Its loss is not a finite number"):
        promote(project=run.project, checkpoint=checkpoint, user=tara)
    promote(
        project=run.project,
        checkpoint=checkpoint,
        user=tara,
        force=True,
        reason="A trial.",
    )
    assert Promotion.objects.get().is_forced


def test_a_figure_that_is_no_number_is_an_error_on_the_page_of_its_run():
    run = make_run(**held())
    run.directory.mkdir(parents=True)
    line = '{"event":"metrics","step":3,"values":{"loss":NaN,"other":null,"a":1}}\n'
    (run.directory / "events.jsonl").write_text(line)
    ingest_events(run)
    assert [m.name for m in ingest.Metric.objects.filter(run=run)] == ["a"]
    (note,) = run.notes.all()
    assert (note.level, note.message) == ("error", "Step 3: not a finite number: loss.")


def test_an_evaluation_with_a_figure_that_is_no_number_is_refused():
    run = make_run(kind="evaluate", **held())
    (run.directory / "outputs").mkdir(parents=True)
    found = {"policies": {"policy": {"turns_right": {"value": float("inf")}}}}
    (run.directory / "outputs" / "evaluation.json").write_text(json.dumps(found))
    with pytest.raises(OutputError, match="policies/policy/turns_right/value is inf"):
        receive_outputs(run)
