"""Bytes on their way: counted and digested, and produced by a thread while they are consumed."""

from __future__ import annotations

import hashlib
import io
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHUNK = 1 << 20
"""Bytes moved at a time."""


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


class Digesting(Counting):
    """A stream that counts and digests its bytes."""

    def __init__(self, source: Readable) -> None:
        super().__init__(source)
        self._sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Give up to `size` bytes of the source."""
        data = super().read(size)
        self._sha256.update(data)
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
