"""A worker killed in the middle of a real program: another one ends the run as it was."""

import pytest
from django.db.models.functions import Now

from tests.training.conftest import make_real_policy, start_worker, wait_until
from tests.training.test_real_programs import (  # noqa: F401
    TIMING,
    project,
    run_through,
)
from training.models import Run
from training.runs import claim, launch, supervise
from training.runs.supervise import Outcome

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

RECIPE = {"turns": 4, "responses_per_turn": 2, "max_new_tokens": 40}
RECIPE |= {"precision": "fp32"}


def outcome(run):
    """Return what a draw left, whoever saw it to its end."""
    text = (run.directory / "outputs/responses.jsonl").read_text()
    return sorted(text.splitlines()), run.result["received"]["current"]["responses"]


def test_a_run_whose_worker_is_killed_ends_as_if_it_were_not(project):  # noqa: F811
    policy = make_real_policy(project)
    whole = run_through(project, "draw", RECIPE, policy=policy)
    run = launch.start_run(
        project=project,
        kind="draw",
        recipe=RECIPE,
        inputs={"policy": policy},
        user=None,
    )
    worker = start_worker(run, poll=0.1, beat=0.3, lease=3, grace=30)
    said = run.directory / "events.jsonl"
    wait_until(
        lambda: said.exists() and '"of": 4' in said.read_text(), 120, "the middle"
    )
    worker.kill()
    lost = Run.objects.filter(pk=run.pk, leased_until__lt=Now())
    wait_until(lost.exists, 30, "the end of the lease")
    claim.reconcile()
    assert supervise.supervise(run.pk, timing=TIMING) is Outcome.FINISHED
    run.refresh_from_db()
    assert outcome(run) == outcome(whole)
