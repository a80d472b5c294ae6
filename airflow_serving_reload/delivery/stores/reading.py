"""Files of stores on their way: read once from beginning to end, and going on where the connection broke off."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from airflow_serving_reload.delivery.errors import Corrupt, DeliveryError, StoreUnreachable
from airflow_serving_reload.delivery.streams import CHUNK

if TYPE_CHECKING:
    from airflow_serving_reload.delivery.stores.base import FileFacts, Opened, Store

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
"""Seconds that a transfer waits at most before it goes on, whatever the store asks for."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes in the middle of a file.

    :param facts: what the store said of the file; the bytes must belong to it as it was then.
    :param first: position of the first byte.
    :param end: position behind the last one.
    """

    facts: FileFacts
    first: int
    end: int


class RemoteFile:
    """A file of a store, or a part of one, read once from beginning to end, going on where the connection broke off.

    The end is reported only when as many bytes came as the store said.

    :param store: the store that has it.
    :param path: its path there.
    :param part: the bytes that are wanted; None for all of the file as it is now.
    :param start: of all of the file, the first byte that is wanted, if this is surely the file of the facts `expected`.
    :ivar start: the first byte that is given: the one that was wanted, or else that at the beginning.
    :raises StoreUnreachable: the store does not prove that the part belongs to the file.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        part: Part | None = None,
        *,
        start: int = 0,
        expected: FileFacts | None = None,
    ) -> None:
        self._store = store
        self._path = path
        self._part = part
        self._stack = ExitStack()
        self._position = part.first if part else start
        self._skip = 0
        self._attempt = 0
        self._fault: DeliveryError | None = None
        opened = self._reopen(part.facts if part else expected)
        if start and not (expected and expected.proves_same_file(opened.facts) and self._skip >= 0):
            self._position = 0
            opened = self._reopen(None)
        self.start = self._position
        self.facts = part.facts if part else opened.facts
        self._end = part.end if part else self.facts.size
        if part and not self._is_same(opened):
            self.close()
            raise self._unproven(f"opening {store.describe(path)} at byte {part.first}")

    def __enter__(self) -> Self:
        """Read the file until the end of the `with` block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close the connection that the file came through."""
        self.close()

    def close(self) -> None:
        """Close the connection that the file came through."""
        with self._store._errors(f"closing {self._store.describe(self._path)}"):
            self._stack.close()

    def read(self, size: int = -1) -> bytes:
        """Give up to `size` bytes, everything that is left if negative; empty at the proven end.

        :raises StoreUnreachable: the transfer broke off and could not go on with the same file.
        :raises Corrupt: the store sent more than it said.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if self._fault is not None:
            raise self._fault
        try:
            return self._read_on(size)
        except DeliveryError as fault:
            self._fault = fault
            raise

    def _read_on(self, size: int) -> bytes:
        while True:
            try:
                return self._read(size)
            except StoreUnreachable as broken:
                if self._part and self._position == self._end:
                    return b""
                self._go_on(broken)

    def _read(self, size: int) -> bytes:
        where = self._store.describe(self._path)
        with self._store._errors(f"reading {where} at byte {self._position}"):
            while self._skip:
                skipped = self._reader.read(min(self._skip, CHUNK))
                if not skipped:
                    raise StoreUnreachable(f"reading {where}: it broke off before byte {self._position}; try again")
                self._skip -= len(skipped)
            data = self._reader.read(size)
        self._position += len(data)
        if data:
            self._attempt = 0
        expected = self._end
        if expected is not None and self._position > expected:
            raise Corrupt(
                f"reading {where}: more than the {expected} bytes that the store announced; "
                "upload it under a temporary name and rename it when it is whole"
            )
        if not data and size and expected is not None and self._position < expected:
            raise StoreUnreachable(
                f"reading {where}: it broke off after {self._position} of {expected} bytes; try again"
            )
        return data

    def _go_on(self, broken: StoreUnreachable) -> None:
        """Open the file again behind the last byte that came, or give up with the fault that broke it."""
        first = broken
        while self._attempt < len(self._store.resume_pauses):
            pause = max(self._store.resume_pauses[self._attempt], min(broken.retry_after, LONGEST_PAUSE))
            self._attempt += 1
            log.warning("%s; going on in %s s", broken, pause)
            time.sleep(pause)
            try:
                opened = self._reopen(self.facts)
            except StoreUnreachable as again:
                broken = again
                continue
            if not self._is_same(opened):
                raise self._unproven(broken) from broken
            return
        raise first

    def _reopen(self, expected: FileFacts | None) -> Opened:
        store, path = self._store, self._path
        with store._errors(f"opening {store.describe(path)}"):
            self._stack.close()
            if self._part:
                way = store._open_part(path, self._position, self._part.end, self._part.facts)
            else:
                way = store._open(path, self._position, expected)
            opened = self._stack.enter_context(way)
        log.debug("opened %s at byte %d: %s", store.describe(path), opened.offset, opened.facts)
        self._reader = opened.reader
        self._skip = self._position - opened.offset
        return opened

    def _is_same(self, opened: Opened) -> bool:
        """Whether what was opened surely goes on with these bytes; a part is not worth those before it."""
        from_here = self._skip == 0 if self._part else self._skip >= 0
        return from_here and self.facts.proves_same_file(opened.facts)

    def _unproven(self, broken: object) -> StoreUnreachable:
        return StoreUnreachable(
            f"{broken}; it cannot be continued, because the store does not prove that the file is "
            "still the same: fetch it from the beginning"
        )
