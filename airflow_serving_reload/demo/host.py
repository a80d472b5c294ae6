"""The demo's hosts: a store, and a model server that answers with an initial model; and a client that never pauses."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from airflow_serving_reload.demo.processes import Child, Processes

MODEL = "uci_housing_model"
TIMESTAMP_FILE = "fluid_time_file"
START_SECONDS = 120.0


class ServingHost:
    """A store and a model server on 127.0.0.1, in folders of their own; a context manager.

    Entering trains the initial model and returns when the server answers with it.

    :param folder: folder for everything.
    :param reload_interval: seconds between two looks of the server at its timestamp file.
    :param unwind_on_signals: as in `Processes`.
    """

    def __init__(self, folder: Path, *, reload_interval: float = 1.0, unwind_on_signals: bool = True) -> None:
        self.store_folder = folder / "store"
        self.serving_path = folder / "serving"
        self.training_path = folder / "training"
        self.log_path = self.serving_path / "log" / "serving.INFO"
        self.model = self.serving_path / MODEL
        self.store_url = ""
        self.probe_url = ""
        self._output = folder / "output"
        self._reload_interval = reload_interval
        self._processes = Processes(unwind_on_signals=unwind_on_signals)
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Start the store and the server."""
        with ExitStack() as resources:
            resources.enter_context(self._processes)
            for folder in (self.store_folder, self.serving_path, self.training_path, self._output):
                folder.mkdir(parents=True, exist_ok=True)
            store = self._start("store", "--root", str(self.store_folder))
            self._train_initial_model()
            server = self._start(
                "model_server", "--model", str(self.model), "--reload-interval", str(self._reload_interval)
            )
            self.store_url = f"http://127.0.0.1:{self._port(store)}"
            self.probe_url = f"http://127.0.0.1:{self._port(server)}/predict"
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both."""
        self._resources.__exit__(kind, error, trace)

    def environment(self, *, poke_interval: float = 1.0) -> dict[str, str]:
        """Give the variables by which Airflow and the example Dags find the store, the server and their folders.

        :param poke_interval: seconds between two looks at a donefile.
        """
        connection = {"conn_type": "http", "host": self.store_url}
        return {
            "AIRFLOW_CONN_MODEL_STORE": json.dumps(connection),
            "UCI_HOUSING_TRAINING_PATH": str(self.training_path),
            "UCI_HOUSING_SERVING_PATH": str(self.serving_path),
            "UCI_HOUSING_SERVER_LOG": str(self.log_path),
            "UCI_HOUSING_SERVER_URL": self.probe_url,
            "UCI_HOUSING_RELOAD_INTERVAL": str(self._reload_interval),
            "UCI_HOUSING_POKE_INTERVAL": str(poke_interval),
        }

    def _train_initial_model(self) -> None:
        # In a process of its own, so that what owns this does not have to load Paddle.
        code = (
            "import sys; from pathlib import Path; from airflow_serving_reload.demo import housing; "
            "housing.train(Path(sys.argv[1]), seed=1, epochs=3)"
        )
        self._processes.run(
            "initial training",
            [sys.executable, "-c", code, str(self.model)],
            log=self._output / "initial-training.log",
            seconds=START_SECONDS,
        )
        (self.model / TIMESTAMP_FILE).touch()

    def _start(self, module: str, *arguments: str) -> Child:
        return self._processes.start(
            module,
            [
                *(sys.executable, "-m", f"airflow_serving_reload.demo.{module}"),
                *arguments,
                *("--port", "0", "--port-file", str(self._port_file(module))),
            ],
            log=self._output / f"{module}.log",
            folder=self.serving_path,
        )

    def _port_file(self, module: str) -> Path:
        return self._output / f"{module}.port"

    def _port(self, child: Child) -> int:
        file = self._port_file(child.name)
        self._processes.wait_until(file.exists, child, seconds=START_SECONDS)
        return int(file.read_text())


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered.

    :param release: which release it says it serves.
    :param price: the predicted price of the sample house.
    :param timestamp: whole second of the timestamp file with which it loaded the model.
    """

    release: str
    price: float
    timestamp: int


class Reader:
    """A client that asks the server again and again, in a thread of its own; a context manager.

    :param probe_url: address that answers with price, release and timestamp.
    :param pause: seconds between an answer and the next request.
    """

    def __init__(self, probe_url: str, *, pause: float = 0.0) -> None:
        self.sent = 0
        self.failures: list[str] = []
        self.first_seen: dict[Answer, float] = {}
        self._url = probe_url
        self._pause = pause
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._last: Answer | None = None
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)

    def __enter__(self) -> Self:
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()

    @property
    def failed(self) -> int:
        """How many requests were not answered with a price."""
        return len(self.failures)

    @property
    def last(self) -> Answer | None:
        """The last answer."""
        return self._last

    def mixed(self) -> list[Answer]:
        """Give the answers that claim one load of one release, but not its price."""
        prices: dict[tuple[str, int], float] = {}
        return [
            answer
            for answer in self.first_seen
            if prices.setdefault((answer.release, answer.timestamp), answer.price) != answer.price
        ]

    def wait_for_another(self, than: Answer | None, *, seconds: float) -> Answer | None:
        """Wait until another model answers.

        :return: its first answer; None if the time is over.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._last is not None and self._last != than, timeout=seconds)
            return self._last if self._last != than else None

    def _read(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop.is_set():
                self.sent += 1
                try:
                    response = session.get(self._url, timeout=30)
                    response.raise_for_status()
                    self._note(response.json())
                except (requests.RequestException, ValueError, KeyError) as error:
                    self.failures.append(str(error))
                    self._stop.wait(0.01)
                if self._pause:
                    self._stop.wait(self._pause)

    def _note(self, answered: Mapping[str, Any]) -> None:
        answer = Answer(answered["release"], answered["price"], answered["timestamp"])
        if answer != self._last:
            with self._changed:
                self.first_seen.setdefault(answer, time.time())
                self._last = answer
                self._changed.notify_all()
