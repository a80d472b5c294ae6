"""Large files by several connections: in order, bounded, proved part by part, else by the single stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from airflow.sdk import Connection

from airflow_serving_reload.connections.settings import CONNECTIONS, parallel_of
from airflow_serving_reload.delivery.errors import NotThereYet, Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.base import RemoteFile, Store
from airflow_serving_reload.delivery.stores.http import HttpStore
from airflow_serving_reload.delivery.stores.parallel import MOST_CONNECTIONS, Parallel, ParallelFile
from airflow_serving_reload.delivery.streams import CHUNK
from airflow_serving_reload.demo.processes import Processes
from tests.bench.link import between
from tests.faults.breaking import BreakingProxy, Fault

from .answers import answer
from .bench import Address, Bench, HttpBench, NetworkBench
from .nginx import Nginx
from .proxy import CuttingProxy
from .suite import LONG_AGO, MODEL, fault, random_bytes, read, wait_until
from .test_http_nginx import FULL, NginxBench, OverNginx

FORCED = Parallel(4, part_bytes=1 << 16, ahead_bytes=1 << 19, fast=float("inf"), slow_seconds=0)
"""Takes every file of some hundred kilobytes for a large one that comes slowly."""

CONTENT = random_bytes(3_000_000)


class ParallelBench(NginxBench):
    """A store that takes every chance to read by several connections."""

    def connect(self, address: Address | None = None, *, password: str | None = None) -> HttpStore:
        """Open another store on the same files."""
        store = super().connect(address, password=password)
        store.parallel = FORCED
        return store


class TestNginx(OverNginx):
    """The contract over an nginx whose single streams are slow, by several connections."""

    variant = "slow"
    offers = FULL

    # these break the first stream where it has been given up already; what is here for parts stands below
    test_broken_transfer_sends_nothing_twice = None
    test_file_replaced_meanwhile_is_not_continued = None
    test_file_removed_meanwhile_is_not_there_yet = None

    @pytest.fixture
    def bench(self, nginx: Nginx) -> NginxBench:
        """Give a store on the location."""
        return bench_on(nginx, self.variant)

    @pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
    def test_broken_transfer_goes_on(self, bench: NetworkBench, *, reset: bool) -> None:
        """Whichever connections break off in the middle, the file is whole all the same."""
        bench.put(MODEL, CONTENT, mtime=LONG_AGO)
        proxy = self.proxy(bench, cuts=[100_000, 20_000, 30_000, 40_000, 50_000, 1000], reset=reset)
        with proxy.running(), bench.connect(proxy.address) as store:
            assert read(store, MODEL) == CONTENT
        assert len(proxy.answered) > 6


def bench_on(nginx: Nginx, variant: str) -> ParallelBench:
    """Give a store on a location of nginx."""
    return ParallelBench(nginx.files / variant, nginx.address, f"/{variant}")


@pytest.fixture
def bench(nginx: Nginx) -> ParallelBench:
    """Give a store whose single streams are slow, with a model in it."""
    bench = bench_on(nginx, "slow")
    bench.put(MODEL, CONTENT, mtime=LONG_AGO)
    return bench


@contextmanager
def in_parts(store: Store) -> Iterator[tuple[ParallelFile, bytes]]:
    """Open the model and read until it comes in parts; gives what has been read too."""
    with store.open(MODEL) as file:
        assert isinstance(file, ParallelFile)
        data = file.read(FORCED.part_bytes)
        while file._parts is None:
            data += some_of(file)
        wait_until(lambda: file._parts and file._parts.proved, "a part that is proved")
        while not file._in_parts:
            data += some_of(file)
        yield file, data


def some_of(file: ParallelFile) -> bytes:
    """Read a little, of which there is something."""
    data = file.read(1000)
    assert data
    return data


def assert_in_order(bench: Bench) -> None:
    """Read the model in parts and compare."""
    with in_parts(bench.store) as (file, data):
        assert file.connections > 1
        assert data + file.read() == CONTENT
        assert file.read() == file.read(10) == b""


def test_parts_are_given_in_order(bench: ParallelBench) -> None:
    """A file that comes slowly comes by several connections, and its bytes in their order."""
    assert_in_order(bench)


@pytest.mark.parametrize("transport", ["webhdfs", "hdfs_native"])
def test_parts_of_hdfs_are_given_in_order(transport: str, request: pytest.FixtureRequest) -> None:
    """A file of an HDFS comes by several connections too."""
    from .hadoop_front import Front
    from .test_hdfs_native import NativeHdfsBench
    from .test_webhdfs import WebHdfsBench

    hdfs = request.getfixturevalue("hdfs")
    with Front(hdfs).running() as front:
        bench = {"webhdfs": WebHdfsBench, "hdfs_native": NativeHdfsBench}[transport](front)
        bench.store.parallel = FORCED
        bench.put(MODEL, CONTENT, mtime=LONG_AGO)
        with bench.store:
            assert_in_order(bench)


def test_reader_that_is_slow_stops_the_others(bench: ParallelBench) -> None:
    """However long nothing is read, no more is fetched ahead than was allowed, and then it goes on."""

    def ahead() -> int:
        assert file._parts
        return sum(stretch.came - stretch.given for stretch in file._parts._stretches)

    with in_parts(bench.store) as (file, data):
        wait_until(lambda: ahead() > FORCED.ahead_bytes - FORCED.part_bytes, "as much ahead as is allowed")
        wait_until(lambda: file._parts._free._waiters and len(file._parts._free._waiters) == file.connections, "a rest")
        assert ahead() <= FORCED.ahead_bytes
        assert data + file.read() == CONTENT


def test_everybody_waits_when_a_server_wants_it(bench: ParallelBench) -> None:
    """A busy server that says when to come again is not asked for another part before that."""
    told: list[float] = []
    reply = answer("503 Service Unavailable", "Content-Length: 0", "Retry-After: 1")
    busy = Fault("say", b"^GET", nth=3, reply=reply, before=lambda: told.append(time.monotonic()))
    proxy = BreakingProxy(bench.address, [busy])
    with proxy.running(), bench.connect(proxy.address) as store, store.open(MODEL) as file:
        while not told:
            assert file.read(1000)
        asked = len(proxy._seen)
        wait_until(lambda: len(proxy._seen) > asked + FORCED.connections, "further questions")
        assert time.monotonic() - told[0] >= 1
        assert CONTENT.endswith(file.read())


def test_long_line(processes: Processes, tmp_path: Path) -> None:
    """Over a line that delays and loses packets, a file comes whole by several connections."""
    with between(milliseconds=50, loss=0.01) as line:
        with line.at_server():
            nginx = Nginx.start(processes, tmp_path)
        bench = HttpBench(nginx.files / "full", nginx.address, "/full")
        bench.put(MODEL, CONTENT, mtime=LONG_AGO)
        bench.store.parallel = Parallel(4, FORCED.part_bytes, FORCED.ahead_bytes, slow_seconds=0)
        with line.at_client(), bench.store, bench.store.open(MODEL) as file:
            assert isinstance(file, ParallelFile)
            data = file.read(CHUNK)
            while file.connections == 1:
                data += some_of(file)
            assert data + file.read() == CONTENT
        processes.end(nginx.process)


def test_fast_and_small_files_come_by_one(bench: ParallelBench) -> None:
    """One connection does for a file of a few parts, one that comes fast, or slowly for a moment, or if told so."""
    small = CONTENT[: 3 * FORCED.part_bytes]
    bench.put("/small", small, mtime=LONG_AGO)
    for path, content, parallel in (
        ("/small", small, FORCED),
        (MODEL, CONTENT, replace(FORCED, fast=1)),
        (MODEL, CONTENT, replace(FORCED, slow_seconds=60)),
        (MODEL, CONTENT, replace(FORCED, connections=1)),
    ):
        with CuttingProxy(bench.address).running() as proxy, bench.connect(proxy.address) as store:
            store.parallel = parallel
            assert read(store, path) == content
        assert len(proxy.answered) == 1


def test_young_file_comes_by_one(bench: ParallelBench) -> None:
    """A file that may still change within the second of its time is not fetched in parts, since nothing proves them."""
    bench.put(MODEL, CONTENT, mtime=time.time() + 60)
    with CuttingProxy(bench.address).running() as proxy, bench.connect(proxy.address) as store:
        assert read(store, MODEL) == CONTENT
    assert len(proxy.answered) == 1


@pytest.mark.parametrize("variant", ["two-at-once-503", "two-at-once-429"])
def test_busy_server_gets_fewer_connections(nginx: Nginx, variant: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that turns further connections down is left with those that it takes, and the file is whole."""
    bench = bench_on(nginx, variant)
    bench.put(MODEL, CONTENT, mtime=LONG_AGO)
    with in_parts(bench.store) as (file, data):
        pieces = [data]
        while file.connections == FORCED.connections:
            pieces.append(some_of(file))
        assert b"".join(pieces) + file.read() == CONTENT
    assert variant[-3:] in caplog.text


