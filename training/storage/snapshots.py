"""Freeze the data of a run: files for the program, link rows for the lineage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Prefetch, QuerySet
from django.utils.translation import gettext

from annotation.authoring.export import read_forms
from annotation.models import (
    Judgment,
    Pair,
    PairOrigin,
    PairSource,
    ProducerSource,
    Project,
    Sample,
    Verdict,
)
from records.checkpoints import file_sha256
from records.judgments import HELD_OUT, JudgedPair, Producer
from training.models import Snapshot

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from actions.tags import JSON

HELD_OUT_PERCENT = 15
BATCH = 500


class NothingToTrainOnError(Exception):
    """The project lacks rows that this kind of run needs.

    ``missing`` says what is not there, ``remedy`` what to do about it.
    """

    def __init__(self, missing: str, remedy: str) -> None:
        self.missing = missing
        self.remedy = remedy
        super().__init__(f"{missing} {remedy}")


@dataclass
class _Rows:
    """Which rows of the database went into the files, and how many of each kind."""

    samples: list[int] = field(default_factory=list)
    judgments: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class _File:
    """A JSON-lines file being written; rows are hashed on the way."""

    path: Path
    rows: int = 0
    bytes: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def write(self, rows: Iterable[Mapping[str, JSON]]) -> None:
        with self.path.open("wb") as file:
            for row in rows:
                line = canonical(row)
                file.write(line)
                self.digest.update(line)
                self.rows += 1
                self.bytes += len(line)
            file.flush()
            os.fsync(file.fileno())

    def facts(self) -> dict[str, object]:
        return {
            "sha256": self.digest.hexdigest(),
            "rows": self.rows,
            "bytes": self.bytes,
        }


def canonical(row: Mapping[str, object]) -> bytes:
    """Return a row in canonical form: one line, sorted keys, no spaces, UTF-8."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass") + b"\n"


def is_held_out_for_reward(sample_id: str) -> bool:
    """Whether the judgments of a sample only measure the reward model.

    A hash of the sample's name decides: the share is fixed, and a sample never changes
    sides as more of it is judged.
    """
    digest = hashlib.sha256(f"reward held-out {sample_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def build_snapshot(
    *,
    project: Project,
    user: User | None,
    with_judgments: bool = False,
) -> Snapshot:
    """Freeze the project's approved samples, and its settled pairs if asked.

    ``train.jsonl`` never has a sample of a held-out split; ``held_out.jsonl`` has only
    those. With judgments, ``judgments.jsonl`` has one row per pair with an outcome. The
    same rows give the same snapshot. Raises NothingToTrainOnError.
    """
    staging = Path(settings.DATA_DIR) / "snapshots" / f".staging-{uuid.uuid4().hex}"
    staging.mkdir(parents=True)
    rows = _Rows()
    try:
        with transaction.atomic():
            _see_one_moment()
            facts = _write_files(project, with_judgments, staging, rows)
        content_hash = hashlib.sha256(canonical({"files": facts})).hexdigest()
        _move_into_place(staging, content_hash, facts)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    with transaction.atomic():
        snapshot, is_new = Snapshot.objects.get_or_create(
            project=project,
            content_hash=content_hash,
            defaults={
                "counts": dict(rows.counts),
                "files": facts,
                "created_by": user,
            },
        )
        if is_new:
            _link(snapshot, rows)
    return snapshot


def _see_one_moment() -> None:
    """Read all rows as of one moment; a concurrent edit would tear a sample.

    Postgres sets the isolation level only before the first query, so inside a
    transaction of the caller the caller's level stays.
    """
    if len(connection.atomic_blocks) == 1:
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def _write_files(
    project: Project, with_judgments: bool, staging: Path, rows: _Rows
) -> dict[str, dict[str, object]]:
    """Write the files; return for each name its hash, rows and bytes."""
    approved = Sample.objects.filter(project=project).approved()
    files = {
        "train": _File(staging / "train.jsonl"),
        "held_out": _File(staging / "held_out.jsonl"),
    }
    files["train"].write(_sample_rows(approved.filter(split=""), rows, "train"))
    if not files["train"].rows:
        raise NothingToTrainOnError(
            gettext("There is no approved sample outside the held-out splits."),
            gettext("Import or write samples and approve them first."),
        )
    files["held_out"].write(_sample_rows(approved.exclude(split=""), rows, "held_out"))
    if with_judgments:
        files["judgments"] = _File(staging / "judgments.jsonl")
        files["judgments"].write(_judged_rows(project, rows))
        if not rows.counts["judgments"]:
            raise NothingToTrainOnError(
                gettext("No pair has been judged to an outcome yet."),
                gettext("Draw responses and let labelers judge them first."),
            )
    return {name: file.facts() for name, file in files.items()}


