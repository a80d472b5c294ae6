"""The folder that an archive unpacks into, and nothing beside it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from airflow_serving_reload.delivery.errors import Refused
from airflow_serving_reload.delivery.filesystem import SyncAhead

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.archive.unchanged import Twin, Unchanged
    from airflow_serving_reload.delivery.streams import Counting

Made = TypeVar("Made")


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


LONGEST_NAME = 255
"""Bytes that Linux file systems allow a name at most."""

LONGEST_PATH = 1024
"""Bytes that a path inside an archive may have: Linux allows 4096, and the path of the release takes its part."""

LONGEST_CHARACTER = 4
"""Bytes that a character takes at most in a name."""

LEADING_AWAY = frozenset(("", ".", ".."))
"""Parts of a path that are no names."""

CONTROL = re.compile(r"[\0-\x1f]")
"""Finds control characters."""

NONE = -1
"""No descriptor of a file."""


class Destination:
    """The folder that an archive unpacks into: every write passes the checks made here.

    :param folder: existing empty folder.
    :param archive: what to call the archive in messages.
    :param limits: bounds that protect the host.
    :param packed: counts the packed bytes that have come so far.
    :param unchanged: what members may be the same as, and are then linked to; None to write all of them.
    """

    def __init__(
        self, folder: Path, archive: str, limits: Limits, packed: Counting, unchanged: Unchanged | None = None
    ) -> None:
        self.archive = archive
        self.files = 0
        self.total_bytes = 0
        self._unpacked = 0
        self._folder = str(folder)
        self._ahead = SyncAhead(folder)
        self._limits = limits
        self._packed = packed
        self._unchanged = unchanged
        self._members = 0
        self._symlinks: dict[str, str] = {}

    def refuse(self, member: str, why: str) -> NoReturn:
        """Say what is wrong with a member.

        :raises Refused: always.
        """
        raise Refused(f"unpacking {self.archive}: refused at its member {member[:200]!r}: {why}; pack it without that")

    def add_folder(self, member: str) -> None:
        """Make a folder, unless it is there already."""
        self._make_folder(self._path(member), member)

    def add_file(self, member: str, chunks: Iterable[bytes], *, size: int, executable: bool) -> None:
        """Make a file.

        :param size: length in bytes as the archive declares it, 0 if it does not.
        """
        path = self._path(member)
        self._account(member, size)
        permissions = 0o777 if executable else 0o666

        def create() -> int:
            return self._make(member, path, lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions))

        twin = self._twin(path, size, executable=executable)
        descriptor = NONE if twin else create()
        self.files += 1
        written = 0
        try:
            for chunk in chunks:
                written += len(chunk)
                # Some zip archives declare a member's size only behind its data.
                if written > size:
                    self._account(member, written - size)
                    size = written
                self._compare_with_packed(member, len(chunk))
                if twin and descriptor == NONE:
                    if twin.goes_on_with(chunk):
                        continue
                    descriptor = create()
                    twin.copy_to(descriptor)
                _write_all(descriptor, chunk)
                self._ahead.wrote(len(chunk))
            if twin and descriptor == NONE and not self._make(member, path, lambda: twin.link(path)):
                descriptor = create()
                twin.copy_to(descriptor)
        finally:
            if twin:
                twin.close()
            if descriptor != NONE:
                os.close(descriptor)

    def _twin(self, path: str, size: int, *, executable: bool) -> Twin | None:
        if self._unchanged is None:
            return None
        return self._unchanged.twin(path.removeprefix(f"{self._folder}/"), size, executable=executable)

    def add_hard_link(self, member: str, target: str) -> None:
        """Make a further name for a file that was made before."""
        path, source = self._path(member), self._path(target)
        if not os.path.isfile(source) or source in self._symlinks:  # noqa: PTH113 - see `_path`
            self.refuse(member, f"it is a hard link to {target!r}, which is no file before it")
        self._make(member, path, lambda: os.link(source, path))
        self.files += 1

    def add_symlink(self, member: str, target: str) -> None:
        """Keep a place for a symbolic link, which `finish` makes."""
        # Made last, so that no member can be written through a link.
        if not target or len(os.fsencode(target)) > LONGEST_PATH or CONTROL.search(target):
            self.refuse(member, f"it is a link to {target[:200]!r}, which is no path")
        path = self._path(member)
        self._make(member, path, lambda: Path(path).touch(exist_ok=False))
        self._symlinks[path] = target

    def finish(self) -> None:
        """Make the symbolic links, and prove that none leads out of the folder.

        :raises OSError: the disk could not take what was written.
        """
        self._ahead.finish()
        links = {Path(path): target for path, target in self._symlinks.items()}
        for path, target in links.items():
            path.unlink()
            path.symlink_to(target)
        root = Path(self._folder).resolve()
        for path, target in links.items():
            member = str(path.relative_to(self._folder))
            end = _end_of(path)
            if end is None:
                self.refuse(member, f"it is a link to {target!r}, in a circle or through too many other links")
            if Path(target).is_absolute() or not end.is_relative_to(root):
                self.refuse(member, f"it is a link to {target!r}, out of the archive")

    def _path(self, member: str) -> str:
        """Give where a member goes, as a string: models of many small files come by here often."""
        self._members += 1
        if self._members > self._limits.members:
            self.refuse(member, f"there are more than {self._limits.members} members")
        name = member.removeprefix("./").rstrip("/")
        if member.startswith("/"):
            self.refuse(member, "its name is absolute or leads upwards")
        if name in ("", "."):
            return self._folder
        parts = name.split("/")
        if not LEADING_AWAY.isdisjoint(parts):
            self.refuse(member, "its name is absolute or leads upwards")
        if _is_too_long(name, parts) or CONTROL.search(name):
            self.refuse(member, "its name holds control characters or is too long")
        return f"{self._folder}/{name}"

    def _make(self, member: str, path: str, make: Callable[[], Made]) -> Made:
        """Make something new, and the folder that it goes into where that is not there yet."""
        try:
            return make()
        except FileNotFoundError:
            self._make_folder(os.path.dirname(path), member)  # noqa: PTH120 - see `_path`
            return make()
        except FileExistsError:
            self.refuse(member, "the name stands in it twice")
        except NotADirectoryError:
            self.refuse(member, "a file has the name of its folder")

    def _make_folder(self, path: str, member: str) -> None:
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            self.refuse(member, "a file has the name of its folder")

    def _account(self, member: str, size: int) -> None:
        """Count bytes before they are written."""
        self.total_bytes += size
        if self.total_bytes > self._limits.total_bytes:
            self.refuse(member, f"it would unpack to more than {self._limits.total_bytes} bytes")

    def _compare_with_packed(self, member: str, size: int) -> None:
        """Count bytes once they are there: of what a member declares, nearly all is still to come packed."""
        self._unpacked += size
        if self._unpacked > max(self._limits.ratio_from, self._limits.ratio * self._packed.count):
            self.refuse(member, f"it would unpack to more than {self._limits.ratio:g} times its packed size")


def _end_of(link: Path) -> Path | None:
    """Give where a link leads in the end, if there is anything or not; None if Linux would not follow it so far."""
    try:
        link.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
    try:
        return Path(os.path.realpath(link))
    except RecursionError:
        return None


def _is_too_long(path: str, parts: Iterable[str]) -> bool:
    if len(path) * LONGEST_CHARACTER <= LONGEST_NAME:
        return False
    return len(os.fsencode(path)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts)


def _write_all(descriptor: int, chunk: bytes) -> None:
    written = os.write(descriptor, chunk)
    while written < len(chunk):
        written += os.write(descriptor, memoryview(chunk)[written:])
