"""The admin shows every model, edits few, and asks the database little."""

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotation.judging import adjudication, judgments
from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.models import (
    Comment,
    Draft,
    GuidelineExample,
    GuidelineReading,
    GuidelineVersion,
    Judgment,
    Membership,
    Pair,
    Project,
    QueueCursor,
    ReferenceResponse,
    SampleContext,
    SampleVersion,
    ThinkingContext,
    Touch,
)
from tests.cast import make_judgment, make_project, make_sample, make_user, sign_in
from training.models import (
    Checkpoint,
    Device,
    Iteration,
    IterationChange,
    IterationStep,
    Metric,
    Promotion,
    Proposal,
    Retention,
    Run,
    RunInput,
    RunNote,
    RunSample,
    Snapshot,
)

pytestmark = pytest.mark.django_db

MODELS = [
    model
    for label in ("annotation", "training")
    for model in apps.get_app_config(label).get_models()
    if model is not Touch
]
EDITABLE = [Project, Membership]


@pytest.fixture
def root(client):
    return sign_in(client, make_user("root", is_superuser=True, is_staff=True))


def make_one_of_everything():
    """Make at least one row of every model; called twice it makes twice as many."""
    project = make_project(overlap=2, overlap_limit=2)
    lena, luis, rita = (make_user(name) for name in ("lena", "luis", "rita"))
    sample = make_sample(project=project, author=make_user("ada"))
    context = ThinkingContext.objects.create(
        project=project, scope="global", title="Cakes", content_hash="c" * 64
    )
    SampleContext.objects.create(sample=sample, context=context, position=0)
    turn = sample.turns.get()
    ReferenceResponse.objects.create(turn=turn, position=0, text="Bought.", author=lena)
    draft = Draft.objects.create(project=project, author=lena, sample=sample)
    SampleVersion.objects.create(sample=sample, number=1, document={}, editor=lena)
    Comment.objects.create(sample=sample, author=rita, text="Why this step?")
    GuidelineVersion.objects.create(project=project, version=1, text="Compare.")
    GuidelineReading.objects.create(project=project, user=lena, version=1)
    run = Run.objects.create(
        project=project, kind="draw", recipe={}, created_by=make_user("tara")
    )
    snapshot = Snapshot.objects.create(
        project=project, content_hash="e" * 64, counts={}, files={}, created_by=rita
    )
    snapshot.samples.add(sample)
    checkpoint = Checkpoint.objects.create(
        project=project, run=run, step=1, path="p", digest="d" * 64, manifest={}
    )
    RunInput.objects.create(run=run, checkpoint=checkpoint, role="policy")
    Device.objects.create(
        host=f"box-{run.pk}", queue="cuda:1", device="cuda:1", seen_at=timezone.now()
    )
    Proposal.objects.create(
        draft=draft, turn=0, asked_by=lena, checkpoint=checkpoint, document={}
    )
    Promotion.objects.create(
        project=project, checkpoint=checkpoint, promoted_by=rita, reason="Better."
    )
    iteration = Iteration.objects.create(
        project=project,
        number=1,
        recipes={},
        wanted_judgments=10,
        wanted_settled=80,
        created_by=rita,
    )
    IterationStep.objects.create(iteration=iteration, name="draw")
    IterationChange.objects.create(
        iteration=iteration, step="draw", values={"turns": [10, 20]}, user=rita
    )
    Retention.objects.create(project=project)
    now = timezone.now()
    Metric.objects.create(run=run, name="loss", step=1, value=1.0, at=now)
    RunSample.objects.create(run=run, step=1, prompt="Hi.", text="Ho.", event_offset=1)
    RunNote.objects.create(run=run, level="info", message="Hi.", at=now, event_offset=1)
    receive_responses(
        project=project,
        producer=ProducerFacts(run.pk, checkpoint.pk, "d" * 64, 1, "current"),
        responses=[
            ResponseRow(sample.external_id, 0, index, text)
            for index, text in enumerate(["Done.", "Gone."])
        ],
    )
    pair = Pair.objects.filter(project=project).earliest("pk")
    make_judgment(pair, lena, 1)
    make_judgment(pair, luis, 0)
    found = judgments.claim_slot(project=project, user=lena)
    judgments.skip_slot(
        project=found.slot.project,
        slot_id=found.slot.pk,
        token=found.token,
        user=lena,
        reason="Torn.",
    )
    adjudication.adjudicate(project=pair.project, pair=pair, curator=rita, verdict=1)
    GuidelineExample.objects.create(
        project=project, pair=pair, verdict=1, pinned_by=rita
    )
    QueueCursor.objects.get_or_create(
        project=project, user=lena, priority=0, defaults={"place": 1}
    )


