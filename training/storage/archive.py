"""A directory as a tar archive, built while it is sent."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 18


class Archive:
    """Iterates over the bytes of a tar with the named files; ``size`` is their number.

    ``texts`` are generated files: name to content. The sizes are read once, at the
    start: a file that grows meanwhile is cut, one that shrinks raises ``EOFError``, so
    the archive never has more or fewer bytes than announced.
    """

    def __init__(
        self,
        directory: Path,
        names: Sequence[str],
        inside: str,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self._made = [
            _member(f"{inside}/{name}", text.encode())
            for name, text in (texts or {}).items()
        ]
        self._files = [
            (directory / name, _of_file(directory / name, f"{inside}/{name}"))
            for name in names
        ]
        self.size = (
            sum(
                len(header) + _padded(path.stat().st_size)
                for path, header in self._files
            )
            + sum(map(len, self._made))
            + 2 * BLOCK
        )
        self._sizes = [path.stat().st_size for path, _ in self._files]

    def __iter__(self) -> Iterator[bytes]:
        yield from self._made
        for (path, header), size in zip(self._files, self._sizes, strict=True):
            yield header
            with path.open("rb") as file:
                yield from _exactly(file, size)
            yield b"\0" * (_padded(size) - size)
        yield b"\0" * (2 * BLOCK)


def _of_file(path: Path, name: str) -> bytes:
    facts = path.stat()
    return _header(name, facts.st_size, int(facts.st_mtime))


def _header(name: str, size: int, modified: int) -> bytes:
    about = tarfile.TarInfo(name)
    about.size, about.mtime, about.mode = size, modified, 0o644
    return about.tobuf(tarfile.PAX_FORMAT)


def _member(name: str, content: bytes) -> bytes:
    """Return a small file in its archive form."""
    header = _header(name, len(content), int(time.time()))
    return header + content + b"\0" * (_padded(len(content)) - len(content))


def _exactly(file: io.BufferedReader, size: int) -> Iterator[bytes]:
    remaining = size
    while remaining:
        chunk = file.read(min(CHUNK, remaining))
        if not chunk:
            raise EOFError(f"{file.name} became shorter while it was sent")
        remaining -= len(chunk)
        yield chunk


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
