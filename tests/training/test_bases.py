"""Which directories a supervised fine-tuning may start from, and that no other is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cast import make_user, sign_in
from tests.training.conftest import (
    QUICK,
    TINY,
    make_checkpoint,
    make_policy,
    make_project_with_samples,
    make_run,
)
from training.models import InputRole, Run, RunKind
from training.runs import launch
from training.runs.bases import BaseRefusedError, base_directory, base_name, known_bases
from training.runs.claim import claim_run
from training.runs.ingest import OutputError
from training.runs.prepare import prepare_directory
from training.runs.supervise import supervise


@pytest.fixture
def models(settings, tmp_path) -> Path:
    settings.MODELS_DIR = tmp_path / "models"
    make_model(settings.MODELS_DIR / "Small")
    make_model(settings.MODELS_DIR / "lab" / "Other")
    return settings.MODELS_DIR


def make_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


@pytest.fixture
def project(db):
    return make_project_with_samples(slug="cakes")


def start(project, base, **fields):
    return launch.start_run(
        project=project,
        kind=RunKind.SFT,
        recipe={"base": str(base)},
        inputs={},
        user=make_user("tara"),
        **fields,
    )


class TestTheFolder:
    def test_names_and_paths_into_it_are_bases(self, models):
        for name in ("Small", "./Small", f"{models}/Small", "lab/../Small", " Small "):
            assert base_directory(name) == models / "Small"
            assert base_name(name) == "Small"
        assert base_name(str(models / "lab" / "Other")) == "lab/Other"

    def test_may_be_a_link_itself(self, models, settings, tmp_path):
        settings.MODELS_DIR = tmp_path / "link"
        settings.MODELS_DIR.symlink_to(models)
        assert base_name(str(models / "Small")) == "Small"
        assert base_name(str(settings.MODELS_DIR / "Small")) == "Small"

    def test_says_what_is_there(self, models):
        (models / "notes").mkdir()
        assert known_bases() == ["Small", "lab/Other"]
        with pytest.raises(BaseRefusedError) as caught:
            base_directory("Large")
        assert str(models) in str(caught.value)
        assert "found “Large”. There are: Small, lab/Other." in str(caught.value)

    def test_may_be_missing(self, settings, tmp_path):
        settings.MODELS_DIR = tmp_path / "nowhere"
        with pytest.raises(BaseRefusedError, match="There are: none"):
            base_directory("Small")

    @pytest.mark.parametrize(
        "name",
        [
            *("", ".", "..", "/", "/etc", "../models", "notes", "\0", "x" * 5000),
            "~/Small",
            "Small/config.json",
        ],
    )
    def test_has_nothing_else(self, models, name):
        (models / "notes").mkdir()
        with pytest.raises(BaseRefusedError):
            base_directory(name)

    def test_a_directory_beside_it_is_none_whatever_it_is(self, models, tmp_path):
        outside = make_model(tmp_path / "models-of-others")
        for name in (outside, "../models-of-others", models / ".." / outside.name):
            with pytest.raises(BaseRefusedError) as caught:
                base_directory(str(name))
            missing = str(name).replace("models-of-others", "models-of-nobody")
            with pytest.raises(BaseRefusedError) as nothing:
                base_directory(missing)
            said = str(caught.value).replace("models-of-others", "models-of-nobody")
            assert said == str(nothing.value)

    def test_no_link_leads_out_of_it(self, models, tmp_path):
        outside = make_model(tmp_path / "outside")
        (models / "link").symlink_to(outside)
        half = make_model(models / "half")
        (half / "model.safetensors").unlink()
        (half / "model.safetensors").symlink_to(outside / "model.safetensors")
        deep = make_model(models / "deep")
        (deep / "more").mkdir()
        (deep / "more" / "tokenizer.json").symlink_to("/etc/hostname")
        loop = make_model(models / "loop")
        (loop / "again").symlink_to(loop / "again")
        for name in ("link", "half", "deep", "loop"):
            with pytest.raises(BaseRefusedError):
                base_directory(name)
        assert known_bases() == ["Small", "lab/Other"]

    def test_links_inside_it_are_followed(self, models):
        """As in a cache of the Hugging Face Hub: a snapshot's files are links to blobs."""
        blobs = models / "blobs"
        blobs.mkdir()
        (blobs / "a").write_text("{}")
        snapshot = models / "hub" / "snapshot"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").symlink_to(blobs / "a")
        (models / "newest").symlink_to(snapshot)
        assert base_directory("hub/snapshot") == base_directory("newest") == snapshot
        assert base_name("newest") == "newest"

    @pytest.mark.django_db
    def test_never_reaches_the_data_whatever_it_is_set_to(self, settings, data_dir):
        project = make_project_with_samples(slug="cakes")
        directory = make_policy(project).directory
        (directory / "config.json").write_text("{}")
        make_model(data_dir.parent / "Small")
        (data_dir.parent / "config.json").write_text("{}")
        for folder in (data_dir, data_dir.parent, data_dir.parent.parent, "/"):
            settings.MODELS_DIR = Path(folder)
            with pytest.raises(BaseRefusedError):
                base_directory(str(directory))
            with pytest.raises(BaseRefusedError):
                base_directory(str(data_dir.parent))
        settings.MODELS_DIR = data_dir.parent
        assert base_name("Small") == "Small"

    def test_never_reaches_the_state(self, models, settings, tmp_path):
        state = type(settings.STATE)(tmp_path / "models" / "state")
        settings.STATE = state
        make_model(state.home / "stolen")
        with pytest.raises(BaseRefusedError):
            base_directory("state/stolen")