def test_single_stream_makes_room(bench: ParallelBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The single stream is closed before another connection takes its place, so that there are never too many."""
    close, working = RemoteFile.close, []

    def closing(file: RemoteFile) -> None:
        if isinstance(file, ParallelFile) and file._parts:
            working.append(file._parts.working)
        close(file)

    monkeypatch.setattr(RemoteFile, "close", closing)
    assert_in_order(bench)
    assert working[0] == FORCED.connections - 1


def test_server_without_ranges_is_asked_once(nginx: Nginx, caplog: pytest.LogCaptureFixture) -> None:
    """A server that sends no parts is asked for one, and goes on with its single stream, which nothing is lost of."""
    bench = bench_on(nginx, "slow-without-ranges")
    bench.put(MODEL, CONTENT, mtime=LONG_AGO)
    with CuttingProxy(bench.address).running() as proxy, bench.connect(proxy.address) as store:
        assert read(store, MODEL) == CONTENT
    assert len(proxy.answered) == 2
    assert "going on by 1 connections" in caplog.text


def test_replaced_file_is_never_mixed(bench: ParallelBench) -> None:
    """A file that is replaced between two parts fails, and tells the same fault ever after."""
    with in_parts(bench.store) as (file, data):
        bench.put(MODEL, CONTENT[::-1], mtime=LONG_AGO + 1)
        pieces = [data]
        with fault(StoreUnreachable, f"reading {bench.store.describe(MODEL)}", "from the beginning"):
            pieces += iter(lambda: file.read(1000), b"")
        assert CONTENT.startswith(b"".join(pieces))
        with pytest.raises(StoreUnreachable):
            file.read()


def test_removed_file_is_not_there_yet(bench: ParallelBench) -> None:
    """A file that is removed between two parts is not there yet."""
    with in_parts(bench.store) as (file, _):
        bench.remove(MODEL)
        with fault(NotThereYet, f"opening {bench.store.describe(MODEL)}"):
            file.read()


def test_server_that_is_gone_is_unreachable(bench: ParallelBench) -> None:
    """Where every connection breaks off and no further one is taken, the store is unreachable."""
    proxy = CuttingProxy(bench.address)
    with proxy.running(), bench.connect(proxy.address) as store, in_parts(store) as (file, _):
        proxy.gone_after = 0
        proxy.drop()
        with fault(StoreUnreachable, f"reading {store.describe(MODEL)}"):
            file.read()


def test_file_left_early_leaves_no_thread(bench: ParallelBench) -> None:
    """Whoever closes a file in the middle ends what reads ahead."""
    with in_parts(bench.store) as (file, _):
        threads = list(file._parts._threads)
    assert len(threads) == FORCED.connections
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "the end of all threads")


def test_number_of_connections_is_set() -> None:
    """The connection's extra bounds the number of connections, be it a number or text."""
    told = {"{}": CONNECTIONS, '{"parallel": 3}': 3, '{"parallel": "1"}': 1}
    for extra, connections in told.items():
        assert parallel_of(Connection(conn_id="store", conn_type="http", extra=extra)).connections == connections


@pytest.mark.parametrize("transport", ["http", "webhdfs", "hdfs_native"])
def test_store_has_the_number_of_its_connection(transport: str) -> None:
    """The number reaches the store, and goes to no server."""
    extra = '{"parallel": 3}'
    connection = Connection(conn_id="store", conn_type=transport, host="127.0.0.1", port=1, extra=extra)
    with import_module(f"airflow_serving_reload.connections.{transport}").open_store(connection) as store:
        assert store.parallel.connections == 3
        if isinstance(store, HttpStore):
            assert "parallel" not in store._session.headers


@pytest.mark.parametrize("value", ["0", "-1", "11", "true", "2.5", '"many"', '"²"'])
def test_odd_number_of_connections_is_refused(value: str) -> None:
    """Whatever is no number from one to the most is refused, and the message says what to set."""
    connection = Connection(conn_id="store", conn_type="http", extra=f'{{"parallel": {value}}}')
    with fault(Refused, "opening the connection 'store'", "parallel", f"from 1 to {MOST_CONNECTIONS}"):
        parallel_of(connection)
