"""Export samples: rows become the forms that files and snapshots are written from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from django.db.models import QuerySet

from actions.json_values import dump_json
from actions.tags import JSON
from annotation.models import (
    Project,
    ReferenceResponse,
    Sample,
    SampleContext,
    ThinkingContext,
    Turn,
)
from records.openai_chat import write_conversation
from records.samples import (
    Context as ContextRecord,
)
from records.samples import (
    Sample as SampleRecord,
)
from records.samples import (
    Turn as TurnRecord,
)

if TYPE_CHECKING:
    pass


Format: TypeAlias = Literal["concord", "openai-chat"]
FORMATS: tuple[Format, ...] = ("concord", "openai-chat")

BATCH = 100


def turn_to_json(turn: Turn) -> dict[str, JSON]:
    """Return a turn in its Concord JSONL form."""
    return _turn_form(turn).to_json()


def sample_to_json(sample: Sample) -> dict[str, JSON]:
    """Return a sample in its Concord JSONL form (see :func:`for_export`)."""
    return _sample_form(sample).to_json()


def for_export(samples: QuerySet[Sample]) -> QuerySet[Sample]:
    """Prefetch all that :func:`sample_to_json` reads of each sample."""
    return samples.order_by("pk").prefetch_related(
        "samplecontext_set__context", "turns__references"
    )


def export_samples(
    *, project: Project, format: Format, samples: QuerySet[Sample] | None = None
) -> Iterator[str]:
    """Yield the project's samples (or only ``samples``), one line with its end each."""
    chosen = Sample.objects.all() if samples is None else samples
    for _, form in read_forms(chosen.filter(project=project)):
        document = form.to_json() if format == "concord" else write_conversation(form)
        yield dump_json(document) + "\n"


def read_forms(samples: QuerySet[Sample]) -> Iterator[tuple[int, SampleRecord]]:
    """Yield the key and the form of each sample, by key.

    For many samples: it builds no model instances, which take most of the time of
    :func:`for_export`.
    """
    keys = list(samples.order_by("pk").values_list("pk", flat=True))
    known: dict[int, ContextRecord] = {}
    for first in range(0, len(keys), BATCH):
        batch = keys[first : first + BATCH]
        contexts = _context_forms(batch, known)
        turns = _turn_forms(batch)
        rows = Sample.objects.filter(pk__in=batch).order_by("pk")
        for pk, name, scenario, situation, status, split, meta in rows.values_list(
            *("pk", "external_id", "scenario", "situation", "status", "split", "meta")
        ):
            yield (
                pk,
                SampleRecord(
                    id=name,
                    scenario=scenario,
                    situation=situation,
                    status=status,
                    split=split,
                    contexts=tuple(contexts[pk]),
                    turns=tuple(turns[pk]),
                    meta=meta,
                ),
            )


def _context_forms(
    samples: list[int], known: dict[int, ContextRecord]
) -> Mapping[int, list[ContextRecord]]:
    """Return the contexts of samples, by sample; ``known`` caches them by key."""
    links = list(
        SampleContext.objects.filter(sample__in=samples)
        .order_by("sample", "position")
        .values_list("sample", "context")
    )
    missing = {context for _, context in links} - known.keys()
    for pk, *fields in ThinkingContext.objects.filter(pk__in=missing).values_list(
        "pk", "scope", "title", "background", "guideline", "actions"
    ):
        known[pk] = ContextRecord(*fields)
    forms: dict[int, list[ContextRecord]] = defaultdict(list)
    for sample, context in links:
        forms[sample].append(known[context])
    return forms


def _turn_forms(samples: list[int]) -> Mapping[int, list[TurnRecord]]:
    """Return the turns of samples in order, by sample."""
    references: dict[int, list[str]] = defaultdict(list)
    for turn, text in (
        ReferenceResponse.objects.filter(turn__sample__in=samples)
        .order_by("turn", "position")
        .values_list("turn", "text")
    ):
        references[turn].append(text)
    forms: dict[int, list[TurnRecord]] = defaultdict(list)
    for sample, turn, kind, text, response, facts, proposal in (
        Turn.objects.filter(sample__in=samples)
        .order_by("sample", "position")
        .values_list(
            *("sample", "pk", "input_kind", "input_text", "response", "facts"),
            "proposal",
        )
    ):
        form = TurnRecord(
            kind=kind,
            text=text,
            response=response,
            references=tuple(references[turn]),
            facts=facts,
            proposal=proposal,
        )
        forms[sample].append(form)
    return forms


def _turn_form(turn: Turn) -> TurnRecord:
    return TurnRecord(
        kind=turn.input_kind,
        text=turn.input_text,
        response=turn.response,
        references=tuple(reference.text for reference in turn.references.all()),
        facts=turn.facts,
        proposal=turn.proposal,
    )


def _sample_form(sample: Sample) -> SampleRecord:
    contexts = [row.context for row in sample.samplecontext_set.all()]
    return SampleRecord(
        id=sample.external_id,
        scenario=sample.scenario,
        situation=sample.situation,
        status=sample.status,
        split=sample.split,
        contexts=tuple(
            ContextRecord(c.scope, c.title, c.background, c.guideline, c.actions)
            for c in contexts
        ),
        turns=tuple(_turn_form(turn) for turn in sample.turns.all()),
        meta=sample.meta,
    )
