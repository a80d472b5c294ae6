"""The contract over WebHDFS, and what only it can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_serving_reload.delivery.stores.webhdfs import WebHdfsSession, WebHdfsStore, insecure_client

from .bench import USER, Address, Offers
from .hadoop import Hdfs
from .hadoop_front import Front
from .hdfs_bench import HdfsBench
from .proxy import CuttingProxy
from .suite import NetworkStoreContract


def open_webhdfs(*addresses: str, user: str = USER) -> WebHdfsStore:
    """Open a store, as somebody whom permissions apply to."""
    session = WebHdfsSession()
    # the proxies of whoever runs the tests have no business between two ends of one host
    session.trust_env = False
    store = WebHdfsStore(insecure_client(addresses, user, session, (10, 20)), session)
    store.resume_pauses = (0, 0, 0)
    return store


class WebHdfsBench(HdfsBench):
    """A store by WebHDFS."""

    def open(self, address: Address) -> WebHdfsStore:
        """Open a store by an address."""
        return open_webhdfs("http://{}:{}".format(*address))


@pytest.fixture
def front(hdfs: Hdfs) -> Iterator[Front]:
    """Stand before an empty HDFS."""
    with Front(hdfs).running() as front:
        yield front


@pytest.fixture
def bench(front: Front) -> WebHdfsBench:
    """Give a store in an empty HDFS."""
    return WebHdfsBench(front)


class TestWebHdfs(NetworkStoreContract):
    """The contract over WebHDFS."""

    offers = Offers(
        lists=True, uploads=True, renames=True, ranges=True, forbids=True, tells_uploads_apart=True, no_names_with=":"
    )

    @staticmethod
    def proxy(bench: WebHdfsBench, **arguments: Any) -> CuttingProxy:
        """Make a proxy that spares the NameNode, and the empty file with which an upload begins."""
        spared = 2 if "cuts_of_requests" in arguments else 1
        return CuttingProxy(bench.address, spared=spared, **arguments)

    @pytest.fixture
    def bench(self, bench: WebHdfsBench) -> WebHdfsBench:
        """Give a store in an empty HDFS."""
        return bench
