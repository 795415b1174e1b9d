"""A checkpoint with a broken manifest is not taken in, not promoted and not sent."""

import hashlib
import json
from datetime import timedelta

import pytest
from django.utils import timezone

from tests.cast import make_user, sign_in
from tests.manifests import BROKEN, broken
from tests.training.conftest import make_checkpoint, make_run
from training.iterations.promotion import PromotionRefusedError, promote
from training.models import Promotion
from training.runs import hints
from training.runs.ingest import ingest_events, register_found

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_broker(monkeypatch):
    monkeypatch.setattr(hints.current_app, "send_task", lambda *a, **k: None)


@pytest.fixture
def run():
    soon = timezone.now() + timedelta(minutes=5)
    return make_run(state="running", token=1, leased_until=soon)


def break_manifest(checkpoint, changes):
    """Break the manifest on disk; the row believes it is the one it has seen."""
    path = checkpoint.directory / "manifest.json"
    (checkpoint.directory.parent / "outside").write_bytes(b"")
    path.write_text(json.dumps(broken(json.loads(path.read_text()), changes)))
    checkpoint.digest = hashlib.sha256(path.read_bytes()).hexdigest()
    checkpoint.save()


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_not_taken_in(run, name):
    changes, why = BROKEN[name]
    checkpoint = make_checkpoint(run)
    break_manifest(checkpoint, changes)
    digest = checkpoint.digest
    checkpoint.delete()
    event = {"event": "checkpoint", "step": 100, "digest": digest, "final": True}
    path = str(checkpoint.directory.relative_to(run.directory))
    (run.directory / "events.jsonl").write_text(
        json.dumps(event | {"path": path}) + "\n"
    )
    ingest_events(run)
    register_found(run)
    assert not run.checkpoints.exists()
    (note,) = run.notes.all()
    said = f"Not registered: checkpoint step-000100: manifest.json: {why}."
    assert (note.level, note.message) == ("warning", said)


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_not_promoted(run, name):
    changes, why = BROKEN[name]
    checkpoint = make_checkpoint(run)
    break_manifest(checkpoint, changes)
    with pytest.raises(PromotionRefusedError) as caught:
        promote(project=run.project, checkpoint=checkpoint, user=make_user("tara"))
    expected = f"The checkpoint is not intact on disk: manifest.json: {why}."
    assert str(caught.value) == expected
    assert not Promotion.objects.exists()


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_not_sent(client, run, name):
    checkpoint = make_checkpoint(run)
    sign_in(client, make_user("tara"))
    page = f"/p/{run.project.slug}/checkpoints/{checkpoint.pk}"
    assert client.get(f"{page}/download/").status_code == 200
    break_manifest(checkpoint, BROKEN[name][0])
    assert client.get(f"{page}/download/").status_code == 404
    assert client.get(f"{page}/export/").status_code == 404
