"""Read the documents in a file of samples, one in memory at a time.

Accepted shapes: JSON Lines, objects over several lines (pretty-printed), a JSON list of
them, and a list of messages, which is one conversation. The beginning of the file
decides which. A file of any other kind is described in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from actions.json_values import JSONError, load_json, quote
from actions.tags import JSON
from records.sample_format import SampleError

MAX_DOCUMENT_BYTES: Final = 4 * 2**20
HEAD_BYTES: Final = 2**16
CHUNK_BYTES: Final = 2**16
BOM: Final = b"\xef\xbb\xbf"

EXPECTED: Final = "JSON, one sample or conversation a line"

# How other kinds of file begin, what they are, and what to do with them.
SIGNATURES: Final = (
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"PK\x03\x04", "a ZIP archive or an Excel file", "unpack it or save it as JSON"),
    (b"PK\x05\x06", "an empty ZIP archive", "choose another file"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"PAR1", "a Parquet file", "save it as JSON Lines"),
    (b"ARROW1", "an Arrow file", "save it as JSON Lines"),
    (b"ORC", "an ORC file", "save it as JSON Lines"),
    (b"Obj\x01", "an Avro file", "save it as JSON Lines"),
    (b"SQLite format 3\0", "an SQLite database", "save its rows as JSON Lines"),
    (b"%PDF", "a PDF file", "save its text as JSON Lines"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "save it as UTF-8"),
    (b"\xff\xfe\x00\x00", "UTF-32 text", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_BRACKET_OR_QUOTE: Final = re.compile(rb'["\[\]{}]')
_REST_OF_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


class WrongShape(ValueError):
    """The file as a whole cannot be read; the message says what it is."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"expected {EXPECTED}, found {found}: {advice}")


@dataclass(frozen=True)
class Document:
    """The bytes of one document, or why it cannot be read.

    ``line`` is the number of its first line.
    """

    line: int
    text: bytes
    problem: SampleError | None = None

    def load(self) -> JSON:
        """Return the value; raise :class:`SampleError`."""
        if self.problem is not None:
            raise self.problem
        if len(self.text.rstrip(b"\r\n")) > MAX_DOCUMENT_BYTES:
            raise too_long()
        try:
            text = self.text.decode()
        except UnicodeDecodeError as error:
            bad_byte = f"byte 0x{self.text[error.start]:02x} at byte {error.start}"
            raise SampleError("line", "UTF-8", bad_byte) from None
        try:
            return load_json(text.rstrip())
        except JSONError as error:
            at = f"character {error.position}"
            raise SampleError("line", error.expected, error.found, at) from None


def too_long() -> SampleError:
    return SampleError("line", f"at most {MAX_DOCUMENT_BYTES} bytes", "more")


def read_documents(file: BinaryIO) -> Iterator[Document]:
    """Yield the documents of a file; raise :class:`WrongShape` before the first."""
    head = file.read(HEAD_BYTES)
    is_whole = len(head) < HEAD_BYTES
    file.seek(len(BOM) if head.startswith(BOM) else 0)
    head = head.removeprefix(BOM)
    shape = shape_of(head, is_whole=is_whole)
    if shape == "lines":
        yield from _lines(file)
    else:
        yield from _Splitter(is_list=shape == "list").split(file)


def shape_of(head: bytes, *, is_whole: bool) -> str:
    """Return the shape of a file: "lines", "objects" or a "list" of objects.

    ``head`` is the beginning of the file without a byte order mark; with ``is_whole``
    it is all of it. Raises :class:`WrongShape`.
    """
    for signature, shape, advice in SIGNATURES:
        if head.startswith(signature):
            raise WrongShape(shape, advice)
    if (
        len(head) >= 16
        and max(head[0::2].count(0), head[1::2].count(0)) > len(head) / 4
    ):
        raise WrongShape("UTF-16 text or binary data", "save it as UTF-8")
    text = head.lstrip()
    if not text:
        if is_whole:
            raise WrongShape("an empty file", "choose another one")
        return "lines"
    lines = [line.strip() for line in text.split(b"\n")]
    whole = [line for line in (lines if is_whole else lines[:-1]) if line]
    if not whole:  # the first line is longer than the head
        return "list" if text.startswith(b"[") else "lines"
    if text.startswith(b"["):
        is_complete = _is_json(whole[0])
        if is_complete and len(whole) > 1:
            return "lines"
        return "objects" if _is_of_messages(text) else "list"
    if text.startswith(b"{"):
        opens = whole[0].endswith((b"{", b"[", b",", b":"))
        follows_none = len(whole) > 1 and not whole[1].startswith(b"{")
        is_spread = (opens and len(whole) > 1) or follows_none
        return "objects" if is_spread and not _is_json(whole[0]) else "lines"
    if any(line.startswith(b"{") for line in whole):
        return "lines"
    raise WrongShape(*_kind_of_text(head, whole[0]))


