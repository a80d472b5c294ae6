"""A store in HDFS or AFS by the Hadoop client: every question starts a Java machine, so few are asked."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from airflow_serving_reload.delivery.donefile import SMALL
from airflow_serving_reload.delivery.errors import DeliveryError, NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import MILLISECOND_NS, SECOND_NS, Entry, FileFacts, Opened, Store
from airflow_serving_reload.delivery.stores.hadoop_client import (
    ClientBroken,
    ClientFailed,
    ClientOverdue,
    ClientRefused,
    HadoopClient,
    Running,
)
from airflow_serving_reload.delivery.streams import CHUNK, Readable

FACTS = "%F|%b|%Y|%X"
"""What to ask of a file: kind, length, and the times of its writing and reading, in milliseconds.

HDFS stamps the last when it makes the file, and otherwise hardly ever, so that it tells files apart that are alike in
the rest. Clients that do not know it print a constant.
"""

FACTS_AND_NAME = f"/{FACTS}/%n/"
"""What to ask of many: lines that are told apart whatever is in a name, which never has a slash."""

FACTS_AND_NAME_OF_ONE = re.compile(r"/([^/]*)/([^/]*)/\n")

FOLDER = "directory"

ABSENT = "No such file or directory"

UNFINISHED = "._COPYING_"
"""What the client adds to the name of a file until all of it is there."""

MOST_LOOKS = 10
"""At a file that is opened, as long as each shows another one."""

REMEMBERED = 100
"""Donefiles of which the content is remembered, at most."""


class HadoopCliStore(Store):
    """Models and donefiles of the file system that a Hadoop client leads to.

    A look at a donefile that is absent, empty or known already is one call of the client; to open a file takes three,
    or two behind a listing of its folder.

    :param client: the client.
    """

    _contents: ClassVar[OrderedDict[_Look, bytes]] = OrderedDict()
    """Contents of small files, for as long as the process lives: a sensor opens its store anew for each look."""

    def __init__(self, client: HadoopClient) -> None:
        self._client = client
        self._running: set[Running] = set()
        self._closed = False
        self._listed: dict[str, dict[str, _Look]] = {}

    def close(self) -> None:
        """End the calls that other threads are still waiting for."""
        self._closed = True
        for running in tuple(self._running):
            running.end()

    def describe(self, path: str) -> str:
        """Name the file system and the path."""
        return f"{(self._client.fs_name or 'hadoop:').rstrip('/')}{path}"

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except ClientFailed as failed:
            raise _as_fault(doing, failed) from None
        except IsADirectoryError:
            raise Refused(f"{doing}: it is a folder; name a file") from None
        except OSError as error:
            raise StoreUnreachable(
                f"{doing}: {error.strerror or error}; check whether this host can run further programs"
            ) from error

    @contextmanager
    def _start(self, *command: str) -> Iterator[Running]:
        with self._client.running(*command) as running:
            self._running.add(running)
            if self._closed:
                # it began when the others were ended
                running.end()
            try:
                yield running
            finally:
                self._running.discard(running)

    def _call(self, *command: str) -> str:
        with self._start(*command) as running:
            return running.read().decode("utf-8", "replace")

    def _look(self, path: str) -> _Look:
        return _Look(self._client, path, self._call("-stat", FACTS, _literally(path)).strip())

    def _stat(self, path: str) -> FileFacts:
        return self._look(path).facts()

    @contextmanager
    def _open(self, path: str, offset: int, expected: FileFacts | None) -> Iterator[Opened]:
        """Open a file; since its bytes come without its facts, these are asked for before and behind."""
        look = self._as_listed(path)
        # what is not read has to be known of now
        if look is None or self._known_content(look) is not None:
            look = self._look(path)
        for _ in range(MOST_LOOKS):
            facts = look.facts()
            if (content := self._known_content(look)) is not None:
                yield Opened(facts, io.BytesIO(content))
                return
            small = facts.size is not None and facts.size <= SMALL
            with self._start("-cat", _literally(path)) as running:
                # the first bytes show that it is open, and what is open stays what it is
                first = running.read(-1 if small else CHUNK)
                before, look = look, self._look(path)
                if look != before:
                    continue
                if small and facts.proves_same_file(facts):
                    self._remember(look, first)
                yield Opened(facts, io.BytesIO(first) if small else _Behind(first, running))
                return
        where = f"reading {self.describe(path)}"
        raise StoreUnreachable(f"{where}: each of {MOST_LOOKS} looks shows another file; try again later")

    def _as_listed(self, path: str) -> _Look | None:
        """Give what a listing told of a file that has not been opened since."""
        folder, _, name = path.rpartition("/")
        return self._listed.get(folder, {}).pop(name, None)

    def _known_content(self, look: _Look) -> bytes | None:
        """Give the content of a file that needs not be read; None of one that does."""
        return self._contents.get(look) if look.facts().size else b""

    def _remember(self, look: _Look, content: bytes) -> None:
        self._contents[look] = content
        while len(self._contents) > REMEMBERED:
            self._contents.popitem(last=False)

    def _list(self, folder: str) -> list[Entry] | None:
        path = folder.rstrip("/")
        there = self._told(path, "*")
        if not there:
            raise NotThereYet(f"listing {self.describe(folder)}: it does not exist; check the path if it should")
        if not _of_folder(there[0][0]):
            return None
        self._listed[path] = {
            name: _Look(self._client, f"{path}/{name}", facts) for facts, name in there[1:] if not _of_folder(facts)
        }
        return [Entry(name, _of_folder(facts)) for facts, name in there[1:] if not name.endswith(UNFINISHED)]

    def _scan(self, folder: str) -> Mapping[str, FileFacts]:
        there = self._told(folder.rstrip("/"), "*")
        if not there:
            raise ClientFailed(ABSENT)
        return {name: _Look(self._client, name, facts).facts() for facts, name in there if not _of_folder(facts)}

    def _write(self, path: str, source: Readable) -> None:
        folder, _, name = path.rpartition("/")
        if "\\" in path:
            raise Refused(f"uploading {self.describe(path)}: the client would drop the backslash; give it another name")
        there = self._told(folder, _literally(name))
        if len(there) > 1 and _of_folder(there[1][0]):
            # the client would put a file called `-` into it
            raise IsADirectoryError(path)
        if not there:
            self._call("-mkdir", "-p", _literally(folder) or "/")
        try:
            with self._start("-put", "-f", "-", _literally(path)) as running:
                running.send(source)
        except ClientRefused:
            # whoever ends by itself has removed what it had written
            raise
        except BaseException:
            self._remove_quietly(path + UNFINISHED)
            raise

    def _told(self, folder: str, pattern: str) -> list[tuple[str, str]]:
        """Give facts and name, as the client prints them, of a folder and of what fits in it; nothing if it is absent.

        It asks for one after the other, so that a folder may be absent and yet have something in it a moment later.
        """
        literal, pieces = _literally(folder), []
        try:
            with self._start("-stat", FACTS_AND_NAME, literal or "/", f"{literal}/{pattern}") as running:
                while piece := running.read(CHUNK):
                    pieces.append(piece)
        except ClientRefused as refused:
            # of what would be below a file the client says that this is no folder
            if not all(re.search(f"{ABSENT}|is not a directory", line) for line in str(refused).splitlines()):
                raise
            if f"`{folder}': {ABSENT}" in str(refused):
                return []
        return FACTS_AND_NAME_OF_ONE.findall(b"".join(pieces).decode("utf-8", "replace"))

    def _can_rename(self, folder: str) -> bool:
        """Leave it to the client: it writes under a temporary name itself, and its rename does not replace."""
        return False

    def _rename(self, source: str, target: str) -> None:
        self._call("-mv", _literally(source), _literally(target))

    def _remove(self, path: str) -> None:
        try:
            self._call("-rm", "-skipTrash", _literally(path))
        except ClientRefused as refused:
            if ABSENT not in str(refused):
                raise


@dataclass(frozen=True, slots=True)
class _Look:
    """What the client printed of a file."""

    client: HadoopClient
    path: str
    printed: str

    def facts(self) -> FileFacts:
        try:
            kind, size, mtime, _ = self.printed.split("|")
            if kind == FOLDER:
                raise IsADirectoryError(self.path)
            mtime_ns = int(mtime) * MILLISECOND_NS
            # there are file systems behind the client that count whole seconds
            resolution_ns = MILLISECOND_NS if mtime_ns % SECOND_NS else SECOND_NS
            return FileFacts(size=int(size), mtime_ns=mtime_ns, resolution_ns=resolution_ns)
        except ValueError:
            raise ClientFailed(f"{self.printed!r} in place of a file's facts") from None


class _Behind:
    """A stream of which the first bytes have been read."""

    def __init__(self, first: bytes, rest: Readable) -> None:
        self._first = io.BytesIO(first)
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        return self._first.read(size) or self._rest.read(size)


def _of_folder(facts: str) -> bool:
    return facts.startswith(f"{FOLDER}|")


def _literally(path: str) -> str:
    """Keep the client from taking a character of a name for a pattern."""
    return re.sub(r"[\\*?\[\]{}]", r"\\\g<0>", path)


FAULTS: Sequence[tuple[str, type[DeliveryError], str]] = (
    (ABSENT, NotThereYet, "check the path if it should be there"),
    (
        r"Permission denied|Access denied|AccessControlException|[Aa]uthentication|cannot authenticate|GSS initiate",
        Refused,
        "check fs_ugi, and what this user may do there",
    ),
    (
        r"[Ii]s (not )?a directory|File exists|Relative path|not a valid DFS|Illegal char|Wrong FS|No FileSystem for",
        Refused,
        "check the path and fs_name",
    ),
    (r"[Qq]uota", Refused, "remove what is not needed there, or have the quota raised"),
)
"""What the client's words mean; it keeps most exceptions of the file system to itself."""


def _as_fault(doing: str, failed: ClientFailed) -> DeliveryError:
    words = " ".join(str(failed).partition("; For more details see")[0].split())
    if isinstance(failed, ClientBroken):
        return Refused(
            f"{doing}: the Hadoop client does not run, it says {words}; check hadoop_bin, and whether Java is "
            "installed where JAVA_HOME says"
        )
    if isinstance(failed, ClientOverdue):
        return StoreUnreachable(
            f"{doing}: the Hadoop client gave {words}; check fs_name and whether the file system runs, and try again"
        )
    said = f"{doing}: the Hadoop client says {words}"
    # what stands in quotes is a path, and may have any word in it
    telling = re.sub(r"`.*?'", "", words)
    for pattern, fault, advice in FAULTS:
        if re.search(pattern, telling):
            return fault(f"{said}; {advice}")
    return StoreUnreachable(f"{said}; check fs_name and whether the file system runs, and try again")
