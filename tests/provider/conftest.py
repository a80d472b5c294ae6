"""A store in a folder, a model to upload to it, and a folder of a server: what operators and sensors work on."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset

from airflow_serving_reload.operators import UploadModelOperator

CONN_ID = "model_store"

LIVE = Asset("live")


class AssetState:
    """The part of Airflow's context that holds the state of assets, for tasks that run without an Airflow."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def __getitem__(self, asset: Asset) -> AssetState:
        assert asset == LIVE
        return self

    def get(self, key: str) -> Any:
        """Give the stored value."""
        return self.state.get(key)

    def set(self, key: str, value: Any) -> None:
        """Store a value."""
        self.state[key] = value


def context_with(state: AssetState) -> Any:
    """Make a context with the state of the live model's asset."""
    return {"asset_state_store": state, "outlet_events": {LIVE: SimpleNamespace(extra={})}}


def glog(text: str, *, severity: str = "W") -> str:
    """Write a line as Paddle Serving's C++ server does, now."""
    return f"{severity}{datetime.now().astimezone():%m%d %H:%M:%S.%f} 1 infer.cpp:134] {text}\n"


def served() -> str:
    """Write the lines of a reload that succeeded, now."""
    return glog("begin reload model[uci].") + glog("Succ load engine, path: uci") + glog("Finish reload 1 workflow(s)")


@pytest.fixture(autouse=True)
def _own_airflow_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep whatever Airflow writes out of the home of whoever runs the tests."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))


@dataclass(frozen=True)
class Workplace:
    """A store, a training folder and a serving folder.

    :param store: root of the store.
    :param model: the model that training made.
    :param serving: the server's folder.
    :param remote_path: where the model goes in the store.
    """

    store: Path
    model: Path
    serving: Path
    remote_path: str = "/models"

    @property
    def remote(self) -> dict[str, Any]:
        """The arguments that say where the model is in the store."""
        return {"conn_id": CONN_ID, "remote_path": self.remote_path, "remote_model_name": "model.tar.gz"}

    @property
    def local(self) -> dict[str, Any]:
        """The arguments that say where the model is on the serving host."""
        return {"local_path": str(self.serving), "local_model_name": "model"}

    def upload(self, weights: str, **arguments: Any) -> dict[str, Any]:
        """Train and upload a model that holds these weights."""
        (self.model / "weights").write_text(weights)
        arguments = {"version": weights, "local_model_path": str(self.model), **self.remote, **arguments}
        return UploadModelOperator(task_id="upload", **arguments).execute({})

    def live_weights(self) -> str:
        """Read the weights that the server would load now."""
        return (self.serving / "model" / "weights").read_text()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Make an empty store behind the connection, and a server's folder with an initial model."""
    place = Workplace(tmp_path / "store", tmp_path / "training" / "trained", tmp_path / "serving")
    for folder in (place.store, place.model, place.serving / "model"):
        folder.mkdir(parents=True)
    (place.serving / "model" / "weights").write_text("initial")
    (place.serving / "model" / "fluid_time_file").touch()
    connection = {"conn_type": "fs", "extra": {"path": str(place.store)}}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_STORE", json.dumps(connection))
    return place


@pytest.fixture
def engine_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Collect what the engine logs."""
    caplog.set_level(logging.INFO, logger="airflow_serving_reload")
    return caplog
