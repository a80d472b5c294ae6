"""Tar archives, whose headers the standard library reads, and whose bytes go the short way."""

from __future__ import annotations

import math
import struct
import tarfile
from collections.abc import Iterator
from typing import IO, Self, cast

from airflow_serving_reload.delivery.archive.destination import Destination
from airflow_serving_reload.delivery.errors import Corrupt, Refused
from airflow_serving_reload.delivery.streams import CHUNK, Readable

LONGEST_HEADERS = 4 << 20
"""Bytes that the headers of one member of a tar archive may take, since tarfile keeps them in memory."""

LONGEST_PADDING = 4 << 20
"""Bytes of zeros that a tar archive may have behind its end; tar fills its last record, mostly of 10 KiB, with them."""

FILE_HEADER = struct.Struct("100s 8s 16x 12s 12x 8s c 188x 167s")
"""Name, mode, size, checksum, kind, and what lies behind the device numbers: mostly nothing."""

CHECKSUM = slice(148, 156)
"""Where the checksum lies."""

CHECKSUM_BLANK = sum(b" " * 8)
"""What it counts for in itself."""

NOTHING_BEHIND = bytes(167)


def looks_like_tar(head: bytes) -> bool:
    """Whether an archive that begins so can be a tar archive, be it an old one or an empty one."""
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return not any(head)
    return True


def untar(plain: Readable, destination: Destination) -> None:
    """Unpack a tar archive.

    :raises Corrupt: it is damaged.
    :raises Refused: the destination does not take what it holds.
    """
    stream = _Stream(plain, destination.archive)
    try:
        with tarfile.TarFile(fileobj=cast(IO[bytes], stream), tarinfo=_StrictTarInfo) as archive:
            while (member := archive.next()) is not None:
                stream.expect_data()
                _extract(archive, member, stream, destination)
                # The list of members that tarfile keeps would grow with the archive.
                archive.members = []  # type: ignore[attr-defined]
                stream.expect_headers()
            stream.expect_data()
            _expect_padding(plain)
    except Corrupt as error:
        raise Corrupt(f"unpacking {destination.archive}: {error}; upload it again") from error


class _StrictTarInfo(tarfile.TarInfo):
    """Header blocks of which only the end mark ends an archive; the standard library lets any damage end it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if len(buf) < tarfile.BLOCKSIZE:
            raise Corrupt("it ends without the mark that ends a tar archive")
        try:
            return cls._of_plain_file(buf, encoding, errors) or super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise Corrupt(f"the header of a member is damaged ({error})") from error

    @classmethod
    def _of_plain_file(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self | None:
        """Read the header of a file with nothing unusual about it; None for all others.

        tarfile takes four times as long, which models of many small files feel.
        """
        name, mode, size, checksum, kind, behind = FILE_HEADER.unpack(buf)
        mode, size, checksum = mode.rstrip(b"\0 "), size.rstrip(b"\0 "), checksum.rstrip(b"\0 ")
        if kind != tarfile.REGTYPE or behind != NOTHING_BEHIND or not (mode + size + checksum).isdigit():
            return None
        header = cls()
        try:
            header.mode, header.size = int(mode, 8), int(size, 8)
            # zeros add nothing, and nearly all of a header is zeros
            if int(checksum, 8) != sum(buf.translate(None, b"\0")) - sum(buf[CHECKSUM]) + CHECKSUM_BLANK:
                return None
        except ValueError:
            return None
        header.name = name.partition(tarfile.NUL)[0].decode(encoding, errors)
        return header


class _Stream:
    """The archive as tarfile wants it: a file that knows its position, and goes forward only.

    tarfile's own class for that copies each byte several times, all that it has read ahead for each header.
    Between the members there may be headers up to a bound alone.

    :param source: the bytes of the archive.
    :param archive: what to call it in messages.
    """

    def __init__(self, source: Readable, archive: str) -> None:
        self._source = source
        self._archive = archive
        self._position = 0
        self.expect_headers()

    def expect_headers(self) -> None:
        self._bound: float = self._position + LONGEST_HEADERS

    def expect_data(self) -> None:
        self._bound = math.inf

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        while self._position < position and self.some(position - self._position):
            pass

    def some(self, size: int) -> bytes:
        """Give up to `size` bytes, as they come; none at the end."""
        data = self._source.read(min(size, CHUNK))
        self._position += len(data)
        if self._position > self._bound:
            raise Refused(
                f"unpacking {self._archive}: the headers of a member take more than {LONGEST_HEADERS} bytes; "
                "pack it without extended attributes and sparse files"
            )
        return data

    def read(self, size: int) -> bytes:
        """Give `size` bytes, fewer only at the end."""
        data = self.some(size)
        if len(data) == size or not data:
            return data
        pieces = [data]
        missing = size - len(data)
        while missing and (data := self.some(missing)):
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def exactly(self, size: int, member: str) -> Iterator[bytes]:
        """Give the next `size` bytes as they come."""
        while size:
            data = self.some(size)
            if not data:
                raise Corrupt(f"it ends within its member {member!r}")
            size -= len(data)
            yield data


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, stream: _Stream, destination: Destination) -> None:
    if member.isdir():
        destination.add_folder(member.name)
    elif member.issym():
        destination.add_symlink(member.name, member.linkname)
    elif member.islnk():
        destination.add_hard_link(member.name, member.linkname)
    elif member.isfile():
        if member.size < 0:
            raise Corrupt(f"the length of its member {member.name!r} is less than nothing")
        chunks = _expanded(archive, member) if member.issparse() else stream.exactly(member.size, member.name)
        destination.add_file(member.name, chunks, size=member.size, executable=bool(member.mode & 0o100))
    else:
        destination.refuse(member.name, "it is a device, a FIFO or another special file")


def _expanded(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    """Give the bytes of a sparse file, the holes filled with zeros."""
    data = cast(IO[bytes], archive.extractfile(member))
    return iter(lambda: data.read(CHUNK), b"")


def _expect_padding(rest: Readable) -> None:
    length = 0
    while chunk := rest.read(CHUNK):
        length += len(chunk)
        if any(chunk) or length > LONGEST_PADDING:
            raise Corrupt("something follows behind its end")
