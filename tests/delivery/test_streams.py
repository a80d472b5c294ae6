"""Bytes on their way: counting, digesting, and a producer in a thread of its own."""

from __future__ import annotations

import hashlib
import io
import threading
from typing import BinaryIO

import pytest

from airflow_serving_reload.delivery import streams
from airflow_serving_reload.delivery.streams import CHUNK, MIB, Counting, Digesting, Progress, pull_from, read_ahead

DATA = bytes(range(256)) * 20_000


def test_counting_and_digesting() -> None:
    """What passed is counted and digested, however it was read."""
    source = Digesting(io.BytesIO(DATA), Progress("testing"))
    assert source.read(0) == b""
    assert source.read(7) + source.read(CHUNK) == DATA[: 7 + CHUNK]
    source.drain()
    assert (source.count, source.sha256()) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert source.read() == b""


@pytest.mark.parametrize(
    ("total", "expected"),
    [(4 * MIB, "doing: 3.0 of 4.0 MiB (75%), 0.2 MiB/s"), (None, "doing: 3.0 MiB, 0.2 MiB/s")],
)
def test_progress_is_told_at_a_bounded_pace(
    total: int | None, expected: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many bytes come, the log says once in ten seconds how many, what share, and how fast."""
    caplog.set_level("INFO", logger=streams.__name__)
    now = 100.0
    monkeypatch.setattr(streams.time, "monotonic", lambda: now)
    progress = Progress("doing", total)
    for _ in range(3):
        progress.add(MIB)
        assert caplog.messages == []
        now += 4
    progress.add(0)
    progress.add(0)
    assert caplog.messages == [expected]


def test_draining_reads_to_the_end() -> None:
    """Draining leaves nothing in the source."""
    inner = io.BytesIO(DATA)
    Counting(inner).drain()
    assert inner.read() == b""


@pytest.mark.parametrize("size", [1000, CHUNK, 3 * CHUNK, -1])
def test_what_is_produced_is_read(size: int) -> None:
    """A consumer reads exactly what the producer wrote, whatever the sizes of either."""

    def produce(target: BinaryIO) -> None:
        target.writelines(DATA[begin : begin + 70_001] for begin in range(0, len(DATA), 70_001))

    with pull_from(produce) as pulled:
        parts = list(iter(lambda: pulled.read(size), b""))
        assert b"".join(parts) == DATA
        assert pulled.read(0) == pulled.read(1) == pulled.read() == b""
    if size > 0:
        assert max(map(len, parts)) <= size


def test_the_fault_of_the_producer_comes_instead_of_the_end() -> None:
    """What came before the fault is read, then the fault is raised, each time, and never an end."""

    def produce(target: BinaryIO) -> None:
        target.write(b"before")
        raise LookupError("broken")

    with pull_from(produce) as pulled:
        assert pulled.read(100) == b"before"
        for _ in range(2):
            with pytest.raises(LookupError, match="broken"):
                pulled.read(100)


def test_leaving_early_stops_the_producer() -> None:
    """A producer whose consumer left fails at a write, and is over when the block is."""
    outcome: list[BaseException] = []

    def produce(target: BinaryIO) -> None:
        try:
            while True:
                target.write(bytes(CHUNK))
        except BrokenPipeError as error:
            outcome.append(error)
            raise

    before = threading.active_count()
    with pull_from(produce) as pulled:
        assert pulled.read(1) == b"\0"
    assert len(outcome) == 1
    assert threading.active_count() == before


def test_the_producer_waits_for_the_consumer() -> None:
    """A producer does not get ahead of its consumer by more than a bounded number of chunks."""
    finished = threading.Event()

    def produce(target: BinaryIO) -> None:
        target.writelines(bytes(CHUNK) for _ in range(100))
        finished.set()

    with pull_from(produce) as pulled:
        assert not finished.wait(0.2)
        assert len(pulled.read()) == 100 * CHUNK
    assert finished.is_set()


def test_reading_ahead() -> None:
    """A stream that a thread reads ahead gives the same bytes, and its fault where it lies."""

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if not data:
                raise ConnectionError("reset")
            return data

    with read_ahead(io.BytesIO(DATA)) as ahead:
        assert ahead.read() == DATA
    with read_ahead(Breaking(DATA)) as ahead, pytest.raises(ConnectionError, match="reset"):
        ahead.read()
