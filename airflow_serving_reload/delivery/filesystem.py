"""What Linux file systems offer and Python does not: exchange, sync, files replaced whole, locks that die."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

AT_FDCWD = -100
RENAME_EXCHANGE = 2

SYNC_EACH = 32 << 20
"""Bytes after which the disk begins with what was written."""

_libc = ctypes.CDLL(None, use_errno=True)


def can_exchange() -> bool:
    """Whether this system knows how to exchange two names in one step (Linux with glibc 2.28 or newer)."""
    return hasattr(_libc, "renameat2")


def exchange(first: Path, second: Path) -> None:
    """Exchange what two names stand for, in one step.

    :raises OSError: the file system cannot, or a name does not exist; nothing has changed.
    """
    if not can_exchange():
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(first))
    result = _libc.renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first), None, str(second))


def beside(path: Path, ending: str) -> Path:
    """Give the path beside another one that is named like it, with an ending more."""
    return path.with_name(f"{path.name}.{ending}")


def boot_id() -> str:
    """Give what is another one each time the system starts; empty if it does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def sync_filesystem(path: Path) -> None:
    """Wait until everything written to the file system of `path` would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if hasattr(_libc, "syncfs"):
            if _libc.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(path))
        else:
            os.sync()
    finally:
        os.close(descriptor)


class SyncAhead:
    """Lets the disk begin with what is written while more comes, so that less is left to wait for at the end.

    By `sync_filesystem` and a thread, since a model may be many small files, each of them too small to begin with.

    :param folder: that everything is written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unsynced = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._under_way: Future[None] | None = None

    def wrote(self, count: int) -> None:
        """Note that some bytes more were written.

        :raises OSError: earlier ones could not be.
        """
        self._unsynced += count
        if self._unsynced < SYNC_EACH or (self._under_way and not self._under_way.done()):
            return
        self._expect_success()
        self._unsynced = 0
        self._under_way = self._thread.submit(sync_filesystem, self._folder)

    def finish(self) -> None:
        """Wait for what was begun.

        :raises OSError: it could not be written.
        """
        self._thread.shutdown()
        self._expect_success()

    def _expect_success(self) -> None:
        # Linux tells of an error once, so that the sync at the end would know nothing of it.
        if self._under_way:
            self._under_way.result()


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: str, *, mtime_ns: int | None = None) -> None:
    """Make or replace a small text file so that a reader sees the old or the new one, whole.

    :param mtime_ns: modification time that it appears with, in nanoseconds since the epoch; None for now.
    """
    with _temporary_beside(path) as temporary:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            if mtime_ns is not None:
                os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
            os.fsync(file.fileno())
        temporary.replace(path)


def replace_json(path: Path, value: Mapping[str, Any]) -> None:
    """Make or replace a JSON file so that a reader sees the old or the new one, whole."""
    replace_file(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `replace_json` wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def replace_symlink(path: Path, target: str) -> None:
    """Make or replace a symbolic link in one step."""
    with _temporary_beside(path) as temporary:
        temporary.symlink_to(target)
        temporary.replace(path)


def replace_with_copy(source: Path, path: Path) -> None:
    """Put a link to, or where that cannot be a copy of, a file in the place of another in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_beside(path) as temporary:
        try:
            os.link(source, temporary, follow_symlinks=False)
        except OSError:
            shutil.copy2(source, temporary, follow_symlinks=False)
        temporary.replace(path)


def remove_temporaries(path: Path) -> None:
    """Remove what processes left beside a file that were killed while they replaced it."""
    for leftover in path.parent.glob(f".{glob.escape(_shortened(path.name))}.{'[0-9a-f]' * 8}.tmp"):
        leftover.unlink()


def _shortened(name: str) -> str:
    """Leave room for more in a name, of which Linux counts the bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{_shortened(path.name)}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def fail(error: OSError) -> NoReturn:
    """Have `os.walk` fail at a folder that cannot be listed, which by itself it takes for an empty one.

    :raises OSError: always.
    """
    raise error


def walk_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Give everything below a folder that is no folder itself; links are not followed."""
    folders = [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield entry


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder with everything in it; nothing to do if it is absent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, *, waiting: Callable[[], None], timeout: float = 3600.0) -> Iterator[None]:
    """Hold a lock that excludes other processes, and that the kernel takes back when the holder ends.

    :param path: the lock's file, made if absent; it stays.
    :param waiting: called once if somebody else holds it.
    :param timeout: seconds after which to give up.
    :raises TimeoutError: somebody else held it all the time.
    """
    with path.open("a", encoding="utf-8") as file:
        deadline = time.monotonic() + timeout
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waiting()
                    told = True
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} was held by another process for {timeout:g} s")
            time.sleep(0.05)
        yield
