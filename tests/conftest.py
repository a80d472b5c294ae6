"""Servers that tests of several parts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_serving_reload.demo.processes import Processes
from tests.stores import Servers

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
def servers(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Give the servers that are started once for all tests."""
    with Servers(processes, tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture(scope="session")
def running_hdfs(servers: Servers) -> Hdfs:
    """Start a real HDFS."""
    return servers.hdfs


@pytest.fixture(scope="session")
def standby_namenode(running_hdfs: Hdfs, processes: Processes) -> NameNode:
    """Start a real NameNode that stands by."""
    return running_hdfs.start_standby(processes)


@pytest.fixture(scope="session")
def hadoop_program(servers: Servers) -> Path:
    """Make a Hadoop client of the real HDFS."""
    return servers.hadoop_program


@pytest.fixture
def hdfs(running_hdfs: Hdfs) -> Hdfs:
    """Give the real HDFS, emptied."""
    running_hdfs.clear()
    return running_hdfs


@pytest.fixture(scope="session")
def s3_server(servers: Servers) -> S3Server:
    """Start an S3 server."""
    return servers.s3


@pytest.fixture(scope="session")
def ssh_server(servers: Servers) -> SshServer:
    """Start an SSH server."""
    return servers.ssh


@pytest.fixture(scope="session")
def mlserver(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> MlServer:
    """Start a real MLServer."""
    from tests.servers.mlserver import MlServer

    return MlServer.start(processes, tmp_path_factory.mktemp("mlserver"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that take long begin first: in the end many short ones keep all processes busy."""
    items.sort(key=lambda item: item.get_closest_marker("system") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables that tests have recorded as their property `table`, from whichever process they ran in."""
    properties = [
        shown
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for shown in report.user_properties
    ]
    for title, shown in properties:
        if title == "table":
            terminalreporter.write_line(f"\n{shown}")
