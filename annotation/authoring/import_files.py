"""Import files of samples: Concord JSONL and OpenAI-style chat JSONL.

An import streams, writes in batches, keeps the good lines and reports the bad ones. The
id identifies a sample within the project: equal content under a known id is
*unchanged*, other content under a known id is refused and nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from django.db import DatabaseError, IntegrityError, transaction

from actions.json_values import JSONError, load_json
from actions.tags import JSON
from annotation.access import require_role
from annotation.authoring.documents import (
    BOM,
    MAX_DOCUMENT_BYTES,
    Document,
    WrongShape,
    read_documents,
)
from annotation.authoring.export import Format
from annotation.authoring.import_report import ImportReport, Refusal
from annotation.authoring.sample_rows import insert
from annotation.models import (
    Project,
    Role,
    Sample,
)
from records.openai_chat import read_conversation, read_tools
from records.sample_format import (
    STATUSES,
    SampleError,
    check_sample,
    check_split,
)
from records.samples import (
    Sample as SampleRecord,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import User

BATCH = 100
MAX_LINE_BYTES = MAX_DOCUMENT_BYTES


@dataclass(frozen=True)
class _Line:
    number: int
    form: SampleRecord
    content_hash: str


# --- out ------------------------------------------------------------------------------


# --- in: one sample -------------------------------------------------------------------


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
    """Import a file of samples, or ``lines``; refuse bad ones, keep good ones.

    The file is given by its ``path`` or open; ``annotation.authoring.documents`` lists
    the accepted shapes. ``tools``: a file of OpenAI tools, or its content, for
    conversations without their own. ``status`` and ``split`` override the file.
    ``user`` is the curator who imports; every batch checks their role. At the command
    line there is none. Raises :class:`SampleError` only for ``tools``, ``status`` and
    ``split`` themselves, and ``OSError`` for a file that cannot be read.
    """
    if status is not None and status not in STATUSES:
        raise SampleError("status", "one of " + ", ".join(STATUSES), repr(status))
    check_split(split)
    if isinstance(tools, (Path, str)):
        tools = load_tools(Path(tools))
    read_tools(tools)

    def read(document: JSON) -> SampleRecord:
        if format == "concord":
            return check_sample(document)
        if isinstance(document, list):  # of messages: one conversation
            document = {"messages": document}
        return read_conversation(document, tools)

    def write(forms: list[SampleRecord]) -> None:
        with transaction.atomic():
            if user is not None:
                require_role(project, user, Role.CURATOR, deed="Importing samples")
            insert(project, forms, author, status, split)

    if path is not None:
        with Path(path).open("rb") as opened:
            documents = read_documents(opened)
            return _import_documents(project, documents, str(path), read, write)
    if file is not None:
        return _import_documents(project, read_documents(file), "file", read, write)
    encoded = (
        line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
        for line in lines or ()
    )
    documents = (
        Document(number, line.removeprefix(BOM) if number == 1 else line)
        for number, line in enumerate(encoded, start=1)
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
    read: Callable[[JSON], SampleRecord],
    write: Callable[[list[SampleRecord]], None],
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
    write: Callable[[list[SampleRecord]], None],
    report: ImportReport,
) -> None:
    """Write the new samples of a batch; after a database error, one by one."""
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
    write: Callable[[list[SampleRecord]], None],
    report: ImportReport,
) -> None:
    try:
        write([line.form])
        report.new += 1
    except IntegrityError:
        # Another import has added the same id since this batch was looked up.
        content_hash = _known(project, [line]).get(line.form.id)
        if content_hash is None:
            raise
        _meet_known(line, content_hash, name, report)
    except DatabaseError as error:
        reason = "the database refused it: " + str(error).split("\n", 1)[0]
        report.add_refusal(Refusal(name, line.number, "line", reason, reason))
