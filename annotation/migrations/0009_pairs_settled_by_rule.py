"""Let a rule settle more than exact copies, and find what rules settled by an index."""

from django.db import migrations, models

SOURCES = ["people", "identical", "rule", "format"]


class Migration(migrations.Migration):
    dependencies = [("annotation", "0008_judgments_by_project")]

    operations = [
        migrations.RemoveConstraint(model_name="pair", name="pair_source_known"),
        migrations.AlterField(
            model_name="pair",
            name="source",
            field=models.CharField(
                choices=[
                    ("people", "Judged by people"),
                    ("identical", "Derived: byte-identical to the label response"),
                    (
                        "rule",
                        "Derived: equal in normal form to the label or a reference",
                    ),
                    ("format", "Derived: breaks the response grammar"),
                ],
                default="people",
                max_length=9,
            ),
        ),
        migrations.AddConstraint(
            model_name="pair",
            constraint=models.CheckConstraint(
                condition=models.Q(("source__in", SOURCES)), name="pair_source_known"
            ),
        ),
        migrations.AddIndex(
            model_name="pair",
            index=models.Index(
                condition=models.Q(("source", "people"), _negated=True),
                fields=["project", "id"],
                name="pair_by_rule",
            ),
        ),
    ]
