"""The trainer's main job in a browser: start a run, watch it, draw, find the pairs.

A real Celery worker takes the runs, and the engine's real programs train a micro model.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from django.conf import settings as django_settings
from django.db import connection
from playwright.sync_api import expect

from actions.demo import generate
from annotation.authoring.sample_rows import save_sample
from annotation.models import Pair, PairSource, Project
from tests.cast import make_project, make_user
from training.models import Run

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Small and quick, and yet long enough to learn the response grammar: an answer that
# breaks it is not sent to people.
MICRO = {
    "steps": "150",
    "conversations_per_step": "4",
    "width": "64",
    "layers": "2",
    "evaluate_turns": "2",
    "evaluate_every": "50",
}


@pytest.fixture
def project(settings, tmp_path) -> Project:
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    project = make_project(slug="cakes", overlap=1)
    for split, count in (("", 40), ("held-out", 2)):
        for document in generate(seed=1, count=count, split=split):
            approved = {**document, "status": "approved"}
            save_sample(project=project, document=approved, author=None)
    return project


@pytest.fixture
def worker(project) -> Iterator[subprocess.Popen[bytes]]:
    """Start a Celery worker on the database and the data of this test."""
    database = connection.settings_dict
    password = f":{database['PASSWORD']}" if database["PASSWORD"] else ""
    host = database["HOST"]
    place = f"{host}:{database['PORT']}" if database["PORT"] else host
    url = f"postgresql://{database['USER']}{password}@{place}/{database['NAME']}"
    if host.startswith("/"):
        url = (
            f"postgresql://{database['USER']}{password}@/{database['NAME']}?host={host}"
        )
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATABASE_URL": url,
        "CONCORD_DATA_DIR": str(django_settings.DATA_DIR),
        "OMP_NUM_THREADS": "1",
    }
    command = "-m celery -A config worker -P threads -c 1 -Q runs -l WARNING"
    child = subprocess.Popen([sys.executable, *command.split()], env=environment)
    yield child
    child.terminate()
    child.wait(30)


def test_a_trainer_starts_sft_watches_it_draws_and_a_labeler_finds_the_pairs(
    project, worker, sign_in
):
    page = sign_in(make_user("tara"))
    page.goto("/p/cakes/runs/")
    page.get_by_role("link", name="Start supervised fine-tuning").click()
    for name, value in MICRO.items():
        page.fill(f"#id_recipe_{name}", value)
    page.get_by_role("button", name="Start run").click()
    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    sft = Run.objects.get()

    # It is watched without a reload: the state changes, curves appear, it ends.
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#run-live .state")).to_contain_text(
        "Finished", timeout=120_000
    )
    expect(page.locator("run-charts .chart").first).to_be_visible()
    expect(page.locator("run-charts canvas").first).to_be_visible()
    expect(page.get_by_role("link", name="Step 150")).to_be_visible()
    assert page.evaluate("window.sameDocument") is True
    assert page.locator("#run-live").get_attribute("hx-get") is None

    # The next stage starts from here, with its inputs filled in.
    page.get_by_role("link", name="Draw responses").click()
    final = sft.checkpoints.get(is_final=True)
    expect(page.locator("#id_policy")).to_have_value(str(final.pk))
    page.fill("#id_recipe_turns", "8")
    page.fill("#id_recipe_responses_per_turn", "2")
    page.fill("#id_recipe_max_new_tokens", "160")
    page.get_by_role("button", name="Start run").click()
    page.wait_for_url(re.compile(r"/runs/\d+/$"))
    expect(page.locator("#run-live .state")).to_contain_text(
        "Finished", timeout=120_000
    )

    drawn = Pair.objects.filter(project=project, source=PairSource.PEOPLE)
    assert drawn.exists(), Run.objects.get(kind="draw").result
    lena = sign_in(make_user("lena"))
    lena.goto("/p/cakes/judge/")
    slot = lena.locator("input[name=slot]").first
    expect(slot).to_be_attached()
    assert drawn.filter(slots=int(slot.get_attribute("value") or 0)).exists()
