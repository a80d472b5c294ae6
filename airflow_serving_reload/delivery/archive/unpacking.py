"""Archives of every format, read once from beginning to end."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_serving_reload.delivery.archive import compression
from airflow_serving_reload.delivery.archive.destination import DEFAULT_LIMITS, Destination, Limits
from airflow_serving_reload.delivery.archive.tar import looks_like_tar, untar
from airflow_serving_reload.delivery.archive.unchanged import Unchanged
from airflow_serving_reload.delivery.errors import Corrupt, PublicationFailed, Refused
from airflow_serving_reload.delivery.filesystem import walk_files
from airflow_serving_reload.delivery.streams import Counting, Readable, read_ahead

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DAMAGED: tuple[type[Exception], ...] = (
    *compression.DAMAGED,
    tarfile.TarError,
    ValueError,  # of numbers in the headers of tar archives
)
"""What the libraries raise about bytes that are not what their format demands."""

ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip archive begins: with a member, or with its end."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was unpacked: how many files, and how many bytes in them."""

    files: int
    total_bytes: int


def unpack(
    source: Readable,
    folder: Path,
    *,
    name: str,
    limits: Limits = DEFAULT_LIMITS,
    unchanged: Unchanged | None = None,
) -> Contents:
    """Unpack an archive while it comes, reading it to its end.

    Its format is told from its first bytes: tar, plain or compressed by gzip, bzip2, xz or Zstandard, or zip.
    Owners, permissions but for "executable", and set-user-id bits are not taken over.

    :param source: the packed bytes.
    :param folder: existing empty folder on this host, the only place that is written to.
    :param name: what to call the archive in messages.
    :param limits: bounds that protect the host.
    :param unchanged: an earlier release; members that are the same as its files are linked to them.
    :raises Refused: it holds something that a model has no business to hold, or is no archive.
    :raises Corrupt: it is damaged or ends too soon.
    """
    try:
        with read_ahead(source) as packed:
            counted = Counting(packed)
            destination = Destination(folder, name, limits, counted, unchanged)
            _unpack(counted, destination)
            counted.drain()
        destination.finish()
    except RecursionError as error:
        raise Refused(f"unpacking {name}: headers or folders are nested in it too deeply; pack it anew") from error
    except DAMAGED as error:
        raise Corrupt(
            f"unpacking {name}: it is damaged ({str(error) or type(error).__name__}); upload it again"
        ) from error
    except OSError as error:
        if error.errno is None:  # bz2 and gzip report damage so
            raise Corrupt(f"unpacking {name}: it is damaged ({error}); upload it again") from error
        raise PublicationFailed(
            f"unpacking {name} into {folder}: {error.strerror}; check space and permissions"
        ) from error
    return Contents(destination.files, destination.total_bytes)


def _unpack(packed: Readable, destination: Destination) -> None:
    """Unpack by the format that the first bytes tell."""
    head = _read_up_to(packed, tarfile.BLOCKSIZE)
    whole = _Chained(head, packed)
    if head.startswith(ZIP_BEGINNINGS):
        from airflow_serving_reload.delivery.archive.zip import unzip  # few need it, and it takes long

        unzip(whole, destination)
    elif (plain := compression.decompressed(whole, head)) is not None:
        with read_ahead(plain) as plain:
            untar(plain, destination)
    elif len(head) < tarfile.BLOCKSIZE:
        raise Corrupt(
            f"unpacking {destination.archive}: it ends after {len(head)} bytes, which is no archive; upload it again"
        )
    elif looks_like_tar(head):
        untar(whole, destination)
    else:
        raise Refused(
            f"unpacking {destination.archive}: it begins with {head[:16]!r}, which is neither tar (plain, gzip, bzip2, "
            "xz, zstd) nor zip; check remote_model_name, or leave out unpacked_filename if the model is a folder"
        )


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
    for link in (Path(entry.path) for entry in walk_files(folder) if entry.is_symlink()):
        if not Path(os.path.realpath(link)).is_relative_to(folder):
            raise Refused(
                f"taking the folder {name!r} (unpacked_filename) out of {archive}: "
                f"{str(link.relative_to(folder))!r} is a link to {str(link.readlink())!r}, out of the model; "
                "pack the file itself, or set unpacked_filename to a folder that holds both"
            )
    return folder


class _Chained(io.RawIOBase):
    """A stream whose first bytes have been looked at already."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        super().__init__()
        self._head = io.BytesIO(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return self._head.read(size) or self._rest.read(size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def _read_up_to(source: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data
