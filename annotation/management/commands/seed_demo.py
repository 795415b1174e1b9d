"""Create the demo project: approved samples, one person per role, and their work."""

from __future__ import annotations

import json
import secrets
from argparse import ArgumentParser

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from actions.demo import generate
from actions.demo.generator import Split
from annotation.authoring.import_files import import_file
from annotation.models import Membership, Project, Role
from annotation.seeding import Cast, furnish

NAME = "Demo: action tasks"
SLUG = "demo"
PEOPLE = (
    ("ada", Role.ADMIN),
    ("lena", Role.LABELER),
    ("luis", Role.LABELER),
    ("rita", Role.CURATOR),
    ("tara", Role.TRAINER),
)
# Held out: plan orders that occur in training, and plan orders that do not.
SAMPLES: tuple[tuple[Split, int], ...] = (
    ("", 1200),
    ("held-out", 60),
    ("held-out-unseen", 60),
)
FURNISHED = 30  # samples whose pairs wait from the start


class Command(BaseCommand):
    help = "Write the demo project, and print one sign-in per role, once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=1)

    @transaction.atomic
    def handle(self, *, seed: int, **options: object) -> None:
        if Project.objects.filter(name=NAME).exists():
            raise CommandError(f'The project "{NAME}" is there already.')
        # Two people label: a pair they disagree on goes to the curator at once.
        project = Project.objects.create(
            name=NAME, slug=SLUG, overlap_limit=2, reveal_after=True
        )
        passwords = add_people(project)
        for split, count in SAMPLES:
            report = import_file(
                project=project,
                format="concord",
                lines=(
                    json.dumps(sample)
                    for sample in generate(seed=seed, count=count, split=split)
                ),
                status="approved",
                split=split,
            )
            if report.refused:
                raise CommandError(f"The demo does not fit: {report.refused[0]}")
        lena, luis, rita = (
            User.objects.get(username=name) for name in ("lena", "luis", "rita")
        )
        furnish(
            project=project,
            samples=list(generate(seed=seed, count=FURNISHED)),
            cast=Cast(labelers=(lena, luis), curator=rita),
        )
        self.stdout.write(sign_ins(passwords))


def add_people(project: Project) -> dict[str, str]:
    """Create a person per role; return the passwords of the new ones.

    A person who exists already keeps their password, which nobody knows here.
    """
    passwords: dict[str, str] = {}
    for name, role in PEOPLE:
        user, is_new = User.objects.get_or_create(username=name)
        if is_new:
            passwords[name] = secrets.token_urlsafe(9)
            user.set_password(passwords[name])
            # Ada is also the administrator of the installation: members, tokens,
            # Django's admin.
            user.is_staff = user.is_superuser = role == Role.ADMIN
            user.save()
        Membership.objects.create(project=project, user=user, role=role)
    return passwords


def sign_ins(passwords: dict[str, str]) -> str:
    lines = ["Sign in as one of these; the passwords are shown only this once:", ""]
    for name, role in PEOPLE:
        password = passwords.get(name, "(the one this person has)")
        lines.append(f"    {name:<6}{role.label:<10}{password}")
    return "\n".join(lines)
