"""Import samples from JSONL files; bad lines are reported, good ones kept."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.utils.text import slugify

from annotation.authoring.export import FORMATS
from annotation.authoring.import_files import import_file, load_tools
from annotation.authoring.import_report import ImportReport
from annotation.models import Project
from records.sample_format import STATUSES, SampleError


class Command(BaseCommand):
    help = "Import samples from JSONL files; bad lines are reported, good ones kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", required=True, metavar="NAME")
        parser.add_argument(
            "--create", action="store_true", help="make the project if there is none"
        )
        parser.add_argument("--format", required=True, choices=FORMATS)
        parser.add_argument(
            "--tools", type=Path, help="OpenAI tools of conversations that bring none"
        )
        parser.add_argument(
            "--split", default="", help='"held-out…" keeps them out of training'
        )
        parser.add_argument("--status", choices=STATUSES)
        parser.add_argument("files", nargs="+", type=Path, metavar="FILE")

    def handle(self, **options: object) -> None:
        files, tools = options["files"], options["tools"]
        assert isinstance(files, list)
        for file in files:
            if not file.is_file():
                raise CommandError(f"{file}: there is no such file")
        report = ImportReport()
        try:
            loaded = load_tools(tools) if isinstance(tools, Path) else None
            project = _project(str(options["project"]), create=bool(options["create"]))
            for file in files:
                part = import_file(
                    project=project,
                    format="concord"
                    if options["format"] == "concord"
                    else "openai-chat",
                    path=file,
                    tools=loaded,
                    status=str(options["status"]) if options["status"] else None,
                    split=str(options["split"]),
                )
                for group in part.groups:
                    self.stderr.write(str(group))
                report.add(part)
        except (SampleError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(str(report))
        if report.refused and not report.new and not report.unchanged:
            raise SystemExit(1)


def _project(name: str, *, create: bool) -> Project:
    project = Project.objects.filter(name=name).first()
    project = project or Project.objects.filter(slug=name).first()
    if project:
        return project
    if not create:
        known = ", ".join(Project.objects.values_list("name", flat=True)[:20]) or "none"
        raise CommandError(
            f'There is no project "{name}" (there are: {known}); --create makes it.'
        )
    if not name.strip() or len(name) > 120:
        raise CommandError("A project's name has 1 to 120 characters.")
    base = slugify(name)[:50] or "project"
    taken = set(
        Project.objects.filter(slug__startswith=base).values_list("slug", flat=True)
    )
    number = 1
    while (slug := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    return Project.objects.create(name=name, slug=slug)
