"""Let a person's judgments of a time be found without reading all they ever made."""

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0002_labeling"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddIndex(
            model_name="judgment",
            index=models.Index(
                fields=["labeler", "created_at"], name="judgment_by_labeler_time"
            ),
        ),
    ]
