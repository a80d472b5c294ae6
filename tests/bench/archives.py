"""Packed models of any size."""

from __future__ import annotations

import array
import io
import random
import tarfile
from itertools import cycle
from pathlib import Path

from tests.bench.measuring import UNPACKED

FLOATS = 1 << 12
"""So many before they come again, well within the reach of every compression."""


class _Floats(io.RawIOBase):
    """Floats without end that compress: of two digits, and the same ones again and again."""

    def __init__(self) -> None:
        floats = array.array("f", (round(random.gauss(), 2) for _ in range(FLOATS))).tobytes()
        size = tarfile.RECORDSIZE
        self._pieces = cycle([floats[begin : begin + size] for begin in range(0, len(floats) // size * size, size)])
        self._left = b""

    def read(self, size: int = -1, /) -> bytes:
        while len(self._left) < size:
            self._left += next(self._pieces)
        data, self._left = self._left[:size], self._left[size:]
        return data


def write_model(path: Path, size: int) -> Path:
    """Pack a model that no other one equals: one half is random, the other one floats that compress.

    :param size: of its files together, in bytes.
    """
    with tarfile.open(path, "w") as archive, Path("/dev/urandom").open("rb") as chance:
        for name, source in (("embedding", chance), ("weights", _Floats())):
            member = tarfile.TarInfo(f"{UNPACKED}/{name}")
            member.size = size // 2
            archive.addfile(member, source)
    return path
