"""Servers that tests of several parts share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from airflow_serving_reload.demo.processes import Processes

if TYPE_CHECKING:
    from tests.contract.hadoop import Hdfs, NameNode
    from tests.contract.object_servers import S3Server, SshServer
    from tests.servers.mlserver import MlServer


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Own the servers, which end with the tests, however those end."""
    with Processes(unwind_on_signals=False) as owner:
        yield owner


@pytest.fixture(scope="session")
def running_hdfs(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Hdfs:
    """Start a real HDFS."""
    from tests.contract.hadoop import Hdfs

    return Hdfs.start(processes, tmp_path_factory.mktemp("hdfs"))


@pytest.fixture(scope="session")
def standby_namenode(running_hdfs: Hdfs, processes: Processes) -> NameNode:
    """Start a real NameNode that stands by."""
    return running_hdfs.start_standby(processes)


@pytest.fixture
def hdfs(running_hdfs: Hdfs) -> Hdfs:
    """Give the real HDFS, emptied."""
    running_hdfs.clear()
    return running_hdfs


@pytest.fixture(scope="session")
def s3_server(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start an S3 server."""
    from tests.contract.object_servers import S3Server

    with S3Server.running(processes, tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def ssh_server(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """Start an SSH server."""
    from tests.contract.object_servers import SshServer

    with SshServer.running(processes, tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(scope="session")
def mlserver(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> MlServer:
    """Start a real MLServer."""
    from tests.servers.mlserver import MlServer

    return MlServer.start(processes, tmp_path_factory.mktemp("mlserver"))