class TestARun:
    def test_keeps_the_name_and_gives_the_program_the_place(self, models, project):
        run = start(project, models / "Small")
        assert run.recipe["base"] == "Small"
        run = claim_run(run.pk, timing=QUICK)
        prepare_directory(run)
        document = json.loads((run.directory / "run.json").read_text())
        assert document["recipe"]["base"] == str(models / "Small")
        run.refresh_from_db()
        assert run.recipe["base"] == "Small"

    @pytest.mark.parametrize("base", ["/etc", "Large", "../secrets"])
    def test_with_another_base_does_not_start(self, models, project, base):
        with pytest.raises(launch.LaunchRefusedError) as caught:
            start(project, base)
        assert list(caught.value.problems) == ["base"]
        assert not Run.objects.exists()

    def test_of_another_projects_checkpoint_does_not_start(self, models, project):
        other = make_policy(make_project_with_samples(slug="other"))
        (other.directory / "config.json").write_text("{}")
        with pytest.raises(launch.LaunchRefusedError) as caught:
            start(project, other.directory)
        assert list(caught.value.problems) == ["base"]

    def test_of_its_own_projects_checkpoint_has_it_as_input(self, models, project):
        own = make_policy(project)
        run = start(project, own.directory)
        assert run.recipe["base"] == ""
        given = run.run_inputs.get()
        assert (given.role, given.checkpoint) == (InputRole.POLICY, own)

    def test_of_an_own_checkpoint_that_is_a_reward_model_does_not_start(
        self, models, project
    ):
        own = make_checkpoint(make_run(project=project, kind="reward"))
        with pytest.raises(launch.LaunchRefusedError) as caught:
            start(project, own.directory)
        assert list(caught.value.problems) == ["policy"]

    def test_is_refused_by_the_worker_when_a_link_has_changed(
        self, models, project, tmp_path
    ):
        (models / "newest").symlink_to(models / "Small")
        run = start(project, "newest")
        (models / "newest").unlink()
        (models / "newest").symlink_to(make_model(tmp_path / "outside"))
        run = claim_run(run.pk, timing=QUICK)
        with pytest.raises(OutputError, match="base: Expected the name of a model"):
            prepare_directory(run)

    @pytest.mark.django_db(transaction=True)
    def test_of_before_this_rule_fails_with_the_reason(self, models, project, tmp_path):
        outside = make_model(tmp_path / "outside")
        run = make_run(project=project, recipe={"base": str(outside)})
        supervise(run.pk, command=TINY, timing=QUICK)
        run.refresh_from_db()
        assert run.state == "failed"
        assert "base: Expected the name of a model directory" in run.error
        assert not list((run.directory / "checkpoints").glob("step-*"))

    @pytest.mark.django_db(transaction=True)
    def test_whose_model_is_gone_fails_with_the_reason(self, models, project):
        run = start(project, "Small")
        shutil.rmtree(models / "Small")
        supervise(run.pk, command=TINY, timing=QUICK)
        run.refresh_from_db()
        assert run.state == "failed"
        assert "There are: lab/Other." in run.error


class TestThePage:
    ADDRESS = "/p/cakes/runs/new/sft/"

    def test_says_at_the_field_what_there_is(self, client, models, project):
        sign_in(client, make_user("tara"))
        page = client.post(self.ADDRESS, {"recipe_base": "/etc", "recipe_steps": "x"})
        text = page.content.decode()
        assert page.status_code == 422
        assert "found “/etc”. There are: Small, lab/Other." in text
        assert "Enter a whole number." in text
