"""A run's metrics as a TensorBoard event file, written without TensorBoard.

The format is small: records of (length, checksum, bytes, checksum), each holding one
``Event`` message of tensorflow/core/util/event.proto. Only four of its fields are used,
so they are encoded here by hand, and no package is needed to write the file.
``tests/engine/test_tfevents.py`` reads it back with TensorBoard's own reader.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

START = 1  # SessionLog.START: forget what an earlier attempt wrote from this step on


class EventFile:
    """One file of scalars; steps at or after ``first`` in older files are superseded."""

    def __init__(self, folder: Path, *, first: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        self._file = os.open(
            folder / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644
        )
        self._write(_text(3, "brain.Event:2"))
        self._write(_number(2, first) + _bytes(7, _number(1, START)))

    def add(self, step: int, values: Mapping[str, object]) -> None:
        """Append the values that are finite numbers."""
        scalars = b"".join(
            _bytes(1, _text(1, name) + b"\x15" + struct.pack("<f", float(value)))
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        )
        if scalars:
            self._write(_number(2, step) + _bytes(5, scalars))

    def close(self) -> None:
        os.close(self._file)

    def _write(self, event: bytes) -> None:
        data = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(data))
        record = length + _masked(length) + data + _masked(data)
        os.write(self._file, record)  # one write: a reader never sees half of it


# Protocol Buffers: a field is its number and kind, then the value.


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode("utf-8", "replace"))


# CRC-32C (Castagnoli), masked as TFRecord wants it.


def _table() -> tuple[int, ...]:
    rows: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


TABLE = _table()


def _masked(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
