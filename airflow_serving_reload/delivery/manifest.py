"""What is remembered of the files of a folder that came from a store, so that what is here need not come again.

The manifest of `<folder>` is the file `<folder>.files` beside it, of lines of JSON. The first one tells the `source`,
and the `boot` of this system in which it was begun. Each other one tells of a file: its `name`; the store's `facts`
when it was opened there; `on_host`, its length, modification time in nanoseconds and inode number here; its `sha256`,
which is null as long as it is not whole; and what a listing told of it just before, `listed`, or null. The last line
about a name counts. Lines are added while the files come, so a torn one may be among them, which tells nothing.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from airflow_serving_reload.delivery.errors import is_transient
from airflow_serving_reload.delivery.filesystem import beside, boot_id, remove_tree
from airflow_serving_reload.delivery.stores.base import FileFacts

log = logging.getLogger(__name__)

ENDING = "files"
"""Of the name of a manifest."""


class OnHost(NamedTuple):
    """What shows that a file of this host is still the one that it was."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path) -> Self | None:
        """Look at a file; None if there is none, or something else."""
        try:
            status = file.lstat()
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns, status.st_ino) if stat.S_ISREG(status.st_mode) else None


@dataclass(frozen=True, slots=True)
class Remembered:
    """A file that came.

    :param facts: what the store said of it when it was opened.
    :param on_host: how it lies on this host.
    :param sha256: its digest; None as long as it is not whole.
    :param listed: what a listing told of it before that, where it showed the same time; None if it did not.
    """

    facts: FileFacts
    on_host: OnHost
    sha256: str | None = None
    listed: FileFacts | None = None

    def is_same(self, listed: FileFacts | None, ask: Callable[[], FileFacts]) -> Self | None:
        """Give what to remember now, if the file in the store is surely the same.

        A later file has a later time. It shows in a listing, too, if the file was opened at least one of the listing's
        steps after its own time, with one to spare, and if the listing showed that time before: a listing in another
        time zone may show times of the past.

        :param listed: what a listing tells of the file now, if it tells of it.
        :param ask: asks the store for its facts, which no listing tells as exactly.
        """
        if listed is not None and listed == self.listed and _outlasts(self.facts, _step(self.facts, listed)):
            return self
        facts = ask()
        if self.facts.proves_same_file(facts):
            return replace(self, facts=facts, listed=telling(listed, facts))
        return None


def telling(listed: FileFacts | None, facts: FileFacts) -> FileFacts | None:
    """Give what a listing tells of a file if it is of the file of these facts, and by the same clock; else None."""
    if listed is None or listed.mtime_ns is None or facts.mtime_ns is None or listed.size != facts.size:
        return None
    step = _step(facts, listed)
    same_time = listed.mtime_ns // step == facts.mtime_ns // step
    return listed if same_time and listed.etag in (None, facts.etag) else None


def _step(facts: FileFacts, listed: FileFacts) -> int:
    return max(facts.resolution_ns, listed.resolution_ns)


def _outlasts(facts: FileFacts, step: int) -> bool:
    """Whether a file of these facts was so old when it was opened that a later one shows in steps of such a length."""
    return facts.mtime_ns is not None and facts.observed_ns - facts.mtime_ns >= 2 * step


