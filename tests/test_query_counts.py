"""Lists cost the same number of queries with one row and with many, and at most ten."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotation.judging.guidelines import publish_guideline
from annotation.models import Draft, Project
from tests.cast import make_judgment, make_pair, make_project, make_sample, make_user
from tests.cast import sign_in as enter
from tests.training.conftest import make_checkpoint, make_policy, make_run
from training.iterations.deeds import start_iteration
from training.iterations.promotion import promote
from training.models import Iteration, Metric, RunNote, RunSample
from training.storage.snapshots import build_snapshot

pytestmark = pytest.mark.django_db
MOST = 10
CONTENT = {
    "scenario": "food delivery",
    "situation": "normal",
    "contexts": [],
    "turns": [{"input": {"kind": "user", "text": "A cake?"}, "response": ""}],
}


@pytest.fixture(autouse=True)
def data_dir(settings, tmp_path):
    settings.DATA_DIR = tmp_path


@pytest.fixture
def project() -> Project:
    return make_project(slug="cakes", overlap=1)


def add_samples(project: Project, count: int) -> None:
    for number in range(count):
        make_sample(
            project=project,
            author=make_user("lena"),
            scenario=f"scenario {number % 5}",
            status="submitted" if number % 2 else "approved",
        )


def add_judgments(project: Project, count: int) -> None:
    for number in range(count):
        make_judgment(make_pair(project=project), make_user("lena"), number % 2)


def add_drafts(project: Project, count: int) -> None:
    Draft.objects.bulk_create(
        Draft(project=project, author=make_user("lena"), content=CONTENT)
        for _ in range(count)
    )
    for sample in [make_sample(project=project) for _ in range(count)]:
        sample.status, sample.author = "returned", make_user("lena")
        sample.save()


def add_runs(project: Project, count: int) -> None:
    for _ in range(count):
        run = make_run(project=project, state="finished", created_by=make_user("tara"))
        make_checkpoint(run)


def add_projects(project: Project, count: int) -> None:
    for _ in range(count):
        make_project()


def add_steps(project: Project, count: int) -> None:
    """Add checkpoints of one run, most of them removable."""
    run = make_run(project=project, state="finished")
    for step in range(1, count + 4):
        make_checkpoint(run, step=step, is_final=step == count + 3)


def add_versions(project: Project, count: int) -> None:
    for _ in range(count):
        project.refresh_from_db()
        publish_guideline(
            project=project,
            author=make_user("rita"),
            base_version=project.guideline_version,
            text=f"Look closely, {project.guideline_version} times.",
        )


def add_iterations(project: Project, count: int) -> None:
    if not project.promotions.exists():
        make_sample(project=project)
        promote(
            project=project, checkpoint=make_policy(project), user=make_user("tara")
        )
    for _ in range(count):
        iteration = start_iteration(project=project, user=make_user("tara"))
        Iteration.objects.filter(pk=iteration.pk).update(
            state="done", ended_at=timezone.now()
        )


# (who, address, what makes its rows)
LISTS: list[tuple[str, str, Callable[[Project, int], None]]] = [
    ("lena", "/?choose", add_projects),
    ("lena", "/p/cakes/work/", add_judgments),
    ("lena", "/p/cakes/write/", add_drafts),
    ("rita", "/p/cakes/samples/", add_samples),
    ("rita", "/p/cakes/samples/coverage/", add_samples),
    ("tara", "/p/cakes/runs/", add_runs),
    ("tara", "/p/cakes/checkpoints/", add_runs),
    ("tara", "/p/cakes/checkpoints/retention/", add_steps),
    ("rita", "/p/cakes/guideline/history/", add_versions),
    ("tara", "/p/cakes/iterations/", add_iterations),
]


@pytest.mark.parametrize(
    ("who", "address", "add"), LISTS, ids=[address for _, address, _ in LISTS]
)
def test_a_list_costs_the_same_for_one_row_and_for_many(
    client, project, who, address, add
):
    enter(client, make_user(who))
    add(project, 1)
    client.get(address)  # what is kept for the whole process is read once
    with CaptureQueriesContext(
        connection,
    ) as one:
        short = client.get(address)
    add(project, 24)
    with CaptureQueriesContext(connection) as many:
        long = client.get(address)
    assert (short.status_code, long.status_code) == (200, 200)
    assert len(long.content) > len(short.content), "the rows are not on the page"
    assert len(many) <= MOST, [each["sql"][:120] for each in many]
    assert len(many) == len(one), [each["sql"][:120] for each in many]


def test_a_runs_page_costs_the_same_however_much_it_tells(client, project):
    add_samples(project, 1)
    run = make_run(
        project=project,
        state="finished",
        snapshot=build_snapshot(project=project, user=None),
    )
    enter(client, make_user("tara"))

    def tell(first: int, count: int) -> None:
        for number in range(first, first + count):
            Metric.objects.create(
                run=run, name=f"m{number}", step=1, value=1, at=run.created_at
            )
            RunNote.objects.create(run=run, message=f"n{number}", at=run.created_at)
            RunSample.objects.create(
                run=run, event_offset=number, step=number, prompt="p", text="t"
            )
            make_checkpoint(run, step=number)

    tell(1, 1)
    address = f"/p/cakes/runs/{run.pk}/"
    client.get(address)
    with CaptureQueriesContext(connection) as one:
        client.get(address)
    tell(2, 20)
    with CaptureQueriesContext(connection) as many:
        client.get(address)
    assert len(many) == len(one), [each["sql"][:120] for each in many]
