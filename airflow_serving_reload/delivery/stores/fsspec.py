"""A store behind a file system of fsspec: S3 and its like, SFTP, and whatever Airflow's object storage reaches."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any

from fsspec import AbstractFileSystem

from airflow_serving_reload.delivery.errors import Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import SECOND_NS, TICK_NS, Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.stores.fsspec_faults import fault_of
from airflow_serving_reload.delivery.streams import CHUNK, Readable

log = logging.getLogger(__name__)

PART = 32 << 20
"""Bytes of an object uploaded at a time; S3 takes up to ten thousand such parts, 312 GiB."""

CALL_SECONDS = 60
"""How long one call of a file system may take, its own attempts to repeat it included."""

OWN = frozenset({"S3FileSystem", "SSHFileSystem"})
"""File systems that are made anew for each store; fsspec gives others to everybody who asks for an equal one."""

MODIFIED = ("mtime", "LastModified", "last_modified", "updated")
"""What file systems call the time of the last modification."""


class FsspecStore(Store):
    """Models and donefiles below one URL, in a file system of fsspec.

    An object storage, which cannot rename, lets a file appear when its upload is complete, so that it needs no
    temporary name. No file system tells its clock: that of this host stands in for it.

    :param connect: makes the file system, connected; called anew after the connection was lost.
    :param url: the folder, with its scheme and without any secret; paths may begin with it, or are taken to be
        below it.
    """

    block = 8 << 20
    """Bytes asked of an object storage at a time, so many that a break costs at most them."""

    def __init__(self, connect: Callable[[], AbstractFileSystem], url: str) -> None:
        self._connect = connect
        scheme, _, place = url.partition("://")
        host, _, folder = place.partition("/")
        self._server = f"{scheme}://{host}/"
        self._folder = folder.strip("/")
        self._url = f"{scheme}://{place.rstrip('/')}"
        self._connected: AbstractFileSystem | None = None

    def close(self) -> None:
        """Close the file system's connections."""
        fs, self._connected = self._connected, None
        if fs is not None:
            fs.clear_instance_cache()
            _hang_up(fs)

    def describe(self, path: str) -> str:
        """Name the URL."""
        return "/".join(filter(None, (self._url, self._below(path))))

    def _below(self, path: str) -> str:
        return path.removeprefix(self._url).strip("/")

    def _inside(self, path: str) -> str:
        if "?versionId=" in path:
            raise Refused(
                f"using {self.describe(path)}: the file system would take the end of the name for that of a version; "
                "rename it"
            )
        # the file system has its say only about the server: it would read more than a path into '#' and '?'
        root = self._fs._strip_protocol(self._server).rstrip("/")
        return "/".join((root, *filter(None, (self._folder, self._below(path))))) or "/"

    @property
    def _fs(self) -> AbstractFileSystem:
        if self._connected is None:
            try:
                self._connected = self._connect()
            except FileNotFoundError as error:
                # not to be taken for the absence of what was asked for
                raise Refused(
                    f"connecting to {self._url}: {error}; check the files that the connection names"
                ) from error
        return self._connected

    @property
    def _is_object_storage(self) -> bool:
        """Whether the file system has no rename of its own, but would copy."""
        return getattr(self._fs.mv, "__func__", None) is AbstractFileSystem.mv

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            fault = fault_of(error, doing)
            if isinstance(fault, StoreUnreachable):
                self.close()
            if fault is None:
                raise
            raise fault from error

    def _info(self, where: str) -> Mapping[str, Any]:
        self._fs.invalidate_cache()
        info: Mapping[str, Any] = _bounded(self._fs.info)(where)
        return info

    def _file_info(self, where: str) -> Mapping[str, Any]:
        return _of_file(self._info(where))

    def _is_folder(self, where: str) -> bool:
        try:
            return bool(self._info(where)["type"] == "directory")
        except FileNotFoundError:
            return False

    def _facts(self, info: Mapping[str, Any]) -> FileFacts:
        mtime_ns = _mtime_ns(info)
        observed_ns = time.time_ns()
        if mtime_ns is not None and self._is_object_storage:
            # nobody but the server sets it there: if it is in the future, the clock of this host is behind
            observed_ns = max(observed_ns, mtime_ns)
        return FileFacts(
            size=info["size"],
            mtime_ns=mtime_ns,
            resolution_ns=SECOND_NS if mtime_ns is None or mtime_ns % SECOND_NS == 0 else TICK_NS,
            etag=_tag(info),
            observed_ns=observed_ns,
        )

    def _stat(self, path: str) -> FileFacts:
        return self._facts(self._file_info(self._inside(path)))

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        where = self._inside(path)
        # an object storage is asked as the file is opened, and holds to what it told then if it can
        info = None if self._is_object_storage else self._file_info(where)
        options = {"block_size": self.block, "cache_type": "readahead"} if self._is_object_storage else {}
        file = self._fs.open(where, "rb", **options)
        try:
            facts = self._facts(info or _of_file(file.details))
            file.seek(offset)
            same = partial(self._is_still, path, facts)
            yield Opened(facts, _Unchanging(self.describe(path), file, self.block, same), offset)
        finally:
            _forget(file)

    def _is_still(self, path: str, facts: FileFacts) -> bool:
        return self._stat(path) == facts

    def _list(self, folder: str) -> list[Entry] | None:
        where = self._inside(folder)
        if self._info(where)["type"] != "directory":
            return None
        listed = _bounded(self._fs.ls)(where, detail=True)
        # object storages mark an empty folder by an empty object whose name ends with a slash
        found = [info for info in listed if info["type"] == "directory" or not info["name"].endswith("/")]
        return [Entry(info["name"].rpartition("/")[2], self._leads_to_folder(info)) for info in found]

    def _scan(self, folder: str) -> Mapping[str, FileFacts]:
        self._fs.invalidate_cache()
        listed = _bounded(self._fs.ls)(self._inside(folder), detail=True)
        # else files would be opened by what was listed
        self._fs.invalidate_cache()
        files = [info for info in listed if info["type"] == "file" and not info["name"].endswith("/")]
        # of a link it is told when the link was made
        return {info["name"].rpartition("/")[2]: self._facts(info) for info in files if not info.get("islink")}

    def _leads_to_folder(self, info: Mapping[str, Any]) -> bool:
        if info["type"] in ("directory", "file"):
            return bool(info["type"] == "directory")
        return self._is_folder(info["name"])

    def _can_rename(self, folder: str) -> bool:
        """Whether uploads need a name to be renamed from; an object storage shows them only when they are whole."""
        return not self._is_object_storage

    def _write(self, path: str, source: Readable) -> None:
        where = self._inside(path)
        if self._is_object_storage:
            self._spare_folder(where)
            self._write_object(where, source)
            return
        try:
            file = self._fs.open(where, "wb")
        except FileNotFoundError:
            _bounded(self._fs.makedirs)(where.rpartition("/")[0], exist_ok=True)
            file = self._fs.open(where, "wb")
        try:
            _copy(source, _bounded(file.write))
            file.close()
        finally:
            _forget(file)

    def _write_object(self, where: str, source: Readable) -> None:
        file = self._fs.open(where, "wb", autocommit=False, block_size=PART)
        try:
            _copy(source, file.write)
            file.close()
            file.commit()
        except BaseException:
            # else it would be sent when it is forgotten
            file.closed = True
            try:
                file.discard()
            except Exception as error:  # noqa: BLE001 - the fault that led here must stay the one that is seen
                log.warning("could not take back what was sent of %s: %s", where, error)
            raise

    def _rename(self, source: str, target: str) -> None:
        where = self._inside(target)
        self._spare_folder(where)
        _bounded(self._fs.mv)(self._inside(source), where)

    def _remove(self, path: str) -> None:
        where = self._inside(path)
        self._spare_folder(where)
        with suppress(FileNotFoundError):
            _bounded(self._fs.rm_file)(where)

    def _remove_quietly(self, path: str) -> None:
        try:
            self._remove(path)
        except Exception:  # noqa: BLE001 - what it says is what led here
            # the connection is lost, so by another one
            self.close()
            super()._remove_quietly(path)

    def _spare_folder(self, where: str) -> None:
        """Fail for a folder, into which a file would be moved, or beside which an object would be put."""
        if self._is_folder(where):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


