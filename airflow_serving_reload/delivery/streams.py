"""Bytes on their way: counted and digested, and produced by a thread while they are consumed."""

from __future__ import annotations

import hashlib
import io
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger(__name__)

MIB = 1 << 20

CHUNK = MIB
"""Bytes moved at a time."""

PACE_SECONDS = 10.0
"""Seconds between two lines of the log about one transfer."""


class Readable(Protocol):
    """Anything that gives its bytes in order and then nothing."""

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes; an empty result means the end."""


class Counting:
    """A stream that counts its bytes.

    :param source: the stream to read from.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes of the source."""
        data = self._source.read(size)
        self.count += len(data)
        return data

    def drain(self) -> None:
        """Read the source to its end."""
        while self.read(CHUNK):
            pass


class Progress:
    """Tells the log how far a transfer is, at a bounded pace.

    :param doing: begins each line.
    :param total: bytes that will come; None if nobody knows.
    """

    def __init__(self, doing: str, total: int | None = None) -> None:
        self._doing = doing
        self._total = total
        self._count = 0
        self._began = self._told = time.monotonic()

    def add(self, count: int) -> None:
        """Note that some bytes more have come."""
        self._count += count
        now = time.monotonic()
        if now - self._told < PACE_SECONDS:
            return
        self._told = now
        share = f" of {self._total / MIB:,.1f} MiB ({self._count / self._total:.0%})" if self._total else " MiB"
        rate = self._count / MIB / (now - self._began)
        log.info("%s: %s%s, %.1f MiB/s", self._doing, f"{self._count / MIB:,.1f}", share, rate)


class Digesting(Counting):
    """A stream that counts and digests its bytes.

    :param progress: told of them.
    """

    def __init__(self, source: Readable, progress: Progress) -> None:
        super().__init__(source)
        self._sha256 = hashlib.sha256()
        self._progress = progress

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes of the source."""
        data = super().read(size)
        self._sha256.update(data)
        self._progress.add(len(data))
        return data

    def begin_with(self, file: Readable, size: int) -> None:
        """Take the first bytes from elsewhere, where they are already."""
        while self.count < size and (data := file.read(min(size - self.count, CHUNK))):
            self.count += len(data)
            self._sha256.update(data)

    def sha256(self) -> str:
        """Give the digest of what has passed, as lower-case hexadecimal digits."""
        return self._sha256.hexdigest()


AHEAD = 4
"""Chunks that one thread may be ahead of the other at most."""

Send = Callable[[bytes], None]
"""Hands a chunk over; fails once nobody reads any more."""


def pull_from(produce: Callable[[BinaryIO], None]) -> AbstractContextManager[Readable]:
    """Read what a function writes, while a thread runs it.

    The end is reported only after the function has returned; its fault is raised instead of the end.
    Leaving the `with` block early makes the function's next write fail, and waits for it.

    :param produce: writes everything to the file object that it is given.
    """

    def write_all(send: Send) -> None:
        with io.BufferedWriter(_Sending(send), CHUNK) as target:
            produce(cast(BinaryIO, target))

    return _handed_over(write_all)


def read_ahead(source: Readable) -> AbstractContextManager[Readable]:
    """Read a stream by a thread of its own, so that what follows can work on another core.

    :param source: the stream; only the thread uses it inside the `with` block.
    """

    def read_all(send: Send) -> None:
        while chunk := _gathered(source):
            send(chunk)

    return _handed_over(read_all)


def _gathered(source: Readable) -> bytes:
    """Read until it is worth to wake another thread; sources give what they have, which may be little."""
    pieces = []
    missing = CHUNK
    while missing > CHUNK // 2 and (piece := source.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextmanager
def _handed_over(produce: Callable[[Send], None]) -> Iterator[Readable]:
    """Read what a function sends, while a thread runs it."""
    chunks: queue.Queue[bytes | BaseException] = queue.Queue(AHEAD)
    abandoned = threading.Event()

    def hand_over(item: bytes | BaseException) -> None:
        while not abandoned.is_set():
            try:
                chunks.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
        raise BrokenPipeError("nobody reads any more")

    def run() -> None:
        end: bytes | BaseException = b""
        try:
            produce(hand_over)
        except BaseException as fault:  # noqa: BLE001 - it is raised where the bytes are read
            end = fault
        with suppress(BrokenPipeError):
            hand_over(end)

    thread = threading.Thread(target=run, name=f"produce-{threading.get_ident()}", daemon=True)
    thread.start()
    try:
        yield _Pulled(chunks)
    finally:
        abandoned.set()
        thread.join()


class _Sending(io.RawIOBase):
    """Where a producer writes that wants a file."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        if chunk := bytes(data):
            self._send(chunk)
        return len(chunk)


class _Pulled:
    """Where the consumer reads."""

    def __init__(self, chunks: queue.Queue[bytes | BaseException]) -> None:
        self._chunks = chunks
        self._chunk = io.BytesIO()
        self._end: bytes | BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        data = self._chunk.read(size)
        if data or not size:
            return data
        if self._end is None:
            item = self._chunks.get()
            if item and not isinstance(item, BaseException):
                self._chunk = io.BytesIO(item)
                return self._chunk.read(size)
            self._end = item
        if isinstance(self._end, BaseException):
            raise self._end
        return b""
