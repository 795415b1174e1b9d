"""A file's shape is looked at once: each is read, or named in one sentence."""

import gzip
import io
import json
import random
import tracemalloc
import zipfile

import pytest

from annotation.authoring import documents
from annotation.authoring.documents import (
    MAX_DOCUMENT_BYTES,
    WrongShape,
    read_documents,
)
from records.sample_format import SampleError

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"A cake {n}?" + ' \\ "]} é'},
            {"role": "assistant", "content": "Yes. {["},
        ]
    }
    for n in range(3)
]


def read(data):
    return list(read_documents(io.BytesIO(data)))


def values(data):
    return [document.load() for document in read(data)]


def problems(data):
    found = []
    for document in read(data):
        try:
            document.load()
        except SampleError as error:
            found.append((document.line, str(error)))
    return found


LINES = "\n".join(map(json.dumps, CHATS)).encode()
SHAPES = {
    "lines": LINES,
    "lines with a byte order mark": b"\xef\xbb\xbf" + LINES,
    "lines with windows ends": LINES.replace(b"\n", b"\r\n"),
    "lines with blank ones": b"\n\n" + LINES.replace(b"\n", b"\n\n"),
    "a list on one line": json.dumps(CHATS).encode(),
    "a list, one a line": b"[\n" + LINES.replace(b"\n", b",\n") + b"\n]\n",
    "a pretty-printed list": json.dumps(CHATS, indent=1, ensure_ascii=False).encode(),
    "a list with a byte order mark": b"\xef\xbb\xbf" + json.dumps(CHATS).encode(),
    "pretty-printed objects": "\n".join(
        json.dumps(one, indent=4) for one in CHATS
    ).encode(),
    "objects without indent": "\n".join(
        json.dumps(one, indent=0) for one in CHATS
    ).encode(),
    "objects with commas": ",\n".join(
        json.dumps(one, indent=4) for one in CHATS
    ).encode(),
}


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("chunk", [1, 7, 2**16])
def test_the_documents_are_read(data, chunk, monkeypatch):
    monkeypatch.setattr(documents, "CHUNK_BYTES", chunk)
    assert values(data) == CHATS


def test_one_pretty_printed_object_is_one_document():
    data = json.dumps(CHATS[0], indent=2).encode()
    assert [(d.line, d.load()) for d in read(data)] == [(1, CHATS[0])]


def test_a_list_of_messages_is_one_conversation():
    for indent in (None, 1):
        data = json.dumps(CHATS[0]["messages"], indent=indent).encode()
        assert values(data) == [CHATS[0]["messages"]]


def test_a_document_knows_the_line_it_begins_on():
    assert [d.line for d in read(SHAPES["pretty-printed objects"])] == [1, 13, 25]
    assert [d.line for d in read(SHAPES["a list, one a line"])] == [2, 3, 4]


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jsonl", LINES)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file"),
        (b" \n\n\t\n", "an empty file"),
        (b"\xef\xbb\xbf", "an empty file"),
        (gzip.compress(LINES), "a gzip archive"),
        (zipped(), "a ZIP archive or an Excel file"),
        (b"PAR1\x15\x04\x15\x10", "a Parquet file"),
        (LINES.decode().encode("utf-16"), "UTF-16 text"),
        (LINES.decode().encode("utf-16-be"), "UTF-16 text or binary data"),
        (LINES.decode().encode("utf-16-le"), "UTF-16 text or binary data"),
        (LINES.decode().encode("utf-32"), "UTF-32 text"),
        (b"\0" * 1000, "UTF-16 text or binary data"),
        (random.Random(0).randbytes(70_000), "binary data"),
        (b"prompt,response\n" + b"a,b\n" * 60_000, "a table with commas (CSV)"),
        (b"prompt\tresponse\na\tb\n", "a table with tabs (CSV)"),
        (b"<!doctype html>\n<p>no", "HTML or XML"),
        (b"Dear all,\nno", "a table with commas (CSV)"),
        (b"- messages:\n  - role: user\n", "text that begins with '- messages:'"),
        (b"no\n", "text that begins with 'no'"),
    ],
)
def test_another_kind_of_file_is_named_in_one_sentence(data, found):
    with pytest.raises(WrongShape) as caught:
        read(data)
    expected = "expected JSON, one sample or conversation a line"
    assert str(caught.value).startswith(f"{expected}, found {found}: ")


def test_a_broken_line_costs_no_other_one():
    good = json.dumps(CHATS[0]).encode()
    for bad in (b"{", b"no", b'{"messages": [', b'{"a": 1,', b"\x00{}", b'"\xff"'):
        assert len(problems(good + b"\n" + bad + b"\n" + good)) == 1
        assert len(problems(bad + b"\n" + good + b"\n" + good)) == 1


def test_what_is_wrong_in_a_list_is_told_at_its_line():
    one = json.dumps(CHATS[0])
    assert problems(f'[{one},\n "what",\n{one},\n{{"a": 1 "b"}}\n]'.encode()) == [
        (3, "line: expected an object, found '\"what\"'"),
        (4, "line: character 8: expected JSON (Expecting ',' delimiter), found "
         "'\"b\"}'"),
    ]  # fmt: skip
    assert problems(f"[\n{one},\n{one}\n".encode()) == [
        (4, 'line: expected "]" after the last one, found the end of the file')
    ]
    assert problems(f"[{one}\n]\nand more".encode()) == [
        (3, "line: expected an object, found 'and more'")
    ]
    assert problems(b"[\n1, 2, 3]") == [
        (2, "line: expected an object, found '1, 2, 3'")
    ]


def test_an_object_that_is_cut_off_is_one_problem():
    data = json.dumps(CHATS[0], indent=2).encode()[:-20]
    ((line, text),) = problems(data)
    assert line == 1
    assert "found end" in text or "Unterminated string" in text


@pytest.mark.parametrize("begin", [b"", b"[\n", b'[{"a": [\n', b'{"a":\n'])
def test_a_huge_line_is_refused_without_being_held(begin):
    class Endless(io.RawIOBase):
        """A beginning, 150 MB of text without a line end, and a last line."""

        parts = ((begin + b'{"text": "', 1), (b"x" * 2**16, 2_290), (b'"}\n', 1))

        def __init__(self):
            self.position = 0
            self.whole = sum(len(text) * times for text, times in self.parts)

        def readable(self):
            return True

        def seekable(self):
            return True

        def seek(self, offset, whence=0):
            self.position = offset + (self.position if whence == io.SEEK_CUR else 0)
            return self.position

        def readinto(self, buffer):
            start = self.position
            for text, times in self.parts:
                size = len(text) * times
                if start < size:
                    piece = text[start % len(text) :][: len(buffer)]
                    buffer[: len(piece)] = piece
                    self.position += len(piece)
                    return len(piece)
                start -= size
            return 0

    tracemalloc.start()
    try:
        found = list(read_documents(io.BufferedReader(Endless())))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_DOCUMENT_BYTES
    messages = []
    for document in found:
        with pytest.raises(SampleError) as caught:
            document.load()
        messages.append(str(caught.value))
    assert f"line: expected at most {MAX_DOCUMENT_BYTES} bytes, found more" in messages


def test_random_bytes_never_raise_anything_else():
    rng = random.Random(1)
    alphabet = b'[]{}",:\\ \n\r\x00\xffa1'
    named = set()
    for _ in range(3000):
        data = bytes(rng.choice(alphabet) for _ in range(rng.randrange(60)))
        try:
            problems(data)
        except WrongShape as error:
            named.add(str(error))
    assert not any("\n" in text for text in named)