class _Unchanging:
    """The bytes of a file that is proved, at their end, to be the one that they were asked of.

    :param name: of the file, for people.
    :param file: where the bytes come from.
    :param block: how many are asked for at a time.
    :param is_same: whether the file has not been replaced.
    """

    def __init__(self, name: str, file: Any, block: int, is_same: Callable[[], bool]) -> None:
        self._name = name
        self._read = _bounded(file.read)
        self._block = block
        self._is_same = is_same
        self._proved = False

    def read(self, size: int = -1, /) -> bytes:
        try:
            data: bytes = self._read(self._block if size < 0 else min(size, self._block))
            if data or not size or self._proved:
                return data
            self._proved = self._is_same()
        except FileNotFoundError:
            pass
        except Exception as error:
            # not every server says in words that its client understands that the file is another one now
            if isinstance(fault_of(error, self._name), StoreUnreachable) or self._is_same():
                raise
        if not self._proved:
            raise StoreUnreachable(f"reading {self._name}: it was replaced or removed meanwhile; fetch it anew")
        return b""


def _hang_up(fs: AbstractFileSystem) -> None:
    """Close the connections of a file system that nobody else uses, which has no method for it.

    It does so when it is forgotten; but it refers to itself, so that the garbage collector would have to come round
    to it, in whatever thread that happens to run.
    """
    if type(fs).__name__ not in OWN:
        return
    client = getattr(fs, "_client", None)
    if client is not None:
        # what it does by itself it gives up after a tenth of a second
        fs.loop.call_soon_threadsafe(client.abort)
    vars(fs).clear()


def _forget(file: Any) -> None:
    """Close a file whose bytes are safe, or do not matter."""
    with suppress(Exception):
        file.close()
    # what failed now would be tried again by the garbage collector
    file._closed = True


def _copy(source: Readable, write: Callable[[bytes], object]) -> None:
    while data := source.read(CHUNK):
        write(data)


def _bounded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Put a limit to the time of a call, where the method is a coroutine that fsspec runs and waits for."""
    waits = inspect.iscoroutinefunction(getattr(method, "__wrapped__", None))
    return partial(method, timeout=CALL_SECONDS) if waits else method


def _of_file(info: Mapping[str, Any]) -> Mapping[str, Any]:
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return info


def _mtime_ns(info: Mapping[str, Any]) -> int | None:
    value = next((info[name] for name in MODIFIED if info.get(name)), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return int(value.timestamp()) * SECOND_NS + value.microsecond * 1000
    return None if value is None else int(value * SECOND_NS)


def _tag(info: Mapping[str, Any]) -> str | None:
    """Give the tag of the content, and where there is one also that of the upload."""
    tag = str(info.get("ETag") or info.get("etag") or "").strip('"')
    upload = info.get("VersionId") or info.get("generation")
    return "/".join(str(part) for part in (tag, upload) if part and part != "null") or None
