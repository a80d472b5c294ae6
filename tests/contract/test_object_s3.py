"""The contract over S3, and what only an object storage does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_serving_reload.demo.processes import Processes

from .bench import NetworkBench, Offers
from .object_servers import S3Bench, S3Server
from .proxy import CuttingProxy
from .suite import NetworkStoreContract


@pytest.fixture(scope="session")
def server(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start an S3 server."""
    with S3Server.running(processes, tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bench(server: S3Server) -> Iterator[S3Bench]:
    """Give a store in an empty bucket."""
    bench = S3Bench(server)
    with bench.store:
        yield bench


class TestS3(NetworkStoreContract):
    """The contract over S3."""

    offers = Offers(lists=True, uploads=True, renames=True, ranges=True, forbids=True, asks_password=True)

    @staticmethod
    def proxy(bench: NetworkBench, **arguments: Any) -> CuttingProxy:
        """Make a proxy that takes no further connection once it has cut an upload, which else would go on."""
        gone_after = 1 if "cuts_of_requests" in arguments else None
        return CuttingProxy(bench.address, **{"gone_after": gone_after, **arguments})

    @pytest.fixture
    def bench(self, bench: S3Bench) -> S3Bench:
        """Give a store in an empty bucket."""
        return bench
