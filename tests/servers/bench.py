"""What the suite works on: a model server, training that uploads to a store, and the host that both meet on."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_serving_reload.delivery import steps
from airflow_serving_reload.delivery.fetch import Remote
from airflow_serving_reload.delivery.pipeline import Local, Outcome, deliver
from airflow_serving_reload.delivery.servers.base import ModelServer
from airflow_serving_reload.delivery.stores.fs import FileSystemStore
from airflow_serving_reload.delivery.upload import upload
from tests.delivery.models import AN_HOUR_NS, set_time

# Far beyond what anything here takes: it only turns a hang into a failure.
DEADLINE_SECONDS = 60

ARCHIVE = "model.tar.gz"


def wait_until(condition: Callable[[], object], expected: str) -> None:
    """Return once the condition is true; fail, saying what was expected, if it never is."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never seen within {DEADLINE_SECONDS} s: {expected}")
        time.sleep(0.01)


class Bench(ABC):
    """A model that a running server serves.

    :param folder: where the store and training go.
    :param local: where the server reads the model.
    """

    def __init__(self, folder: Path, local: Local) -> None:
        self.local = local
        self.releases = local.releases()
        self._folder = folder
        self.store = folder / "store"
        self._trained = 0
        self.store.mkdir()

    @abstractmethod
    def write(self, folder: Path, version: str, **behaviour: Any) -> None:
        """Write a model into an empty folder."""

    @abstractmethod
    def break_(self, model: Path, fault: str) -> None:
        """Spoil a model that training wrote, so that the server cannot load it: `corrupt`, or `missing` a file."""

    @abstractmethod
    def opened(self) -> AbstractContextManager[ModelServer]:
        """Give the server as the pipeline gets it."""

    @abstractmethod
    def opened_but_down(self) -> AbstractContextManager[ModelServer]:
        """Give a server of the same kind that does not run, and that is soon given up."""

    @abstractmethod
    def served(self) -> str:
        """Ask for a prediction, and give the release that answers.

        :raises Exception: the request failed.
        """

    @abstractmethod
    def times_told(self) -> int:
        """Tell how often the server was told to load the model."""

    def upload(self, version: str, fault: str | None = None, **behaviour: Any) -> None:
        """Train and upload a model."""
        self._trained += 1
        model = self._folder / f"trained-{self._trained}" / "model"
        model.mkdir(parents=True)
        self.write(model, version, **behaviour)
        if fault:
            self.break_(model, fault)
        upload(
            FileSystemStore(self.store),
            "/",
            model,
            model=ARCHIVE,
            donefile="donefile",
            donefile_format="json",
            version=version,
        )

    def publish_first(self) -> None:
        """Publish a model for the server to begin with, so far ahead in time that no later touch has to wait."""
        self.upload("first")
        self.deliver(None)
        set_time(self.releases.timestamp_file, ahead_ns=AN_HOUR_NS)

    def deliver(self, server: ModelServer | None) -> Outcome:
        """Deliver what was uploaded last."""
        return deliver(
            Remote(FileSystemStore(self.store), "/", ARCHIVE, "donefile"),
            self.local,
            unpacked_filename="model",
            temporary=self.local.path / "_serving_monitor_tmp",
            server=server,
        )

    def unpack(self) -> Path:
        """Fetch and unpack what was uploaded last, without publishing it."""
        store = FileSystemStore(self.store)
        announced = store.donefile("/donefile")
        fetched = steps.download(store, "/", ARCHIVE, self.local.path / ".arriving", announced=announced)
        return steps.unpack(fetched, "model")

    def live(self) -> str:
        """Give the release that is live on the host."""
        record = self.releases.live()
        assert record is not None
        return record.release

    @contextmanager
    def asked_without_pause(self) -> Iterator[list[str]]:
        """Ask for predictions until the end of the `with` block, in which no request may fail.

        :return: the releases that answered, in order.
        """
        answers: list[str] = []
        faults: list[Exception] = []
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    answers.append(self.served())
                except Exception as fault:  # noqa: BLE001 - whatever it is, it is what must not happen
                    faults.append(fault)

        client = threading.Thread(target=ask)
        client.start()
        try:
            wait_until(lambda: answers or faults, "an answer")
            yield answers
        finally:
            over.set()
            client.join()
        assert faults == []