def list_address(model):
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


def test_every_model_is_registered_but_the_one_with_a_composite_key():
    assert [model for model in MODELS if not admin.site.is_registered(model)] == []


def test_a_list_costs_the_same_for_one_row_and_for_two(client, root):
    def costs():
        found = {}
        for model in MODELS:
            with CaptureQueriesContext(connection) as queries:
                assert client.get(list_address(model)).status_code == 200, model
            found[model] = len(queries)
        return found

    make_one_of_everything()
    costs()  # what the first of all pages looks up once
    rows = {model: model.objects.count() for model in MODELS}
    for_one = costs()
    make_one_of_everything()
    assert [model for model in MODELS if model.objects.count() <= rows[model]] == []
    assert costs() == for_one


def test_a_row_has_a_page_and_search_works(client, root):
    make_one_of_everything()
    for model in MODELS:
        row = model.objects.order_by("pk").first()
        page = client.get(f"{list_address(model)}{row.pk}/change/")
        assert page.status_code == 200, model
        search = client.get(list_address(model), {"q": "1"})
        assert search.status_code == 200, model
        assert "e=1" not in search.headers.get("Location", ""), model


def test_what_a_deed_wrote_is_not_edited(client, root):
    make_one_of_everything()
    for model in MODELS:
        if model in EDITABLE:
            continue
        row = model.objects.order_by("pk").first()
        address = list_address(model)
        assert client.post(f"{address}{row.pk}/change/").status_code == 403, model
        assert client.get(f"{address}add/").status_code == 403, model
        can_delete = client.get(f"{address}{row.pk}/delete/").status_code
        assert can_delete == (200 if model is QueueCursor else 403), model


def test_a_pairs_page_names_who_has_met_it(client, root):
    make_one_of_everything()
    pair = Judgment.objects.first().pair
    page = client.get(f"{list_address(Pair)}{pair.pk}/change/").content.decode()
    assert "lena, luis" in page


def test_an_admin_makes_a_project_with_its_people(client, root):
    form = {
        "name": "Pies",
        "slug": "pies",
        "overlap": 1,
        "overlap_limit": 3,
        "lease_seconds": 60,
        "confirm_step_order": "on",
        "daily_goal": 60,
        "break_after_minutes": 50,
        "minimum_dwell_seconds": 2,
        "calibration_percent": 0,
        "memberships-TOTAL_FORMS": 1,
        "memberships-INITIAL_FORMS": 0,
        "memberships-0-user": make_user("lena").pk,
        "memberships-0-role": "labeler",
    }
    wrong = client.post("/admin/annotation/project/add/", form | {"overlap": 4})
    assert "The limit is at least the overlap." in wrong.content.decode()
    assert client.post("/admin/annotation/project/add/", form).status_code == 302
    project = Project.objects.get(slug="pies")
    assert project.roles_of(make_user("lena")) == {"labeler"}


def test_a_labeler_is_sent_away(client):
    sign_in(client, make_user("lena"))
    for model in MODELS:
        answer = client.get(list_address(model))
        assert answer.status_code == 302
        assert answer.url.startswith("/admin/login/")
