"""Archives that no honest packer makes, and streams too long to be kept."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": lambda plain: gzip.compress(plain, mtime=0),
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": lambda plain: zstd.compress(plain, options={zstd.CompressionParameter.checksum_flag: 1}),
}


@dataclass(frozen=True)
class Member:
    """A member of a tar archive: its name, its bytes, and whatever fields of its header are to be unusual."""

    name: str
    data: bytes = b""
    fields: tuple[tuple[str, Any], ...] = ()

    def header(self) -> tarfile.TarInfo:
        """Give its header."""
        header = tarfile.TarInfo(self.name)
        header.size = len(self.data)
        for name, value in self.fields:
            setattr(header, name, value)
        return header


def file(name: str, data: bytes = b"x", **fields: Any) -> Member:
    """Describe a file."""
    return Member(name, data, tuple(fields.items()))


def folder(name: str) -> Member:
    """Describe a folder."""
    return file(name, b"", type=tarfile.DIRTYPE)


def symlink(name: str, target: str) -> Member:
    """Describe a symbolic link."""
    return file(name, b"", type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Member:
    """Describe a hard link."""
    return file(name, b"", type=tarfile.LNKTYPE, linkname=target)


def tar(*members: Member, format: Literal[0, 1, 2] = tarfile.PAX_FORMAT, ended: bool = True) -> bytes:  # noqa: A002 - tarfile's word
    """Make a tar archive, whatever its members are."""
    packed = b"".join(
        member.header().tobuf(format=format) + member.data + bytes(-len(member.data) % tarfile.BLOCKSIZE)
        for member in members
    )
    return packed + bytes(2 * tarfile.BLOCKSIZE if ended else 0)


def zipped(members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip archive, whatever the names of its members are."""
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that stand there twice
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return packed.getvalue()


class Endless:
    """A stream that makes its bytes when they are asked for."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self._piece = io.BytesIO()

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes of one piece."""
        while not (data := self._piece.read(size)):
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece = io.BytesIO(piece)
        return data
