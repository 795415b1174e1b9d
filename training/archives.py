"""A directory as a tar archive, made while it is sent."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 18


class Archive:
    """Iterates over the bytes of a tar with the named files; ``size`` is their number.

    The sizes are read once, at the start: a file that grows meanwhile is cut, one that
    shrinks raises ``EOFError``, so the archive never has other bytes than announced.
    """

    def __init__(self, directory: Path, names: Sequence[str], inside: str) -> None:
        self._files = [
            (directory / name, self._header(directory / name, f"{inside}/{name}"))
            for name in names
        ]
        self.size = (
            sum(
                len(header) + _padded(path.stat().st_size)
                for path, header in self._files
            )
            + 2 * BLOCK
        )
        self._sizes = [path.stat().st_size for path, _ in self._files]

    @staticmethod
    def _header(path: Path, name: str) -> bytes:
        about = tarfile.TarInfo(name)
        about.size = path.stat().st_size
        about.mtime = int(path.stat().st_mtime)
        about.mode = 0o644
        return about.tobuf(tarfile.PAX_FORMAT)

    def __iter__(self) -> Iterator[bytes]:
        for (path, header), size in zip(self._files, self._sizes, strict=True):
            yield header
            with path.open("rb") as file:
                yield from _exactly(file, size)
            yield b"\0" * (_padded(size) - size)
        yield b"\0" * (2 * BLOCK)


def _exactly(file: io.BufferedReader, size: int) -> Iterator[bytes]:
    left = size
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise EOFError(f"{file.name} became shorter while it was sent")
        left -= len(chunk)
        yield chunk


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
