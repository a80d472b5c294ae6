"""What compressed streams hold, read to their proven end in bounded memory."""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Callable
from typing import IO, Protocol, cast

from isal import igzip, isal_zlib

from airflow_serving_reload.delivery.streams import CHUNK, Readable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

XZ_MEMORY = 256 << 20
"""Bytes of memory that unpacking xz may take; `xz -9` asks for 65 MiB, and Zstandard's own bound is 128 MiB."""

DAMAGED: tuple[type[Exception], ...] = (
    EOFError,
    igzip.BadGzipFile,
    cast(type[Exception], isal_zlib.IsalError),
    lzma.LZMAError,
    zstd.ZstdError,
)
"""What is raised about bytes that are not what their format demands; bzip2 and gzip also raise an `OSError` for it."""


def decompressed(source: Readable, head: bytes) -> Readable | None:
    """Give what a compressed stream holds; None if it is not compressed.

    :param source: the stream from its beginning.
    :param head: its first bytes.
    """
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], igzip.IGzipFile(fileobj=source, mode="rb"))  # type: ignore[no-untyped-call]
    for magic, (decompressor, padding) in FRAMED.items():
        if head.startswith(magic):
            return _Frames(source, decompressor, padding)
    return None


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


FRAMED: dict[bytes, tuple[Callable[[], _Decompressor], bytes]] = {
    b"BZh": (bz2.BZ2Decompressor, b""),
    b"\xfd7zXZ\0": (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY), b"\0"),
    b"\x28\xb5\x2f\xfd": (zstd.ZstdDecompressor, b""),
}
"""First bytes of a format to what decompresses one of its frames, and what may lie between two of them."""


class _Frames:
    """What the frames hold that stand one behind the other.

    The libraries' own file objects pass over what follows the last frame, or have no bound on memory.
    """

    def __init__(self, source: Readable, decompressor: Callable[[], _Decompressor], padding: bytes) -> None:
        self._source = source
        self._new = decompressor
        self._padding = padding
        self._frame = decompressor()

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes; an empty result means the end.

        :raises EOFError: a frame breaks off.
        """
        data = b""
        while not data:
            if not self._frame.eof:
                packed = self._source.read(CHUNK) if self._frame.needs_input else b""
                if self._frame.needs_input and not packed:
                    raise EOFError("it ends before its end-of-stream marker")
            elif packed := self._behind():
                self._frame = self._new()
            else:
                break
            data = self._frame.decompress(packed, size)
        return data

    def _behind(self) -> bytes:
        """Give what follows a frame that has ended."""
        packed = self._frame.unused_data.lstrip(self._padding)
        while not packed and (more := self._source.read(CHUNK)):
            packed = more.lstrip(self._padding)
        return packed
