"""Archives made while they are read: nothing is written to disk."""

from __future__ import annotations

import bz2
import lzma
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from isal import igzip_threaded

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.delivery.filesystem import fail
from airflow_serving_reload.delivery.streams import CHUNK, Readable, pull_from

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

THREADS = min(CORES, 4)
"""Threads that compress; with four the one that digests and sends has no rest, and each takes its memory.

An archive is the same however many there are.
"""


def _gzip(file: IO[bytes]) -> IO[bytes]:
    # of all levels 2 makes models the smallest, and no other one is faster
    packed = igzip_threaded.open(file, "wb", 2, threads=THREADS, block_size=CHUNK // 2)  # type: ignore[no-untyped-call]
    return cast(IO[bytes], packed)


def _zstandard(file: IO[bytes]) -> IO[bytes]:
    # level 1 makes floats nearly as small as level 3 does, in a third of the time
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: 1,
        zstd.CompressionParameter.checksum_flag: 1,
        zstd.CompressionParameter.nb_workers: THREADS,
        zstd.CompressionParameter.job_size: CHUNK,
    }
    return cast(IO[bytes], zstd.ZstdFile(file, "wb", options=options))


PACKERS: dict[str, Callable[[BinaryIO], IO[bytes]]] = {
    ".tar": lambda target: target,
    ".tar.gz": _gzip,
    ".tgz": _gzip,
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
    # not by tarfile's own stream, which copies each byte many times
    forward = cast(IO[bytes], _Forward(target))
    with tarfile.TarFile(fileobj=forward, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK) as tar:
        tar.add(folder, arcname=folder.name, filter=partial(_fit_for_elsewhere, tar, folder))


class _Forward:
    """A file that is written in one go, and tells how far it is, which is all that `tarfile` asks."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._position = 0

    def write(self, data: bytes) -> int:
        self._position += len(data)
        return self._target.write(data)

    def tell(self) -> int:
        return self._position


def _fit_for_elsewhere(tar: tarfile.TarFile, folder: Path, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out who owns a member; a link that leads out of the folder is replaced by the file that it leads to."""
    link = folder.parent / member.name
    if not member.issym() or link.resolve().is_relative_to(folder.resolve()):
        return _without_owner(member)
    if not link.is_file():
        raise Refused(f"packing {folder}: {link} leads out of it, and to no file; copy into the model what it needs")
    with link.open("rb") as file:
        tar.addfile(_without_owner(tar.gettarinfo(arcname=member.name, fileobj=file)), file)
    return None


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _zip(folder: Path, target: BinaryIO) -> None:
    paths = [folder]
    for parent, folders, files in os.walk(folder, onerror=fail):
        paths += (Path(parent, name) for name in (*folders, *files))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for path in sorted(paths):
            if path.is_symlink() and path.is_dir():
                raise Refused(f"packing {folder}: {path} is a link to a folder, which zip cannot hold; pack it as tar")
            archive.write(path, Path(folder.name, path.relative_to(folder)))
