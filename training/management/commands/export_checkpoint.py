"""Write a checkpoint as a plain Hugging Face directory with a model card."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from records.checkpoints import CheckpointError
from training.models import Checkpoint
from training.policies.export import UNKNOWN_LICENCE, ExportError, export_checkpoint
from training.views.forms import licence_identifier


class Command(BaseCommand):
    help = "Write a checkpoint as a plain Hugging Face directory with a model card."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "checkpoint", type=int, help="its number, as in its address"
        )
        parser.add_argument("directory", type=Path, help="a new directory")
        parser.add_argument(
            "--licence",
            default=UNKNOWN_LICENCE,
            help="an identifier: apache-2.0, mit, …",
        )

    def handle(self, **options: object) -> None:
        rows = Checkpoint.objects.select_related("project", "run__snapshot")
        checkpoint = rows.filter(pk=int(str(options["checkpoint"]))).first()
        if checkpoint is None:
            raise CommandError(f"There is no checkpoint {options['checkpoint']}.")
        target, licence = options["directory"], str(options["licence"])
        assert isinstance(target, Path)
        try:
            licence_identifier(licence)
            export_checkpoint(checkpoint=checkpoint, target=target, licence=licence)
        except ValidationError as error:
            raise CommandError(f"--licence: {error.messages[0]}") from error
        except (ExportError, CheckpointError, OSError) as error:
            raise CommandError(f"Nothing was written: {error}.") from error
        self.stdout.write(f"{checkpoint} is in {target}.")