def _sample_rows(
    samples: QuerySet[Sample], rows: _Rows, name: str
) -> Iterator[Mapping[str, JSON]]:
    for pk, form in read_forms(samples):
        rows.samples.append(pk)
        rows.counts[name] += 1
        rows.counts["turns"] += len(form.turns)
        yield form.to_json()


def _judged_rows(project: Project, rows: _Rows) -> Iterator[Mapping[str, JSON]]:
    """Yield one row per pair with an outcome, with everything that led to it.

    ``differs`` holds the units that at least half of those who answered 0 marked.
    ``producer`` is the first policy that gave this response. A response that only the
    demo's generator gave has the source ``demo`` where it would have ``people``: it can
    be learned from, but does not measure policies.
    """
    pairs = (
        Pair.objects.settled()
        .filter(project=project)
        .filter(turn__sample__in=Sample.objects.approved())
        .select_related("turn__sample", "adjudication")
        .prefetch_related(
            Prefetch("judgments", Judgment.objects.counted().order_by("pk")),
            Prefetch(
                "origins",
                PairOrigin.objects.select_related(
                    "sampled_response__producer"
                ).order_by("pk"),
            ),
        )
        .order_by("pk")
        .iterator(chunk_size=BATCH)
    )
    for pair in pairs:
        sample = pair.turn.sample
        is_consistent = bool(pair.outcome)  # type: ignore[attr-defined] # by settled()
        judgments = list(pair.judgments.all())
        rows.judgments.extend(judgment.pk for judgment in judgments)
        producers = [each.sampled_response.producer for each in pair.origins.all()]
        policies = [each for each in producers if each.source == ProducerSource.POLICY]
        producer = policies[0] if policies else None
        is_of_demo = bool(producers) and not policies
        held_out = bool(sample.split) or is_held_out_for_reward(sample.external_id)
        is_judged = pair.source == PairSource.PEOPLE
        rows.counts["judgments"] += len(judgments)
        rows.counts["pairs"] += 1
        rows.counts["pairs_held_out" if held_out else "pairs_train"] += 1
        rows.counts["pairs_judged" if is_judged else "pairs_derived"] += 1
        judged = JudgedPair(
            judgment=judgments[0].pk if judgments else None,
            judgments=tuple(judgment.pk for judgment in judgments),
            pair=pair.pk,
            sample=sample.external_id,
            turn=pair.turn.position,
            input_kind=pair.turn.input_kind,
            label=pair.label_text,
            sampled=pair.sampled_text,
            consistent=is_consistent,
            differs=() if is_consistent else _units_that_differ(pair, judgments),
            source="demo" if is_judged and is_of_demo else pair.source,
            producer=Producer(producer.run_id, producer.checkpoint_id, producer.step)
            if producer
            else None,
            facts=pair.turn.facts,
            split=HELD_OUT if held_out else "train",
        )
        yield judged.to_json()


def _units_that_differ(pair: Pair, judgments: list[Judgment]) -> tuple[str, ...]:
    adjudication = getattr(pair, "adjudication", None)
    if adjudication is not None and adjudication.units_that_differ:
        return tuple(sorted(adjudication.units_that_differ))
    if pair.source == PairSource.FORMAT:
        return ("format",)
    refusing = [each for each in judgments if each.verdict == Verdict.INCONSISTENT]
    marked = Counter(unit for each in refusing for unit in each.units_that_differ)
    return tuple(sorted(unit for unit, n in marked.items() if 2 * n >= len(refusing)))


def _link(snapshot: Snapshot, rows: _Rows) -> None:
    samples = Snapshot.samples.through
    samples.objects.bulk_create(
        [samples(snapshot_id=snapshot.pk, sample_id=pk) for pk in rows.samples],
        batch_size=5000,
    )
    judgments = Snapshot.judgments.through
    judgments.objects.bulk_create(
        [judgments(snapshot_id=snapshot.pk, judgment_id=pk) for pk in rows.judgments],
        batch_size=5000,
    )


def _move_into_place(
    staging: Path, content_hash: str, facts: dict[str, dict[str, object]]
) -> None:
    """Rename the staged files to their hash, or keep equal ones that exist."""
    final = staging.parent / content_hash
    if final.exists():
        if all(
            (final / f"{name}.jsonl").is_file()
            and file_sha256(final / f"{name}.jsonl") == fact["sha256"]
            for name, fact in facts.items()
        ):
            return
        final.rename(final.with_name(f".damaged-{content_hash}-{uuid.uuid4().hex[:8]}"))
    _sync(staging)
    try:
        staging.rename(final)
    except OSError:
        if not final.exists():
            raise
        return  # another process has written the same rows
    _sync(final.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
