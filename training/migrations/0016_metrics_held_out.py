"""Metrics of held-out samples once had two prefixes: ``heldout/`` becomes ``held_out/``.

Their names do not meet: no program wrote both prefixes with one name.
"""

from typing import Any

from django.db import migrations
from django.db.models import Value
from django.db.models.functions import Concat, Substr

OLD, NEW = "heldout/", "held_out/"


def rename(apps: Any, schema_editor: Any) -> None:
    metrics = apps.get_model("training", "Metric").objects.filter(name__startswith=OLD)
    metrics.update(name=Concat(Value(NEW), Substr("name", len(OLD) + 1)))


class Migration(migrations.Migration):
    dependencies = [("training", "0015_run_claimed_at_step")]

    operations = [migrations.RunPython(rename, migrations.RunPython.noop)]