def _kind_of_text(head: bytes, first: bytes) -> tuple[str, str]:
    if _CONTROL.search(head):
        return "binary data", "save it as JSON Lines"
    if first.startswith(b"<"):
        return "HTML or XML", "save it as JSON Lines"
    for separator, name in ((b"\t", "tabs"), (b",", "commas"), (b";", "semicolons")):
        if separator in first:
            return f"a table with {name} (CSV)", "save its rows as JSON Lines"
    return f"text that begins with {quote(first.decode(errors='replace'))}", (
        "save it as JSON Lines"
    )


def _is_json(line: bytes) -> bool:
    try:
        load_json(line.decode())
    except (UnicodeDecodeError, JSONError):
        return False
    return True


def _is_of_messages(text: bytes) -> bool:
    """Whether a list begins with a message instead of a conversation."""
    splitter = _Splitter(is_list=True)
    for document in splitter.feed(text):
        try:
            first = document.load()
        except SampleError:
            return False
        return isinstance(first, dict) and "role" in first and "messages" not in first
    return False


def _lines(file: BinaryIO) -> Iterator[Document]:
    """Yield the lines of a file; cut a line that exceeds the limit."""
    number = 0
    while line := file.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        whole = line.endswith(b"\n") or len(line) <= MAX_DOCUMENT_BYTES
        while not whole:
            rest = file.readline(CHUNK_BYTES)
            whole = not rest or rest.endswith(b"\n")
        if line.strip():
            yield Document(number, line)


class _Splitter:
    """Finds the start and end of documents by their brackets, chunk by chunk."""

    def __init__(self, *, is_list: bool) -> None:
        self.is_list = is_list
        self.base = 0  # the depth between documents: 1 within the list
        self.depth = 0
        self.in_string = self.is_escaped = False
        self.line = self.begins = 1
        self.held = bytearray()  # bytes of the current document
        self.is_long = False
        self.between = bytearray()  # bytes between documents
        self.is_over = False  # the list is closed

    def split(self, file: BinaryIO) -> Iterator[Document]:
        while chunk := file.read(CHUNK_BYTES):
            yield from self.feed(chunk)
        yield from self._end()

    def feed(self, chunk: bytes) -> Iterator[Document]:
        """Yield the documents that end in ``chunk``."""
        position = 0
        while position < len(chunk):
            if self.in_string:
                start = position + self.is_escaped
                match = _REST_OF_STRING.match(chunk, start)
                end = match.end() if match else start
                self.is_escaped = chunk[end : end + 1] == b"\\"
                self.in_string = chunk[end : end + 1] != b'"'
                end = len(chunk) if self.in_string else end + 1
                self._take(chunk[position:end])
                position = end
                continue
            bracket = _BRACKET_OR_QUOTE.search(chunk, position)
            if bracket is None:
                self._take(chunk[position:])
                return
            self._take(chunk[position : bracket.start()])
            position = bracket.end()
            yield from self._step(bracket.group())

    def _step(self, token: bytes) -> Iterator[Document]:
        """Handle one bracket or quotation mark."""
        if token == b'"':
            self.in_string = True
            self._take(token)
        elif token in b"{[":
            if self.is_list and self.base == 0 and token == b"[":
                self.base = self.depth = 1
                return
            if self.depth == self.base:
                yield from self._between()
                self.begins = self.line
            self.depth += 1
            self._take(token)
        elif self.depth == self.base:
            if self.is_list and token == b"]" and not self.is_over:
                yield from self._between()
                self.is_over, self.base, self.depth = True, 0, 0
            else:
                self._take(token)
        else:
            self._take(token)
            self.depth -= 1
            if self.depth == self.base:
                yield self._document()

    def _take(self, piece: bytes) -> None:
        self.line += piece.count(b"\n")
        if self.depth > self.base:
            if len(self.held) + len(piece) > MAX_DOCUMENT_BYTES:
                self.is_long = True
            else:
                self.held += piece
        elif len(self.between) < 100:
            self.between += piece.strip() if not self.between else piece

    def _document(self) -> Document:
        document = Document(
            self.begins, bytes(self.held), too_long() if self.is_long else None
        )
        self.held.clear()
        self.is_long = False
        return document

    def _between(self) -> Iterator[Document]:
        """Report anything between two documents that is not a comma."""
        between = bytes(self.between).strip()
        self.between.clear()
        if between not in (b"", b","):
            shown = quote(between.strip(b", \n").decode(errors="replace"))
            problem = SampleError("line", "an object", shown)
            yield Document(self.line, between, problem)

    def _end(self) -> Iterator[Document]:
        if self.depth > self.base:
            yield self._document()
        yield from self._between()
        if self.is_list and not self.is_over:
            problem = SampleError(
                "line", '"]" after the last one', "the end of the file"
            )
            yield Document(self.line, b"", problem)
