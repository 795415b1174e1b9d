"""Which checkpoints keep their files; removing the others' leaves rows and lineage."""

import json
import threading
from pathlib import Path

import pytest
from django.db import connection

from records.checkpoints import file_sha256
from tests.cast import make_project, make_sample, make_user, sign_in
from tests.training.conftest import make_checkpoint, make_run
from training.iterations import promotion
from training.models import Checkpoint, Promotion, Retention, RunInput
from training.policies.retention import (
    plan_removal,
    remove_files,
    remove_where_automatic,
    retention_of,
)
from training.runs import launch
from training.runs.ingest import register_found

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    project = make_project(slug="cakes")
    make_sample(project=project, external_id="s1")
    return project


@pytest.fixture
def tara(client, project):
    return sign_in(client, make_user("tara"))


def steps(run, *numbers, metrics=None):
    """Return checkpoints of ``run``; the last is final when the run has finished."""
    made = []
    for step in numbers:
        final = step == numbers[-1] and run.state == "finished"
        checkpoint = make_checkpoint(run, step=step, is_final=final)
        if metrics:
            path = checkpoint.directory / "manifest.json"
            manifest = json.loads(path.read_text()) | {"metrics": metrics[step]}
            path.write_text(json.dumps(manifest))
            checkpoint.manifest, checkpoint.digest = manifest, file_sha256(path)
            checkpoint.save()
        made.append(checkpoint)
    return made


def policy_of(project, **fields):
    return Retention.objects.create(project=project, **{"keep_best": 0} | fields)


def doomed(project):
    plan = plan_removal(retention_of(project))
    return {each.checkpoint.step for each in plan.doomed}


def test_the_last_the_best_the_final_and_the_promoted_are_kept(project):
    run = make_run(project=project, state="finished")
    losses = {s: {"held_out_loss": abs(s - 3)} for s in range(1, 9)}
    made = steps(run, *range(1, 9), metrics=losses)
    Promotion.objects.create(project=project, checkpoint=made[0])
    policy_of(project, keep_last=2, keep_best=1)
    assert doomed(project) == {2, 4, 5, 6}


def test_more_is_better_where_the_figure_says_so(project):
    run = make_run(project=project, kind="policy", state="finished")
    truths = {s: {"truth": 0.1 * s if s < 4 else 0.0} for s in range(1, 7)}
    steps(run, *range(1, 7), metrics=truths)
    policy_of(project, keep_last=1, keep_best=2)
    assert doomed(project) == {1, 4, 5}


@pytest.mark.parametrize("state", ["queued", "running", "stopped", "failed"])
def test_what_an_unfinished_run_reads_is_never_removed(project, state):
    source = make_run(project=project, state="finished")
    made = steps(source, 1, 2, 3)
    reader = make_run(project=project, kind="draw", state="finished")
    RunInput.objects.create(run=reader, checkpoint=made[0], role="policy")
    policy_of(project, keep_last=1)
    assert doomed(project) == {1, 2}
    fields = {"leased_until": "2099-01-01T00:00Z"} if state == "running" else {}
    type(reader).objects.filter(pk=reader.pk).update(state=state, **fields)
    assert doomed(project) == {2}


def test_parents_of_what_is_kept_are_kept_over_generations(project):
    grandparent = steps(make_run(project=project, state="finished"), 1, 2, 9)[0]
    child = make_run(project=project, kind="policy", state="finished")
    RunInput.objects.create(run=child, checkpoint=grandparent, role="policy")
    parent = steps(child, 3, 4, 9)[0]
    last = make_run(project=project, kind="policy", state="finished")
    RunInput.objects.create(run=last, checkpoint=parent, role="policy")
    steps(last, 5, 9)
    policy_of(project, keep_last=1, keep_best=0)
    assert doomed(project) == {2, 4, 5}


def test_removing_takes_files_only_and_says_so_on_the_pages(client, project, tara):
    run = make_run(project=project, state="finished")
    first, _, last = steps(run, 1, 2, 3)
    page = client.get("/p/cakes/checkpoints/retention/").content.decode()
    assert "Nothing to remove" in page  # the default keeps three of each run
    assert "Newest of each run" in page
    assert "so that a run can be resumed" in page
    client.post("/p/cakes/checkpoints/retention/", {"keep_last": 1, "keep_best": 0})
    answer = client.get("/p/cakes/checkpoints/retention/")
    assert "2 checkpoints would lose their files" in answer.content.decode()
    assert first.directory.exists()  # a look removes nothing
    client.post("/p/cakes/checkpoints/retention/", {"remove": "1"})
    assert not first.directory.exists()
    assert last.directory.exists()
    assert not list((run.directory / "checkpoints").glob(".*"))
    first.refresh_from_db()
    assert first.files_removed_at is not None
    page = client.get(f"/p/cakes/checkpoints/{first.pk}/").content.decode()
    assert "files removed on" in page
    assert first.digest in page
    page = client.get("/p/cakes/checkpoints/?all=on").content.decode()
    assert page.count("files removed") == 2
    again = client.get("/p/cakes/checkpoints/retention/").content.decode()
    assert "Nothing to remove" in again


