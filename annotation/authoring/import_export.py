"""Samples in and out: Concord JSONL and OpenAI-style chat JSONL.

An import streams, writes in batches, keeps the good lines and reports the bad ones. A
sample is known by its id within the project: the same content again is *unchanged*,
other content under a known id is refused and nothing is overwritten.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import ProtectedError, QuerySet
from django.shortcuts import get_object_or_404

from actions.json_values import JSONError, dump_json, load_json
from actions.tags import JSON
from annotation.access import WRITERS, require_role
from annotation.authoring.documents import (
    BOM,
    MAX_DOCUMENT_BYTES,
    Document,
    WrongShape,
    read_documents,
)
from annotation.authoring.import_report import ImportReport, Refusal
from annotation.authoring.versions import record_change
from annotation.models import (
    Project,
    ReferenceResponse,
    Role,
    Sample,
    SampleContext,
    ThinkingContext,
    Turn,
)
from records.openai_chat import read_conversation, read_tools, write_conversation
from records.sample_format import (
    DEFAULT_STATUS,
    STATUSES,
    ContextForm,
    SampleError,
    SampleForm,
    TurnForm,
    check_sample,
    check_split,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "FORMATS",
    "ImportReport",
    "Refusal",
    "SampleError",
    "export_samples",
    "import_file",
    "read_forms",
    "sample_to_json",
    "save_sample",
    "turn_to_json",
]

Format: TypeAlias = Literal["concord", "openai-chat"]
FORMATS: tuple[Format, ...] = ("concord", "openai-chat")

BATCH = 100
MAX_LINE_BYTES = MAX_DOCUMENT_BYTES


@dataclass(frozen=True)
class _Line:
    number: int
    form: SampleForm
    content_hash: str


# --- out ------------------------------------------------------------------------------


def turn_to_json(turn: Turn) -> dict[str, JSON]:
    """Return a turn as it stands in Concord JSONL."""
    return _turn_form(turn).to_json()


def sample_to_json(sample: Sample) -> dict[str, JSON]:
    """Return a sample as it stands in Concord JSONL (see :func:`for_export`)."""
    return _sample_form(sample).to_json()


def for_export(samples: QuerySet[Sample]) -> QuerySet[Sample]:
    """Fetch with each sample all that :func:`sample_to_json` reads."""
    return samples.order_by("pk").prefetch_related(
        "samplecontext_set__context", "turns__references"
    )


def export_samples(
    *, project: Project, format: Format, samples: QuerySet[Sample] | None = None
) -> Iterator[str]:
    """Yield the project's samples (or those given), a line with its end each."""
    chosen = Sample.objects.all() if samples is None else samples
    for _, form in read_forms(chosen.filter(project=project)):
        document = form.to_json() if format == "concord" else write_conversation(form)
        yield dump_json(document) + "\n"


def read_forms(samples: QuerySet[Sample]) -> Iterator[tuple[int, SampleForm]]:
    """Yield the key and the form of each sample, by key.

    For many samples: it builds no model of a row, which :func:`for_export` spends most of
    its time on.
    """
    keys = list(samples.order_by("pk").values_list("pk", flat=True))
    known: dict[int, ContextForm] = {}
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
                SampleForm(
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
    samples: list[int], known: dict[int, ContextForm]
) -> Mapping[int, list[ContextForm]]:
    """Return the contexts of samples, by sample; ``known`` keeps them by key."""
    links = list(
        SampleContext.objects.filter(sample__in=samples)
        .order_by("sample", "position")
        .values_list("sample", "context")
    )
    missing = {context for _, context in links} - known.keys()
    for pk, *fields in ThinkingContext.objects.filter(pk__in=missing).values_list(
        "pk", "scope", "title", "background", "guideline", "actions"
    ):
        known[pk] = ContextForm(*fields)
    found: dict[int, list[ContextForm]] = defaultdict(list)
    for sample, context in links:
        found[sample].append(known[context])
    return found


