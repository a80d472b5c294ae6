"""Archives: packed while they are sent, unpacked while they come, and never trusted."""

from __future__ import annotations

import bz2
import io
import lzma
import math
import os
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Self, cast

from isal import igzip, isal_zlib
from stream_unzip import UnzipError, stream_unzip

from airflow_serving_reload.delivery.errors import Corrupt, PublicationFailed, Refused
from airflow_serving_reload.delivery.streams import CHUNK, Counting, Readable, pull_from, read_ahead

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
class Limits:
    """How much an archive may unpack to.

    :param members: files, folders and links in all.
    :param total_bytes: bytes of all files together.
    :param ratio: unpacked bytes for each packed byte, judged beyond `ratio_from` unpacked bytes.
    :param ratio_from: bytes that may be unpacked whatever the ratio is.
    """

    members: int = 1_000_000
    total_bytes: int = 1 << 42
    ratio: float = 200.0
    ratio_from: int = 1 << 30


DEFAULT_LIMITS = Limits()


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
    destination = _Destination(folder, name, limits, counted)
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
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
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
        return _gzip(file, "rb")
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
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


def _untar(plain: Readable, destination: _Destination) -> None:
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
            rest = cast(IO[bytes], tar.fileobj)  # has read more than it gave
            while chunk := rest.read(CHUNK):
                if any(chunk):
                    raise Corrupt("something follows behind its end")
    except Corrupt as error:
        raise Corrupt(f"unpacking {destination.archive}: {error}; upload it again") from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, destination: _Destination) -> None:
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


def _unzip(source: _Chained, destination: _Destination) -> None:
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
            for _ in chunks:
                pass
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


LONGEST_NAME = 255
"""Bytes that Linux file systems allow a name at most."""

LONGEST_PATH = 1024
"""Bytes that a path inside an archive may have: Linux allows 4096, and the path of the release takes its part."""


class _Destination:
    """The folder that an archive unpacks into: every write passes the checks made here."""

    def __init__(self, folder: Path, archive: str, limits: Limits, packed: Counting) -> None:
        self.archive = archive
        self.files = 0
        self.total_bytes = 0
        self._folder = folder
        self._limits = limits
        self._packed = packed
        self._members = 0
        self._symlinks: dict[Path, str] = {}

    def refuse(self, member: str, why: str) -> None:
        raise Refused(f"unpacking {self.archive}: refused at its member {member!r}: {why}; pack it without that")

    def add_folder(self, member: str) -> None:
        path = self._path(member)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            self.refuse(member, "a file has the name of this folder")

    def add_file(self, member: str, chunks: Iterable[bytes], *, size: int, executable: bool) -> None:
        path = self._new(member)
        self._account(member, size)
        self.files += 1
        written = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if executable else 0o666)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for chunk in chunks:
                # Some zip archives declare a member's size only behind its data.
                self._account(member, max(0, written + len(chunk) - max(size, written)))
                written += len(chunk)
                _write_all(file, chunk)

    def add_hard_link(self, member: str, target: str) -> None:
        path, source = self._new(member), self._path(target)
        if not source.is_file() or source in self._symlinks:
            self.refuse(member, f"it is a hard link to {target!r}, which is no file before it")
        self.files += 1
        os.link(source, path)

    def add_symlink(self, member: str, target: str) -> None:
        # Made last, so that no member can be written through a link.
        if not target or len(os.fsencode(target)) > LONGEST_PATH or _has_control_characters(target):
            self.refuse(member, f"it is a link to {target[:200]!r}, which is no path")
        path = self._new(member)
        path.touch()
        self._symlinks[path] = target

    def finish(self) -> None:
        """Make the symbolic links, and prove that none leads out of the folder."""
        for path, target in self._symlinks.items():
            path.unlink()
            path.symlink_to(target)
        root = self._folder.resolve()
        for path, target in self._symlinks.items():
            member = str(path.relative_to(self._folder))
            if Path(target).is_absolute() or not Path(os.path.realpath(path)).is_relative_to(root):
                self.refuse(member, f"it is a link to {target!r}, out of the archive")

    def _path(self, member: str) -> Path:
        self._members += 1
        if self._members > self._limits.members:
            self.refuse(member, f"there are more than {self._limits.members} members")
        name = member.removeprefix("./").rstrip("/")
        parts = name.split("/") if name not in ("", ".") else []
        if member.startswith("/") or any(part in ("", ".", "..") for part in parts):
            self.refuse(member, "its name is absolute or leads upwards")
        too_long = len(os.fsencode(name)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts)
        if too_long or _has_control_characters(name):
            self.refuse(member, "its name holds control characters or is too long")
        return self._folder.joinpath(*parts)

    def _new(self, member: str) -> Path:
        path = self._path(member)
        if os.path.lexists(path):
            self.refuse(member, "the name stands in it twice")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            self.refuse(member, "a file has the name of its folder")
        return path

    def _account(self, member: str, size: int) -> None:
        """Count bytes before they are written."""
        self.total_bytes += size
        if self.total_bytes > self._limits.total_bytes:
            self.refuse(member, f"it would unpack to more than {self._limits.total_bytes} bytes")
        if self.total_bytes > max(self._limits.ratio_from, self._limits.ratio * self._packed.count):
            self.refuse(member, f"it would unpack to more than {self._limits.ratio:g} times its packed size")


