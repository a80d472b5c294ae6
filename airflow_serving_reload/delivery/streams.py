"""Bytes on their way: counted and digested, and produced by a thread while they are consumed."""

from __future__ import annotations

import hashlib
import io
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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

    def sha256(self) -> str:
        """Give the digest of what has passed, as lower-case hexadecimal digits."""
        return self._sha256.hexdigest()


@contextmanager
def pull_from(produce: Callable[[BinaryIO], None]) -> Iterator[Readable]:
    """Read what a function writes, while a thread runs it.

    The end is reported only after the function has returned; its fault is raised instead of the end.
    Leaving the `with` block early makes the function's next write fail, and waits for it.

    :param produce: writes everything to the file object that it is given.
    """
    chunks: queue.Queue[bytes | BaseException] = queue.Queue(8)
    abandoned = threading.Event()
    pushed = _Pushed(chunks, abandoned)

    def run() -> None:
        try:
            with io.BufferedWriter(pushed, CHUNK) as target:
                produce(cast(BinaryIO, target))
        except BaseException as fault:  # noqa: BLE001 - it is raised where the bytes are read
            pushed.send(fault)
        else:
            pushed.send(b"")

    thread = threading.Thread(target=run, name=f"produce-{threading.get_ident()}", daemon=True)
    thread.start()
    try:
        yield _Pulled(chunks)
    finally:
        abandoned.set()
        thread.join()


def read_ahead(source: Readable) -> AbstractContextManager[Readable]:
    """Read a stream by a thread of its own, so that what follows can work on another core.

    :param source: the stream; only the thread uses it inside the `with` block.
    """
    return pull_from(lambda target: shutil.copyfileobj(source, target, CHUNK))


class _Pushed(io.RawIOBase):
    """Where the producer writes; every chunk goes into a queue of bounded length."""

    def __init__(self, chunks: queue.Queue[bytes | BaseException], abandoned: threading.Event) -> None:
        super().__init__()
        self._chunks = chunks
        self._abandoned = abandoned

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        chunk = bytes(data)
        if chunk and not self.send(chunk):
            raise BrokenPipeError("nobody reads any more")
        return len(chunk)

    def send(self, item: bytes | BaseException) -> bool:
        while not self._abandoned.is_set():
            try:
                self._chunks.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


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