def _turn_forms(samples: list[int]) -> Mapping[int, list[TurnForm]]:
    """Return the turns of samples in their order, by sample."""
    references: dict[int, list[str]] = defaultdict(list)
    for turn, text in (
        ReferenceResponse.objects.filter(turn__sample__in=samples)
        .order_by("turn", "position")
        .values_list("turn", "text")
    ):
        references[turn].append(text)
    found: dict[int, list[TurnForm]] = defaultdict(list)
    for sample, turn, kind, text, response, facts, proposal in (
        Turn.objects.filter(sample__in=samples)
        .order_by("sample", "position")
        .values_list(
            *("sample", "pk", "input_kind", "input_text", "response", "facts"),
            "proposal",
        )
    ):
        form = TurnForm(
            kind=kind,
            text=text,
            response=response,
            references=tuple(references[turn]),
            facts=facts,
            proposal=proposal,
        )
        found[sample].append(form)
    return found


def _turn_form(turn: Turn) -> TurnForm:
    return TurnForm(
        kind=turn.input_kind,
        text=turn.input_text,
        response=turn.response,
        references=tuple(reference.text for reference in turn.references.all()),
        facts=turn.facts,
        proposal=turn.proposal,
    )


def _sample_form(sample: Sample) -> SampleForm:
    contexts = [row.context for row in sample.samplecontext_set.all()]
    return SampleForm(
        id=sample.external_id,
        scenario=sample.scenario,
        situation=sample.situation,
        status=sample.status,
        split=sample.split,
        contexts=tuple(
            ContextForm(c.scope, c.title, c.background, c.guideline, c.actions)
            for c in contexts
        ),
        turns=tuple(_turn_form(turn) for turn in sample.turns.all()),
        meta=sample.meta,
    )


# --- in: one sample -------------------------------------------------------------------


def save_sample(
    *,
    project: Project,
    document: Mapping[str, JSON],
    author: User | None = None,
    status: str | None = None,
    sample: Sample | None = None,
    why: str = "",
) -> Sample:
    """Check a Concord document and store it; raise :class:`SampleError`.

    ``status`` goes before the document's own, which goes before "submitted". With
    ``sample`` given, that sample's content is replaced: its author stays, ``author`` is
    the editor of the version that this makes, and ``why`` is kept with it. A turn that
    people have judged can be reworded, for pairs keep copies, but not taken away.
    """
    form = check_sample(dict(document))
    if status is not None and status not in STATUSES:
        raise SampleError("status", "one of " + ", ".join(STATUSES), repr(status))
    with transaction.atomic():
        if author is not None:
            require_role(project, author, *WRITERS, deed="Writing a sample")
        if sample is None:
            try:
                with transaction.atomic():
                    return _insert(project, [form], author, status, "")[0]
            except IntegrityError:
                raise SampleError(
                    "id", "an id that is not in use", f'"{form.id}"'
                ) from None
        # The lock makes two changes at once follow each other, versions included.
        locked = Sample.objects.select_for_update(no_key=True, of=["self"])
        sample = get_object_or_404(
            for_export(locked.select_related("project")),
            project=project,
            pk=sample.pk,
        )
        before = sample_to_json(sample)
        changed = _replace(sample, form, status)
        after = {**form.to_json(), "status": changed.status}
        record_change(
            sample=changed, before=before, after=after, editor=author, why=why
        )
        return changed


def _replace(sample: Sample, form: SampleForm, status: str | None) -> Sample:
    taken = Sample.objects.filter(project=sample.project_id, external_id=form.id)
    if taken.exclude(pk=sample.pk).exists():
        raise SampleError("id", "an id that is not in use", f'"{form.id}"')
    for name, value in _sample_fields(form, status or sample.status, "").items():
        setattr(sample, name, value)
    sample.save()
    contexts = _contexts(sample.project, [form])
    sample.samplecontext_set.all().delete()
    SampleContext.objects.bulk_create(_context_rows(sample, form, contexts))

    turns = {turn.position: turn for turn in sample.turns.all()}
    try:
        for position, turn in turns.items():
            if position >= len(form.turns):
                turn.delete()
    except ProtectedError:
        raise SampleError(
            "turns",
            f"at least the {len(turns)} turns there were, as some have been judged",
            str(len(form.turns)),
        ) from None
    for position, turn_form in enumerate(form.turns):
        turn = turns.get(position) or Turn(sample=sample, position=position)
        turn.input_kind = turn_form.kind
        turn.input_text = turn_form.text
        turn.response = turn_form.response
        turn.facts = turn_form.facts
        turn.proposal = turn_form.proposal
        turn.save()
        turn.references.all().delete()
        ReferenceResponse.objects.bulk_create(
            _reference_rows(turn, turn_form, sample.author_id)
        )
    # What was prefetched before is no longer true.
    return Sample.objects.get(pk=sample.pk)


