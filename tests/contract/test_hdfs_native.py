"""The contract over HDFS's native protocol, and what only it can do."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from airflow_serving_reload.delivery.errors import Refused, StoreUnreachable
from airflow_serving_reload.delivery.stores.hdfs_native import NativeHdfsStore, open_clients

from .bench import USER, Address, Offers
from .hadoop import Hdfs, NameNode, write_settings
from .hadoop_front import Front
from .hdfs_bench import HdfsBench, ReadThroughContract
from .proxy import CuttingProxy, nobody, silence
from .suite import DONEFILE, MODEL, fault, look, read, wait_until


def open_native(*addresses: Address, timeout: float = 20) -> NativeHdfsStore:
    """Open a store, as the user of this process."""
    hosts = ["{}:{}".format(*address) for address in addresses]
    store = NativeHdfsStore(open_clients(hosts), f"hdfs://{','.join(hosts)}", timeout=timeout)
    store.resume_pauses = (0, 0, 0)
    return store


class NativeHdfsBench(HdfsBench):
    """A store by the native protocol."""

    def open(self, address: Address) -> NativeHdfsStore:
        """Open a store by an address."""
        return open_native(address)


@pytest.fixture(autouse=True)
def _somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be somebody to whom permissions apply."""
    monkeypatch.setenv("HADOOP_USER_NAME", USER)


@pytest.fixture
def front(hdfs: Hdfs) -> Iterator[Front]:
    """Stand before an empty HDFS."""
    with Front(hdfs).running() as front:
        yield front


@pytest.fixture
def bench(front: Front) -> Iterator[NativeHdfsBench]:
    """Give a store in an empty HDFS."""
    bench = NativeHdfsBench(front)
    with bench.store:
        yield bench


class TestNativeHdfs(ReadThroughContract):
    """The contract over the native protocol."""

    offers = Offers(
        lists=True,
        uploads=True,
        renames=True,
        ranges=True,
        forbids=True,
        tells_uploads_apart=True,
        no_names_with=":",
    )

    @pytest.fixture
    def bench(self, bench: NativeHdfsBench) -> NativeHdfsBench:
        """Give a store in an empty HDFS."""
        return bench


@pytest.mark.parametrize("kind", ["down", "standing by", "silent"])
def test_other_namenode_is_asked(bench: NativeHdfsBench, kind: str, request: pytest.FixtureRequest) -> None:
    """Where the first NameNode is down, stands by or is silent, everything goes through the second."""
    bench.put("/models/there", b"content")
    with nobody() if kind == "down" else nullcontext() as down, socket.create_server(("127.0.0.1", 0)) as silent:
        if kind == "standing by":
            standby: NameNode = request.getfixturevalue("standby_namenode")
            first = standby.rpc
        else:
            first = down or Address("127.0.0.1", silent.getsockname()[1])
        with open_native(first, bench.hdfs.namenode.rpc, timeout=2) as store:
            assert read(store, "/models/there") == b"content"
            store.write(DONEFILE, io.BytesIO(b"1"))
            assert look(store).size == 1
            assert [entry.name for entry in store.list("/models") or ()] == ["donefile", "there"]


def test_absence_is_not_asked_for_twice(bench: NativeHdfsBench) -> None:
    """What the NameNode in charge does not have is absent, whatever another one is in."""
    with nobody() as down, open_native(bench.hdfs.namenode.rpc, down) as store:
        assert store.donefile(DONEFILE) is None


def test_all_standing_by_is_unreachable(bench: NativeHdfsBench, standby_namenode: NameNode) -> None:
    """Where no NameNode is in charge, as during a failover, the store is unreachable and not refused."""
    with (
        open_native(standby_namenode.rpc, standby_namenode.rpc) as store,
        fault(StoreUnreachable, f"asking for {store.describe(MODEL)}", "StandbyException"),
    ):
        store.stat(MODEL)


