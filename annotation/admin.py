"""Django admin for the rows people work on, mainly to look things up.

Rows that a deed writes cannot be edited here (pairs, slots and judgments above all),
because an edit would bypass locks and checks. Projects and memberships can. ``Touch``
has a composite key, which the admin cannot register; the page of a pair lists who has
met it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property

from annotation.models import (
    Adjudication,
    Comment,
    Draft,
    GuidelineExample,
    GuidelineReading,
    GuidelineVersion,
    Judgment,
    Membership,
    Pair,
    PairOrigin,
    Producer,
    Project,
    QueueCursor,
    ReferenceResponse,
    Sample,
    SampleContext,
    SampledResponse,
    SampleVersion,
    Skip,
    Slot,
    ThinkingContext,
    Turn,
)

if TYPE_CHECKING:
    from django.db.models import Model
    from django.http import HttpRequest


class ShortPaginator(Paginator):  # type: ignore[type-arg]  # no subscript at run time
    """Paginate the first rows only: counting a table takes as long as reading it.

    To find a row further on, use the search.
    """

    MOST = 2000

    @cached_property
    def count(self) -> int:
        assert isinstance(self.object_list, QuerySet)
        return int(self.object_list.order_by("pk")[: self.MOST].count())


class Lookup(admin.ModelAdmin):  # type: ignore[type-arg]  # no subscript at run time
    """A model to look up: nothing can be added, changed or deleted."""

    show_full_result_count = False  # every search would count the whole table
    paginator = ShortPaginator
    ordering = ["-pk"]  # uses the key's index; another order may have none

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(
        self, request: HttpRequest, obj: Model | None = None
    ) -> bool:
        return False

    def has_delete_permission(
        self, request: HttpRequest, obj: Model | None = None
    ) -> bool:
        return False


class DeletableLookup(Lookup):
    """A model to look up whose rows can be deleted without harm."""

    def has_delete_permission(
        self, request: HttpRequest, obj: Model | None = None
    ) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Membership
    raw_id_fields = ["user"]
    extra = 0


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["name", "slug", "overlap", "overlap_limit", "is_paused"]
    list_filter = ["is_paused"]
    search_fields = ["name", "slug"]
    prepopulated_fields = {"slug": ["name"]}
    readonly_fields = ["guideline_version", "queue_tail", "created_at"]
    inlines = [MembershipInline]


@admin.register(Membership)
class MembershipAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["user", "role", "project"]
    list_filter = ["role", "project"]
    list_select_related = ["user", "project"]
    search_fields = ["user__username"]
    raw_id_fields = ["user", "project"]


@admin.register(ThinkingContext)
class ThinkingContextAdmin(Lookup):
    list_display = ["title", "scope", "project"]
    list_filter = ["scope", "project"]
    list_select_related = ["project"]
    search_fields = ["title"]


class TurnInline(admin.StackedInline):  # type: ignore[type-arg]
    model = Turn
    extra = 0
    can_delete = False


class SampleContextInline(admin.TabularInline):  # type: ignore[type-arg]
    model = SampleContext
    extra = 0
    can_delete = False


@admin.register(Sample)
class SampleAdmin(Lookup):
    """Not editable: an author changed here would meet pairs that passed them over."""

    list_display = [
        "external_id",
        "project",
        "status",
        "scenario",
        "situation",
        "split",
        "author",
    ]
    list_filter = ["status", "situation", "split", "project"]
    list_select_related = ["project", "author"]
    search_fields = ["external_id", "scenario"]
    inlines = [SampleContextInline, TurnInline]


@admin.register(SampleContext)
class SampleContextAdmin(Lookup):
    list_display = ["sample", "position", "context"]
    list_select_related = ["sample", "context"]
    search_fields = ["sample__external_id", "context__title"]


class ReferenceInline(admin.TabularInline):  # type: ignore[type-arg]
    model = ReferenceResponse
    extra = 0
    can_delete = False


@admin.register(Turn)
class TurnAdmin(Lookup):
    list_display = ["id", "sample", "position", "input_kind"]
    list_filter = ["input_kind"]
    list_select_related = ["sample"]
    search_fields = ["sample__external_id"]
    inlines = [ReferenceInline]


@admin.register(ReferenceResponse)
class ReferenceResponseAdmin(Lookup):
    list_display = ["id", "turn", "position", "author"]
    list_select_related = ["turn", "author"]
    search_fields = ["turn__sample__external_id"]


@admin.register(Draft)
class DraftAdmin(Lookup):
    list_display = ["id", "project", "author", "sample", "version", "updated_at"]
    list_filter = ["project"]
    list_select_related = ["project", "author", "sample"]
    search_fields = ["author__username"]


@admin.register(Producer)
class ProducerAdmin(Lookup):
    list_display = ["id", "source", "run_id", "checkpoint_id", "policy_role", "step"]
    list_filter = ["source", "policy_role"]
    search_fields = ["=run_id", "=checkpoint_id"]


@admin.register(SampledResponse)
class SampledResponseAdmin(Lookup):
    list_display = ["id", "turn", "producer", "index", "format_error", "created_at"]
    list_select_related = ["turn", "producer"]
    search_fields = ["turn__sample__external_id"]


@admin.register(Pair)
class PairAdmin(Lookup):
    list_display = ["id", "project", "turn", "source", "created_at"]
    list_filter = ["source", "project"]
    list_select_related = ["project", "turn"]
    search_fields = ["=id", "turn__sample__external_id"]
    fields = [
        "project",
        "turn",
        "label_text",
        "sampled_text",
        "source",
        "content_hash",
        "met_by",
        "created_at",
    ]

    @admin.display(description="Met by")
    def met_by(self, pair: Pair) -> str:
        """Name who has met the pair: its touches."""
        people = pair.touches.order_by("at").values_list("user__username", flat=True)
        return ", ".join(people) or "nobody"


@admin.register(PairOrigin)
class PairOriginAdmin(Lookup):
    list_display = ["id", "pair", "sampled_response"]
    search_fields = ["=pair__id"]
    list_select_related = [
        "pair",
        "sampled_response__producer",
        "sampled_response__turn",
    ]


@admin.register(Slot)
class SlotAdmin(Lookup):
    list_display = [
        "id",
        "pair_id",
        "ordinal",
        "round",
        "priority",
        "place",
        "state",
        "holder",
        "leased_until",
    ]
    list_filter = [
        "state",
        "project",
    ]  # listing rounds would read all rows
    list_select_related = ["holder"]
    search_fields = ["=pair__id", "holder__username"]


@admin.register(QueueCursor)
class QueueCursorAdmin(DeletableLookup):
    list_display = ["user", "project", "priority", "place"]
    list_filter = ["project"]
    list_select_related = ["user", "project"]


@admin.register(Judgment)
class JudgmentAdmin(Lookup):
    list_display = [
        "id",
        "pair_id",
        "labeler",
        "verdict",
        "reasons",
        "is_extra",
        "seconds_spent",
        "created_at",
    ]
    list_filter = ["verdict", "is_extra"]
    list_select_related = ["labeler"]
    search_fields = ["=pair__id", "labeler__username"]


@admin.register(Skip)
class SkipAdmin(Lookup):
    list_display = ["id", "pair_id", "user", "reason", "created_at"]
    list_select_related = ["user"]
    search_fields = ["=pair__id", "reason"]


@admin.register(Adjudication)
class AdjudicationAdmin(Lookup):
    list_display = ["id", "pair_id", "curator", "verdict", "created_at"]
    list_filter = ["verdict"]
    list_select_related = ["curator"]
    search_fields = ["=pair__id"]


@admin.register(SampleVersion)
class SampleVersionAdmin(Lookup):
    list_display = ["sample", "number", "editor", "why", "created_at"]
    list_select_related = ["sample", "editor"]


@admin.register(Comment)
class CommentAdmin(Lookup):
    list_display = ["id", "sample", "position", "anchor", "author", "resolved_at"]
    list_select_related = ["sample", "author"]


@admin.register(GuidelineVersion)
class GuidelineVersionAdmin(Lookup):
    list_display = ["project", "version", "change", "author", "created_at"]
    list_filter = ["project"]
    list_select_related = ["project", "author"]


@admin.register(GuidelineReading)
class GuidelineReadingAdmin(Lookup):
    list_display = ["project", "user", "version", "at"]
    list_filter = ["project"]
    list_select_related = ["project", "user"]


@admin.register(GuidelineExample)
class GuidelineExampleAdmin(Lookup):
    list_display = ["project", "pair", "verdict", "pinned_by"]
    list_filter = ["project"]
    list_select_related = ["project", "pair", "pinned_by"]
