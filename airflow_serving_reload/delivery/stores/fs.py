"""A store in a local or mounted folder."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import SECOND_NS, TICK_NS, Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.streams import CHUNK, Readable

REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EPERM,
        errno.EROFS,
    }
)
"""Faults that a retry cannot mend."""


class FileSystemStore(Store):
    """Models and donefiles below one folder of this host.

    :param root: folder that no path of the store leaves.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def describe(self, path: str) -> str:
        """Name the file."""
        return str(self._local(path))

    def _local(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _inside(self, path: str) -> Path:
        local = self._local(path)
        # os.path.realpath, because Path.resolve has a fault of its own for links that go round in circles
        if not Path(os.path.realpath(local)).is_relative_to(os.path.realpath(self._root)):
            raise Refused(f"using {local}: it leads out of the store's folder {self._root}; give a path inside it")
        return local

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if self._root.is_dir():
                raise NotThereYet(f"{doing}: it does not exist; check the path if it should") from error
            raise StoreUnreachable(
                f"{doing}: the store's folder {self._root} does not exist; check the connection's path, and whether "
                "it is mounted"
            ) from error
        except OSError as error:
            if error.errno in REFUSALS:
                raise Refused(f"{doing}: {error.strerror}; check the path and its permissions") from error
            raise StoreUnreachable(
                f"{doing}: {error.strerror or error}; check the disk or the mount, and try again"
            ) from error

    def _facts(self, status: os.stat_result) -> FileFacts:
        whole_seconds = status.st_mtime_ns % SECOND_NS == 0
        return FileFacts(
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            resolution_ns=SECOND_NS if whole_seconds else TICK_NS,
        )

    def _stat(self, path: str) -> FileFacts:
        status = self._inside(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return self._facts(status)

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        with self._inside(path).open("rb", buffering=0) as file:
            file.seek(offset)
            yield Opened(self._facts(os.fstat(file.fileno())), file, offset)

    def _list(self, folder: str) -> list[Entry] | None:
        local = self._inside(folder)
        try:
            with os.scandir(local) as entries:
                return [Entry(entry.name, entry.is_dir()) for entry in entries]
        except NotADirectoryError:
            if local.is_file():
                return None
            raise

    def _scan(self, folder: str) -> Mapping[str, FileFacts]:
        facts = {}
        with os.scandir(self._inside(folder)) as entries:
            for entry in entries:
                # a link may lead out of the store, and a file may have been removed meanwhile
                if entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        facts[entry.name] = self._facts(entry.stat())
        return facts

    def _write(self, path: str, source: Readable) -> None:
        local = self._inside(path)
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())

    def _rename(self, source: str, target: str) -> None:
        self._inside(source).replace(self._inside(target))

    def _remove(self, path: str) -> None:
        self._inside(path).unlink(missing_ok=True)
