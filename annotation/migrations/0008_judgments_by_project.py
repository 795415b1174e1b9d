"""Demand a judgment's project, and let the figures be read from indexes alone."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("annotation", "0007_fill_judgment_project")]

    operations = [
        migrations.AlterField(
            model_name="judgment",
            name="project",
            field=models.ForeignKey(
                db_index=False,
                help_text=(
                    "The pair's, so that a project's judgments are found without their pairs."
                ),
                on_delete=django.db.models.deletion.PROTECT,
                related_name="judgments",
                to="annotation.project",
            ),
        ),
        migrations.RemoveIndex(model_name="judgment", name="judgment_by_labeler"),
        migrations.RemoveIndex(model_name="judgment", name="judgment_by_labeler_time"),
        migrations.AddIndex(
            model_name="judgment",
            index=models.Index(
                fields=["labeler", "project", "-id"], name="judgment_by_labeler"
            ),
        ),
        migrations.AddIndex(
            model_name="judgment",
            index=models.Index(
                fields=["labeler", "project", "created_at"],
                include=[
                    "id",
                    "pair",
                    "verdict",
                    "seconds_spent",
                    "is_extra",
                    "sides_swapped",
                    "guideline_version",
                ],
                name="judgment_by_labeler_time",
            ),
        ),
        migrations.AddIndex(
            model_name="judgment",
            index=models.Index(
                fields=["project", "created_at"],
                include=["verdict", "seconds_spent", "is_extra"],
                name="judgment_by_time",
            ),
        ),
        migrations.AddIndex(
            model_name="judgment",
            index=models.Index(
                condition=models.Q(("supersedes__isnull", False)),
                fields=["labeler", "supersedes"],
                name="judgment_superseding",
            ),
        ),
    ]
