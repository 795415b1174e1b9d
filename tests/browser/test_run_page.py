"""The pages of a run and a checkpoint while things happen, by keyboard alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from tests.browser.stage import CAKE, CAKE_SAMPLED
from tests.cast import make_project, make_sample, make_user
from tests.training.conftest import make_checkpoint, make_policy, make_run
from training.iterations.promotion import promote
from training.models import Promotion, RunSample
from training.runs.placement import Place, announce
from training.runs.starting_points import current_policy
from training.runs.supervise import claim_run

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

GPU_0, GPU_1 = (Place("box", name, name) for name in ("cuda:0", "cuda:1"))


@pytest.fixture
def project(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    project = make_project(slug="cakes")
    make_sample(project=project)
    return project


def polled(page):
    """Wait until the live part has been asked for twice more."""
    for _ in range(2):
        with page.expect_response(lambda answer: answer.url.endswith("/live/")):
            pass


def test_where_a_queued_run_will_run_is_changed_while_its_page_lives_on(
    project, sign_in
):
    for place in (GPU_0, GPU_1):
        announce(place)
    run = make_run(project=project, queue="cuda:1")
    page = sign_in(make_user("tara"))
    page.goto(run.get_absolute_url())
    summary = page.get_by_text("Change where it runs")
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowUp")
    polled(page)
    queue = page.get_by_label("Runs on")
    expect(queue).to_have_value("cuda:0")
    expect(queue).to_be_focused()
    announce(GPU_0)  # the workers go on telling that they are there
    holder = make_run(project=project)
    claim_run(holder.pk, place=GPU_1)
    expect(page.get_by_text("which SFT")).to_be_visible()  # what is around it changed
    expect(queue).to_have_value("cuda:0")
    page.get_by_role("button", name="Save").press("Enter")
    expect(page.get_by_text("Waits for cuda:0.")).to_be_visible()
    expect(page.get_by_text("changed what the run waits for")).to_be_visible()

    claim_run(run.pk, place=GPU_0)
    expect(page.locator("#run-live .state")).to_contain_text("Starting")
    expect(summary).to_have_count(0)


def test_a_policy_is_promoted_in_spite_of_what_is_known_by_keyboard_alone(
    project, sign_in
):
    promote(project=project, checkpoint=make_policy(project), user=None)
    new = make_checkpoint(make_run(project=project, kind="policy", state="finished"))
    page = sign_in(make_user("tara"))
    page.expected_errors.append("409")
    page.goto(new.get_absolute_url())
    page.get_by_label("Reason").focus()
    page.keyboard.type("The shop opens tomorrow.")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # without the tick
    expect(page.locator(".message.error")).to_contain_text("was not measured")
    expect(page.get_by_label("Reason")).to_have_value("The shop opens tomorrow.")
    page.get_by_label("Promote all the same").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("This is now the current policy")).to_be_visible()
    assert current_policy(project) == new
    newest = Promotion.objects.first()
    assert (newest.is_forced, newest.reason) == (True, "The shop opens tomorrow.")
    assert timezone.now() - newest.created_at < timedelta(minutes=5)


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_the_text_of_a_sampled_response_has_most_of_its_line(sign_in, project, width):
    run = make_run(project=project, kind="evaluate", state="finished")
    errors = (
        "plan order, missing plan step, wrong action name, wrong parameter value, "
        "answer says another result"
    )
    RunSample.objects.create(
        run=run,
        event_offset=1,
        step=150,
        prompt=CAKE["turns"][1]["input"]["text"],
        text=CAKE_SAMPLED[0][1],
        label=CAKE["turns"][1]["response"],
        scores={
            "format_valid": True,
            "consistent": False,
            "reward_model": 0.1234,
            "errors": errors,
        },
    )
    page = sign_in(make_user("tara"), viewport={"width": width, "height": 900})
    for address in (f"/p/cakes/runs/{run.pk}/", f"/p/cakes/runs/{run.pk}/samples/"):
        page.goto(address)
        line = page.locator(".sampled summary").first
        whole = line.bounding_box()["width"]
        gist = line.locator(".gist").bounding_box()["width"]
        assert gist > 0.55 * whole, address
        scores = line.locator(".scores")
        assert errors in scores.inner_text()
        assert scores.evaluate("one => one.scrollWidth <= one.clientWidth")
