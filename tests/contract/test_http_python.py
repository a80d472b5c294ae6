"""The contract over Python's own HTTP server: it serves and lists, and no more."""

from __future__ import annotations

import re
import sys

import pytest

from airflow_serving_reload.demo.processes import Processes

from .bench import Address, HttpBench, Offers
from .nginx import START_SECONDS
from .suite import NetworkStoreContract


@pytest.fixture(scope="session")
def served(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> HttpBench:
    """Start the server, and give a store on it."""
    folder = tmp_path_factory.mktemp("python-http")
    command = [
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "0",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(folder / "files"),
    ]
    (folder / "files").mkdir()
    server = processes.start("http.server", command, log=folder / "output.log")
    processes.wait_until(lambda: "Serving HTTP" in server.last_lines(), server, seconds=START_SECONDS)
    port = re.findall(r"port (\d+)", server.last_lines())[0]
    return HttpBench(folder / "files", Address("127.0.0.1", int(port)))


class TestPythonHttpServer(NetworkStoreContract):
    """The contract over `python -m http.server`."""

    offers = Offers(lists=True, scans=False, uploads=False, renames=False, ranges=False, keeps_connections=False)

    @pytest.fixture
    def bench(self, served: HttpBench) -> HttpBench:
        """Give a store on the emptied folder."""
        return HttpBench(served.folder, served.address)
