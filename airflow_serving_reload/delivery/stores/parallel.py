"""One large file by several connections where one alone is slow: its parts come side by side and are given in order.

The single stream that every file begins with stays the authority: it is given up for parts only when the store has
proved one to be of the same file, and whatever ends the parts, it goes on behind the last byte that was given.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_serving_reload.delivery.errors import StoreUnreachable
from airflow_serving_reload.delivery.stores import reading
from airflow_serving_reload.delivery.stores.reading import Part, RemoteFile
from airflow_serving_reload.delivery.streams import MIB

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.stores.base import FileFacts, Store

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 10
"""As many as `requests` keeps for further use."""

PIECE = MIB // 4
"""Bytes taken from a connection at a time."""

END_SECONDS = 1.0
"""How long to wait for threads that are to end; one that waits for a silent server ends with the store's timeout."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """How many connections one large file may come by, and when.

    :param connections: at most; with 1 there is only the single stream.
    :param part_bytes: length of a part; a file of a few parts comes by the single stream.
    :param ahead_bytes: of parts that have come, or are on their way, before the reader has asked for them.
    :param fast: bytes per second; a single stream that is as fast as this stays alone.
    :param slow_seconds: that one which is not is waited for, part by part, until several are tried: none for a hiccup.
    """

    connections: int = 1
    part_bytes: int = 3 * MIB
    ahead_bytes: int = 24 * MIB
    fast: float = 64.0 * MIB
    slow_seconds: float = 0.25


class ParallelFile(RemoteFile):
    """A file of a store, read once from beginning to end, by several connections once it is known to come slowly."""

    def __init__(self, store: Store, path: str, *, start: int = 0, expected: FileFacts | None = None) -> None:
        super().__init__(store, path, start=start, expected=expected)
        self._parts: _Parts | None = None
        self._in_parts = False
        self._waited = self._slow = 0.0
        self._mark = self.start + store.parallel.part_bytes if self._is_provable() else sys.maxsize
        """Where the single stream is looked at next."""

    @property
    def connections(self) -> int:
        """By how many connections the file comes at the moment, as far as it is asked for."""
        return self._parts.working if self._in_parts and self._parts is not None else 1

    def close(self) -> None:
        """Close the connections that the file came by."""
        if self._parts is not None:
            self._parts.close()
        super().close()

    def _is_provable(self) -> bool:
        return (
            self._store.parallel.connections > 1
            and self._store._can_part(self.facts)
            and self.facts.proves_same_file(self.facts)
        )

    def _read(self, size: int) -> bytes:
        if self._in_parts and self._parts is not None:
            return self._read_of(self._parts, size)
        began = time.monotonic()
        data = super()._read(min(size, self._mark - self._position))
        self._waited += time.monotonic() - began
        if self._position == self._mark:
            self._look()
        return data

    def _look(self) -> None:
        """Begin with parts if the last ones came slowly, and leave the rest to them once they are proved."""
        part = self._store.parallel.part_bytes
        self._mark += part
        if self._parts is None:
            settings = self._store.parallel
            rate = part / max(self._waited, sys.float_info.epsilon)
            is_slow = rate < settings.fast
            self._slow = self._slow + self._waited if is_slow else 0.0
            self._waited = 0.0
            if is_slow and self._slow >= settings.slow_seconds and (self.facts.size or 0) > self._mark + part:
                where = self._store.describe(self._path)
                log.info("reading %s: %.1f MiB/s by one connection; trying several", where, rate / MIB)
                self._parts = _Parts(self._store, self._path, self.facts, self._mark)
        elif self._parts.take_over(self._position):
            self._in_parts = True
            super().close()
            self._parts.add_connection()

    def _read_of(self, parts: _Parts, size: int) -> bytes:
        try:
            data = parts.read(size)
        except StoreUnreachable as fault:
            self._in_parts, self._mark = False, sys.maxsize
            where = f"reading {self._store.describe(self._path)} at byte {self._position}"
            raise StoreUnreachable(f"{where}: {fault}", fault.retry_after) from fault
        self._position += len(data)
        if data:
            self._attempt = 0
        return data


@dataclass(slots=True)
class _Stretch:
    """A part on its way.

    :param room: for all of it.
    :ivar came: position behind the last byte that has come.
    :ivar given: position behind the last byte that was read.
    :ivar passed: the single stream has read it.
    """

    first: int
    end: int
    room: bytearray
    came: int = field(init=False)
    given: int = field(init=False)
    passed: bool = False

    def __post_init__(self) -> None:
        self.came = self.given = self.first

    def add(self, piece: bytes) -> None:
        """Add what has come next."""
        begin = self.came - self.first
        self.room[begin : begin + len(piece)] = piece
        self.came += len(piece)

    def take(self, size: int) -> bytes:
        """Give up to `size` bytes of what has come next."""
        begin = self.given - self.first
        self.given = min(self.given + size, self.came)
        return bytes(memoryview(self.room)[begin : self.given - self.first])

    @property
    def missing(self) -> bool:
        """Whether there is something to fetch."""
        return self.came < self.end and not self.passed


class _Parts:
    """The rest of a file in parts, by threads with a connection each.

    The first thread is alone until its part is proved. One whose part cannot be opened, or breaks off for good, ends
    and leaves what is missing to the others; with the last one, all of it is over.

    :param first: position of the first part.
    :ivar working: how many threads there are.
    :ivar proved: whether a part was proved.
    """

    def __init__(self, store: Store, path: str, facts: FileFacts, first: int) -> None:
        self._store = store
        self._path = path
        self._facts = facts
        self._size = facts.size or 0
        self._next = first
        self._stretches: deque[_Stretch] = deque()
        """What was begun and not read, in order."""
        self._left: list[_Stretch] = []
        """What was begun and has to be gone on with, in order."""
        self._rooms: list[bytearray] = []
        """Used again, since memory that one thread gives back is not at once another one's to take."""
        lock = threading.Lock()
        self._came = threading.Condition(lock)
        self._free = threading.Condition(lock)
        self._threads: list[threading.Thread] = []
        self.working = 0
        self.proved = False
        self._not_before = 0.0
        self._over: StoreUnreachable | None = None
        with lock:
            self._start(1)

    # the reader's side

    def take_over(self, position: int) -> bool:
        """Whether the parts go on from here; if none is proved yet, what begins here is left to the single stream."""
        with self._came:
            if self.proved and not self._over and self._stretches and self._stretches[0].first == position:
                return True
            if self._stretches:
                self._stretches.popleft().passed = True
            self._next = max(self._next, position + self._store.parallel.part_bytes)
            return False

    def add_connection(self) -> None:
        """Have one connection more, in the place of the single stream's."""
        with self._came:
            if not self._over:
                self._start(1)

    def read(self, size: int) -> bytes:
        """Give up to `size` bytes, as soon as there are some; empty at the end of the file.

        :raises StoreUnreachable: nobody is left who could fetch the next ones.
        """
        with self._came:
            while True:
                if not self._stretches and self._next >= self._size:
                    return b""
                if self._stretches and self._stretches[0].came > self._stretches[0].given:
                    return self._take(self._stretches[0], size)
                if self._over:
                    raise self._over
                self._came.wait()

    def _take(self, stretch: _Stretch, size: int) -> bytes:
        data = stretch.take(size)
        if stretch.given == stretch.end:
            self._rooms.append(self._stretches.popleft().room)
            self._free.notify_all()
        return data

    def close(self) -> None:
        """End the threads."""
        with self._came:
            self._end(StoreUnreachable(f"reading {self._store.describe(self._path)}: it was closed; open it again"))
        until = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    # the threads' side

    def _start(self, count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=self._work, name=f"part-{id(self):x}-{self.working + 1}", daemon=True)
            thread.start()
            self._threads.append(thread)
            self.working += 1

    def _work(self) -> None:
        while (stretch := self._begin()) is not None:
            try:
                self._fetch(stretch)
            except BaseException as fault:  # noqa: BLE001 - it is raised where the bytes are read, unless others bring them
                self._leave(stretch, fault)
                return

    def _begin(self) -> _Stretch | None:
        """Give what to fetch next, as soon as there is room for it; None if all is over."""
        with self._free:
            while not self._over:
                early = self._not_before - time.monotonic()
                if early <= 0 and (stretch := self._pick()):
                    return stretch
                self._free.wait(early if early > 0 else None)
            return None

    def _pick(self) -> _Stretch | None:
        while self._left:
            if (stretch := self._left.pop(0)).missing:
                return stretch
        settings = self._store.parallel
        first, end = self._next, min(self._next + settings.part_bytes, self._size)
        if first >= end or (self._stretches and end > self._stretches[0].first + settings.ahead_bytes):
            return None
        self._next = end
        room = self._rooms.pop() if self._rooms else bytearray(settings.part_bytes)
        self._stretches.append(stretch := _Stretch(first, end, room))
        return stretch

    def _fetch(self, stretch: _Stretch) -> None:
        with RemoteFile(self._store, self._path, Part(self._facts, stretch.came, stretch.end)) as file:
            self._prove()
            while piece := file.read(PIECE):
                with self._came:
                    if self._over or stretch.passed:
                        return
                    stretch.add(piece)
                    if stretch is self._stretches[0]:
                        self._came.notify()

    def _prove(self) -> None:
        """Let further threads begin behind the first proof; the single stream goes on meanwhile."""
        with self._came:
            if not self.proved:
                self.proved = True
                self._start(self._store.parallel.connections - 2)

    def _leave(self, stretch: _Stretch, fault: BaseException) -> None:
        unreachable = fault if isinstance(fault, StoreUnreachable) else StoreUnreachable(str(fault))
        with self._came:
            if self._over:
                return
            self.working -= 1
            log.warning("%s; going on by %d connections", fault, max(1, self.working))
            if stretch.missing:
                insort(self._left, stretch, key=lambda left: left.first)
            pause = min(unreachable.retry_after, reading.LONGEST_PAUSE)
            self._not_before = max(self._not_before, time.monotonic() + pause)
            if not self.working:
                self._end(unreachable)
            self._free.notify_all()

    def _end(self, why: StoreUnreachable) -> None:
        self._over = self._over or why
        self._came.notify_all()
        self._free.notify_all()
