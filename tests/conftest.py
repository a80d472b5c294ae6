"""Servers that tests of several parts share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from airflow_serving_reload.demo.processes import Processes

if TYPE_CHECKING:
    from tests.contract.hadoop import Hdfs, NameNode


@pytest.fixture(scope="session")
def hadoop_processes() -> Iterator[Processes]:
    """Own the nodes of HDFS, which end with the tests, however those end."""
    with Processes(unwind_on_signals=False) as owner:
        yield owner


@pytest.fixture(scope="session")
def running_hdfs(hadoop_processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Hdfs:
    """Start a real HDFS."""
    from tests.contract.hadoop import Hdfs

    return Hdfs.start(hadoop_processes, tmp_path_factory.mktemp("hdfs"))


@pytest.fixture(scope="session")
def standby_namenode(running_hdfs: Hdfs, hadoop_processes: Processes) -> NameNode:
    """Start a real NameNode that stands by."""
    return running_hdfs.start_standby(hadoop_processes)


@pytest.fixture
def hdfs(running_hdfs: Hdfs) -> Hdfs:
    """Give the real HDFS, emptied."""
    running_hdfs.clear()
    return running_hdfs
