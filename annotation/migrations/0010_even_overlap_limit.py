"""Let new projects' judgments stay split, and find the pairs that wait while split."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("annotation", "0009_pairs_settled_by_rule")]

    operations = [
        migrations.AlterField(
            model_name="project",
            name="overlap_limit",
            field=models.PositiveSmallIntegerField(
                default=4,
                help_text=(
                    "Judgments a pair may get when the first ones disagree. Even, it lets people "
                    "stay split, and a curator settles the pair; odd, the last one decides."
                ),
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(9),
                ],
            ),
        ),
        migrations.AddIndex(
            model_name="slot",
            index=models.Index(
                condition=models.Q(("round__gt", 1), ("state__in", ["open", "leased"])),
                fields=["pair"],
                name="slot_waiting_split",
            ),
        ),
    ]