def _sample_fields(
    form: SampleForm, status: str | None, split: str
) -> dict[str, object]:
    return {
        "external_id": form.id,
        "scenario": form.scenario,
        "situation": form.situation,
        "status": status or form.status or DEFAULT_STATUS,
        "split": split or form.split,
        "meta": form.meta,
        "content_hash": form.content_hash,
    }


def _context_rows(
    sample: Sample, form: SampleForm, contexts: Mapping[str, int]
) -> list[SampleContext]:
    return [
        SampleContext(
            sample=sample,
            context_id=contexts[context.content_hash],
            position=position,
        )
        for position, context in enumerate(form.contexts)
    ]


def _reference_rows(
    turn: Turn, form: TurnForm, author: int | None
) -> list[ReferenceResponse]:
    return [
        ReferenceResponse(turn=turn, author_id=author, position=position, text=text)
        for position, text in enumerate(form.references)
    ]


def _contexts(project: Project, forms: Iterable[SampleForm]) -> dict[str, int]:
    """Return the row of each context by its content hash; missing ones are made."""
    wanted = {c.content_hash: c for form in forms for c in form.contexts}

    def known() -> dict[str, int]:
        rows = ThinkingContext.objects.filter(
            project=project, content_hash__in=list(wanted)
        )
        return dict(rows.values_list("content_hash", "pk"))

    found = known()
    missing = {key: form for key, form in wanted.items() if key not in found}
    if not missing:
        return found
    ThinkingContext.objects.bulk_create(
        [
            ThinkingContext(
                project=project,
                scope=form.scope,
                title=form.title,
                background=form.background,
                guideline=form.guideline,
                actions=form.actions,
                content_hash=key,
            )
            for key, form in missing.items()
        ],
        ignore_conflicts=True,  # another import may make the same one right now
    )
    return known()


def _insert(
    project: Project,
    forms: list[SampleForm],
    author: User | None,
    status: str | None,
    split: str,
) -> list[Sample]:
    """Write new samples with everything in them: five statements for any number."""
    author_id = author.pk if author else None
    contexts = _contexts(project, forms)
    samples = Sample.objects.bulk_create(
        Sample(
            project=project,
            author_id=author_id,
            **_sample_fields(form, status, split),
        )
        for form in forms
    )
    pairs = list(zip(samples, forms, strict=True))
    SampleContext.objects.bulk_create(
        row for sample, form in pairs for row in _context_rows(sample, form, contexts)
    )
    turn_forms = [turn for form in forms for turn in form.turns]
    turns = Turn.objects.bulk_create(
        Turn(
            sample=sample,
            position=position,
            input_kind=turn.kind,
            input_text=turn.text,
            response=turn.response,
            facts=turn.facts,
            proposal=turn.proposal,
        )
        for sample, form in pairs
        for position, turn in enumerate(form.turns)
    )
    ReferenceResponse.objects.bulk_create(
        row
        for turn, form in zip(turns, turn_forms, strict=True)
        for row in _reference_rows(turn, form, author_id)
    )
    return samples


# --- in: files ------------------------------------------------------------------------


