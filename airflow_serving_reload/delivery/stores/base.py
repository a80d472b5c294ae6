"""What every store offers: donefiles, reads that resume, listings, and uploads that appear whole."""

from __future__ import annotations

import logging
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Self

from airflow_serving_reload.delivery import donefile
from airflow_serving_reload.delivery.errors import NotThereYet, Refused
from airflow_serving_reload.delivery.stores.parallel import Parallel, ParallelFile
from airflow_serving_reload.delivery.stores.reading import RemoteFile
from airflow_serving_reload.delivery.streams import Readable

log = logging.getLogger(__name__)

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
TICK_NS = 10 * MILLISECOND_NS
"""Linux stamps files with a clock that moves in steps of up to this, however fine the times are that a store tells."""

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.DOTALL)
"""Temporary names of uploads."""

DEEPEST = 100
"""Folders one in the other that are walked at most."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a store tells about one state of a file.

    :param size: length in bytes, if the store tells it.
    :param mtime_ns: modification time in nanoseconds since the epoch, if the store tells it.
    :param resolution_ns: the step in which the store counts modification times, in nanoseconds.
    :param etag: strong entity tag or checksum, if the store has one.
    :param observed_ns: the store's time when it told this, in nanoseconds since the epoch.
    """

    size: int | None = None
    mtime_ns: int | None = None
    resolution_ns: int = 1
    etag: str | None = None
    observed_ns: int = field(default_factory=time.time_ns, compare=False)

    def proves_same_file(self, later: FileFacts) -> bool:
        """Whether `later` surely describes the same bytes: equal facts, the time long past.

        A tag alone proves nothing while the file is young, since many a server makes it of time and size.
        """
        if self != later or self.size is None:
            return False
        if self.mtime_ns is None:
            return self.etag is not None
        return self.observed_ns - self.mtime_ns >= 2 * self.resolution_ns


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder of a store."""

    name: str
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """A file whose bytes are on their way.

    :param facts: what the store says of the file that these bytes belong to.
    :param reader: where the bytes come from.
    :param offset: position of the first byte that `reader` gives.
    """

    facts: FileFacts
    reader: Readable
    offset: int = 0


class Store(ABC):
    """A place where training puts models and donefiles, reached through an opened client.

    A transport implements the methods whose names begin with an underscore, in terms of its client,
    and translates the client's exceptions in `_errors`. Everything that must hold for every transport
    (complete files, resumed reads, uploads that appear whole, names that stay in their folder) is here.
    """

    resume_pauses: Sequence[float] = (0.5, 2.0, 5.0)
    """Seconds to wait before each attempt to go on with a file that broke off without a byte in between.

    Where the store says when to come again it may be longer, up to a bound.
    """

    parallel: Parallel = Parallel()
    """How many connections one large file may come by, where the transport can open parts of it."""

    def __enter__(self) -> Self:
        """Use the store until the end of the `with` block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Give the client's connections back."""
        self.close()

    def close(self) -> None:  # noqa: B027 - a store without connections has nothing to do
        """Give the client's connections back; the default has none."""

    @abstractmethod
    def describe(self, path: str) -> str:
        """Name a path for people, without any secret in it."""

    @abstractmethod
    def _errors(self, doing: str) -> AbstractContextManager[None]:
        """Translate the client's exceptions to those of `errors.py`; `doing` begins the message."""

    @abstractmethod
    def _stat(self, path: str) -> FileFacts:
        """Ask for the facts of a file."""

    @abstractmethod
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> AbstractContextManager[Opened]:
        """Open a file, from `offset` on if the transport can; `expected` are its facts as seen before."""

    def _can_part(self, facts: FileFacts) -> bool:
        """Whether `_open_part` proves by these facts what it opens; the default cannot open parts."""
        return False

    def _open_part(self, path: str, first: int, end: int, expected: FileFacts) -> AbstractContextManager[Opened]:
        """Open the bytes of a file from `first` until before `end`, if it is still the one of these facts."""
        raise NotImplementedError

    @abstractmethod
    def _list(self, folder: str) -> list[Entry] | None:
        """List a folder; None if the path is a file."""

    def _scan(self, folder: str) -> Mapping[str, FileFacts] | None:
        """Ask for what one listing tells of the files in a folder; None if there is no listing that tells their times.

        Whatever is no file for sure, such as a link, is left out.
        """
        return None

    @abstractmethod
    def _write(self, path: str, source: Readable) -> None:
        """Make or replace a file, its folders included."""

    @abstractmethod
    def _rename(self, source: str, target: str) -> None:
        """Put `source` in the place of `target` in one step; never in the place of a folder."""

    @abstractmethod
    def _remove(self, path: str) -> None:
        """Remove a file, unless it is absent; never a folder."""

    def stat(self, path: str) -> FileFacts:
        """Ask for the facts of a file.

        :raises NotThereYet: there is no such file.
        """
        with self._errors(f"asking for {self.describe(path)}"):
            return self._stat(path)

    def donefile(self, path: str) -> donefile.DonefileVersion | None:
        """Look at a donefile once; None if it is absent.

        :raises StoreUnreachable: the store does not answer.
        :raises Refused: it is no donefile, or the store tells nothing by which it could be told from the next.
        """
        try:
            with self.open(path) as file:
                content = b""
                # a read may give less than it was asked for, and only an empty one proves the end
                while len(content) <= donefile.SMALL and (piece := file.read(donefile.SMALL + 1 - len(content))):
                    content += piece
                facts = file.facts
        except NotThereYet:
            return None
        if len(content) > donefile.SMALL:
            raise Refused(
                f"reading the donefile {self.describe(path)}: it is longer than {donefile.SMALL} bytes; "
                "check remote_donefile_name, a donefile is empty or a small JSON object"
            )
        if facts.mtime_ns is None and facts.etag is None and not content:
            raise Refused(
                f"reading the donefile {self.describe(path)}: it is empty and the store tells neither its time nor "
                'a tag, so no change could be seen; upload it with donefile_format="json"'
            )
        return donefile.version_of(
            content,
            path=path,
            mtime_ns=facts.mtime_ns,
            resolution_ns=facts.resolution_ns,
            etag=facts.etag,
            observed_ns=facts.observed_ns,
        )

    @contextmanager
    def open(self, path: str, *, start: int = 0, expected: FileFacts | None = None) -> Iterator[RemoteFile]:
        """Open a file for one complete read.

        :param start: its first byte that is wanted, if it is surely the file of the facts `expected`; else the first.
        :raises NotThereYet: there is no such file.
        """
        with ParallelFile(self, path, start=start, expected=expected) as file:
            yield file

    def list(self, folder: str) -> Sequence[Entry] | None:
        """List a folder in the order of names, unfinished uploads left out; None if the path is a file.

        :raises NotThereYet: there is nothing.
        :raises Refused: the store cannot list, or tells a name that could leave its folder.
        """
        with self._errors(f"listing {self.describe(folder)}"):
            entries = self._list(folder)
        if entries is None:
            return None
        for entry in entries:
            if "/" in entry.name or entry.name in ("", ".", "..") or "\0" in entry.name:
                raise Refused(
                    f"listing {self.describe(folder)}: the store names {entry.name!r}, which is no plain name; "
                    "rename it there, or upload the model as one archive"
                )
        finished = (entry for entry in entries if not UNFINISHED.fullmatch(entry.name))
        return sorted(finished, key=lambda entry: entry.name)

    def scan(self, folder: str) -> Mapping[str, FileFacts] | None:
        """Ask for what one listing tells of each file in a folder; None if there is no listing that tells their times.

        The times may be coarser than those of `stat`, and in a time zone of the server's own, so that they say
        something only beside those of another such listing. Names may be missing.

        :raises NotThereYet: there is no such folder.
        """
        with self._errors(f"listing {self.describe(folder)}"):
            return self._scan(folder)

    def walk(self, folder: str) -> Iterator[str]:
        """Give the path, relative to `folder`, of every file below it, in order.

        :raises NotThereYet: there is no such folder.
        :raises Refused: it goes down for ever.
        """
        return self._walk(folder, DEEPEST)

    def _walk(self, folder: str, depth: int) -> Iterator[str]:
        if not depth:
            raise Refused(
                f"listing {self.describe(folder)}: more than {DEEPEST} folders one in the other; "
                "look for a link that leads back up"
            )
        for entry in self.list(folder) or ():
            if entry.is_folder:
                yield from (f"{entry.name}/{below}" for below in self._walk(child(folder, entry.name), depth - 1))
            else:
                yield entry.name

    def write(self, path: str, source: Readable) -> None:
        """Upload a file under a temporary name and rename it into place, where the store can; else directly.

        :raises Refused: the store does not allow it.
        :raises Exception: what the source raised.
        """
        try:
            with self._errors(f"uploading {self.describe(path)}"):
                self._upload(path, _Source(source))
        except _SourceFailed as failed:
            fault = failed.fault
        else:
            return
        raise fault

    def _upload(self, path: str, source: Readable) -> None:
        folder, _, name = path.rpartition("/")
        if not self._can_rename(folder):
            self._write(path, source)
            return
        temporary = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
        try:
            self._write(temporary, source)
            self._rename(temporary, path)
        except BaseException:
            self._remove_quietly(temporary)
            raise

    def remove(self, path: str) -> None:
        """Remove a file; it may be absent already.

        :raises Refused: the store does not allow it, or it is a folder.
        """
        with self._errors(f"removing {self.describe(path)}"):
            self._remove(path)

    def _can_rename(self, folder: str) -> bool:
        """Whether files can be renamed in this folder; the default can."""
        return True

    def _remove_quietly(self, path: str) -> None:
        try:
            self._remove(path)
        except Exception as error:  # noqa: BLE001 - the fault that led here must stay the one that is seen
            log.warning("could not remove the unfinished upload %s: %s", self.describe(path), error)


class _SourceFailed(Exception):
    """Carries the fault of a source past the clients, which would take many a fault for one of the network."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(fault)
        self.fault = fault


class _Source:
    """A source whose faults are told from those of the store."""

    def __init__(self, source: Readable) -> None:
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._source.read(size)
        except Exception as fault:  # noqa: BLE001 - it goes on as it is where nobody mistakes it
            failed = _SourceFailed(fault)
        raise failed


def child(folder: str, name: str) -> str:
    """Join a folder of a store and a name below it that comes from elsewhere.

    :param folder: path in the store; a missing leading slash is added, unless it begins with a scheme.
    :param name: a name, or a relative path, below it.
    :raises Refused: the name could leave the folder or break the store's protocol.
    """
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or any(ch in name for ch in "\0\r\n"):
        raise Refused(
            f"the name {name!r} below {folder!r} is no relative path of plain names; "
            "give a name without empty parts, '.', '..' and control characters"
        )
    scheme, separator, place = folder.partition("://")
    if separator and "/" not in scheme:
        return f"{scheme}://{place.rstrip('/')}/{name}"
    return f"/{folder.strip('/')}/{name}" if folder.strip("/") else f"/{name}"
