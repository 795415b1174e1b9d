"""Django admin for the rows of the trainer, to look things up.

Nothing can be edited here. The deeds of ``training.runs.launch`` and
``training.runs.supervise``, which hold the leases, change runs; checkpoints, snapshots
and metrics are a record.
"""

from django.contrib import admin

from annotation.admin import Lookup
from training.models import (
    Checkpoint,
    Device,
    Iteration,
    IterationChange,
    IterationStep,
    Metric,
    Promotion,
    Proposal,
    Retention,
    Run,
    RunInput,
    RunNote,
    RunSample,
    Snapshot,
)


@admin.register(Snapshot)
class SnapshotAdmin(Lookup):
    list_display = ["__str__", "project", "created_by", "created_at"]
    list_filter = ["project"]
    list_select_related = ["project", "created_by"]
    search_fields = ["content_hash"]
    # A snapshot links too many rows for a page; its files contain them.
    exclude = ["samples", "judgments"]


@admin.register(Device)
class DeviceAdmin(Lookup):
    list_display = ["queue", "host", "device", "seen_at"]


class RunInputInline(admin.TabularInline):  # type: ignore[type-arg]
    model = RunInput
    extra = 0
    can_delete = False


@admin.register(Run)
class RunAdmin(Lookup):
    list_display = [
        "id",
        "kind",
        "project",
        "state",
        "step",
        "steps_total",
        "attempts",
        "created_by",
        "created_at",
    ]
    list_filter = ["kind", "state", "project"]
    list_select_related = ["project", "created_by"]
    search_fields = ["=id", "uuid", "error"]
    inlines = [RunInputInline]


@admin.register(Checkpoint)
class CheckpointAdmin(Lookup):
    list_display = ["id", "project", "run", "step", "is_final", "digest", "created_at"]
    list_filter = ["is_final", "project"]
    list_select_related = ["project", "run"]
    search_fields = ["digest", "=run__id"]


@admin.register(RunInput)
class RunInputAdmin(Lookup):
    list_display = ["id", "run", "checkpoint", "role"]
    list_filter = ["role"]
    list_select_related = ["run", "checkpoint"]


@admin.register(Promotion)
class PromotionAdmin(Lookup):
    list_display = ["id", "project", "checkpoint", "promoted_by", "created_at"]
    list_filter = ["project"]
    list_select_related = ["project", "checkpoint", "promoted_by"]


@admin.register(Metric)
class MetricAdmin(Lookup):
    list_display = ["id", "run", "name", "step", "value", "at"]
    list_select_related = ["run"]
    search_fields = ["=run__id", "=name"]


@admin.register(RunSample)
class RunSampleAdmin(Lookup):
    list_display = ["id", "run", "step"]
    list_select_related = ["run"]
    search_fields = ["=run__id"]


@admin.register(RunNote)
class RunNoteAdmin(Lookup):
    list_display = ["id", "run", "level", "message", "at"]
    list_filter = ["level"]
    list_select_related = ["run"]
    search_fields = ["=run__id", "message"]


@admin.register(Proposal)
class ProposalAdmin(Lookup):
    list_display = ["id", "draft", "turn", "asked_by", "checkpoint", "state"]
    list_filter = ["state"]
    list_select_related = ["draft", "asked_by", "checkpoint"]


class IterationStepInline(admin.TabularInline):  # type: ignore[type-arg]
    model = IterationStep
    extra = 0
    can_delete = False


@admin.register(Iteration)
class IterationAdmin(Lookup):
    list_display = ["__str__", "project", "state", "step", "created_by", "created_at"]
    list_filter = ["state", "project"]
    list_select_related = ["project", "created_by"]
    inlines = [IterationStepInline]


@admin.register(IterationChange)
class IterationChangeAdmin(Lookup):
    list_display = ["__str__", "iteration", "step", "user", "at"]
    list_select_related = ["iteration", "user"]


@admin.register(IterationStep)
class IterationStepAdmin(Lookup):
    list_display = ["__str__", "state", "run"]
    list_filter = ["state", "name"]
    list_select_related = ["iteration", "run"]


@admin.register(Retention)
class RetentionAdmin(Lookup):
    list_display = ["project", "keep_last", "keep_best", "is_automatic"]
    list_select_related = ["project"]
