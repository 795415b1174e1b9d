"""The result of an import: how many samples came in, and why others did not.

No database. Refusals for the same reason form one group with a count, so that a file
with one kind of fault gets one sentence. Memory does not grow with the number of lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from annotation.authoring.documents import WrongShape
    from records.sample_format import SampleError

MOST_GROUPS: Final = 200
PLACES: Final = 5
KEPT: Final = 1_000
_INDEX: Final = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class Refusal:
    """One document that was not imported, and why; line 0 means the whole file.

    Refusals of one ``kind`` are reported together.
    """

    file: str
    line: int
    field: str
    reason: str
    kind: str = ""

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: {self.reason}"
        return f"{self.file}:{self.line}: {self.field}: {self.reason}"


@dataclass
class Group:
    """Refusals of one kind in one file: the first of them, where, and how many."""

    first: Refusal
    lines: list[int] = field(default_factory=list)
    count: int = 0

    @property
    def more(self) -> int:
        """Return the number of refusals beyond those whose lines are listed."""
        return self.count - len(self.lines)

    @property
    def places(self) -> str:
        return ", ".join(map(str, self.lines))

    def __str__(self) -> str:
        if self.count == 1:
            return str(self.first)
        more = f" and {self.more} more" if self.more else ""
        return (
            f"{self.first.file}: lines {self.places}{more}: "
            f"{self.first.field}: {self.first.reason}"
        )


@dataclass
class ImportReport:
    """The result of an import; as a string it is the last line of the command's output.

    ``refused`` holds the first 1,000 refusals, ``groups`` covers all.
    """

    new: int = 0
    unchanged: int = 0
    refused: list[Refusal] = field(default_factory=list)
    refused_count: int = 0
    by_kind: dict[tuple[str, str], Group] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.new + self.unchanged + self.refused_count

    @property
    def groups(self) -> list[Group]:
        """Return the reasons in the order of their first occurrence."""
        return sorted(self.by_kind.values(), key=lambda group: group.first.line)

    def __str__(self) -> str:
        return (
            f"{self.total} conversations: {self.new} new, {self.unchanged} unchanged, "
            f"{self.refused_count} refused"
        )

    def refuse(self, file: str, line: int, error: SampleError) -> None:
        """Record a faulty document."""
        field_of_all = _INDEX.sub("[]", error.field)
        kind = f"{field_of_all}: {_INDEX.sub('[]', error.expected)}"
        self.add_refusal(Refusal(file, line, error.field, error.reason, kind))

    def refuse_file(self, file: str, error: WrongShape) -> None:
        self.add_refusal(Refusal(file, 0, "file", str(error), "file"))

    def add_refusal(self, refusal: Refusal) -> None:
        self.refused_count += 1
        if len(self.refused) < KEPT:
            self.refused.append(refusal)
        key = refusal.file, refusal.kind
        if key not in self.by_kind and len(self.by_kind) >= MOST_GROUPS:
            key = refusal.file, "other"
        group = self.by_kind.setdefault(key, Group(refusal))
        group.count += 1
        if len(group.lines) < PLACES and refusal.line not in group.lines:
            group.lines.append(refusal.line)

    def sort(self) -> None:
        """Sort refusals by line; those of known ids are found one batch later."""
        self.refused.sort(key=lambda refusal: refusal.line)
        for group in self.by_kind.values():
            group.lines.sort()

    def add(self, other: ImportReport) -> None:
        """Add the report of another file."""
        self.new += other.new
        self.unchanged += other.unchanged
        self.refused += other.refused[: KEPT - len(self.refused)]
        self.refused_count += other.refused_count
        self.by_kind |= other.by_kind
