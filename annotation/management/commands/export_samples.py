"""Export a project's samples as JSONL, to a file or to the standard output."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q

from annotation.authoring.export import FORMATS, export_samples
from annotation.models import Project, Sample
from records.sample_format import STATUSES


class Command(BaseCommand):
    help = "Export a project's samples as JSONL, to a file or to the standard output."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", required=True, metavar="NAME")
        parser.add_argument("--format", required=True, choices=FORMATS)
        parser.add_argument("--status", choices=STATUSES, help="only these")
        parser.add_argument("--split", help='only these ("" for training)')
        parser.add_argument("-o", "--output", type=Path, metavar="FILE")

    def handle(self, **options: object) -> None:
        name = str(options["project"])
        project = Project.objects.filter(Q(name=name) | Q(slug=name)).first()
        if project is None:
            raise CommandError(f'There is no project "{name}".')
        samples = Sample.objects.all()
        if options["status"] is not None:
            samples = samples.filter(status=options["status"])
        if options["split"] is not None:
            samples = samples.filter(split=options["split"])
        lines = export_samples(
            project=project,
            format="concord" if options["format"] == "concord" else "openai-chat",
            samples=samples,
        )
        output = options["output"]
        if isinstance(output, Path):
            count = 0
            with output.open("w", encoding="utf-8", newline="\n") as file:
                for line in lines:
                    file.write(line)
                    count += 1
            self.stderr.write(f"{count} samples")
        else:
            for line in lines:
                sys.stdout.buffer.write(line.encode())
