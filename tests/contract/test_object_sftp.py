"""The contract over SFTP, and what only an SSH server does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_serving_reload.demo.processes import Processes

from .bench import Offers
from .object_servers import SftpBench, SshServer
from .suite import NetworkStoreContract


@pytest.fixture(scope="session")
def server(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """Start an SSH server."""
    with SshServer.running(processes, tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def bench(server: SshServer, tmp_path: Path) -> Iterator[SftpBench]:
    """Give a store in an empty folder."""
    bench = SftpBench(server, tmp_path / "store")
    with bench.store:
        yield bench


class TestSftp(NetworkStoreContract):
    """The contract over SFTP."""

    offers = Offers(lists=True, uploads=True, renames=True, ranges=True, forbids=True, asks_password=True)

    @pytest.fixture
    def bench(self, bench: SftpBench) -> SftpBench:
        """Give a store in an empty folder."""
        return bench
