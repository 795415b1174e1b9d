"""The cast and the make-functions of the tests: plain functions, no factory library.

Ada administers, Lena and Luis label (Lea and Leo too, where three or four are needed),
Rita reviews, Tara trains, Sam has no rights. Each make-function fills only what is
required and takes the rest by keyword.
"""

from __future__ import annotations

from itertools import count

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.db.models import F

from annotation.models import (
    InputKind,
    Judgment,
    Membership,
    Pair,
    PairSource,
    Project,
    Role,
    Sample,
    SampleStatus,
    Slot,
    Turn,
)

PASSWORD = "correct horse battery staple"
ROLES = {
    "ada": [Role.ADMIN],
    "lena": [Role.LABELER],
    "luis": [Role.LABELER],
    "lea": [Role.LABELER],
    "leo": [Role.LABELER],
    "rita": [Role.CURATOR],
    "tara": [Role.TRAINER],
    "sam": [],
}
LABEL = (
    "<<think>>The user wants a cake.\nPlan:\n1. Find a bakery.\n2. Order the cake.\n"
    '<<action>>{"name": "Find shops", "parameters": {"kind": "bakery"}}<</action>>'
)
SAMPLED = (
    "<<think>>The user wants a cake.\nPlan:\n1. Find a bakery.\n2. Order the cake.\n"
    '<<action>>{"name": "Find shops", "parameters": {"kind": "florist"}}<</action>>'
)

_numbers = count(1)


def make_user(name: str, **fields: object) -> User:
    """Return the user ``name`` (made at the first call); the password is PASSWORD."""
    user, _ = User.objects.get_or_create(
        username=name.lower(), defaults=_facts(name) | fields
    )
    return user


def _facts(name: str) -> dict[str, object]:
    return {"first_name": name.capitalize(), "password": make_password(PASSWORD)}


def make_project(**fields: object) -> Project:
    """Return a project with the whole cast in it, each in their role."""
    number = next(_numbers)
    fields = {"name": f"Cakes {number}", "slug": f"cakes-{number}"} | fields
    project = Project.objects.create(**fields)
    # All at once: most tests begin here.
    User.objects.bulk_create(
        [User(username=name, **_facts(name)) for name in ROLES], ignore_conflicts=True
    )
    cast = {user.username: user for user in User.objects.filter(username__in=ROLES)}
    Membership.objects.bulk_create(
        Membership(project=project, user=cast[name], role=role)
        for name, roles in ROLES.items()
        for role in roles
    )
    return project


def make_sample(
    *,
    project: Project | None = None,
    turns: tuple[tuple[str, str, str], ...] = (
        (InputKind.USER, "A cake, please.", LABEL),
    ),
    **fields: object,
) -> Sample:
    """Return an approved sample; ``turns`` are (input kind, input text, response)."""
    number = next(_numbers)
    sample = Sample.objects.create(
        project=project or make_project(),
        **(
            {
                "external_id": f"sample-{number}",
                "status": SampleStatus.APPROVED,
                "content_hash": f"{number:064x}",
            }
            | fields
        ),
    )
    Turn.objects.bulk_create(
        Turn(
            sample=sample,
            position=position,
            input_kind=kind,
            input_text=text,
            response=response,
        )
        for position, (kind, text, response) in enumerate(turns)
    )
    return sample


def make_pair(
    *,
    project: Project | None = None,
    turn: Turn | None = None,
    sampled: str | None = None,
    slots: int | None = None,
    priority: int = 0,
    **fields: object,
) -> Pair:
    """Return a pair with its open slots (the project's overlap unless ``slots`` says)."""
    number = next(_numbers)
    if turn is None:
        turn = make_sample(project=project).turns.get()
    project = turn.sample.project
    pair = Pair.objects.create(
        **(
            {
                "project": project,
                "turn": turn,
                "label_text": turn.response,
                "sampled_text": sampled or SAMPLED,
                "content_hash": f"{number:064x}",
            }
            | fields
        )
    )
    if slots is None:
        slots = project.overlap if pair.source == PairSource.PEOPLE else 0
    Project.objects.filter(pk=project.pk).update(queue_tail=F("queue_tail") + slots)
    project.refresh_from_db(fields=["queue_tail"])
    Slot.objects.bulk_create(
        Slot(
            project=project,
            pair=pair,
            ordinal=ordinal,
            priority=priority,
            place=project.queue_tail - slots + ordinal,
        )
        for ordinal in range(1, slots + 1)
    )
    return pair


def make_judgment(
    pair: Pair,
    user: User,
    verdict: int,
    *,
    reasons: tuple[str, ...] | None = None,
    units: tuple[str, ...] = (),
) -> Judgment:
    """Let ``user`` claim pairs until it is ``pair``'s turn, and judge it."""
    from annotation.judging import judgments

    passed = []
    while True:
        claim = judgments.claim_slot(project=pair.project, user=user, another=True)
        assert isinstance(claim, judgments.Claim), f"{user} gets no slot of {pair}"
        if claim.pair == pair:
            break
        passed.append(claim)
    for other in passed:
        judgments.release_slot(
            project=other.slot.project,
            slot_id=other.slot.pk,
            token=other.token,
            user=user,
        )
    if reasons is None:
        reasons = () if verdict or units else ("content",)
    return judgments.record_judgment(
        project=claim.slot.project,
        slot_id=claim.slot.pk,
        token=claim.token,
        user=user,
        verdict=verdict,
        reasons=reasons,
        units_that_differ=units,
        order_confirmed=True,
    )


def sign_in(client, user: User) -> User:
    """Sign ``user`` in on a Django test client."""
    client.force_login(user)
    return user
