"""No program starts from a checkpoint whose manifest is broken: resumed or as an input."""

import hashlib
import json

import pytest

from records.recipes import SftRecipe
from tests.engine.micro import events, make_run
from tests.manifests import BROKEN, broken
from training.engine.run.directory import Ending, run_program


@pytest.fixture
def checkpoint(tmp_path):
    """Return a whole checkpoint; ``../outside`` is a file too."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    content = b"weights"
    for path in (folder / "model.safetensors", tmp_path / "outside"):
        path.write_bytes(content)
    manifest = {
        "step": 1,
        "program": "sft",
        "kind": "policy",
        "files": {"model.safetensors": hashlib.sha256(content).hexdigest()},
        "recipe": {},
        "parents": [],
        "metrics": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def start(folder, **names):
    make_run(folder, "sft", **names)

    def finish(run, recipe):
        return Ending("finished", {})

    status = run_program("sft", SftRecipe, finish, [str(folder)])
    return status, events(folder, "result")[-1]["error"]


def doors(tmp_path, checkpoint):
    yield "inputs.policy", start(tmp_path / "a", inputs={"policy": checkpoint})
    yield "resume", start(tmp_path / "b", resume=str(checkpoint))


def test_a_whole_checkpoint_is_accepted(tmp_path, checkpoint):
    for _, ended in doors(tmp_path, checkpoint):
        assert ended == (0, "")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_manifest_is_refused(tmp_path, checkpoint, name):
    changes, why = BROKEN[name]
    path = checkpoint / "manifest.json"
    path.write_text(json.dumps(broken(json.loads(path.read_text()), changes)))
    for place, ended in doors(tmp_path, checkpoint):
        assert ended == (
            1,
            f"run.json: `{place}`: expected a whole checkpoint, "
            f"found {checkpoint}: manifest.json: {why}",
        )


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"\\ud800"'])
def test_what_is_no_object_is_refused(tmp_path, checkpoint, text):
    (checkpoint / "manifest.json").write_text(text)
    for _, (status, error) in doors(tmp_path, checkpoint):
        assert status == 1
        assert "manifest.json: expected a JSON object, found " in error