def test_silent_server_is_unreachable(bench: NativeHdfsBench) -> None:
    """A server that takes the connection and never answers is unreachable once the time is over."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address("127.0.0.1", silent.getsockname()[1])
        with open_native(address, timeout=0.3) as store:
            for operation in (store.stat, store.donefile, store.list):
                with fault(StoreUnreachable, "", str(address.port), "no answer within 0.3 s"):
                    operation(MODEL)


def test_lost_datanodes_are_unreachable(bench: NativeHdfsBench) -> None:
    """Where no DataNode that has the bytes can be reached, the store is unreachable, in plain words."""
    bench.put(MODEL, b"model")
    with (
        CuttingProxy(bench.address, gone_after=1).running() as proxy,
        bench.connect(proxy.address) as store,
        fault(StoreUnreachable, f"reading {store.describe(MODEL)} at byte 0: DataTransferError: All DataNodes failed;"),
    ):
        read(store, MODEL)


def test_lost_connection_is_made_again(bench: NativeHdfsBench) -> None:
    """A connection to the NameNode that ended between two questions is no fault."""
    bench.put(MODEL, b"model")
    with CuttingProxy(bench.address).running() as proxy:
        store = bench.connect(proxy.address)
        assert store.stat(MODEL).size == 5
        proxy.drop()
        assert store.stat(MODEL).size == 5
        store.close()


def test_closing_waits_for_who_tells_the_last_answer(bench: NativeHdfsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is closed only when the library's thread that told the last answer is done with it."""
    wake_up = BaseSelectorEventLoop._write_to_self  # type: ignore[attr-defined]

    def wake_up_and_linger(loop: BaseSelectorEventLoop) -> None:
        wake_up(loop)
        if threading.current_thread() not in pythons:
            time.sleep(0.5)

    bench.put(MODEL, b"model")
    pythons = [threading.main_thread()]
    monkeypatch.setattr(BaseSelectorEventLoop, "_write_to_self", wake_up_and_linger)
    with bench.connect() as store:
        assert isinstance(store, NativeHdfsStore)
        pythons.append(store._loop._thread)
        assert store.stat(MODEL).size == 5
    # else the process would hang here, without a word
    assert not store._loop._loop.tellers


def test_closing_gives_up_what_others_wait_for() -> None:
    """A thread that waits for an answer is told when the store is closed, and nobody can ask it any more."""
    told: list[Exception] = []

    def ask() -> None:
        with pytest.raises(StoreUnreachable, match="closed meanwhile; open it again") as caught:
            store.stat(MODEL)
        told.append(caught.value)

    with silence() as address:
        store = open_native(address)
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: asyncio.all_tasks(store._loop._loop), "a question")
        store.close()
        thread.join()
        ask()
    assert len(told) == 2


def test_nameservice_of_a_folder(bench: NativeHdfsBench, standby_namenode: NameNode, tmp_path: Path) -> None:
    """A host without a port is a nameservice, which Hadoop's own files of settings explain."""
    bench.put(MODEL, b"model")
    namenodes = {"n1": standby_namenode.rpc, "n2": bench.hdfs.namenode.rpc}
    write_settings(tmp_path / "core-site.xml", {"fs.defaultFS": "hdfs://models"})
    write_settings(
        tmp_path / "hdfs-site.xml",
        {
            "dfs.ha.namenodes.models": ",".join(namenodes),
            **{f"dfs.namenode.rpc-address.models.{name}": "{}:{}".format(*at) for name, at in namenodes.items()},
        },
    )
    with NativeHdfsStore(open_clients(["models"], config_dir=str(tmp_path)), "hdfs://models") as store:
        assert store.stat(MODEL).size == 5


def test_settings_that_are_no_good_are_refused(tmp_path: Path) -> None:
    """A nameservice that nobody explains, and files that are no XML, are refused before anything is asked."""
    with fault(Refused, "opening models", "config_dir"):
        open_clients(["models"], config_dir=str(tmp_path))
    (tmp_path / "hdfs-site.xml").write_text("<configuration>")
    with fault(Refused, f"reading {tmp_path}/hdfs-site.xml", "config_dir"):
        open_clients(["models"], config_dir=str(tmp_path))


def test_folder_that_may_not_be_written_to_is_refused(bench: NativeHdfsBench) -> None:
    """An upload to a folder without the permission to write is refused, and says who may not do what."""
    bench.make_folder("/models")
    bench.hdfs.administrator.set_permission("/models", "555")
    with fault(Refused, f"uploading {bench.store.describe(MODEL)}", f"user={USER}, access=WRITE", "login"):
        bench.store.write(MODEL, io.BytesIO(b"model"))
    assert bench.names("/models") == []


def test_target_is_never_absent(bench: NativeHdfsBench) -> None:
    """While uploads replace a file, whoever looks at any moment finds one."""
    bench.put(MODEL, b"0")
    bench.assert_never_absent(MODEL)
