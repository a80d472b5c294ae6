"""Archives of every format, read once from beginning to end."""

from __future__ import annotations

import bz2
import io
import lzma
import math
import os
import sys
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, cast

from isal import igzip, isal_zlib
from stream_unzip import MissingPasswordError, UnsupportedFeatureError, UnzipError, stream_unzip

from airflow_serving_reload.delivery.archive.destination import DEFAULT_LIMITS, Destination, Limits
from airflow_serving_reload.delivery.errors import Corrupt, PublicationFailed, Refused
from airflow_serving_reload.delivery.streams import CHUNK, Counting, Readable, read_ahead

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DAMAGED: tuple[type[Exception], ...] = (
    EOFError,
    UnzipError,
    igzip.BadGzipFile,
    cast(type[Exception], isal_zlib.IsalError),
    lzma.LZMAError,
    tarfile.TarError,
    ValueError,  # of numbers in the headers of tar archives
    zlib.error,
    zstd.ZstdError,
)
"""What the libraries raise about bytes that are not what their format demands."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was unpacked: how many files, and how many bytes in them."""

    files: int
    total_bytes: int


def unpack(source: Readable, folder: Path, *, name: str, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Unpack an archive while it comes, reading it to its end.

    Its format is told from its first bytes: tar, plain or compressed by gzip, bzip2, xz or Zstandard, or zip.
    Owners, permissions but for "executable", and set-user-id bits are not taken over.

    :param source: the packed bytes.
    :param folder: existing empty folder on this host, the only place that is written to.
    :param name: what to call the archive in messages.
    :param limits: bounds that protect the host.
    :raises Refused: it holds something that a model has no business to hold, or is no archive.
    :raises Corrupt: it is damaged or ends too soon.
    """
    counted = Counting(source)
    destination = Destination(folder, name, limits, counted)
    try:
        head = _read_up_to(counted, tarfile.BLOCKSIZE)
        rest = _Chained(head, counted)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unzip(rest, destination)
        else:
            with read_ahead(_decompressed(rest, head, name)) as plain:
                _untar(plain, destination)
        counted.drain()
        destination.finish()
    except (MissingPasswordError, UnsupportedFeatureError) as error:
        raise Refused(
            f"unpacking {name}: it is a zip that cannot be read while it comes ({type(error).__name__}); "
            "pack it by deflate and without a password, or as tar"
        ) from error
    except RecursionError as error:
        raise Refused(f"unpacking {name}: headers or folders are nested in it too deeply; pack it anew") from error
    except DAMAGED as error:
        reason = type(error).__name__ if isinstance(error, UnzipError) or not str(error) else error
        raise Corrupt(f"unpacking {name}: it is damaged ({reason}); upload it again") from error
    except OSError as error:
        if error.errno is None:  # bz2 and gzip report damage so
            raise Corrupt(f"unpacking {name}: it is damaged ({error}); upload it again") from error
        raise PublicationFailed(f"unpacking {name} into {folder}: {error.strerror}; make room for it") from error
    return Contents(destination.files, destination.total_bytes)


def find_folder(unpacked: Path, name: str, archive: str) -> Path:
    """Find the folder that an archive was to hold.

    :param unpacked: folder that the archive was unpacked to.
    :param name: path of the folder inside the archive; `.` for its top.
    :param archive: what to call the archive in messages.
    :return: the folder itself, where the name is that of a link to it.
    :raises Refused: the name leads out of the archive, there is no such folder, or a link leads out of it.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise Refused(f"looking for unpacked_filename {name!r} in {archive}: it leads out of the archive")
    folder = Path(os.path.realpath(unpacked / name))
    if not folder.is_dir() or not folder.is_relative_to(unpacked.resolve()):
        found = ", ".join(sorted(repr(entry.name) for entry in unpacked.iterdir())[:10]) or "nothing"
        raise Refused(
            f"looking for the folder {name!r} (unpacked_filename) in {archive}: at its top there is {found}; "
            "set unpacked_filename to the model's folder in the archive, '.' for its top"
        )
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, entry) for entry in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(folder):
                raise Refused(
                    f"taking the folder {name!r} (unpacked_filename) out of {archive}: "
                    f"{str(path.relative_to(folder))!r} is a link to {str(path.readlink())!r}, out of the model; "
                    "pack the file itself, or set unpacked_filename to a folder that holds both"
                )
    return folder


def _decompressed(source: _Chained, head: bytes, name: str) -> Readable:
    file = cast(IO[bytes], source)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], igzip.IGzipFile(fileobj=file, mode="rb"))  # type: ignore[no-untyped-call]
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\0"):
        return _Xz(source)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return zstd.ZstdFile(file)
    if len(head) < tarfile.BLOCKSIZE:
        raise Corrupt(f"unpacking {name}: it ends after {len(head)} bytes, which is no archive; upload it again")
    if head[257:262] != b"ustar" and not _is_old_tar(head):
        raise Refused(
            f"unpacking {name}: it begins with {head[:16]!r}, which is neither tar (plain, gzip, bzip2, xz, zstd) "
            "nor zip; check remote_model_name, or leave out unpacked_filename if the model is a folder"
        )
    return source


XZ_MEMORY = 256 << 20
"""Bytes of memory that unpacking xz may take; `xz -9` asks for 65 MiB, and Zstandard's own bound is 128 MiB."""


