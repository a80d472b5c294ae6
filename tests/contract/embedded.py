"""The embedded store of the demo, started for tests."""

from __future__ import annotations

import sys
from pathlib import Path

from airflow_serving_reload.demo.processes import Processes

from .bench import Address
from .nginx import START_SECONDS


def start(processes: Processes, folder: Path, *options: str) -> Address:
    """Start the embedded store on the folder `files` below a folder."""
    (folder / "files").mkdir()
    port_file = folder / "port"
    command = [sys.executable, "-m", "airflow_serving_reload.demo.store", "--root", str(folder / "files"), *options]
    command += ["--port", "0", "--port-file", str(port_file)]
    server = processes.start("store", command, log=folder / "output.log")
    processes.wait_until(port_file.exists, server, seconds=START_SECONDS)
    return Address("127.0.0.1", int(port_file.read_text()))
