"""Members of an archive that are files of an earlier release already: compared while they come, linked, not written.

The earlier release is no authority: only what is compared byte by byte is linked, and only if it is a regular file
that really lies in the release, without any link on the way, belongs to who unpacks, is executable as the member is,
and has no special permissions.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath

from airflow_serving_reload.delivery.streams import CHUNK

SPECIAL_BITS = 0o7000
"""Set-user-id, set-group-id and sticky."""

VAIN_AT_MOST = 64
"""Files compared in vain, one behind the other, after which the model counts as another one altogether."""


class Unchanged:
    """The earlier release that the members of an archive are compared with.

    :param release: its folder.
    :param inside: the folder in the archive that becomes a release; `.` for the top.
    :ivar files: how many members were linked.
    :ivar total_bytes: bytes of these.
    """

    def __init__(self, release: Path, inside: str) -> None:
        self.files = 0
        self.total_bytes = 0
        self._root = os.path.realpath(release)
        folder = str(PurePosixPath(inside))
        self._prefix = "" if folder == "." else f"{folder}/"
        self._vain = 0

    def twin(self, member: str, size: int, *, executable: bool) -> Twin | None:
        """Open the file that a member may be the same as; None if there is surely none.

        :param member: path of the member in the archive, in its shortest form.
        """
        if not size or not member.startswith(self._prefix) or self._vain >= VAIN_AT_MOST:
            return None
        path = f"{self._root}/{member.removeprefix(self._prefix)}"
        try:
            # a FIFO would make an open without O_NONBLOCK wait
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if (
                stat.S_ISREG(status.st_mode)
                and status.st_size == size
                and status.st_uid == os.geteuid()
                and not status.st_mode & SPECIAL_BITS
                and bool(status.st_mode & 0o100) == executable
                and os.readlink(f"/proc/self/fd/{descriptor}") == path  # noqa: PTH115 - many small files come by
            ):
                return Twin(self, path, descriptor, status)
        except OSError:
            pass
        os.close(descriptor)
        return None

    def judge(self, *, linked: int = 0) -> None:
        """Count what came of a comparison."""
        self.files += bool(linked)
        self.total_bytes += linked
        self._vain = 0 if linked else self._vain + 1


class Twin:
    """A file of the earlier release, as long as a member is the same.

    :ivar equal: how many bytes are.
    """

    def __init__(self, release: Unchanged, path: str, descriptor: int, status: os.stat_result) -> None:
        self.equal = 0
        self._release = release
        self._path = path
        self._descriptor = descriptor
        self._status = status

    def goes_on_with(self, chunk: bytes) -> bool:
        """Compare the next bytes of the member."""
        if os.pread(self._descriptor, len(chunk), self.equal) != chunk:
            return False
        self.equal += len(chunk)
        return True

    def link(self, path: str) -> bool:
        """Make a further name for the file, if the member is the same to its end and the file system lets it.

        :raises FileExistsError: the name is taken.
        :raises FileNotFoundError: there is no such folder.
        :raises NotADirectoryError: the folder is none.
        """
        if self.equal != self._status.st_size or _state(os.fstat(self._descriptor)) != _state(self._status):
            return False
        try:
            os.link(self._path, path, follow_symlinks=False)
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            if os.path.lexists(self._path):
                raise
            return False
        except OSError:  # too many links, or none at all on this file system
            return False
        if _state(os.lstat(path)) != _state(self._status):
            os.unlink(path)  # noqa: PTH108 - as above
            return False
        self._release.judge(linked=self.equal)
        return True

    def copy_to(self, descriptor: int) -> None:
        """Write the bytes that are equal to the beginning of a file."""
        self._release.judge()
        written = 0
        while missing := self.equal - written:
            if not (count := os.sendfile(descriptor, self._descriptor, written, min(missing, CHUNK))):
                break
            written += count
        if _state(os.fstat(self._descriptor)) != _state(self._status):
            raise OSError(errno.ESTALE, "it was changed while it was compared, which nobody may do", self._path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