def test_bad_numbers_are_refused_with_what_was_typed(client, project, tara):
    answer = client.post(
        "/p/cakes/checkpoints/retention/", {"keep_last": 0, "keep_best": 7}
    )
    assert answer.status_code == 400
    page = answer.content.decode()
    assert "greater than or equal to 1" in page
    assert 'value="7"' in page
    assert not Retention.objects.exists()


def test_strangers_get_404_and_labelers_403(client, project):
    sign_in(client, make_user("sam"))
    assert client.get("/p/cakes/checkpoints/retention/").status_code == 404
    sign_in(client, make_user("lena"))
    assert client.post("/p/cakes/checkpoints/retention/").status_code == 403


def test_removed_files_are_no_input_and_no_policy(project):
    first, *_ = steps(make_run(project=project, state="finished"), 1, 2, 3)
    remove_files(policy_of(project, keep_last=1))
    with pytest.raises(launch.LaunchRefusedError, match="not intact on disk"):
        launch.start_run(
            project=project, kind="draw", recipe={}, inputs={"policy": first}, user=None
        )
    with pytest.raises(promotion.PromotionRefusedError):
        promotion.promote(project=first.project, checkpoint=first, user=None)


@pytest.mark.django_db(transaction=True)
def test_a_run_that_starts_meanwhile_is_seen_or_refused(project, monkeypatch):
    """The run looks at the files, then retention removes them, then it names them."""
    first, *_ = steps(make_run(project=project, state="finished"), 1, 2, 3)
    policy = policy_of(project, keep_last=1)
    build = launch.build_snapshot

    def meanwhile(**fields):
        def remove():
            remove_files(policy)
            connection.close()

        other = threading.Thread(target=remove)
        other.start()
        other.join()
        return build(**fields)

    monkeypatch.setattr(launch, "build_snapshot", meanwhile)
    with pytest.raises(launch.LaunchRefusedError, match="removed to free space"):
        launch.start_run(
            project=project, kind="draw", recipe={}, inputs={"policy": first}, user=None
        )
    assert not RunInput.objects.exists()


def test_what_a_crash_left_is_removed_the_next_time(project):
    first, *_ = steps(make_run(project=project, state="finished"), 1, 2, 3)
    policy = policy_of(project, keep_last=1)
    Checkpoint.objects.filter(pk=first.pk).update(files_removed_at="2026-01-01T00:00Z")
    assert first.directory.exists()
    remove_files(policy)
    assert not first.directory.exists()


def test_of_two_who_remove_at_once_the_slower_has_nothing_to_do(project, monkeypatch):
    first, *_ = steps(make_run(project=project, state="finished"), 1, 2, 3)
    rename = Path.rename

    def overtaken(path, target):
        rename(path, path.with_name(".removed-by-another"))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    assert remove_files(policy_of(project, keep_last=2)).doomed
    assert not first.directory.exists()


def test_a_checkpoint_written_again_has_its_files_again(project):
    run = make_run(project=project, state="finished")
    first, *_ = steps(run, 1, 2, 3)
    remove_files(policy_of(project, keep_last=1))
    register_found(run)
    first.refresh_from_db()
    assert first.files_removed_at is not None
    steps(run, 1)
    first.refresh_from_db()
    assert first.files_removed_at is None


def test_only_projects_that_asked_for_it_are_cleaned_by_themselves(project):
    other = make_project(slug="other", name="Other")
    for each in (project, other):
        steps(make_run(project=each, state="finished"), 1, 2, 3, 4, 5, 6)
    policy_of(project)
    policy_of(other, is_automatic=True, keep_best=0)
    remove_where_automatic()
    gone = Checkpoint.objects.filter(files_removed_at__isnull=False)
    assert {row.project_id for row in gone} == {other.pk}
    assert {row.step for row in gone} == {1, 2, 3}


def test_the_page_costs_few_queries(
    client, project, tara, django_assert_max_num_queries
):
    for _ in range(4):
        steps(make_run(project=project, state="finished"), 1, 2, 3, 4, 5, 6)
    with django_assert_max_num_queries(14):
        client.get("/p/cakes/checkpoints/retention/")
