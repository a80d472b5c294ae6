"""The embedded model server, which keeps Paddle Serving's contract, and a model that it serves."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from airflow_serving_reload.delivery.pipeline import Local
from airflow_serving_reload.delivery.servers.base import HttpClient, ModelServer
from airflow_serving_reload.delivery.servers.paddle import PaddleServer
from airflow_serving_reload.demo import housing
from airflow_serving_reload.demo.processes import Processes

from .bench import DEADLINE_SECONDS, Bench

SEEDS = itertools.count(1)


class PaddleBench(Bench):
    """A Paddle model, as the embedded server reads it.

    :param interval: seconds between two looks of the server at the timestamp file.
    :param options: of the description of the server.
    """

    def __init__(self, folder: Path, processes: Processes, interval: float, options: Mapping[str, Any]) -> None:
        super().__init__(folder, Local(folder / "serving", "model"))
        self.local.path.mkdir()
        self.publish_first()
        port_file = folder / "port"
        command = [sys.executable, "-m", "airflow_serving_reload.demo.model_server", "--port", "0"]
        command += ["--port-file", str(port_file), "--reload-interval", str(interval)]
        process = processes.start(
            "the embedded model server",
            [*command, "--model", str(self.local.path / "model")],
            log=folder / "output.log",
            # the C++ server puts the variable in front of ./log as it stands
            environment={**os.environ, "SERVING_LOG_PATH": f"{folder}/"},
            folder=folder,
        )
        processes.wait_until(port_file.exists, process, seconds=DEADLINE_SECONDS)
        self.url = f"http://127.0.0.1:{int(port_file.read_text())}/predict"
        self._log = folder / "log" / "serving.INFO"
        self._interval = interval
        self._options = options
        self._session = requests.Session()

    def write(self, folder: Path, version: str, **behaviour: Any) -> None:
        """Train a model for a moment."""
        assert not behaviour
        housing.train(folder, seed=next(SEEDS), epochs=1)

    def break_(self, model: Path, fault: str) -> None:
        """Cut the parameters off, or remove them."""
        (file,) = model.glob("*.pdiparams")
        file.unlink() if fault == "missing" else file.write_bytes(file.read_bytes()[:20])

    @contextmanager
    def opened(self) -> Iterator[ModelServer]:
        """Give the server by its log and its probe."""
        options = {"log_path": str(self._log), "reload_interval": self._interval, **self._options}
        with PaddleServer(probe_url=self.url, **options).open(no_connection) as server:
            yield server

    @contextmanager
    def opened_but_down(self) -> Iterator[ModelServer]:
        """Give a server where nobody listens."""
        with PaddleServer(probe_url="http://127.0.0.1:1", load_timeout=0).open(no_connection) as server:
            yield server

    def served(self) -> str:
        """Ask for a prediction."""
        answer = self._session.get(self.url, timeout=DEADLINE_SECONDS)
        answer.raise_for_status()
        return str(answer.json()["release"])

    def times_told(self) -> int:
        """Count the reloads in the server's log, all but the first load."""
        return self._log.read_text().count("begin reload model[")


@contextmanager
def no_connection(conn_id: str) -> Iterator[HttpClient]:
    """Fail: Paddle Serving needs no connection."""
    raise AssertionError(conn_id)
    yield
