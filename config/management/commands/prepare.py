"""Bring the database, the static files and the demo up to date where needed."""

import hashlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from annotation.management.commands.seed_demo import SLUG
from annotation.models import Project, Role
from training.models import RunKind
from training.runs.launch import start_run


class Command(BaseCommand):
    help = "Migrate, collect static files and seed the demo, where that is needed."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.migrate()
        self.collect_static_files()
        if settings.DEMO:
            self.seed_the_demo()

    def progress(self, message: str) -> None:
        """Report to the supervisor's console, which knows the lines by their start."""
        self.stdout.write(f"… {message}")
        self.stdout.flush()

    def migrate(self) -> None:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            self.progress("bringing the database up to date")
            call_command("migrate", interactive=False, verbosity=0)

    def collect_static_files(self) -> None:
        """Collect again from nothing when a source changed: no removed file stays."""
        root = Path(settings.STATIC_ROOT)
        fingerprint = static_fingerprint()
        stamp = root / ".fingerprint"
        if stamp.exists() and stamp.read_text(encoding="ascii") == fingerprint:
            return
        self.progress("collecting static files")
        shutil.rmtree(root, ignore_errors=True)
        call_command("collectstatic", interactive=False, verbosity=0)
        stamp.write_text(fingerprint, encoding="ascii")

    def seed_the_demo(self) -> None:
        """Seed a database without a project; one deleted on purpose stays away."""
        if Project.objects.exists():
            return
        self.progress("writing the demo project")
        call_command("seed_demo", stdout=self.stdout)
        self.start_the_first_run()

    def start_the_first_run(self) -> None:
        """Train the demo's first policy and draw its responses: work to judge."""
        if importlib.util.find_spec("torch") is None:
            return  # a web machine without training packages
        project = Project.objects.get(slug=SLUG)
        start_run(
            project=project,
            kind=RunKind.SFT,
            recipe={},
            inputs={},
            user=project.memberships.get(role=Role.TRAINER).user,
            draw_next=True,
        )
        self.stdout.write(
            "\nThe demo's first policy is being trained (a few minutes; see Runs). "
            "Its answers join the pairs that wait on the Judge page already."
        )


def static_fingerprint() -> str:
    """Return a digest of our static sources' names, sizes and times, and of Django's
    version, which stands for the files of the admin."""
    digest = hashlib.sha256(django.get_version().encode())
    for directory in map(Path, settings.STATICFILES_DIRS):
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                facts = path.stat()
                digest.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()
