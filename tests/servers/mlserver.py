"""A real MLServer in its own environment, and a model that it serves."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import requests

from airflow_serving_reload.delivery.pipeline import Local
from airflow_serving_reload.delivery.servers.base import HttpClient, ModelServer
from airflow_serving_reload.delivery.servers.open_inference import OpenInferenceServer
from airflow_serving_reload.demo.processes import Child, Processes
from tests.requirements import require

from .bench import DEADLINE_SECONDS, Bench

RUNTIME = Path(__file__).with_name("mlserver_runtime")
CHECKOUT = Path(__file__).parents[2]
RUNNING = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")
QUESTION = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}


@dataclass
class MlServer:
    """A running MLServer.

    :param repository: the folder in which it looks for models.
    :param url: where it listens.
    :param process: what runs.
    """

    repository: Path
    url: str
    process: Child
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def start(cls, processes: Processes, folder: Path, *, workers: int = 0) -> Self:
        """Start it on an empty repository, and wait until it listens.

        :param processes: owns it.
        :param folder: where its repository and settings go.
        :param workers: processes that models are loaded in; 0 for that of the server.
        """
        program = CHECKOUT / os.environ.get("MLSERVER_VENV", ".venv-mlserver") / "bin" / "mlserver"
        require(program.exists(), f"needs {program}: `make mlserver` installs it on Python 3.11 and 3.12")
        repository = folder / "repository"
        repository.mkdir()
        settings = {
            "host": "127.0.0.1",
            "http_port": 0,
            "grpc_port": 0,
            "metrics_endpoint": None,
            "parallel_workers": workers,
            # its default, by which it logs requests and answers with the traceback
            "debug": True,
        }
        (repository / "settings.json").write_text(json.dumps(settings))
        process = processes.start(
            "MLServer",
            [str(program), "start", str(repository)],
            log=folder / "mlserver.log",
            environment={**os.environ, "PYTHONPATH": str(RUNTIME)},
            folder=folder,
        )
        processes.wait_until(lambda: bool(RUNNING.search(process.log.read_text())), process, seconds=DEADLINE_SECONDS)
        found = RUNNING.search(process.log.read_text())
        assert found is not None
        return cls(repository, found[1], process)

    def bench(self, folder: Path, **options: Any) -> MlServerBench:
        """Give a model of its own.

        :param folder: where the store and training go.
        :param options: of the description of the server.
        """
        name = f"model-{next(self.numbers)}"
        place = self.repository / f"of-{name}"
        place.mkdir()
        bench = MlServerBench(folder, Local(place, name), self, options)
        bench.publish_first()
        bench.load()
        return bench


class MlServerBench(Bench):
    """A model with its settings, as MLServer finds it in its repository."""

    def __init__(self, folder: Path, local: Local, server: MlServer, options: Mapping[str, Any]) -> None:
        super().__init__(folder, local)
        self.name = local.model
        self.url = f"{server.url}/v2/models/{self.name}"
        self._server = server
        self._options = options
        self._session = requests.Session()

    def write(self, folder: Path, version: str, **behaviour: Any) -> None:
        """Write settings that name the version, and a weight."""
        settings = {
            "name": self.name,
            "implementation": "linear_model.LinearModel",
            "versions": [version],
            "parameters": {"uri": "weight.json"},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))
        (folder / "weight.json").write_text(json.dumps({"weight": len(version), **behaviour}))

    def break_(self, model: Path, fault: str) -> None:
        """Cut the weight off, or remove it, or the `settings`."""
        file = model / ("model-settings.json" if fault == "settings" else "weight.json")
        file.unlink() if fault != "corrupt" else file.write_text('{"weight": 1')

    def describe(self, **changes: Any) -> OpenInferenceServer:
        """Describe the server as a Dag does."""
        return OpenInferenceServer(**{"http_conn_id": "mlserver", "model_name": self.name, **self._options, **changes})

    def connect(self, conn_id: str) -> AbstractContextManager[HttpClient]:
        """Open the way to the server."""
        assert conn_id == "mlserver"
        return session_to(self._server.url)

    def opened(self) -> AbstractContextManager[ModelServer]:
        """Give the server by a session of its own."""
        return self.describe().open(self.connect)

    def opened_but_down(self) -> AbstractContextManager[ModelServer]:
        """Give a server where nobody listens."""
        return self.describe(ready_timeout=0).open(lambda _: session_to("http://127.0.0.1:1"))

    def served(self) -> str:
        """Ask for a prediction."""
        answer = self._session.post(f"{self.url}/infer", json=QUESTION, timeout=DEADLINE_SECONDS)
        answer.raise_for_status()
        return str(answer.json()["parameters"]["release"])

    def is_ready(self) -> bool:
        """Whether the server says that the model is ready."""
        return self._session.get(f"{self.url}/ready", timeout=DEADLINE_SECONDS).ok

    def times_told(self) -> int:
        """Count the orders in the server's log."""
        return self._server.process.log.read_text().count(f'"POST /v2/repository/models/{self.name}/load ')

    def load(self) -> None:
        """Tell the server to load the model, as anybody could."""
        answer = self._session.post(
            f"{self._server.url}/v2/repository/models/{self.name}/load", timeout=DEADLINE_SECONDS
        )
        answer.raise_for_status()


@contextmanager
def session_to(url: str) -> Iterator[HttpClient]:
    """Open a session as `connections` does."""
    with requests.Session() as session:
        yield HttpClient(session, url)
