"""A project with a row of each kind that an address or a field can name."""

from __future__ import annotations

from dataclasses import dataclass

from django.apps import apps
from django.contrib.auth.models import User
from django.db import models

from annotation.authoring import review
from annotation.judging import judgments
from annotation.judging.guidelines import pin_example
from annotation.judging.pairing import ProducerFacts, ResponseRow, receive_responses
from annotation.models import (
    Draft,
    Membership,
    Project,
    Role,
    SampledResponse,
    ThinkingContext,
)
from tests.cast import (
    LABEL,
    SAMPLED,
    make_judgment,
    make_project,
    make_sample,
    make_user,
)
from tests.training.conftest import make_checkpoint, make_run
from training.iterations import deeds
from training.iterations.promotion import promote
from training.models import (
    Iteration,
    IterationState,
    Proposal,
    ProposalState,
    RunNote,
)
from training.storage.snapshots import build_snapshot


@dataclass
class World:
    """A project with a row of each kind that an address or a field can name."""

    project: Project
    rows: dict[str, object]

    def number(self, kind: str) -> object:
        row = self.rows[kind]
        if kind == "iteration":
            return row.number
        if kind == "ask":
            return row.uuid
        return row.pk


def make_world(slug: str, person: User, secret: str) -> World:
    """Return a world whose own texts all have ``secret`` in them.

    ``person`` holds the slot, has judged and written what only its author may touch.
    """
    project = make_project(
        slug=slug, name=f"{slug} {secret}", overlap=1, guideline=f"{secret} guideline"
    )
    for role in Role.values:
        Membership.objects.get_or_create(project=project, user=person, role=role)
    lena, tara = make_user("lena"), make_user("tara")
    response = f"<<think>>{secret}<</think>>Which cake?"
    turns = (("user", f"A cake, {secret}?", response),)
    sample = make_sample(project=project, author=lena, status="submitted", turns=turns)
    approved = make_sample(
        project=project, turns=(("user", f"Hello, {secret}.", LABEL),)
    )
    comment = review.comment_on(
        project=project, sample=sample, user=make_user("rita"), text=secret
    )
    first, second = (
        _answer(
            project, approved, number, SAMPLED.replace("a cake", f"{secret}{number}")
        )
        for number in (0, 1)
    )
    judgment = make_judgment(first.origin.pair, person, 1)
    claim = judgments.claim_slot(project=project, user=person)
    assert claim.pair == second.origin.pair
    run = make_run(project=project, state="queued", created_by=tara)
    RunNote.objects.create(run=run, message=secret, at=run.created_at)
    done = make_run(
        project=project,
        state="finished",
        created_by=tara,
        snapshot=build_snapshot(project=project, user=None),
    )
    checkpoint = make_checkpoint(done)
    promote(project=project, checkpoint=checkpoint, user=None)
    iteration = deeds.start_iteration(project=project, user=tara)
    # Another number than in the other world.
    if slug != "cakes":
        Iteration.objects.filter(pk=iteration.pk).update(
            number=7, state=IterationState.PAUSED
        )
        iteration.refresh_from_db()
    content = {
        "turns": [
            {"key": "1", "input": {"kind": "user", "text": secret}, "response": "A."}
        ]
    }
    draft = Draft.objects.create(project=project, author=person, content=content)
    returned = make_sample(
        project=project, author=person, status="returned", turns=turns
    )
    rows = {
        "slot": claim.slot,
        "pair": second.origin.pair,
        "settled": first.origin.pair,
        "answer": second,
        "judgment": judgment,
        "sample": sample,
        "own sample": returned,
        "returned": returned,
        "comment": comment,
        "example": pin_example(
            project=project, pair=first.origin.pair, curator=make_user("rita")
        ),
        "context": ThinkingContext.objects.create(
            project=project, scope="global", title=secret, content_hash="c" * 64
        ),
        "draft": draft,
        "proposal": Proposal.objects.create(
            draft=draft,
            turn=0,
            asked_by=person,
            checkpoint=checkpoint,
            document={"turns": content["turns"]},
            state=ProposalState.READY,
            text=secret,
        ),
        "run": run,
        "ask": run,
        "checkpoint": checkpoint,
        "snapshot": done.snapshot,
        "iteration": iteration,
    }
    return World(project, rows)


def _answer(project, sample, number, text) -> SampledResponse:
    facts = ProducerFacts(1000 + project.pk, 1, "0" * 64, 1, "current")
    row = ResponseRow(sample.external_id, 0, number, text)
    receive_responses(project=project, producer=facts, responses=[row])
    return SampledResponse.objects.get(turn__sample=sample, index=number)


def path_to_project(model: type[models.Model]) -> str | None:
    """Return the shortest way over foreign keys from a model to its project."""
    if model is Project:
        return "pk"
    waiting: list[tuple[type[models.Model], str]] = [(model, "")]
    seen = {model}
    while waiting:
        here, way = waiting.pop(0)
        for one in here._meta.fields:
            to = one.related_model
            if to is Project:
                return f"{way}{one.name}"
            if to and to not in seen and to is not User:
                seen.add(to)
                waiting.append((to, f"{way}{one.name}__"))
    return None


def everything(project: Project | None = None) -> dict[str, list[dict[str, object]]]:
    """Return all rows of the two apps, or those of a project, table by table."""
    tables = {}
    for app in ("annotation", "training"):
        for model in apps.get_app_config(app).get_models():
            way = path_to_project(model)
            rows = model.objects.order_by("pk")
            if project is not None:
                if way is None:
                    continue
                rows = rows.filter(**{way: project.pk})
            tables[model.__name__] = list(rows.values())
    return tables
