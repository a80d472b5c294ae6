"""The folder that an archive unpacks into, and nothing beside it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from airflow_serving_reload.delivery.errors import Refused

if TYPE_CHECKING:
    import io

    from airflow_serving_reload.delivery.streams import Counting


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


class Destination:
    """The folder that an archive unpacks into: every write passes the checks made here.

    :param folder: existing empty folder.
    :param archive: what to call the archive in messages.
    :param limits: bounds that protect the host.
    :param packed: counts the packed bytes that have come so far.
    """

    def __init__(self, folder: Path, archive: str, limits: Limits, packed: Counting) -> None:
        self.archive = archive
        self.files = 0
        self.total_bytes = 0
        self._unpacked = 0
        self._folder = folder
        self._limits = limits
        self._packed = packed
        self._members = 0
        self._symlinks: dict[Path, str] = {}

    def refuse(self, member: str, why: str) -> NoReturn:
        """Say what is wrong with a member.

        :raises Refused: always.
        """
        raise Refused(f"unpacking {self.archive}: refused at its member {member[:200]!r}: {why}; pack it without that")

    def add_folder(self, member: str) -> None:
        """Make a folder, unless it is there already."""
        path = self._path(member)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            self.refuse(member, "a file has the name of this folder")

    def add_file(self, member: str, chunks: Iterable[bytes], *, size: int, executable: bool) -> None:
        """Make a file.

        :param size: length in bytes as the archive declares it, 0 if it does not.
        """
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
                self._compare_with_packed(member, len(chunk))
                _write_all(file, chunk)

    def add_hard_link(self, member: str, target: str) -> None:
        """Make a further name for a file that was made before."""
        path, source = self._new(member), self._path(target)
        if not source.is_file() or source in self._symlinks:
            self.refuse(member, f"it is a hard link to {target!r}, which is no file before it")
        self.files += 1
        os.link(source, path)

    def add_symlink(self, member: str, target: str) -> None:
        """Keep a place for a symbolic link, which `finish` makes."""
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
            end = _end_of(path)
            if end is None:
                self.refuse(member, f"it is a link to {target!r}, in a circle or through too many other links")
            if Path(target).is_absolute() or not end.is_relative_to(root):
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


def _has_control_characters(name: str) -> bool:
    return any(letter < " " for letter in name)


def _write_all(file: io.FileIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]