class Manifest:
    """What is remembered of the files of one folder.

    :param folder: the folder.
    :param files: what is remembered by the names of the files, relative to the folder.
    """

    def __init__(self, folder: Path, files: dict[str, Remembered]) -> None:
        self.folder = folder
        self.files = files

    @classmethod
    def read(cls, folder: Path, source: str) -> Self:
        """Read the manifest of a release; nothing is remembered of one that came from elsewhere."""
        return cls(folder, dict(_read(file_of(folder), {"source": source}) or ()))

    @classmethod
    def go_on(cls, folder: Path, source: str) -> Self:
        """Go on with a folder that was not whole when its transfer broke off, or begin with an empty one.

        What came before the system started anew is not gone on with: it may never have reached the disk.
        """
        file, head = file_of(folder), {"source": source, "boot": boot_id()}
        files = _read(file, head) if head["boot"] and folder.is_dir() and not folder.is_symlink() else None
        if files is None:
            discard(folder)
            folder.mkdir(parents=True)
            file.write_text(json.dumps(head), encoding="ascii")
        with file.open("a", encoding="ascii") as lines:
            lines.write("\n")  # behind a line that may be torn
        return cls(folder, dict(files or ()))

    def note(self, name: str, remembered: Remembered) -> None:
        """Remember a file."""
        self.files[name] = remembered
        told = {"name": name, **asdict(remembered)}
        with file_of(self.folder).open("a", encoding="ascii") as lines:
            lines.write(json.dumps(told) + "\n")

    def whole(self, name: str) -> Remembered | None:
        """Give what is remembered of a file if it is whole."""
        known = self.files.get(name)
        return known if known and known.sha256 else None

    def begun(self, name: str, partial: Path) -> FileFacts | None:
        """Give the facts of the file of which `partial` is the beginning; None if it is of none that is known."""
        known, here = self.files.get(name), OnHost.of(partial)
        is_its_own = known and here and not known.sha256 and known.on_host.inode == here.inode
        return known.facts if known and is_its_own else None

    def remove_all_but(self, names: Collection[str], *, parts: bool) -> None:
        """Remove what is in the folder but these files.

        :param parts: leave the beginnings of these files too.
        """
        for parent, folders, files in os.walk(self.folder, topdown=False):
            for path in (Path(parent, name) for name in files):
                name = path.relative_to(self.folder).as_posix()
                if name not in names and not (parts and name.removesuffix(".part") in names):
                    path.unlink()
            for path in (Path(parent, name) for name in folders):
                with suppress(OSError):  # there is something in it
                    path.rmdir()


@dataclass(frozen=True, slots=True)
class Memory:
    """What is here already of a model that comes.

    :param arriving: of the model itself, begun by this try or the one before.
    :param earlier: of complete folders, the likeliest first.
    """

    arriving: Manifest
    earlier: Sequence[Manifest] = ()

    def find(self, name: str, listed: FileFacts | None, ask: Callable[[], FileFacts]) -> Remembered | None:
        """Have a file in its place without fetching it, if it is here and surely the one that is in the store.

        :param listed: what a listing tells of the file, if it tells of it.
        :param ask: asks the store for the facts of the file; only where the listing does not do.
        """
        ask_once = cache(ask)
        for manifest in (self.arriving, *self.earlier):
            known = manifest.whole(name)
            now = known and known.is_same(listed, ask_once)
            is_there = manifest is self.arriving
            if not now or not (is_there or self._link(manifest.folder / name, name)):
                continue
            if OnHost.of(self.arriving.folder / name) == now.on_host:
                if not (is_there and now == known):
                    self.arriving.note(name, now)
                return now
        return None

    def _link(self, file: Path, name: str) -> bool:
        """Link first and look then: what was looked at before could be another file by now."""
        place = self.arriving.folder / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            os.link(file, place, follow_symlinks=False)
        except OSError as error:
            log.debug("%s is fetched, since it cannot be linked: %s", name, error)
            return False
        return True


@contextmanager
def removing_unless_transient(folder: Path) -> Iterator[None]:
    """Remove a folder and its manifest after a fault, unless a retry may mend that and go on with them."""
    try:
        yield
    except BaseException as fault:
        if not is_transient(fault):
            discard(folder)
        raise


def file_of(folder: Path) -> Path:
    """Give where the manifest of a folder is."""
    return beside(folder, ENDING)


def discard(folder: Path) -> None:
    """Remove a folder and its manifest."""
    remove_tree(file_of(folder))
    remove_tree(folder)


def _read(file: Path, head: dict[str, str]) -> Iterator[tuple[str, Remembered]] | None:
    """Read a manifest that begins with these facts; None if there is no such one."""
    try:
        first, *lines = file.read_text(encoding="ascii").splitlines()
        found = json.loads(first)
        if {name: found.get(name) for name in head} != head:
            return None
    except (OSError, ValueError, AttributeError):
        return None
    return (pair for line in lines if (pair := _remembered(line)))


def _remembered(line: str) -> tuple[str, Remembered] | None:
    try:
        told: dict[str, Any] = json.loads(line)
        listed = FileFacts(**told["listed"]) if told["listed"] else None
        return told["name"], Remembered(FileFacts(**told["facts"]), OnHost(*told["on_host"]), told["sha256"], listed)
    except (ValueError, KeyError, TypeError):
        return None
