"""A broken checkpoint is neither promoted nor used, and a page hashes no gigabytes."""

import os

import pytest

from records import checkpoints
from tests.cast import make_project, make_sample, make_user
from tests.training.conftest import QUICK, make_policy, tiny
from training.iterations import promotion
from training.iterations.promotion import PromotionRefusedError
from training.models import Checkpoint, Promotion, Run
from training.runs import hints, launch, supervise
from training.runs.launch import LaunchRefusedError

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_broker(monkeypatch):
    monkeypatch.setattr(hints.current_app, "send_task", lambda *a, **k: None)


@pytest.fixture
def checkpoint():
    project = make_project()
    make_sample(project=project)
    return make_policy(project)


@pytest.fixture
def hashed(monkeypatch):
    """Collect the files that are hashed."""
    hashed = []
    real = checkpoints.file_sha256

    def watched(path):
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(checkpoints, "file_sha256", watched)
    return hashed


def promote(checkpoint):
    return promotion.promote(
        project=checkpoint.project, checkpoint=checkpoint, user=make_user("tara")
    )


def start(checkpoint):
    return launch.start_run(
        project=checkpoint.project,
        kind="sft",
        recipe={},
        inputs={"policy": checkpoint},
        user=None,
    )


def test_what_has_not_changed_since_it_was_hashed_is_not_hashed_again(
    checkpoint, hashed
):
    promote(checkpoint)
    start(checkpoint)
    assert hashed == []


def test_a_row_from_before_is_hashed_whole(checkpoint, hashed):
    Checkpoint.objects.update(seen=None)
    promote(Checkpoint.objects.select_related("run", "project").get())
    assert hashed == ["model.safetensors"]


def test_files_copied_to_another_disk_are_hashed_and_accepted(checkpoint, hashed):
    os.utime(checkpoint.directory / "model.safetensors", (1, 1))
    promote(checkpoint)
    assert hashed == ["model.safetensors"]


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (
            lambda file: file.write_bytes(b"x" * file.stat().st_size),
            "was changed after",
        ),
        (lambda file: file.write_bytes(b"cut"), "was changed after"),
        (lambda file: file.unlink(), "is missing"),
        (lambda file: (file.parent / "manifest.json").write_text("{}"), "hash is"),
        (lambda file: (file.parent / "manifest.json").unlink(), "no manifest.json"),
    ],
)
def test_a_broken_checkpoint_is_neither_promoted_nor_started_from(
    checkpoint, harm, why
):
    harm(checkpoint.directory / "model.safetensors")
    with pytest.raises(PromotionRefusedError, match=why):
        promote(checkpoint)
    with pytest.raises(LaunchRefusedError, match=why):
        start(checkpoint)
    assert not Promotion.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_file_that_rots_without_a_trace_stops_the_program_that_would_use_it(
    checkpoint,
):
    file = checkpoint.directory / "model.safetensors"
    before = file.stat()
    file.write_bytes(b"x" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    run = start(checkpoint)
    supervise.supervise(run.pk, command=tiny(), timing=QUICK)
    run = Run.objects.get(pk=run.pk)
    assert run.state == "failed"
    assert "model.safetensors was changed after it was written" in run.error
