"""Let a judgment name its project: first an empty column, filled by the next migration."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("annotation", "0005_producer_source")]

    operations = [
        migrations.AddField(
            model_name="judgment",
            name="project",
            field=models.ForeignKey(
                db_index=False,
                help_text=(
                    "The pair's, so that a project's judgments are found without their pairs."
                ),
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="judgments",
                to="annotation.project",
            ),
        ),
    ]