class _Xz:
    """What xz streams hold, one behind the other, in bounded memory, for which `lzma.LZMAFile` has no option."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)

    def read(self, size: int = -1, /) -> bytes:
        data = b""
        while not data:
            if not self._decoder.eof:
                packed = self._source.read(CHUNK) if self._decoder.needs_input else b""
                if self._decoder.needs_input and not packed:
                    raise EOFError("it ends before its end-of-stream marker")
            elif packed := self._next_stream():
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)
            else:
                break
            data = self._decoder.decompress(packed, size)
        return data

    def _next_stream(self) -> bytes:
        packed = self._decoder.unused_data.lstrip(b"\0")
        while not packed and (more := self._source.read(CHUNK)):
            packed = more.lstrip(b"\0")  # streams may be padded
        return packed


def _is_old_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return not any(head)
    return True


class _StrictTarInfo(tarfile.TarInfo):
    """Header blocks of which only the end mark ends an archive; the standard library lets any damage end it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if len(buf) < tarfile.BLOCKSIZE:
            raise Corrupt("it ends without the mark that ends a tar archive")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise Corrupt(f"the header of a member is damaged ({error})") from error


LONGEST_HEADERS = 4 << 20
"""Bytes that the headers of one member of a tar archive may take, since tarfile keeps them in memory."""


class _TarStream(Counting):
    """The stream of a tar archive, between whose members there may be headers up to a bound alone."""

    def __init__(self, source: Readable, archive: str) -> None:
        super().__init__(source)
        self._archive = archive
        self.expect_headers()

    def expect_headers(self) -> None:
        self._bound: float = self.count + LONGEST_HEADERS

    def expect_data(self) -> None:
        self._bound = math.inf

    def read(self, size: int = -1, /) -> bytes:
        data = super().read(size)
        if self.count > self._bound:
            raise Refused(
                f"unpacking {self._archive}: the headers of a member take more than {LONGEST_HEADERS} bytes; "
                "pack it without extended attributes and sparse files"
            )
        return data


def _untar(plain: Readable, destination: Destination) -> None:
    stream = _TarStream(plain, destination.archive)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=CHUNK, tarinfo=_StrictTarInfo) as tar:
            for member in tar:
                stream.expect_data()
                _extract(tar, member, destination)
                # The list of members that tarfile keeps would grow with the archive.
                tar.members = []  # type: ignore[attr-defined]
                stream.expect_headers()
            stream.expect_data()
            _expect_padding(cast(IO[bytes], tar.fileobj))  # which has read more than it gave
    except Corrupt as error:
        raise Corrupt(f"unpacking {destination.archive}: {error}; upload it again") from error


LONGEST_PADDING = 4 << 20
"""Bytes of zeros that a tar archive may have behind its end; tar fills its last record, mostly of 10 KiB, with them."""


def _expect_padding(rest: Readable) -> None:
    length = 0
    while chunk := rest.read(CHUNK):
        length += len(chunk)
        if any(chunk) or length > LONGEST_PADDING:
            raise Corrupt("something follows behind its end")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, destination: Destination) -> None:
    if member.isdir():
        destination.add_folder(member.name)
    elif member.issym():
        destination.add_symlink(member.name, member.linkname)
    elif member.islnk():
        destination.add_hard_link(member.name, member.linkname)
    elif member.isfile():
        if member.size < 0:
            raise Corrupt(f"the length of its member {member.name!r} is less than nothing")
        data = cast(IO[bytes], tar.extractfile(member))
        chunks = iter(lambda: data.read(CHUNK), b"")
        destination.add_file(member.name, chunks, size=member.size, executable=bool(member.mode & 0o100))
    else:
        destination.refuse(member.name, "it is a device, a FIFO or another special file")


ZIP_END = b"PK\x05\x06"
"""How the record at the end of a zip archive begins."""

ZIP_END_BYTES = 22
"""Length of that record, the last two bytes of which tell the length of the comment behind it."""


def _unzip(source: _Chained, destination: Destination) -> None:
    ending = b""

    def chunks_of_source() -> Iterator[bytes]:
        nonlocal ending
        while chunk := source.read(CHUNK):
            ending = (ending + chunk)[-(ZIP_END_BYTES + 0xFFFF) :]
            yield chunk

    packed = chunks_of_source()
    for raw_name, size, chunks in stream_unzip(packed, chunk_size=CHUNK):
        name = raw_name.decode("utf-8", "surrogateescape")
        if name.endswith("/"):
            destination.add_folder(name)
            if any(chunks):
                destination.refuse(name, "it is a folder that holds bytes itself")
        else:
            destination.add_file(name, chunks, size=size or 0, executable=False)
    for _ in packed:
        pass
    end = ending.rfind(ZIP_END)
    comment = end + ZIP_END_BYTES
    if end < 0 or len(ending) != comment + int.from_bytes(ending[comment - 2 : comment], "little"):
        raise Corrupt(
            f"unpacking {destination.archive}: it does not end with the record that ends a zip; upload it again"
        )


class _Chained(io.RawIOBase):
    """A stream whose first bytes have been looked at already."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        super().__init__()
        self._head = io.BytesIO(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        data = self._head.read(len(view)) or self._rest.read(len(view))
        view[: len(data)] = data
        return len(data)


def _read_up_to(source: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data
