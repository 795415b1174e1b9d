"""Saved weights that are not finite, found without torch and without their memory.

A safetensors file is a length of 8 bytes, a JSON header with the type and place of every
tensor, and their numbers (https://huggingface.co/docs/safetensors). A binary float is NaN
or infinite if and only if all bits of its exponent are 1 (IEEE 754, section 3.4).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from records.finite import NotFiniteError

# By type: its bits as an integer, and those of the exponent. Integers are always finite;
# of the 8-bit floats e4m3 has no infinity and one NaN, all bits but the sign.
EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),
}
CHUNK = 1 << 22  # numbers looked at in one go


def files_must_be_finite(folder: Path, place: str) -> None:
    """Raise ``NotFiniteError`` naming the first tensor with a NaN or an infinity in the
    safetensors files below ``folder``.

    Raises ``ValueError`` for a file that is none.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        where = f"{place}: {path.relative_to(folder)}"
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(min(size, path.stat().st_size)))
            except ValueError as error:
                raise ValueError(f"{where} is no safetensors file") from error
        for name, tensor in header.items():
            bits, exponent = EXPONENTS.get(tensor.get("dtype"), ("", 0))
            if not exponent:  # integers, and the file's own notes
                continue
            start, end = tensor["data_offsets"]
            count = (end - start) // np.dtype(bits).itemsize
            if not count:
                continue
            numbers = np.memmap(path, bits, "r", 8 + size + start, count)
            for at in range(0, count, CHUNK):
                part = numbers[at : at + CHUNK]
                if (part & exponent).max() == exponent:
                    value = _first(part, exponent)
                    raise NotFiniteError(f"weight `{name}`", value, where)


def _first(part: np.ndarray, exponent: int) -> float:
    """Return the first NaN or infinity among the bits of numbers."""
    bits = int(part[(part & exponent) == exponent][0])
    sign = 1 << (8 * part.dtype.itemsize - 1)
    if bits & ~sign & ~exponent or exponent == 0x7F:
        return math.nan
    return -math.inf if bits & sign else math.inf
