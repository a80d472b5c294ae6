"""The contract over HDFS's native protocol, and what only it can do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_serving_reload.delivery.stores.hdfs_native import NativeHdfsStore, open_clients

from .bench import USER, Address, Offers
from .hadoop import Hdfs
from .hadoop_front import Front
from .hdfs_bench import HdfsBench
from .suite import NetworkStoreContract


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


class TestNativeHdfs(NetworkStoreContract):
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