def import_file(
    *,
    project: Project,
    format: Format,
    path: Path | str | None = None,
    file: BinaryIO | None = None,
    lines: Iterable[str | bytes] | None = None,
    tools: Path | str | JSON = None,
    author: User | None = None,
    status: str | None = None,
    split: str = "",
    user: User | None = None,
) -> ImportReport:
    """Import a file of samples, or ``lines``; bad ones are refused, good ones kept.

    The file may be given by its ``path`` or open; ``annotation.authoring.documents`` says in which
    shapes it is read.
    ``tools``: the file of OpenAI tools, or what stands in one, for conversations that
    bring none. ``status`` and ``split`` go before what the file says. ``user`` is the
    curator who imports, asked for their role with every batch; none at the command line.
    Raises :class:`SampleError` only for ``tools``, ``status`` and ``split`` themselves,
    and ``OSError`` for a file that cannot be read.
    """
    if status is not None and status not in STATUSES:
        raise SampleError("status", "one of " + ", ".join(STATUSES), repr(status))
    check_split(split)
    if isinstance(tools, (Path, str)):
        tools = load_tools(Path(tools))
    read_tools(tools)

    def read(document: JSON) -> SampleForm:
        if format == "concord":
            return check_sample(document)
        if isinstance(document, list):  # of messages: one conversation
            document = {"messages": document}
        return read_conversation(document, tools)

    def write(forms: list[SampleForm]) -> None:
        with transaction.atomic():
            if user is not None:
                require_role(project, user, Role.CURATOR, deed="Importing samples")
            _insert(project, forms, author, status, split)

    if path is not None:
        with Path(path).open("rb") as opened:
            documents = read_documents(opened)
            return _import_documents(project, documents, str(path), read, write)
    if file is not None:
        return _import_documents(project, read_documents(file), "file", read, write)
    given = (
        line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
        for line in lines or ()
    )
    documents = (
        Document(number, line.removeprefix(BOM) if number == 1 else line)
        for number, line in enumerate(given, start=1)
        if line.strip()
    )
    return _import_documents(project, documents, "lines", read, write)


def load_tools(path: Path) -> JSON:
    """Read a file of OpenAI tools; raise :class:`SampleError` naming the file."""
    try:
        tools = load_json(path.read_bytes().decode("utf-8-sig"))
        read_tools(tools)
    except UnicodeDecodeError as error:
        raise SampleError(
            str(path), "UTF-8", f"byte {error.start} that is not"
        ) from None
    except JSONError as error:
        at = f"character {error.position}"
        raise SampleError(str(path), error.expected, error.found, at) from None
    except SampleError as error:
        raise SampleError(
            f"{path}: {error.field}", error.expected, error.found
        ) from None
    return tools


def _import_documents(
    project: Project,
    documents: Iterable[Document],
    name: str,
    read: Callable[[JSON], SampleForm],
    write: Callable[[list[SampleForm]], None],
) -> ImportReport:
    report = ImportReport()
    batch: list[_Line] = []
    try:
        for document in documents:
            try:
                form = read(document.load())
                batch.append(_Line(document.line, form, form.content_hash))
            except SampleError as error:
                report.refuse(name, document.line, error)
            if len(batch) >= BATCH:
                _write_batch(project, batch, name, write, report)
                batch = []
    except WrongShape as error:
        report.refuse_file(name, error)
    _write_batch(project, batch, name, write, report)
    report.sort()
    return report


def _write_batch(
    project: Project,
    batch: list[_Line],
    name: str,
    write: Callable[[list[SampleForm]], None],
    report: ImportReport,
) -> None:
    """Write what is new in a batch; on a database error, line by line."""
    known = _known(project, batch)
    new: list[_Line] = []
    for line in batch:
        content_hash = known.setdefault(line.form.id, "")
        if not content_hash:
            known[line.form.id] = line.content_hash
            new.append(line)
        else:
            _meet_known(line, content_hash, name, report)
    if not new:
        return
    try:
        write([line.form for line in new])
        report.new += len(new)
    except DatabaseError:
        for line in new:
            _write_line(project, line, name, write, report)


def _known(project: Project, lines: Iterable[_Line]) -> dict[str, str]:
    rows = Sample.objects.filter(
        project=project, external_id__in=[line.form.id for line in lines]
    )
    return dict(rows.values_list("external_id", "content_hash"))


def _meet_known(
    line: _Line, content_hash: str, name: str, report: ImportReport
) -> None:
    if content_hash == line.content_hash:
        report.unchanged += 1
        return
    reason = f'"{line.form.id}" is known with other content; nothing was changed'
    report.add_refusal(Refusal(name, line.number, "id", reason, "known"))


def _write_line(
    project: Project,
    line: _Line,
    name: str,
    write: Callable[[list[SampleForm]], None],
    report: ImportReport,
) -> None:
    try:
        write([line.form])
        report.new += 1
    except IntegrityError:
        # Somebody else imported the same id since the batch was looked up.
        content_hash = _known(project, [line]).get(line.form.id)
        if content_hash is None:
            raise
        _meet_known(line, content_hash, name, report)
    except DatabaseError as error:
        reason = "the database refused it: " + str(error).split("\n", 1)[0]
        report.add_refusal(Refusal(name, line.number, "line", reason, reason))
