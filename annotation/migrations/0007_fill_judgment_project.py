"""Copy each judgment's project from its pair, which never changes."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("annotation", "0006_judgment_project")]

    operations = [
        migrations.RunSQL(
            """UPDATE annotation_judgment judgment SET project_id = pair.project_id
               FROM annotation_pair pair WHERE pair.id = judgment.pair_id""",
            reverse_sql=migrations.RunSQL.noop,
        ),
    ]
