"""Read a run directory into the database: events, checkpoints, outputs."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from annotation.judging.pairing import ProducerFacts, receive_responses
from records import events
from records.checkpoints import (
    CheckpointError,
    WholeCheckpoint,
    file_sha256,
    verify_checkpoint,
)
from records.finite import first_not_finite
from records.reading import RecordError, read_lines
from records.responses import ROLES, ResponseRow
from training.models import (
    ACTIVE_STATES,
    Checkpoint,
    InputRole,
    Metric,
    Run,
    RunNote,
    RunSample,
)
from training.storage import store

if TYPE_CHECKING:
    from actions.tags import JSON

READ_BYTES = 1 << 20
LONGEST_LINE = 64 << 20
LOG_TAIL_BYTES = 6000
ACCEPTED_PRIORITY = 5  # of responses drawn as possible new references


class LostRunError(Exception):
    """The run has another token or state: somebody else holds it, or nobody."""


class OutputError(Exception):
    """A program reported that it finished, but an output is missing or invalid."""


def update_held(run: Run, **fields: object) -> None:
    """Write fields of a run while ``run.token`` still holds it.

    Raises LostRunError when the token has changed or the run is no longer active. The
    update locks the row, so inside a transaction nobody can claim it in between.
    """
    held = Run.objects.filter(pk=run.pk, token=run.token, state__in=ACTIVE_STATES)
    if not held.update(**fields):
        raise LostRunError(f"run {run.pk} is no longer held by token {run.token}")


@dataclass
class _Batch:
    """The rows of some events; of equal keys the later wins."""

    metrics: dict[tuple[str, int], Metric] = field(default_factory=dict)
    samples: list[RunSample] = field(default_factory=list)
    notes: list[RunNote] = field(default_factory=list)
    checkpoints: list[tuple[WholeCheckpoint, bool]] = field(default_factory=list)
    fields: dict[str, object] = field(default_factory=dict)

    def save(self, run: Run, offset: int) -> None:
        """Store the rows and the new offset together, or neither."""
        with transaction.atomic():
            update_held(run, events_offset=offset, **self.fields)
            Metric.objects.bulk_create(
                self.metrics.values(),
                update_conflicts=True,
                unique_fields=["run", "name", "step"],
                update_fields=["value", "at"],
                batch_size=2000,
            )
            RunSample.objects.bulk_create(self.samples, ignore_conflicts=True)
            RunNote.objects.bulk_create(self.notes, ignore_conflicts=True)
            for whole, is_final in self.checkpoints:
                register_checkpoint(run, whole, is_final=is_final)
        run.events_offset = offset
        for name, value in self.fields.items():
            setattr(run, name, value)


def ingest_events(run: Run) -> bool:
    """Read the complete new lines of ``events.jsonl`` into the database.

    Returns whether there was a new event. The offset is saved in the same transaction
    as the rows, so a line counts once however often this is interrupted. Raises
    LostRunError.
    """
    path = run.directory / "events.jsonl"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size < run.events_offset:
        # The file was truncated. Rows have unique keys, so read it again.
        run.events_offset = 0
    has_news = False
    with path.open("rb") as file:
        while True:
            chunk = _whole_lines(file, run.events_offset)
            if not chunk:
                return has_news
            batch = _Batch()
            offset = run.events_offset
            for line in chunk.splitlines(keepends=True):
                if line.strip():
                    _take(run, offset, line, batch)
                offset += len(line)
            batch.save(run, offset)
            has_news = True


def _whole_lines(file: BufferedReader, offset: int) -> bytes:
    """Return the complete lines from ``offset``; an incomplete last line waits."""
    size = READ_BYTES
    while True:
        file.seek(offset)
        chunk: bytes = file.read(size)
        end = chunk.rfind(b"\n") + 1
        if end or len(chunk) < size or size >= LONGEST_LINE:
            return chunk[:end]
        size *= 4


def _take(run: Run, offset: int, line: bytes, batch: _Batch) -> None:
    seconds, event = events.read_event(line)
    at = (
        datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        if seconds
        else timezone.now()
    )

    def note(level: str, message: str) -> None:
        batch.notes.append(
            RunNote(run=run, level=level, message=message, event_offset=offset, at=at)
        )

    match event:
        case events.Progress(step, of):
            batch.fields |= {"step": step, "steps_total": of}
        case events.Metrics(step):
            for name, value in event.numbers.items():
                batch.metrics[name, step] = Metric(
                    run=run, name=name, step=step, value=value, at=at
                )
            if event.not_finite:
                names = ", ".join(event.not_finite)
                note("error", f"Step {step}: not a finite number: {names}.")
        case events.ShownSample(step, prompt, text, label, scores):
            batch.samples.append(
                RunSample(
                    run=run,
                    event_offset=offset,
                    step=step,
                    prompt=prompt,
                    text=text,
                    label=label,
                    scores=scores,
                )
            )
        case events.CheckpointWritten():
            try:
                whole = _whole_of(run, event)
            except CheckpointError as error:
                note("warning", f"Not registered: {error}.")
            else:
                batch.checkpoints.append((whole, event.final))
        case events.Log(level, message):
            note(level, message)
        case events.Result(state, values, error):
            batch.fields |= {"program_state": state, "result": values, "error": error}
        case events.Unreadable(why):
            note("warning", f"A line of events.jsonl could not be read: {why}.")


def _whole_of(run: Run, event: events.CheckpointWritten) -> WholeCheckpoint:
    directory = run.directory / event.path
    if Path(event.path).is_absolute() or ".." in Path(event.path).parts:
        raise CheckpointError(directory, "lies outside the run directory")
    return verify_checkpoint(directory, digest=event.digest)


def register_checkpoint(
    run: Run, whole: WholeCheckpoint, *, is_final: bool = False
) -> Checkpoint:
    """Store the row of a complete checkpoint of ``run``, or update the known one.

    A checkpoint once announced as final stays final.
    """
    defaults: dict[str, object] = {
        "project_id": run.project_id,
        "step": whole.step,
        "digest": whole.digest,
        "seen": whole.seen,
        "manifest": events.storable(whole.manifest.to_json()),
        "files_removed_at": None,
    }
    if is_final:
        defaults["is_final"] = True
    path = whole.path.relative_to(settings.DATA_DIR)
    known = Checkpoint.objects.filter(run=run, path=str(path)).exclude(
        digest=whole.digest
    )
    known.update(stored_at=None)  # the store has an older version
    checkpoint, _ = Checkpoint.objects.update_or_create(
        run=run, path=str(path), defaults=defaults
    )
    return checkpoint


def register_found(run: Run) -> None:
    """Store the rows of complete checkpoints that are only on disk.

    A program may be killed between writing a checkpoint and announcing it. Checkpoints
    with a known manifest are not hashed again.
    """
    if store.lies_elsewhere(run):
        return
    known = dict(Checkpoint.objects.filter(run=run).values_list("path", "digest"))
    for directory in (run.directory / "checkpoints").glob("[!.]*"):
        try:
            digest = file_sha256(directory / "manifest.json")
            if known.get(str(directory.relative_to(settings.DATA_DIR))) != digest:
                register_checkpoint(run, verify_checkpoint(directory, digest=digest))
        except (OSError, CheckpointError):
            continue


def read_log_tail(run: Run) -> str:
    """Return the end of ``log.txt``, from the start of a line, fit for the database.

    Empty if it cannot be read: the run must end in any case.
    """
    try:
        with (run.directory / "log.txt").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            raw = file.read()
    except OSError:
        return ""
    if size > LOG_TAIL_BYTES:
        raw = raw[raw.find(b"\n") + 1 :]
    text = raw.decode("utf-8", "replace").replace("\x00", "")
    # A progress bar overwrites its line: keep its last state.
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.splitlines())


def receive_outputs(run: Run) -> dict[str, JSON]:
    """Store the ``outputs/`` of a finished program where people find them.

    Returns what to add to the run's result. Repeating it adds nothing. Raises
    OutputError when an output is missing or not readable.
    """
    if run.kind == "draw":
        return _receive_responses(run)
    if run.kind == "evaluate":
        text = _read_output(run, "evaluation.json")
        try:
            evaluation = json.loads(text)
        except ValueError as error:
            raise OutputError(
                f"outputs/evaluation.json is not JSON: {error}"
            ) from error
        wrong = first_not_finite(evaluation)
        if wrong is not None:
            raise OutputError("outputs/evaluation.json: {} is {}".format(*wrong))
        outcome = events.storable(evaluation)
        if not isinstance(outcome, dict):
            raise OutputError("outputs/evaluation.json is not a JSON object")
        return outcome
    if not Checkpoint.objects.filter(run=run, is_final=True).exists():
        raise OutputError("The program finished without a whole final checkpoint.")
    return {}


def _read_output(run: Run, name: str) -> str:
    try:
        return (run.directory / "outputs" / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"outputs/{name} is not readable: {error}") from error


def _receive_responses(run: Run) -> dict[str, JSON]:
    rows: dict[str, list[ResponseRow]] = {role: [] for role in ROLES}
    for row in _response_rows(run):
        if row.goes_to_people:  # rejection sampling left the others out
            rows[row.role].append(row)
    inputs = {
        each.role: each.checkpoint
        for each in run.run_inputs.select_related("checkpoint")
    }
    received: dict[str, JSON] = {}
    for role, input_role in (
        ("current", InputRole.POLICY),
        ("initial", InputRole.INITIAL),
    ):
        if not rows[role]:
            continue
        checkpoint = inputs.get(input_role)
        if checkpoint is None:
            raise OutputError(f"responses of the {role} policy, which was not given")
        report = receive_responses(
            project=run.project,
            producer=ProducerFacts(
                run_id=run.pk,
                checkpoint_id=checkpoint.pk,
                checkpoint_digest=checkpoint.digest,
                step=checkpoint.step,
                policy_role=role,
                settings=run.recipe,
            ),
            responses=rows[role],
            priority=ACCEPTED_PRIORITY if run.recipe.get("keep") == "accepted" else 0,
        )
        received[role] = {
            "responses": report.responses,
            "pairs": report.pairs,
            "identical": report.identical,
            "settled_by_rule": report.by_rule,
            "malformed": report.malformed,
            "slots": report.slots,
            "judgments_saved": report.saved,
            "refused": len(report.refused),
        }
        for refused in report.refused[:20]:
            RunNote.objects.create(
                run=run,
                level="warning",
                message=f"Not taken in: answer {refused.index} to turn "
                f"{refused.turn + 1} of {refused.sample}: {refused.reason}.",
                at=timezone.now(),
            )
    return {"received": received}


def _response_rows(run: Run) -> Iterator[ResponseRow]:
    """Yield the lines of a draw's output as the database can hold them."""
    name = "outputs/responses.jsonl"

    def read(obj: Mapping[str, JSON]) -> ResponseRow:
        stored = {key: events.storable(value) for key, value in obj.items()}
        return ResponseRow.from_json(stored)

    try:
        yield from read_lines(run.directory / name, read, name)
    except OSError as error:
        raise OutputError(f"{name} is not readable: {error}") from error
    except RecordError as error:
        raise OutputError(str(error)) from error