def _has_control_characters(name: str) -> bool:
    return any(letter < " " for letter in name)


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


def _write_all(file: io.FileIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def _gzip(file: IO[bytes], mode: str) -> IO[bytes]:
    return cast(IO[bytes], igzip.IGzipFile(fileobj=file, mode=mode, mtime=0))  # type: ignore[no-untyped-call]


def _zstandard(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], zstd.ZstdFile(file, "wb", options={zstd.CompressionParameter.checksum_flag: 1}))


PACKERS: dict[str, Callable[[BinaryIO], IO[bytes]]] = {
    ".tar": lambda target: target,
    ".tar.gz": lambda target: _gzip(target, "wb"),
    ".tgz": lambda target: _gzip(target, "wb"),
    ".tar.bz2": lambda target: bz2.BZ2File(target, "wb"),
    ".tar.xz": lambda target: lzma.LZMAFile(target, "wb"),  # noqa: SIM115 - `_pack` closes it
    ".tar.zst": _zstandard,
}
"""How the stream of a tar archive is compressed, by the ending of the archive's name."""


def is_archive_name(name: str) -> bool:
    """Whether the name ends like that of an archive that `pack` can make."""
    return name.endswith((*PACKERS, ".zip"))


def pack(folder: Path, name: str) -> AbstractContextManager[Readable]:
    """Pack a folder while it is read from the result; nothing is written to disk.

    Inside, the folder itself is the one entry at the top. Owners are left out, and names are in order.

    :param folder: folder on this host.
    :param name: the archive's name, whose ending tells the format.
    :raises Refused: the ending is not known.
    """
    ending = next((ending for ending in PACKERS if name.endswith(ending)), None)
    if ending is None and not name.endswith(".zip"):
        raise Refused(f"packing {folder} as {name}: its ending is none of {', '.join(PACKERS)} and .zip")
    return pull_from(lambda target: _pack(folder, ending, target))


def _pack(folder: Path, ending: str | None, target: BinaryIO) -> None:
    try:
        if ending is None:
            _zip(folder, target)
            return
        with PACKERS[ending](target) as compressed:
            _tar(folder, compressed)
    except OSError as error:
        if error.filename is None:
            raise
        raise Refused(f"packing {folder}: {error.filename}: {error.strerror}; check the model's files") from error


def _tar(folder: Path, target: IO[bytes]) -> None:
    with tarfile.open(fileobj=target, mode="w|", bufsize=CHUNK, format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, arcname=folder.name, filter=_without_owner)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _zip(folder: Path, target: BinaryIO) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for path in (folder, *sorted(folder.rglob("*"))):
            if path.is_symlink() and path.is_dir():
                raise Refused(f"packing {folder}: {path} is a link to a folder, which zip cannot hold; pack it as tar")
            archive.write(path, Path(folder.name, path.relative_to(folder)))
